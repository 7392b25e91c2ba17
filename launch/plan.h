/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_PLAN_H
#define BATON_LAUNCH_PLAN_H
/* plan.h - what a run would take of one rank, found out without its data, memory, GPU or other ranks.
 *
 * Memory is planned by the code that a run allocates by.  Exchanges are rehearsed: the code of a step runs with ops
 * that do nothing (kernels/paper.h) as one rank of a world on paper (dist/world.h), whose communicators count.  So they
 * are those of a step whose sequences are one document each: where documents end inside, fewer keys may travel, and
 * every expert is chosen as often as every other. */
#include "launch/trainer.h"

struct rank_plan {
    int rank;
    struct ledger ledger, beside;         /* beside: of the host, of a GPU's rank */
    struct comm_count moved[N_COMM_USES]; /* in one step, any but the first */
    enum carry_way way;
    bool sliced; /* gradients leave in slices */
    int n_plain;
    struct plain_note plain[PLAIN_OPS]; /* what runs by kernels.plain */
    char refused[400]; /* why a GPU run of this program would be refused, whose workspace is not in the ledger then */
};
/* cuda: as for a GPU; wire: exchanges too. */
enum status plan_rank(const struct config *c, bool cuda, bool wire, int rank, struct rank_plan *out);
/* The stack, the parameters and the work of a token. */
enum status plan_print_model(const struct config *c, const struct model *m, struct text *out);
/* All of it, for the first rank, one in the middle and the last. */
enum status plan_print(const struct config *c, bool cuda, struct text *out);
/* Whether `bytes` of memory are enough for each rank, and else the nearest settings that would fit, the cheapest first:
 * activations computed again or in the host's memory, parameters in slices, more ranks a sequence. */
enum status plan_print_fit(const struct config *c, bool cuda, int64_t bytes, struct text *out);

#endif
