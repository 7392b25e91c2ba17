/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "launch/append.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum status append_open(struct append_file *f, const char *path, bool fresh) {
    f->fd = -1;
    TRY(path_print(f->path, "%s", path));
    const int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | (fresh ? O_EXCL : 0), 0644);
    FAIL_UNLESS(fd >= 0, ERR_IO, "cannot open %s to write: %s", path, strerror(errno));
    const off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0) {
        const int why = errno;
        close(fd);
        FAIL(ERR_IO, "%s: cannot find its end: %s", path, strerror(why));
    }
    f->fd = fd;
    f->bytes = end;
    return OK;
}

enum status append_record(struct append_file *f, const void *data, int64_t bytes) {
    for (int64_t done = 0; done < bytes;) {
        const ssize_t n = write(f->fd, (const char *)data + done, (size_t)(bytes - done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            const int why = n < 0 ? errno : ENOSPC;
            if (ftruncate(f->fd, f->bytes) != 0)
                FAIL(ERR_IO, "%s: cannot write (%s), and its last record is torn", f->path, strerror(why));
            FAIL(ERR_IO, "cannot write %s: %s; free some space there", f->path, strerror(why));
        }
        done += n;
    }
    f->bytes += bytes;
    return OK;
}

enum status append_sync(struct append_file *f) {
    FAIL_UNLESS(fdatasync(f->fd) == 0, ERR_IO, "cannot sync %s: %s", f->path, strerror(errno));
    return OK;
}

enum status append_close(struct append_file *f) {
    if (f->fd < 0) return OK;
    const enum status st = append_sync(f);
    close(f->fd);
    f->fd = -1;
    return st;
}
