/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GEMM_PLANS_H
#define BATON_KERNELS_GEMM_PLANS_H
/* gemm_plans.h - which algorithm computes which product on a GPU: a table that grows with the shapes a run asks for,
 * and its text.  The library's own data (64 bytes an algorithm) is kept as it is; the header line of the text names the
 * library and the device that it is good for. */
#include <stdbool.h>
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A product of row-major matrices, C (m, n) = alpha op(A) op(B) + beta C, all that a choice depends on. */
struct gemm_shape {
    int64_t m, n, k, lda, ldb, ldc;
    int64_t trans_a, trans_b, wide, add; /* wide: C is F32, else BF16; add: beta is not 0              */
    int64_t align_a, align_b, align_c;   /* bytes that the addresses are multiples of: 2, 4, 8 or 16   */
};
/* The same product of column-major matrices, as BLAS libraries mean it: C^T = op(B)^T op(A)^T, and a row-major matrix
 * is its transpose column-major.  left is B, right is A. */
struct gemm_columns {
    bool trans_left, trans_right;
    int64_t left_rows, left_cols, left_ld, right_rows, right_cols, right_ld, out_rows, out_cols, out_ld;
};
struct gemm_columns gemm_columns_of(const struct gemm_shape *s);

enum { GEMM_PLANS = 512, GEMM_WORDS = 8 };
struct gemm_plan {
    struct gemm_shape shape;
    uint64_t words[GEMM_WORDS]; /* the algorithm                                         */
    bool measured;              /* it won a measurement; else the first that was offered */
};
struct gemm_plans {
    char library[128]; /* header line of the text: library, version, device */
    int64_t n;
    struct gemm_plan plan[GEMM_PLANS];
};

struct gemm_plan *gemm_plans_find(struct gemm_plans *p, const struct gemm_shape *s); /* NULL: not there */
/* ERR_ARG: the table is full. */
enum status gemm_plans_add(struct gemm_plans *p, const struct gemm_plan *plan);
/* The measured ones as text, a line each, sorted as they came; *out is released with mem_free. */
enum status gemm_plans_print(const struct gemm_plans *p, char **out);
/* Replaces the table.  ERR_MISSING: made by another library or for another device, measure again; ERR_DATA: damaged. */
enum status gemm_plans_read(struct gemm_plans *p, const char *text);

#ifdef __cplusplus
}
#endif
#endif
