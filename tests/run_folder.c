/* SPDX-License-Identifier: Apache-2.0 */
/* Run folders: what opening makes, what a failed start leaves (nothing), and two processes at one folder. */
#define _DEFAULT_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "launch/run_folder.h"
#include "tests/check.h"

static void touch(const char *path) { MUST(file_replace(path, "x", 1)); }

/* Everything is relative to the current folder, a fresh one. */
static void check_keep_and_drop(void) {
    static const struct {
        const char *why, *before, *dir; /* before: a folder that is there, or "" */
        const char *gone, *stays;       /* after a close that keeps nothing      */
    } cases[] = {
        {"a bare name", "", "a", "a", "."},
        {"folders on the way are made, and go", "", "b/c/d", "b", "."},
        {"a folder on the way that was there stays", "e", "e/f/g", "e/f", "e"},
        {"the run folder was there: it stays, the lock goes", "h/i", "h/i", "h/i/lock", "h/i"},
        {"slashes behind", "", "j/k//", "j", "."},
    };
    const struct text yaml = {.s = "run: {}\n", .n = 8};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run_folder f;
        char config[PATH_BYTES];
        if (*cases[i].before) MUST(file_make_folders(cases[i].before));
        MUST(run_folder_open(&f, cases[i].dir));
        CHECK(file_is_folder(cases[i].dir), "%s: not made", cases[i].why);
        MUST(run_folder_close(&f, false));
        CHECK(!file_exists(cases[i].gone) && file_exists(cases[i].stays), "%s: after dropping", cases[i].why);
        MUST(run_folder_open(&f, cases[i].dir));
        MUST(run_folder_write_config(&f, &yaml));
        MUST(run_folder_close(&f, true));
        MUST(run_folder_open(&f, cases[i].dir)); /* a continue that fails leaves what was there */
        MUST(run_folder_close(&f, false));
        MUST(path_print(config, "%s/config.yaml", cases[i].dir));
        CHECK(file_exists(config), "%s: a failed continue took the configuration", cases[i].why);
    }
}

static void check_another_run_beside(void) {
    struct run_folder f;
    MUST(run_folder_open(&f, "runs/one"));
    touch("runs/other");
    MUST(run_folder_close(&f, false));
    CHECK(file_exists("runs/other") && !file_exists("runs/one"), "dropping a run took its neighbour");
}

static void check_errors(void) {
    static const struct {
        const char *why, *dir, *says;
        enum status st;
    } cases[] = {
        {"a file in the way", "plain", "plain exists and is not a folder", ERR_CONFIG},
        {"a file on the way", "plain/run", "plain", ERR_IO},
        {"no name", "", "run.dir", ERR_CONFIG},
    };
    touch("plain");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run_folder f;
        const enum status st = run_folder_open(&f, cases[i].dir);
        CHECK(st == cases[i].st && strstr(status_text(), cases[i].says), "%s: %s: %s", cases[i].why, status_name(st),
              status_text());
        MUST(run_folder_close(&f, false));
    }
}

/* A child holds the folder until a byte arrives on the pipe, or until it is killed. */
static pid_t holder(int ready, int go) {
    char byte;
    const pid_t child = fork();
    if (child != 0) return child;
    struct run_folder f;
    MUST(run_folder_open(&f, "shared"));
    if (write(ready, "r", 1) != 1 || read(go, &byte, 1) != 1) _exit(1);
    MUST(run_folder_close(&f, true));
    _exit(check_end());
}

static void check_lock(bool by_kill) {
    struct run_folder f;
    int ready[2], go[2], how = 0;
    char byte, name[64];
    CHECK(pipe(ready) == 0 && pipe(go) == 0, "no pipes");
    const pid_t child = holder(ready[1], go[0]);
    CHECK(read(ready[0], &byte, 1) == 1, "the holder did not start");
    const enum status st = run_folder_open(&f, "shared");
    snprintf(name, sizeof name, "process %ld on ", (long)child);
    CHECK(st == ERR_IO && strstr(status_text(), name) && strstr(status_text(), "run.dir"), "%s: %s", status_name(st),
          status_text());
    CHECK(file_exists("shared/lock"), "the second process took the first one's lock");
    if (by_kill) kill(child, SIGKILL);
    else CHECK(write(go[1], "g", 1) == 1, "no way to the holder");
    waitpid(child, &how, 0);
    CHECK(by_kill ? WIFSIGNALED(how) : how == 0, "the holder's status is %#x", how);
    MUST(run_folder_open(&f, "shared"));
    MUST(run_folder_close(&f, true));
    for (int i = 0; i < 2; i++) close(ready[i]), close(go[i]);
}

/* Processes that open, and drop or keep, one folder as fast as they can: never two inside at once. */
static void check_race(void) {
    enum { PROCESSES = 4, ROUNDS = 200 };
    pid_t child[PROCESSES];
    for (int p = 0; p < PROCESSES; p++) {
        child[p] = fork();
        if (child[p] != 0) continue;
        for (int i = 0; i < ROUNDS; i++) {
            struct run_folder f;
            if (run_folder_open(&f, "race") != OK) continue;
            CHECK(mkdir("race-inside", 0755) == 0, "two processes own the folder");
            rmdir("race-inside");
            MUST(run_folder_close(&f, (i + p) % 3 == 0));
        }
        _exit(check_end());
    }
    for (int p = 0; p < PROCESSES; p++) {
        int how = 0;
        waitpid(child[p], &how, 0);
        CHECK(how == 0, "process %d: status %#x", p, how);
    }
}

int main(void) {
    char folder[64];
    snprintf(folder, sizeof folder, "/tmp/baton-run-folder-%ld", (long)getpid());
    MUST(file_make_folders(folder));
    CHECK(chdir(folder) == 0, "no temporary folder");
    check_keep_and_drop();
    check_another_run_beside();
    check_errors();
    check_lock(false);
    check_lock(true);
    check_race();
    CHECK(chdir("/tmp") == 0, "cannot leave %s", folder);
    MUST(file_remove_tree(folder));
    return check_end();
}
