/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ROUTE_H
#define BATON_KERNELS_ROUTE_H
/* route.h - which experts a token goes to, and with what weight.
 *
 *   scores    s = softmax(l) over all experts, or sigmoid(l)
 *   choice    the top k of v = s + bias, in descending v; of equals the lower index first.  With groups > 1 the experts
 *             lie in groups of equal size, a group's score is the sum of its two largest v, and outside the top_groups
 *             groups v counts as 0 (not minus infinity: where all v inside are negative, an expert outside may win)
 *   weights   w_j = scale s_j, or scale s_j / (sum over the chosen s + 1e-20) where renormalised; bias has no part in
 *             them and no gradient
 *   backward  dlogits from dw; the choice itself is taken as constant
 *   count     tokens sent to each expert, by sequence: of R ranges, [g R/G, (g + 1) R/G) make sequence g of G
 *   load      += the same, over all tokens
 *   shapes    T tokens, E experts (at most 4,096), k chosen, R ranges, G sequences; logits, dlogits may have a pitch
 *   types     ids I32, range I64, count and load F64 (exact integers); the rest wide: choices are made of logits that
 *             were not rounded
 *   errors    ERR_ARG: shapes, types, options or ranges disagree.  ERR_DATA: an id outside [0, E)
 *   absent    bias: none.  count, load: not wanted; range: only count reads it
 *   source    Shazeer et al. 2017; DeepSeek-AI 2024 (sigmoid, groups, selection bias); softmax over the k chosen logits
 *             is the softmax form, renormalised */
#include <stdbool.h>
#include "base/ctx.h"
enum route_scores { ROUTE_SOFTMAX, ROUTE_SIGMOID };
#define ROUTE_SCORES      "softmax|sigmoid" /* in the order of the enum */
#define ROUTE_EXPERTS_MAX 4096
struct route {
    enum route_scores scores;
    int64_t groups, top_groups; /* 1, 1: all experts together */
    bool renormalise;
    double scale;
    struct tensor logits, bias, range; /* (T, E) (E) (R + 1) in          */
    struct tensor ids, w, count, load; /* (T, k) (T, k) (G, E) out; (E) += */
    struct tensor dw, dlogits;         /* (T, k) in;  (T, E) out         */
};
#endif
