/* SPDX-License-Identifier: Apache-2.0 */
/* What TERM, INT and USR1 do between signals_init and signals_term, and after. */
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "launch/signals.h"
#include "tests/check.h"

static const struct {
    const char *why;
    int first, second, flag;
    const char *name;
} cases[] = {
    {"TERM", SIGTERM, 0, SIGTERM, "TERM"},
    {"INT", SIGINT, 0, SIGINT, "INT"},
    {"USR1", SIGUSR1, 0, SIGUSR1, "USR1"},
    {"the first of two stays", SIGUSR1, SIGTERM, SIGUSR1, "USR1"},
    {"the same one twice", SIGINT, SIGINT, SIGINT, "INT"},
};

static int flag_now(void) { return __atomic_load_n(signals_flag(), __ATOMIC_RELAXED); }

static void check_flag(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        MUST(signals_init());
        CHECK(flag_now() == 0, "%s: the flag starts at %d", cases[i].why, flag_now());
        raise(cases[i].first);
        if (cases[i].second) raise(cases[i].second);
        const int got = flag_now();
        CHECK(got == cases[i].flag, "%s: flag %d, not %d", cases[i].why, got, cases[i].flag);
        CHECK(!strcmp(signals_name(got), cases[i].name), "%s: name %s", cases[i].why, signals_name(got));
        signals_term();
        CHECK(flag_now() == 0, "%s: signals_term leaves %d", cases[i].why, flag_now());
    }
    CHECK(!strcmp(signals_name(0), "none"), "no signal is called %s", signals_name(0));
}

/* A child lets signals_term put the default action back, which ends it. */
static void check_default_returns(int number) {
    const pid_t child = fork();
    if (child == 0) {
        MUST(signals_init());
        raise(number);
        signals_term();
        raise(number);
        _exit(0);
    }
    int how = 0;
    CHECK(waitpid(child, &how, 0) == child, "no child to wait for");
    CHECK(WIFSIGNALED(how) && WTERMSIG(how) == number, "signal %d after signals_term: wait status %#x", number, how);
}

static void check_ignored_returns(void) {
    struct sigaction now;
    signal(SIGUSR1, SIG_IGN);
    MUST(signals_init());
    signals_term();
    CHECK(sigaction(SIGUSR1, NULL, &now) == 0 && now.sa_handler == SIG_IGN, "SIG_IGN of USR1 was not put back");
    signal(SIGUSR1, SIG_DFL);
}

/* A read that waits while a signal arrives goes on waiting for its byte. */
static void check_restart(void) {
    int ends[2];
    char byte = 0;
    CHECK(pipe(ends) == 0, "no pipe");
    MUST(signals_init());
    const pid_t parent = getpid(), child = fork();
    if (child == 0) {
        const struct timespec pause = {.tv_nsec = 50000000};
        nanosleep(&pause, NULL);
        kill(parent, SIGTERM);
        nanosleep(&pause, NULL);
        _exit(write(ends[1], "x", 1) == 1 ? 0 : 1);
    }
    const ssize_t n = read(ends[0], &byte, 1);
    CHECK(n == 1 && byte == 'x', "read gave %d", (int)n);
    CHECK(flag_now() == SIGTERM, "flag %d", flag_now());
    waitpid(child, NULL, 0);
    signals_term();
    close(ends[0]);
    close(ends[1]);
}

int main(void) {
    check_flag();
    check_default_returns(SIGTERM);
    check_default_returns(SIGINT);
    check_default_returns(SIGUSR1);
    check_ignored_returns();
    check_restart();
    return check_end();
}
