/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SUM_SQUARES_CASES_H
#define BATON_KERNELS_SUM_SQUARES_CASES_H
#include "kernels/cases.h"
#include "kernels/sum_squares/sum_squares.h"

struct sum_squares_case {
    const char *why;
    int64_t n;
    bool blocks; /* the blocks' sums are asked for */
};
static const struct sum_squares_case sum_squares_cases[] = {
    {"one element", 1, false},
    {"less than a block, not a multiple of the lanes", 1003, false},
    {"exactly one block", SUM_SQUARES_BLOCK, false},
    {"an odd number of blocks, the last one short", 4 * SUM_SQUARES_BLOCK + 17, false},
    {"nothing", 0, false},
    {"several items of the pool", 40 * SUM_SQUARES_BLOCK, false},
    {"the sums of blocks, the last one short", 2 * SUM_SQUARES_BLOCK + 17, true},
    {"less than the tree's lanes in one block", 63, false},
};
static const struct sum_squares_case sum_squares_bench[] = {
    {"16 Mi elements", 16 << 20, false},
    {"65537 elements", 65537, false},
    {"128 Mi elements", 128 << 20, false},
};

static inline void sum_squares_build(struct trial *t, struct sum_squares *a, const struct sum_squares_case *k) {
    t->bound = 1e-14; /* products of two F32 are exact in F64, and so both twins sum the same numbers */
    WIDES(x, F_IN, NORMAL(1.0), k->n)->any_rows = true;
    if (k->blocks) TENSOR(sums, F_OUT, CONSTANT(0.0), F64, (k->n + SUM_SQUARES_BLOCK - 1) / SUM_SQUARES_BLOCK);
    else TENSOR(out, F_ADD, CONSTANT(2.5), F64, 1);
}
#endif
