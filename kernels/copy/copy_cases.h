/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_COPY_CASES_H
#define BATON_KERNELS_COPY_CASES_H
#include "kernels/cases.h"
#include "kernels/copy/copy.h"

struct copy_case {
    const char *why;
    int64_t T, C, gap_x, gap_y;
};
static const struct copy_case copy_cases[] = {
    {"one element", 1, 1, 0, 0},
    {"columns of a wide row into packed rows", 7, 33, 19, 0},
    {"packed rows into columns of a wide row", 5, 64, 0, 7},
    {"no rows", 0, 8, 0, 0},
    {"rows longer than an item of the pool", 2, 40001, 1, 3},
    {"vectors", 65, 1000, 0, 16},
};
static const struct copy_case copy_bench[] = {
    {"T 4096, C 4096", 4096, 4096, 0, 0},
    {"T 65537, C 64", 65537, 64, 0, 8},
    {"T 32768, C 4096", 32768, 4096, 0, 0},
};

static inline void copy_build(struct trial *t, struct copy *a, const struct copy_case *k) {
    REALS(x, F_IN, NORMAL(1.0), k->T, k->C)->gap = k->gap_x;
    REALS(y, F_OUT, NORMAL(1.0), k->T, k->C)->gap = k->gap_y;
}
#endif
