/* SPDX-License-Identifier: Apache-2.0 */
/* timeout: 300 */
/* A save whose k-th call to the system fails, is cut short, is interrupted, or is the last thing the process does: for
 * every k until the save goes through.  Also: an allocation that fails, at every place. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "base/arena.h"
#include "checkpoints/save_io.h"
#include "tests/checkpoint_world.h"

enum fault { FAIL_ENOSPC, FAIL_EDQUOT, FAIL_EIO, INTERRUPT, SHORT, KILL_BEFORE, KILL_AFTER, N_FAULTS };
static const char *const fault_names[N_FAULTS] = {"ENOSPC",      "EDQUOT",        "EIO",         "EINTR",
                                                  "short write", "killed before", "killed after"};

/* Shared with the child that dies. */
static struct {
    int64_t calls, at; /* made so far; the one that goes wrong */
    enum fault fault;
    bool reached, committed;
    char what[64]; /* the call that went wrong */
} * state;

static int64_t points; /* places where something went wrong, over all cases */

/* Counts a call.  true: it fails now, with errno. */
static bool goes_wrong(const char *what) {
    if (++state->calls != state->at) return false;
    state->reached = true;
    snprintf(state->what, sizeof state->what, "%s", what);
    if (state->fault == KILL_BEFORE) kill(getpid(), SIGKILL);
    errno = state->fault == FAIL_ENOSPC   ? ENOSPC
            : state->fault == FAIL_EDQUOT ? EDQUOT
            : state->fault == FAIL_EIO    ? EIO
                                          : EINTR;
    return state->fault <= INTERRUPT;
}

static void after(void) {
    if (state->calls == state->at && state->fault == KILL_AFTER) kill(getpid(), SIGKILL);
}

#define PASS_ON(what, call)                                                                                            \
    if (goes_wrong(what)) return -1;                                                                                   \
    const int result = (call), why = errno;                                                                            \
    after();                                                                                                           \
    errno = why;                                                                                                       \
    return result

static int io_open(const char *path, int flags, mode_t mode) { PASS_ON("open", open(path, flags, mode)); }
static int io_fsync(int fd) { PASS_ON("fsync", fsync(fd)); }
static int io_mkdir(const char *path, mode_t mode) { PASS_ON("mkdir", mkdir(path, mode)); }
static int io_unlink(const char *path) { PASS_ON("unlink", unlink(path)); }
static int io_rmdir(const char *path) { PASS_ON("rmdir", rmdir(path)); }

static int io_close(int fd) { /* closes also when it reports an error, as Linux does */
    const bool wrong = goes_wrong("close");
    const int why = errno, result = close(fd);
    after();
    if (wrong) errno = why;
    return wrong ? -1 : result;
}

static ssize_t io_write(int fd, const void *data, size_t bytes) {
    if (goes_wrong("write")) return -1;
    const bool cut = state->calls == state->at && state->fault == SHORT && bytes > 1;
    const ssize_t n = write(fd, data, cut ? bytes / 2 : bytes);
    after();
    return n;
}

static int io_rename(const char *from, const char *to) {
    if (goes_wrong("rename")) return -1;
    const int result = rename(from, to);
    if (result == 0 && strstr(from, "step-00000003.tmp-")) state->committed = true;
    if (result == 0 && strstr(to, "step-00000003.tmp-")) state->committed = false;
    after();
    return result;
}

static int64_t io_free_bytes(const char *folder) {
    if (goes_wrong("statvfs")) return -1;
    const int64_t n = save_io_posix.free_bytes(folder);
    after();
    return n;
}

static const struct save_io faulty = {io_open,   io_write,  io_fsync, io_close,     io_mkdir,
                                      io_rename, io_unlink, io_rmdir, io_free_bytes};

/* ---- the run, before and after ---- */

static char run[PATH_BYTES];

static const char *step_path(int64_t step) {
    static char path[PATH_BYTES];
    snprintf(path, sizeof path, "%.900s/checkpoints/step-%08" PRId64, run, step);
    return path;
}

/* How the run stands when the save of step 3, keep 2, begins. */
enum scene { FRESH, TWO_BEFORE, THIRD_DAMAGED, LEFTOVER, N_SCENES };
static const char *const scene_names[N_SCENES] = {"a fresh run", "steps 1 and 2 stand", "a damaged step 3 stands",
                                                  "a dead process left its folder"};

static void set_scene(enum scene scene) {
    char path[PATH_BYTES];
    MUST(file_remove_tree(run));
    MUST(file_make_folders(run));
    if (scene == FRESH) return;
    world_save(run, 1, 0);
    world_save(run, 2, 0);
    if (scene == THIRD_DAMAGED) {
        world_save(run, 3, 0);
        snprintf(path, sizeof path, "%.900s/manifest.json", step_path(3));
        if (truncate(path, 100) != 0) exit(1);
    }
    if (scene == LEFTOVER) {
        snprintf(path, sizeof path, "%.900s.tmp-1999999999-elsewhere", step_path(3));
        MUST(file_make_folders(path));
        snprintf(path, sizeof path, "%.900s.tmp-1999999999-elsewhere/x", step_path(3));
        MUST(file_replace(path, "x", 1));
    }
}

static int loud = -1, silent = -1; /* stderr, and nowhere: warnings are expected here */

static enum status save_third(const struct save_io *io) {
    static struct world w;
    const struct checkpoint_meta m = world_meta(3);
    world_init(&w);
    world_fill(&w, 3);
    dup2(silent, 2);
    const enum status st = checkpoint_save_through(io, run, &m, w.list, WORLD_TENSORS, 2);
    dup2(loud, 2);
    return st;
}

/* Folders half made or half removed, those of this scene's dead process aside unless `all`. */
static int64_t marked_folders(bool all) {
    char path[PATH_BYTES];
    int64_t n = 0;
    snprintf(path, sizeof path, "%.900s/checkpoints", run);
    DIR *d = opendir(path);
    if (!d) return 0;
    for (const struct dirent *e; (e = readdir(d));) {
        const bool marked = strstr(e->d_name, ".tmp-") || strstr(e->d_name, ".old-");
        n += marked && (all || !strstr(e->d_name, "-elsewhere"));
    }
    closedir(d);
    return n;
}

/* What is found is the newest committed one, whole; what was committed before stands unless a newer one does. */
static void check_run(enum scene scene, bool third, const char *why) {
    char path[PATH_BYTES];
    struct text skipped = {0};
    const enum status st = checkpoint_find(run, path, &skipped);
    text_term(&skipped);
    if (scene == FRESH && !third) {
        CHECK(st == ERR_MISSING, "%s: %s: %s", why, status_name(st), status_text());
        return;
    }
    CHECK(st == OK, "%s: %s", why, status_text());
    if (st != OK) return;
    CHECK(!strcmp(path, step_path(third ? 3 : 2)), "%s: %s was found", why, path);
    world_check(path, third ? 3 : 2, why);
    for (int64_t step = 1; step <= 3; step++) /* none is seen half gone */
        if (file_exists(step_path(step)) && (third || step != 3 || scene != THIRD_DAMAGED))
            CHECK(checkpoint_glance(step_path(step)) == OK, "%s: %s", why, status_text());
    if (scene == FRESH) return;
    world_check(step_path(2), 2, why);
    if (!third) world_check(step_path(1), 1, why);
}

/* The next save makes everything good. */
static void check_recovery(const char *why) {
    const enum status st = save_third(&save_io_posix);
    CHECK(st == OK, "%s: the next save: %s", why, status_text());
    if (st != OK) return;
    world_check(step_path(3), 3, why);
    world_save(run, 4, 2); /* a save of what stood already removes nothing it did not have to */
    CHECK(!marked_folders(true) && !file_exists(step_path(1)) && !file_exists(step_path(2)),
          "%s: something was left behind", why);
}

static void check_error(enum scene scene, enum fault fault, enum status st, const char *why) {
    if (fault == INTERRUPT || fault == SHORT) CHECK(st == OK, "%s: %s", why, status_text());
    if (st == OK) {
        check_run(scene, true, why);
        return;
    }
    const char *cause = strerror(fault == FAIL_ENOSPC ? ENOSPC : fault == FAIL_EDQUOT ? EDQUOT : EIO);
    CHECK(st == ERR_IO && strstr(status_text(), cause) && strstr(status_text(), run), "%s: %s: '%s'", why,
          status_name(st), status_text());
    if (fault <= FAIL_EDQUOT && !strcmp(state->what, "write"))
        CHECK(strstr(status_text(), "needs ") && strstr(status_text(), "free space"), "%s: '%s'", why, status_text());
    CHECK(!marked_folders(false), "%s: what was begun stays", why);
    CHECK(scene == THIRD_DAMAGED || !file_exists(step_path(3)), "%s: step 3 stays", why);
    check_run(scene, false, why);
}

/* In a process of its own, which dies of it. */
static void check_kill(enum scene scene, const char *why) {
    int ended = 0;
    const pid_t child = fork();
    if (child == 0) _exit(save_third(&faulty) == OK ? 0 : 1);
    if (child < 0 || waitpid(child, &ended, 0) != child) exit(1);
    if (state->reached)
        CHECK(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL, "%s: the process ended otherwise: %x", why,
              (unsigned)ended);
    else CHECK(WIFEXITED(ended) && WEXITSTATUS(ended) == 0, "%s: the save failed by itself", why);
    check_run(scene, state->committed, why);
}

static void test_every_call(enum scene scene, enum fault fault) {
    for (int64_t k = 1;; k++) {
        char why[256];
        set_scene(scene);
        memset(state, 0, sizeof *state);
        state->at = k;
        state->fault = fault;
        snprintf(why, sizeof why, "%s, call %" PRId64 " %s", scene_names[scene], k, fault_names[fault]);
        if (fault >= KILL_BEFORE) check_kill(scene, why);
        else check_error(scene, fault, save_third(&faulty), why);
        if (!state->reached) break;
        points++;
        check_recovery(why);
        if (check_failures) exit(1);
    }
    CHECK(state->calls > 25, "a save of %" PRId64 " calls is no save", state->calls);
}

/* Saving, finding, opening and reading with each allocation refused in turn. */
static void test_memory(void) {
    char path[PATH_BYTES];
    enum status st = ERR_OOM;
    for (int64_t k = 1; st != OK; k++, points++) {
        set_scene(TWO_BEFORE);
        mem_fail_at(k);
        st = save_third(&save_io_posix);
        mem_fail_at(0);
        CHECK(st == OK || st == ERR_OOM, "allocation %" PRId64 " of a save: %s: %s", k, status_name(st), status_text());
        check_run(TWO_BEFORE, st == OK, "an allocation of a save fails");
        if (st != OK) CHECK(!marked_folders(false), "allocation %" PRId64 ": what was begun stays", k);
        if (check_failures) exit(1);
    }
    st = ERR_OOM;
    for (int64_t k = 1; st != OK; k++, points++) {
        static struct world w;
        struct text skipped = {0};
        struct checkpoint *c = NULL;
        world_init(&w);
        mem_fail_at(k);
        st = checkpoint_find(run, path, &skipped);
        if (st == OK) st = checkpoint_open(&c, path);
        if (st == OK) st = checkpoint_read(c, w.list, WORLD_TENSORS, true);
        mem_fail_at(0);
        CHECK(st == OK || st == ERR_OOM, "allocation %" PRId64 " of a load: %s: %s", k, status_name(st), status_text());
        if (st == OK) CHECK(!strcmp(path, step_path(3)), "a load passed over a sound checkpoint: %s", path);
        checkpoint_close(c);
        text_term(&skipped);
        if (check_failures) exit(1);
    }
}

/* Asked before anything is written. */
static int64_t little_room(const char *folder) { return folder ? 1000 : -1; }

static void test_room(void) {
    struct save_io io = save_io_posix;
    io.free_bytes = little_room;
    set_scene(TWO_BEFORE);
    const enum status st = save_third(&io);
    CHECK(st == ERR_IO && strstr(status_text(), "needs ") && strstr(status_text(), " 1000 are free") &&
              strstr(status_text(), "nothing was written"),
          "no room: %s", status_text());
    check_run(TWO_BEFORE, false, "no room");
    CHECK(!marked_folders(false), "no room: something was written");
}

int main(void) {
    world_folder(run);
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    loud = dup(2);
    silent = open("/dev/null", O_WRONLY);
    if (state == MAP_FAILED || loud < 0 || silent < 0) return 1;
    for (int scene = 0; scene < N_SCENES; scene++)
        for (int fault = 0; fault < N_FAULTS; fault++) test_every_call((enum scene)scene, (enum fault)fault);
    test_memory();
    test_room();
    MUST(file_remove_tree(run));
    CHECK(points > 1000, "%" PRId64 " places: too few for the scenes above", points);
    return check_end();
}
