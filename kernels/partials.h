/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_PARTIALS_H
#define BATON_KERNELS_PARTIALS_H
/* partials.h - sums over tokens into one number per channel (dw, db), in two levels of fixed order: every item of
 * rows_cut_partials sums its rows, ascending, into its own line of F64 in ctx->work; then the lines are added,
 * ascending. */
#include "kernels/rows.h"

/* Bytes of the lines; 0 where width is 0, that is, where the sum is not wanted. */
static inline int64_t partials_bytes(struct rows cut, int64_t width) {
    return arena_round(cut.items * width * (int64_t)sizeof(double));
}
/* sum[i] += every line's element i */
void REF(partials_add)(struct ctx *c, const double *lines, int64_t n_lines, int64_t width, real *sum);
#endif
