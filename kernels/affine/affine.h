/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_AFFINE_H
#define BATON_KERNELS_AFFINE_H
/* affine.h - one step of the affine carry: what leaves a range, given what entered it and the range's summary.
 *
 *   out_i = decay_i in_i + state_i              row i is one head of one range, M = P N numbers
 *   shapes     n rows of M numbers; out may be in;  types all wide
 *   errors     ERR_ARG: shapes or types disagree */
#include "base/ctx.h"
struct affine {
    struct tensor decay, state, in, out; /* (n) (n, M) (n, M) in;  (n, M) out */
};
#endif
