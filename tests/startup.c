/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* The time to the first update counts from the start of the process, and its parts add up to it. */
#define _GNU_SOURCE
#include "launch/startup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "profiling/prof.h"
#include "tests/check.h"

static void pause_ms(int64_t ms) {
    const struct timespec t = {.tv_nsec = 1000000 * ms};
    nanosleep(&t, NULL);
}

/* In a process of its own, whose age is known. */
static void test_age(void) {
    const double born = prof_seconds();
    const pid_t child = fork();
    if (child == 0) {
        struct startup u;
        struct text text = {0};
        pause_ms(300);
        startup_begin(&u);
        const double age = prof_seconds() - born;
        startup_mark(&u, "start");
        CHECK(u.part[0].seconds > 0.28 && u.part[0].seconds < age + 0.02, "a process of %g s says %g", age,
              u.part[0].seconds);
        pause_ms(50);
        const double planned = prof_seconds();
        pause_ms(100);
        startup_mark_at(&u, "plan", planned);
        startup_mark(&u, "allocate");
        CHECK(u.part[1].seconds >= 0.05 && u.part[2].seconds >= 0.1, "%g and %g s", u.part[1].seconds,
              u.part[2].seconds);
        MUST(startup_print(&u, &text));
        double all = 0.0, part[3] = {0.0};
        const int n = sscanf(text.s, "first update after %lf s: %lf start, %lf plan, %lf allocate", &all, &part[0],
                             &part[1], &part[2]);
        CHECK(n == 4 && fabs(all - part[0] - part[1] - part[2]) < 0.03, "'%s'", text.s);
        text_term(&text);
        _exit(check_end());
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child, "no child");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %d", status);
}

static void test_full(void) {
    struct startup u;
    startup_begin(&u);
    for (int i = 0; i < 2 * STARTUP_PARTS; i++) startup_mark(&u, "part");
    CHECK(u.n == STARTUP_PARTS, "%d parts", u.n);
}

int main(void) {
    test_age();
    test_full();
    return check_end();
}
