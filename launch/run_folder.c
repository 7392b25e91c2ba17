/* SPDX-License-Identifier: Apache-2.0 */
#define _DEFAULT_SOURCE
#include "launch/run_folder.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

void run_folder_init(struct run_folder *f) { *f = (struct run_folder){.lock = -1}; }

/* The folder above path ("." above a bare name); false at the top. */
static bool parent_of(const char *path, char out[PATH_BYTES]) {
    snprintf(out, PATH_BYTES, "%s", path);
    char *slash = strrchr(out, '/');
    if (slash == out) return false;
    if (!slash) {
        if (!strcmp(out, ".")) return false;
        snprintf(out, PATH_BYTES, ".");
        return true;
    }
    *slash = '\0';
    return true;
}

static int missing_parents(const char *path) {
    char at[PATH_BYTES], above[PATH_BYTES];
    int n = 0;
    for (snprintf(at, sizeof at, "%s", path); parent_of(at, above) && !file_exists(above); n++)
        memcpy(at, above, sizeof at);
    return n;
}

/* rmdir, never a tree: another run may have moved into a folder that we made. */
static void remove_made_parents(const struct run_folder *f) {
    char at[PATH_BYTES], above[PATH_BYTES];
    snprintf(at, sizeof at, "%s", f->path);
    for (int i = 0; i < f->n_parents_made && parent_of(at, above); i++) {
        if (rmdir(above) != 0) return;
        memcpy(at, above, sizeof at);
    }
}

static enum status lock_taken(const char *path, int fd) {
    char owner[300];
    const ssize_t n = pread(fd, owner, sizeof owner - 1, 0);
    owner[n > 0 ? n : 0] = '\0';
    owner[strcspn(owner, "\n")] = '\0';
    FAIL(ERR_IO, "%s: another process is working in this run folder: %s; let it end, or set another run.dir", path,
         *owner ? owner : "it has not written its name yet");
}

static enum status write_owner(const struct run_folder *f) {
    char owner[300], host[256] = "an unknown host";
    gethostname(host, sizeof host - 1);
    const int n = snprintf(owner, sizeof owner, "process %ld on %s\n", (long)getpid(), host);
    if (ftruncate(f->lock, 0) != 0 || pwrite(f->lock, owner, (size_t)n, 0) != n)
        FAIL(ERR_IO, "cannot write %s/lock: %s", f->path, strerror(errno));
    return OK;
}

/* *gone: the file was removed between opening and locking, by a process that cleaned up after itself. */
static enum status take_lock(struct run_folder *f, bool *gone) {
    char path[PATH_BYTES];
    struct stat mine, there;
    *gone = false;
    TRY(path_print(path, "%s/lock", f->path));
    f->had_lock = file_exists(path);
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 && errno == ENOENT) {
        *gone = true;
        return OK;
    }
    FAIL_UNLESS(fd >= 0, ERR_IO, "cannot create %s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        const int why = errno;
        const enum status st = why == EWOULDBLOCK
                                   ? lock_taken(f->path, fd)
                                   : status_fail(ERR_IO, __FILE__, __LINE__, "cannot lock %s: %s", path, strerror(why));
        close(fd);
        return st;
    }
    *gone = fstat(fd, &mine) != 0 || stat(path, &there) != 0 || mine.st_ino != there.st_ino;
    if (*gone) {
        close(fd);
        return OK;
    }
    f->lock = fd;
    return write_owner(f);
}

static enum status make_and_lock(struct run_folder *f) {
    enum { TRIES = 100 }; /* each lost only to a process that cleaned up at this very moment */
    bool gone = true;
    for (int i = 0; i < TRIES && gone; i++) {
        TRY(file_make_folders(f->path));
        TRY(take_lock(f, &gone));
    }
    FAIL_UNLESS(!gone, ERR_IO, "%s: the folder disappears while it is being opened", f->path);
    return OK;
}

enum status run_folder_open(struct run_folder *f, const char *dir) {
    run_folder_init(f);
    FAIL_UNLESS(*dir, ERR_CONFIG, "run.dir is empty: it names the folder of the run");
    TRY(path_print(f->path, "%s", dir));
    for (size_t n = strlen(f->path); n > 1 && f->path[n - 1] == '/'; n--) f->path[n - 1] = '\0';
    FAIL_UNLESS(!file_exists(f->path) || file_is_folder(f->path), ERR_CONFIG, "run.dir: %s exists and is not a folder",
                f->path);
    f->made = !file_exists(f->path);
    f->n_parents_made = f->made ? missing_parents(f->path) : 0;
    const enum status st = make_and_lock(f);
    if (st == OK) return OK;
    /* Not ours to empty: whoever holds the lock may have made it a moment ago.  An empty folder goes. */
    if (f->lock >= 0) run_folder_close(f, false);
    else if (f->made && rmdir(f->path) == 0) remove_made_parents(f);
    run_folder_init(f);
    return status_pass(st, __FILE__, __LINE__);
}

enum status run_folder_write_config(const struct run_folder *f, const struct text *resolved) {
    char path[PATH_BYTES];
    TRY(path_print(path, "%s/config.yaml", f->path));
    return file_replace(path, resolved->s ? resolved->s : "", resolved->n);
}

/* Renamed first, in one stroke and under the lock, so that a process which comes now starts a folder of its own. */
static enum status remove_run(const struct run_folder *f) {
    char dropped[PATH_BYTES];
    TRY(path_print(dropped, "%s.dropped-%ld", f->path, (long)getpid()));
    FAIL_UNLESS(rename(f->path, dropped) == 0, ERR_IO, "cannot rename %s to remove it: %s", f->path, strerror(errno));
    TRY(file_remove_tree(dropped));
    remove_made_parents(f);
    return OK;
}

enum status run_folder_close(struct run_folder *f, bool keep) {
    enum status st = OK;
    char path[PATH_BYTES];
    if (f->lock < 0) return OK;
    if (!keep && f->made) st = remove_run(f);
    else if (!keep && !f->had_lock) {
        st = path_print(path, "%s/lock", f->path);
        if (st == OK) unlink(path);
    }
    close(f->lock); /* last: until then nobody else may use the folder */
    run_folder_init(f);
    return st;
}
