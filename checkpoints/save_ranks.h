/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_CHECKPOINTS_SAVE_RANKS_H
#define BATON_CHECKPOINTS_SAVE_RANKS_H
/* save_ranks.h - how the ranks of a save agree.  comm NULL: there is one.  Member 0 leads.
 *
 * A failure of one becomes a failure of all, with the text of the lowest rank that failed; the rank itself keeps its
 * own record.  A failure of the exchange is a failure of the save. */
#include "dist/collectives.h"

#ifdef __cplusplus
extern "C" {
#endif

int save_rank(const struct comm *c);
int save_n_ranks(const struct comm *c);
/* OK where every rank says OK. */
enum status save_agree(struct comm *c, enum status st);
/* The leader's status and, if that is OK, its data. */
enum status save_tell(struct comm *c, enum status st, void *data, int64_t bytes);
/* The same number of bytes from every rank, in the order of ranks. */
enum status save_gather(struct comm *c, const void *mine, int64_t bytes, void *all);

#ifdef __cplusplus
}
#endif
#endif
