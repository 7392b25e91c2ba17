/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_EXPOSED_H
#define BATON_LAUNCH_EXPOSED_H
/* exposed.h - what communication costs a step: the share of its time that is gone where an exchange is quiet
 * (parallel/quiet.h).
 *
 * In a round a step with all exchanges and, for each kind that moves anything and for all of them together, a step
 * without it take turns on the data of the next step; a last row changes nothing, and shows how far the clock is to be
 * believed.  A step here ends before its update, its time is that of the slowest rank, and nothing of the training
 * state changes.  What packs, adds up and unpacks around an exchange of attention, tensor or experts stays in the quiet
 * step. */
#include "launch/trainer.h"
#include "parallel/quiet.h"

enum { EXPOSED_ROUNDS = 99 };
struct exposed {
    int n;
    bool finite; /* all losses and gradient norms were */
    struct exposed_row {
        const char *name;
        int64_t bytes;            /* most that a rank receives in a step                         */
        double step_ms, quiet_ms; /* medians                                                     */
        double share;             /* median over rounds of (step - quiet) / step                  */
    } row[QUIET_KINDS + 1];
};
/* On all ranks alike.  ERR_STOPPED: a signal. */
enum status exposed_measure(struct trainer *t, int rounds, struct exposed *out);
void exposed_tell(struct trainer *t, const struct exposed *e); /* the table, into the report */
#endif
