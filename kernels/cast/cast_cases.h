/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CAST_CASES_H
#define BATON_KERNELS_CAST_CASES_H
#include "kernels/cases.h"
#include "kernels/cast/cast.h"

struct cast_case {
    const char *why;
    int64_t T, C, gap_x, gap_y;
    bool rounds; /* wide to `real` */
};
static const struct cast_case cast_cases[] = {
    {"one element, made wide", 1, 1, 0, 0, false},
    {"one element, rounded", 1, 1, 0, 0, true},
    {"columns of a wide row into packed rows", 7, 33, 19, 0, false},
    {"packed rows into columns of a wide row", 5, 64, 0, 7, true},
    {"no rows", 0, 8, 0, 0, false},
    {"rows longer than an item of the pool", 2, 40001, 1, 3, true},
    {"vectors, made wide", 65, 1000, 0, 16, false},
    {"vectors, rounded", 65, 1000, 16, 0, true},
};
static const struct cast_case cast_bench[] = {
    {"T 32768, C 4096, made wide", 32768, 4096, 0, 0, false},
    {"T 32768, C 4096, rounded", 32768, 4096, 0, 0, true},
};

static inline void cast_build(struct trial *t, struct cast *a, const struct cast_case *k) {
    if (k->rounds) {
        t->bound = 1e-30; /* exact, but for the rounding to BF16 */
        WIDES(x, F_IN, NORMAL(1.0), k->T, k->C)->gap = k->gap_x;
        REALS(y, F_OUT, NORMAL(1.0), k->T, k->C)->gap = k->gap_y;
        return;
    }
    REALS(x, F_IN, NORMAL(1.0), k->T, k->C)->gap = k->gap_x;
    WIDES(y, F_OUT, NORMAL(1.0), k->T, k->C)->gap = k->gap_y;
}
#endif
