/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_RMSNORM_H
#define BATON_KERNELS_RMSNORM_H
/* rmsnorm.h - root-mean-square normalisation over the channels.
 *
 *   forward    r = 1 / sqrt(mean_d(x^2) + eps)          y = x r w
 *   backward   g = dy w      dx = r (g - x r^2 mean_d(g x))  (+= when dx_add)      dw += sum_t dy x r
 *   shapes     T rows, D channels; x, y, dx, dy may have a pitch
 *   types      w, r, dw wide; the rest `real`; sums F64 (BF16: of F32 sums of up to 32 terms, dw of a part of the rows)
 *   errors     ERR_ARG: shapes or types disagree
 *   absent     w, dw: a norm without a weight
 *   source     Zhang and Sennrich 2019, arXiv:1910.07467; backward derived in rmsnorm_ref.c */
#include <stdbool.h>
#include "base/ctx.h"
struct rmsnorm {
    struct tensor x, w, y;    /* (T, D) (D) in;  (T, D) out             */
    struct tensor r;          /* (T) kept by forward, read by backward  */
    struct tensor dy, dx, dw; /* (T, D) in;  (T, D) out;  (D) +=        */
    double eps;
    bool dx_add;
};
#endif
