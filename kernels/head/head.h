/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_HEAD_H
#define BATON_KERNELS_HEAD_H
/* head.h - one tile of the output projection and its cross entropy, in two halves, so that logits never exist whole and
 * a vocabulary split over ranks can sum between the halves.
 *
 *   forward    logits = logit_scale x w^T      lse_t = log sum_v exp(logits_tv)
 *              picked_t = logits_t[target_t]   (0 where the target is absent, -1)
 *   backward   reads lse (the total one) and turns logits into their gradient in place:
 *              dlogits = scale (exp(logits - lse) - onehot(target)) logit_scale, 0 where the target is absent
 *              dx = dlogits w        dw += dlogits^T x
 *   shapes     T rows of the tile, D channels, V rows of w
 *   shards     vocab > 0: w has rows [first, first + V) of a vocabulary of `vocab`, lse is that of its own logits in
 *              forward, and picked is 0 where the target is another's
 *   types      targets I32; scale one F64 (1 / valid targets of the step); lse, picked and dw wide; the rest
 *              `real`, lse from the logits as rounded, sums F64
 *   errors     ERR_ARG: shapes or types disagree.  ERR_DATA: a target outside [-1, vocabulary)
 *   absent     dx, dw: not wanted */
#include "base/ctx.h"
struct head {
    struct tensor x, w, targets;       /* (T, D) (V, D) (T) in                    */
    struct tensor logits, lse, picked; /* (T, V) (T) (T) out of forward           */
    struct tensor scale;               /* (1) F64 in of backward                  */
    struct tensor dx, dw;              /* (T, D) out;  (V, D) +=                  */
    double logit_scale;
    int64_t first, vocab; /* 0, 0: w is the whole vocabulary */
};
#endif
