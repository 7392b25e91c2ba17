/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_COMBINE_H
#define BATON_KERNELS_COMBINE_H
/* combine.h - rows of experts back to their tokens, and its transpose: tokens to rows.
 *
 *   forward    y_t (+)= sum_j w_tj x[row_tj], j ascending
 *   backward   dx[row_tj] = w_tj dy_t;   dw_tj = <x[row_tj], dy_t>
 * Tokens go to rows by the backward with dy = the tokens and dx = the rows, without w; the gradient comes back by the
 * forward.  Every row belongs to one choice (group.h).
 *   shapes     T tokens, k choices of each, N = T k rows, D channels; 2-D tensors may have a pitch
 *   types      row I64; w, dw wide; the rest `real`, sums over j and channels F64 (in BF16: F32)
 *   errors     ERR_ARG: shapes or types disagree.  ERR_DATA: a row outside [0, N)
 *   absent     w: 1.  dw, and then x in backward: not wanted */
#include <stdbool.h>
#include "base/ctx.h"
struct combine {
    struct tensor x, w, row, y; /* (N, D) (T, k) (T, k) in;  (T, D) out        */
    struct tensor dy, dx, dw;   /* (T, D) in;  (N, D) out;  (T, k) out         */
    bool add;                   /* y += */
};
#endif
