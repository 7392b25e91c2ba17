/* SPDX-License-Identifier: Apache-2.0 */
#include "dist/inside.h"

/* Communicators of one rank that runs alone, for plans: lists are checked and counted like any other's, and go nowhere.
 */
static enum status paper_begin(struct comm_inside *in, struct flight *f) { return (void)in, (void)f, OK; }
static enum status paper_end(struct comm_inside *in, struct flight *f) { return (void)in, (void)f, OK; }

const struct transport transport_paper = {
    .name = "paper",
    .join = threads_join,
    .leave = threads_leave,
    .begin = paper_begin,
    .end = paper_end,
};
