/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PARALLEL_QUIET_H
#define BATON_PARALLEL_QUIET_H
/* quiet.h - seams that are quiet: a step without some kinds of exchange, to measure what they cost.
 *
 * Nothing is sent, nobody waits, and what would come is made here, of finite numbers and of the same size:
 *   hand-off     what enters a range is zero, and nothing is folded
 *   attention, tensor, experts   copies of what would go (zeros where nothing would), at the cost of a copy of memory;
 *                packing and adding up stay.  Experts' counts are not asked for: every expert has as many tokens as
 *                every other, in one round or as many as that takes
 *   parameters   the row that is there; of a ring, copies of my own part
 *   gradients, sums   my own part
 * All ranks make the same uses quiet, between two steps; the results are for the clock alone, and the step ends before
 * its update.  A sharding_publish that is not quiet brings the weights of a ring back. */
#include "parallel/seams_mesh.h"

struct quiet_kind {
    const char *name;
    unsigned uses; /* 1u << enum comm_use */
};
enum { QUIET_KINDS = 7 };
extern const struct quiet_kind quiet_kinds[QUIET_KINDS]; /* the last: all of them */
/* uses 0: none, the seams are those of training. */
void seams_mesh_quiet(struct seams_mesh *m, unsigned uses);
bool seams_mesh_is_quiet(const struct seams_mesh *m);
#endif
