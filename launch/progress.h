/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_PROGRESS_H
#define BATON_LAUNCH_PROGRESS_H
/* progress.h - the lines of a run on stdout.
 *
 *   step 120/1000  loss 2.3411  grad 0.912  lr 3.00e-04  12.3k tok/s  1.21 GFLOP/s  312 MiB  ETA 4m31s
 * followed by "valid 2.4012" where the step was validated, "mfu 41.0%" where it is known, and "SKIPPED".
 * In a file or pipe: one such line a step.  On a terminal: one line that changes with every step, and a line that stays
 * for the first and the last step, a validated or skipped one, and every PROGRESS_STAY_S seconds. */
#include "launch/report.h"

#define PROGRESS_STAY_S 30.0
#define PROGRESS_BYTES  320

struct progress {
    bool terminal, line_open; /* line_open: the changing line is on the screen */
    int columns;
    int64_t first_step, n_steps;
    double begin_s, stay_s; /* clock at the start and at the last line that stays */
};
void progress_open(struct progress *p, int64_t first_step, int64_t n_steps);
void progress_step(struct progress *p, const struct step_report *s);
void progress_note(struct progress *p, const char *text); /* a line of its own */
void progress_warn(struct progress *p, const char *text); /* the same on stderr */
void progress_close(struct progress *p);

/* The line itself, without its end; eta_s: seconds left, NAN: unknown. */
void progress_print(char out[PROGRESS_BYTES], const struct step_report *s, int64_t n_steps, double eta_s);

#endif
