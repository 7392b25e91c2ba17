/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "checkpoints/save_io.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Bytes hashed and written at a time: small enough that the second reading comes from the cache. */
#define SAVE_BLOCK ((int64_t)4 << 20)

static int posix_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

static int64_t posix_free_bytes(const char *folder) {
    struct statvfs s;
    if (statvfs(folder, &s) != 0) return -1;
    const unsigned __int128 room = (unsigned __int128)s.f_bavail * s.f_frsize;
    return room > INT64_MAX ? INT64_MAX : (int64_t)room;
}

const struct save_io save_io_posix = {
    .open = posix_open,
    .write = write,
    .fsync = fsync,
    .close = close,
    .mkdir = mkdir,
    .rename = rename,
    .unlink = unlink,
    .rmdir = rmdir,
    .free_bytes = posix_free_bytes,
};

/* The call again for as long as a signal interrupts it. */
#define AGAIN(result, call)                                                                                            \
    do (result) = (call);                                                                                              \
    while ((result) < 0 && errno == EINTR)

enum status save_open(struct save_file *f, const struct save_io *io, const char *path, int64_t whole) {
    *f = (struct save_file){.io = io, .fd = -1, .whole = whole};
    TRY(path_print(f->path, "%s", path));
    TRY(hash_open_xxh3(&f->hash));
    AGAIN(f->fd, io->open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (f->fd >= 0) return OK;
    const int why = errno;
    save_drop(f);
    FAIL(ERR_IO, "cannot create %s: %s", path, strerror(why));
}

static enum status write_failed(const struct save_file *f, int why) {
    if (why != ENOSPC && why != EDQUOT) FAIL(ERR_IO, "cannot write %s: %s", f->path, strerror(why));
    FAIL(ERR_IO, "cannot write %s: %s; the file needs %" PRId64 " bytes, %" PRId64 " were written: free space there",
         f->path, strerror(why), f->whole, f->bytes);
}

enum status save_add(struct save_file *f, const void *data, int64_t bytes) {
    const char *p = data;
    while (bytes > 0) {
        const int64_t block = bytes < SAVE_BLOCK ? bytes : SAVE_BLOCK;
        hash_add(f->hash, p, block);
        for (int64_t done = 0; done < block;) {
            ssize_t n;
            AGAIN(n, f->io->write(f->fd, p + done, (size_t)(block - done)));
            if (n < 0) return write_failed(f, errno);
            FAIL_UNLESS(n > 0, ERR_IO, "cannot write %s: the system took nothing and gave no reason", f->path);
            done += n;
            f->bytes += n;
        }
        p += block;
        bytes -= block;
    }
    return OK;
}

enum status save_end(struct save_file *f, char xxh3[HASH_HEX]) {
    int bad;
    AGAIN(bad, f->io->fsync(f->fd));
    FAIL_UNLESS(!bad, ERR_IO, "cannot sync %s: %s", f->path, strerror(errno));
    bad = f->io->close(f->fd);
    f->fd = -1; /* closed even where close reports an error */
    FAIL_UNLESS(!bad || errno == EINTR, ERR_IO, "cannot close %s: %s", f->path, strerror(errno));
    hash_close(f->hash, xxh3);
    f->hash = NULL;
    return OK;
}

void save_drop(struct save_file *f) {
    if (f->fd >= 0) f->io->close(f->fd);
    hash_close(f->hash, NULL);
    f->fd = -1;
    f->hash = NULL;
}

enum status save_make_folder(const struct save_io *io, const char *path, bool may_exist) {
    int bad;
    AGAIN(bad, io->mkdir(path, 0755));
    if (bad && may_exist && errno == EEXIST && file_is_folder(path)) return OK;
    FAIL_UNLESS(!bad, ERR_IO, "cannot make folder %s: %s", path, strerror(errno));
    return OK;
}

enum status save_sync_folder(const struct save_io *io, const char *path) {
    int fd, bad;
    AGAIN(fd, io->open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
    FAIL_UNLESS(fd >= 0, ERR_IO, "cannot open folder %s: %s", path, strerror(errno));
    AGAIN(bad, io->fsync(fd));
    const int why = errno;
    io->close(fd);
    FAIL_UNLESS(!bad, ERR_IO, "cannot sync folder %s: %s", path, strerror(why));
    return OK;
}

enum status save_rename(const struct save_io *io, const char *from, const char *to) {
    int bad;
    AGAIN(bad, io->rename(from, to));
    FAIL_UNLESS(!bad, ERR_IO, "cannot rename %s to %s: %s", from, to, strerror(errno));
    return OK;
}

enum status save_free_bytes(const struct save_io *io, const char *folder, int64_t *out) {
    AGAIN(*out, io->free_bytes(folder));
    FAIL_UNLESS(*out >= 0, ERR_IO, "cannot learn how much room there is at %s: %s", folder, strerror(errno));
    return OK;
}

static enum status remove_files(const struct save_io *io, const char *path, DIR *d) {
    for (const struct dirent *e; (e = readdir(d));) {
        char inner[PATH_BYTES];
        int bad;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        TRY(path_print(inner, "%s/%s", path, e->d_name));
        AGAIN(bad, io->unlink(inner));
        FAIL_UNLESS(!bad || errno == ENOENT, ERR_IO, "cannot remove %s: %s", inner, strerror(errno));
    }
    return OK;
}

enum status save_remove_folder(const struct save_io *io, const char *path) {
    DIR *d = opendir(path);
    FAIL_UNLESS(d, ERR_IO, "cannot open folder %s: %s", path, strerror(errno));
    const enum status st = remove_files(io, path, d);
    closedir(d);
    TRY(st);
    int bad;
    AGAIN(bad, io->rmdir(path));
    FAIL_UNLESS(!bad, ERR_IO, "cannot remove folder %s: %s", path, strerror(errno));
    return OK;
}
