/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_AFFINE_H
#define BATON_KERNELS_AFFINE_H
/* affine.h - one step of the affine carry: what leaves a range, given what entered it and the range's summary.
 *
 *   out_i = decay_i in_i + state_i              row i is one head of one range, M = P N numbers
 *   with log_rate, decay counts time, and each number of a row has a rate of its own:
 *   out_ij = exp(-exp(log_rate_ij) decay_i) in_ij + state_ij, nothing of in where decay_i >= AFFINE_FOREVER
 *   shapes     n rows of M numbers; out may be in;  types all wide
 *   errors     ERR_ARG: shapes or types disagree
 *   absent     log_rate */
#include "base/ctx.h"
#define AFFINE_FOREVER 0x1p100 /* a time after which nothing is left; sums of some with other times stay above it */
struct affine {
    struct tensor decay, state, in, out; /* (n) (n, M) (n, M) in;  (n, M) out */
    struct tensor log_rate;              /* (n, M) in                         */
};
#endif
