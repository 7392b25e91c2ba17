/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "base/file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/arena.h"

enum status path_print(char out[PATH_BYTES], const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(out, PATH_BYTES, fmt, ap);
    va_end(ap);
    FAIL_UNLESS(n >= 0 && n < PATH_BYTES, ERR_ARG, "path too long (%d bytes, at most %d): %.60s...", n, PATH_BYTES - 1,
                out);
    return OK;
}

static enum status open_to_read(const char *path, int *fd) {
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) FAIL(errno == ENOENT ? ERR_MISSING : ERR_IO, "cannot open %s: %s", path, strerror(errno));
    return OK;
}

static enum status size_of(int fd, const char *path, int64_t *bytes) {
    struct stat s;
    FAIL_UNLESS(fstat(fd, &s) == 0, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    FAIL_UNLESS(S_ISREG(s.st_mode), ERR_IO, "%s is not a plain file", path);
    *bytes = s.st_size;
    return OK;
}

enum status file_read(const char *path, int64_t max_bytes, char **text, int64_t *bytes) {
    enum status st = OK;
    int fd = -1;
    void *mem = NULL;
    *text = NULL;
    TRY(open_to_read(path, &fd));
    TRY_OUT(size_of(fd, path, bytes));
    if (*bytes > max_bytes)
        FAIL_OUT(ERR_DATA, "%s: %" PRId64 " bytes; at most %" PRId64 " are read here", path, *bytes, max_bytes);
    TRY_OUT(mem_take(*bytes + 1, &mem));
    for (int64_t got = 0; got < *bytes;) {
        const ssize_t n = read(fd, (char *)mem + got, (size_t)(*bytes - got));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) FAIL_OUT(ERR_IO, "cannot read %s: %s", path, n < 0 ? strerror(errno) : "it became shorter");
        got += n;
    }
    *text = mem;
    mem = NULL;
out:
    mem_free(mem);
    close(fd);
    return st;
}

void file_free(char *text) { mem_free(text); }

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

bool file_is_folder(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

enum status file_size(const char *path, int64_t *bytes) {
    struct stat s;
    if (stat(path, &s) != 0) FAIL(errno == ENOENT ? ERR_MISSING : ERR_IO, "cannot stat %s: %s", path, strerror(errno));
    *bytes = s.st_size;
    return OK;
}

enum status file_sync_folder(const char *folder) {
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    FAIL_UNLESS(fd >= 0, ERR_IO, "cannot open folder %s: %s", folder, strerror(errno));
    const int bad = fsync(fd), why = errno;
    close(fd);
    FAIL_UNLESS(!bad, ERR_IO, "cannot sync folder %s: %s", folder, strerror(why));
    return OK;
}

static enum status write_all(int fd, const char *path, const char *data, int64_t bytes) {
    while (bytes > 0) {
        const ssize_t n = write(fd, data, (size_t)bytes);
        if (n < 0 && errno == EINTR) continue;
        FAIL_UNLESS(n > 0, ERR_IO, "cannot write %s: %s", path, n < 0 ? strerror(errno) : "nothing was written");
        data += n;
        bytes -= n;
    }
    return OK;
}

enum status file_replace(const char *path, const void *data, int64_t bytes) {
    enum status st = OK;
    char temp[PATH_BYTES], folder[PATH_BYTES];
    TRY(path_print(temp, "%s.tmp", path));
    TRY(path_print(folder, "%s", path));
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = '\0';
    else memcpy(folder, ".", 2);
    const int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    FAIL_UNLESS(fd >= 0, ERR_IO, "cannot create %s: %s", temp, strerror(errno));
    st = write_all(fd, temp, data, bytes);
    if (st == OK && fsync(fd) != 0)
        st = status_fail(ERR_IO, __FILE__, __LINE__, "cannot sync %s: %s", temp, strerror(errno));
    close(fd);
    if (st == OK && rename(temp, path) != 0)
        st = status_fail(ERR_IO, __FILE__, __LINE__, "cannot rename %s to %s: %s", temp, path, strerror(errno));
    if (st != OK) {
        unlink(temp);
        return st;
    }
    return file_sync_folder(folder);
}

enum status file_make_folders(const char *path) {
    char part[PATH_BYTES];
    TRY(path_print(part, "%s", path));
    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p != '\0') continue;
        const char kept = *p;
        *p = '\0';
        if (mkdir(part, 0755) != 0 && errno != EEXIST) FAIL(ERR_IO, "cannot make folder %s: %s", part, strerror(errno));
        if (kept == '\0') break;
        *p = kept;
    }
    FAIL_UNLESS(file_is_folder(path), ERR_IO, "%s exists and is not a folder", path);
    return OK;
}

enum status file_remove_tree(const char *path) {
    struct stat s;
    if (lstat(path, &s) != 0) {
        FAIL_UNLESS(errno == ENOENT, ERR_IO, "cannot stat %s: %s", path, strerror(errno));
        return OK;
    }
    if (S_ISDIR(s.st_mode)) {
        enum status st = OK;
        DIR *d = opendir(path);
        FAIL_UNLESS(d, ERR_IO, "cannot open folder %s: %s", path, strerror(errno));
        for (struct dirent *e; st == OK && (e = readdir(d));) {
            char inner[PATH_BYTES];
            if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
            st = path_print(inner, "%s/%s", path, e->d_name);
            if (st == OK) st = file_remove_tree(inner); /* depth: that of the tree, which we made */
        }
        closedir(d);
        TRY(st);
    }
    FAIL_UNLESS(remove(path) == 0, ERR_IO, "cannot remove %s: %s", path, strerror(errno));
    return OK;
}

enum status file_map_open(struct file_map *m, const char *path) {
    enum status st = OK;
    int fd = -1;
    *m = (struct file_map){0};
    TRY(open_to_read(path, &fd));
    TRY_OUT(size_of(fd, path, &m->bytes));
    if (m->bytes > 0) {
        void *p = mmap(NULL, (size_t)m->bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) FAIL_OUT(ERR_IO, "cannot map %s: %s", path, strerror(errno));
        m->data = p;
    }
out:
    close(fd);
    if (st != OK) *m = (struct file_map){0};
    return st;
}

void file_map_close(struct file_map *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, (size_t)m->bytes);
    *m = (struct file_map){0};
}

static enum status text_room(struct text *t, int64_t n) {
    if (t->n + n + 1 <= t->room) return OK;
    int64_t room = t->room ? t->room : 256;
    while (room < t->n + n + 1) room *= 2;
    void *p = t->s;
    TRY(mem_grow(&p, t->room, room));
    t->s = p;
    t->room = room;
    return OK;
}

enum status text_add(struct text *t, const char *bytes, int64_t n) {
    TRY(text_room(t, n));
    memcpy(t->s + t->n, bytes, (size_t)n);
    t->n += n;
    t->s[t->n] = '\0';
    return OK;
}

enum status text_print(struct text *t, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    enum status st = n < 0 ? ERR_ARG : text_room(t, n);
    if (st == OK) {
        vsnprintf(t->s + t->n, (size_t)n + 1, fmt, again);
        t->n += n;
    }
    va_end(ap);
    va_end(again);
    return st;
}

void text_term(struct text *t) {
    mem_free(t->s);
    *t = (struct text){0};
}
