/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_STARTUP_H
#define BATON_LAUNCH_STARTUP_H
/* startup.h - the seconds from the start of this process to its first update, by what they went for. */
#include "base/file.h"

enum { STARTUP_PARTS = 16 };
struct startup {
    double last_s; /* on the clock of prof_seconds */
    int n;
    struct {
        const char *what;
        double seconds;
    } part[STARTUP_PARTS];
};
/* From the start of the process, as the system keeps it (to a hundredth of a second); from now where it does not. */
void startup_begin(struct startup *u);
void startup_mark(struct startup *u, const char *what); /* what the time since the last mark went for; up to at_s */
void startup_mark_at(struct startup *u, const char *what, double at_s);
/* "first update after 3.21 s: 0.10 start, 0.52 allocate, ..." */
enum status startup_print(const struct startup *u, struct text *out);

#endif
