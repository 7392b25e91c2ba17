/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_ROUTED_H
#define BATON_MODEL_ROUTED_H
/* routed.h - what the seam of experts moves: rows grouped by expert (kernels/group/group.h).
 *
 * The mixer fills in its own tokens' rows, `home`.  dispatch puts the rows of this rank's experts in their place,
 * `guest`, combine brings the results home; each is the other's transpose.  Where the expert axis has several ranks,
 * guests are ordered by the rank and the section that they come from, then by expert, then by token: each of those
 * sections is one of offset.  Memory is planned for so many guests; more of them come in several rounds, each of whose
 * rows take the place of those before, and backward has them come again.  So none is dropped, whatever the routing. */
#include "model/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The ranks that experts are spread over, evenly; NULL in a shard: all experts are here. */
struct guests {
    int n_ranks, index;
    int64_t tokens;   /* of the micro-batches of all of them                                   */
    int64_t sections; /* of all of them: one a rank, in exact mode one a range                 */
    double room;      /* rows planned for, over those of even loads; 0: for any load, one round */
};
/* Guests of one round, and the rounds of the worst routing. */
int64_t routed_rows(const struct guests *g, int64_t experts, int64_t top_k);
int64_t routed_rounds(const struct guests *g, int64_t experts, int64_t top_k);

struct routed_side {
    struct tensor offset;       /* (S, E' + 1) I64; E': experts that there are on this side    */
    struct tensor x, y, dy, dx; /* (N, W) into and out of the experts, gradients            */
};
struct routed {
    struct routed_side home, guest; /* one and the same where all experts are here           */
    struct tensor offsets;          /* (rounds * S, E' + 1) I64: of guests, for ROUTED_COUNTS to fill */
    int64_t rows_most;              /* room for guests                                          */
    int64_t n_rounds;               /* ROUTED_COUNTS says how many                              */
    int64_t round, n_rows;          /* the mixer counts; begin says how many guests it has      */
};
enum routed_when {
    ROUTED_COUNTS, /* home.offset is known: how many go where, and in how many rounds */
    DISPATCH_X,    /* before the experts' forward: tokens travel   */
    COMBINE_Y,     /* after it: outputs come home                  */
    DISPATCH_DY,   /* before their backward: gradients travel      */
    COMBINE_DX,    /* after it: the tokens' gradients come home    */
};
/* Where every rank has all experts, rows stay. */
enum status routed_here(struct step *s, const struct layer *l, struct flow *f, struct routed *r, enum routed_when when);

#ifdef __cplusplus
}
#endif
#endif
