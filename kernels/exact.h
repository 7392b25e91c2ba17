/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_EXACT_H
#define BATON_KERNELS_EXACT_H
/* exact.h - ops whose results do not depend on how a sequence is spread over ranks.
 *
 * In exact mode every range of a micro-batch is a segment of a grid that the mesh does not change.  This table stands
 * before another one: products of matrices cover one segment at a time, and what is summed over tokens - gradients of
 * weights, of gathered keys and values, the loss - is summed inside a segment by the op itself and over segments in a
 * binary tree: leaf i is segment i, a node is its left child plus its right one, a missing right one is left out.  A
 * rank that holds the segments [i 2^l, (i + 1) 2^l) holds one node, and ranks are summed by the same tree.
 * The head and the loss are called once a segment; their trees live over a pass.  Memory of trees is the ops'. */
#include "base/ctx.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EXACT_LEVELS 40
/* A sum being made: level l holds a node of 2^l leaves where bit l of count is set. */
struct exact_sum {
    enum dtype dtype;
    char *memory; /* levels + 1 rows of `numbers`: the leaf, then the levels */
    int64_t numbers, count;
    char *leaf, *level[EXACT_LEVELS];
};
struct exact {
    struct ops table; /* what ctx->ops points to */
    const struct ops *base;
    int64_t n_ranges;
    const int64_t *range;     /* n_ranges + 1 rows, on the host */
    const int64_t *range_own; /* the same of the rows whose residual stream is here; NULL: all of them */
    struct exact_sum head;    /* gradient of the head's weight  */
    struct tensor losses;     /* (n_ranges + 1) F64: of each segment, then their root */
    int64_t n_losses;
    struct tensor own; /* (n_ranges, 2) I64: 0 and the length of each, where ops read it; absent: ops read the host */
};
/* Rows of the shared trees: leaf and levels of n_ranges leaves. */
int exact_rows(int64_t n_ranges);
void exact_init(struct exact *e, const struct ops *base, const int64_t *range, int64_t n_ranges);
/* Bytes that exact_place takes for the head's tree: its weight has `numbers` elements.  type: of its gradient. */
int64_t exact_head_bytes(const struct exact *e, int64_t numbers, enum dtype type);
void exact_place(struct exact *e, void *memory, int64_t numbers, enum dtype type);
int64_t exact_loss_bytes(const struct exact *e);
void exact_place_losses(struct exact *e, void *memory, enum space space);
/* A pass begins: no leaf has been seen. */
enum status exact_begin(struct ctx *c);

#ifdef __cplusplus
}
#endif
#endif
