/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_FERRY_H
#define BATON_KERNELS_FERRY_H
/* ferry.h - bytes that leave the memory of ops for the host's and come back while ops run: on a GPU by streams of their
 * own, one each way; on the CPU at once; on paper not at all.
 *
 * A copy begins when all is done that is enqueued on the context's stream so far.  It is over at the mark of its lane;
 * the context's stream waits for that where it is told to.  Copies of one way follow each other, so a lane may begin
 * again when its latest copy has been waited for.  A copy back is behind every copy out that the context's stream has
 * waited for before, and the other way round. */
#include "base/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FERRY_LANES 3
enum ferry_way { FERRY_OUT, FERRY_BACK, N_FERRY_WAYS };
struct ferry {
    void *stream[N_FERRY_WAYS];            /* cudaStream_t; NULL on the CPU and on paper        */
    void *reached[N_FERRY_WAYS];           /* cudaEvent_t: what the latest copy waits for       */
    void *over[N_FERRY_WAYS][FERRY_LANES]; /* cudaEvent_t: the latest copy of each lane is over */
};
/* By the thread that computes: on its GPU. */
enum status ferry_init(struct ferry *f, const struct ctx *c);
void ferry_term(struct ferry *f); /* accepts the empty one; waits for copies */
/* One side is memory of ops, the other the host's, pinned where there is a GPU (space_store_init). */
enum status ferry_begin(struct ferry *f, struct ctx *c, enum ferry_way way, int lane, void *to, const void *from,
                        int64_t bytes);
enum status ferry_end(struct ferry *f, struct ctx *c, enum ferry_way way, int lane);

#ifdef __cplusplus
}
#endif
#endif
