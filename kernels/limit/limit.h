/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_LIMIT_H
#define BATON_KERNELS_LIMIT_H
/* limit.h - an expert takes so many choices of a sequence, the first ones in the order of the tokens.
 *
 *   count      n_re = choices of expert e in range r
 *   taken      the choice itself where fewer than `capacity` went to its expert before: entering_re of earlier ranges,
 *              and those of range r; else E, an expert that does not exist
 *   dropped    += choices that are not taken
 *   shapes     T tokens, k choices of each, R ranges, E experts
 *   types      ids, taken I32, range I64, dropped F64, count and entering wide: they count up to 2^24, where what they
 *              are compared with ends
 *   errors     ERR_ARG: shapes or types disagree, a capacity outside [1, 2^24].  ERR_DATA: an id outside [0, E)
 *   absent     taken: counts alone, and entering and dropped are not read.  dropped: not wanted
 *   source     Lepikhin et al. 2020, with sequences in place of a device's tokens */
#include "base/ctx.h"
#define LIMIT_MOST ((int64_t)1 << 24)
struct limit {
    int64_t capacity;
    struct tensor ids, range, entering;  /* (T, k) (R + 1) (R, E) in       */
    struct tensor count, taken, dropped; /* (R, E) (T, k) out;  (1) +=     */
};
#endif
