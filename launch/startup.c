/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* CLOCK_BOOTTIME */
#include "launch/startup.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "profiling/prof.h"

/* Ticks after boot at which this process began: the 22nd field of its line, the 20th behind its name, which may hold
 * anything but ends with the last bracket.  0: unknown. */
static int64_t begin_ticks(void) {
    char text[1024];
    long long ticks = 0;
    const int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *at = strrchr(text, ')');
    if (!at || sscanf(at + 1, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %lld",
                      &ticks) != 1)
        return 0;
    return ticks;
}

void startup_begin(struct startup *u) {
    struct timespec boot;
    const int64_t ticks = begin_ticks();
    const double hz = (double)sysconf(_SC_CLK_TCK);
    *u = (struct startup){.last_s = prof_seconds()};
    if (ticks == 0 || hz <= 0.0 || clock_gettime(CLOCK_BOOTTIME, &boot) != 0) return;
    const double age = (double)boot.tv_sec + 1e-9 * (double)boot.tv_nsec - (double)ticks / hz;
    if (age > 0.0) u->last_s -= age;
}

void startup_mark_at(struct startup *u, const char *what, double at_s) {
    if (u->n == STARTUP_PARTS) return;
    u->part[u->n].what = what;
    u->part[u->n++].seconds = at_s - u->last_s;
    u->last_s = at_s;
}

void startup_mark(struct startup *u, const char *what) { startup_mark_at(u, what, prof_seconds()); }

enum status startup_print(const struct startup *u, struct text *out) {
    double all = 0.0;
    for (int i = 0; i < u->n; i++) all += u->part[i].seconds;
    TRY(text_print(out, "first update after %.2f s:", all));
    for (int i = 0; i < u->n; i++)
        TRY(text_print(out, "%s %.2f %s", i ? "," : "", u->part[i].seconds, u->part[i].what));
    return OK;
}
