/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_TAIL_CASES_H
#define BATON_KERNELS_TAIL_CASES_H
#include "kernels/ranges_cases.h"
#include "kernels/tail/tail.h"

struct tail_case {
    const char *why;
    struct layout l;
    int64_t C, k, gap;
};
static const struct tail_case tail_cases[] = {
    {"one range", {1, {0, 9}, 0, {0}}, 5, 3, 0},
    {"ranges shorter than the tail, one empty", {4, {0, 2, 2, 3, 11}, 0, {0}}, 5, 3, 0},
    {"rows with a pitch", {2, {0, 4, 9}, 0, {0}}, 7, 2, 3},
    {"no tokens", {1, {0, 0}, 0, {0}}, 7, 2, 0},
    {"vectors", {3, {0, 63, 65, 1000}, 0, {0}}, 64, 3, 8},
};
static const struct tail_case tail_bench[] = {
    {"R 4, k 3, C 4352", {4, {0, 1024, 2048, 3072, 4096}, 0, {0}}, 4352, 3, 0},
    {"R 4, k 3, C 64 of 65537 rows", {4, {0, 1024, 2048, 3072, 65537}, 0, {0}}, 64, 3, 0},
};

static inline void tail_build(struct trial *t, struct tail *a, const struct tail_case *k) {
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges;
    const double bytes = (double)(R * k->k * k->C) * (double)dtype_bytes(t->real);
    t->bytes[FORWARD] = 2.0 * bytes;
    t->bytes[BACKWARD] = 3.0 * bytes;
    t->bound = 1e-7;
    TENSOR(range, IN, layout_range(&k->l), I64, R + 1)->rows_by_elements = true;
    struct case_tensor *x = REALS(x, F_IN, NORMAL(1.0), T, k->C);
    x->gap = k->gap;
    x->rows_by_elements = true;
    REALS(tail, F_OUT, NORMAL(1.0), R, k->k, k->C);
    REALS(dtail, B_IN, NORMAL(1.0), R, k->k, k->C);
    struct case_tensor *dx = REALS(dx, B_ADD, NORMAL(1.0), T, k->C);
    dx->gap = k->gap;
    dx->rows_by_elements = true;
}
#endif
