/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_TREE_SUM_CASES_H
#define BATON_KERNELS_TREE_SUM_CASES_H
#include "kernels/cases.h"
#include "kernels/tree_sum/tree_sum.h"

struct tree_sum_case {
    const char *why;
    int64_t n, m; /* m 0: no segments are named, so there is one */
};
static const struct tree_sum_case tree_sum_cases[] = {
    {"one number", 1, 0},
    {"an odd number of them", 77, 0},
    {"more than a block of threads has at a time", 5003, 0},
    {"uneven segments, one of them empty", 4011, 5},
    {"a segment a number", 9, 9},
    {"nothing", 0, 1},
};
static const struct tree_sum_case tree_sum_bench[] = {
    {"2 Mi blocks of 400 parameters", 2 << 20, 400},
};

static inline void tree_sum_build(struct trial *t, struct tree_sum *a, const struct tree_sum_case *k) {
    const int64_t m = k->m > 0 ? k->m : 1;
    int64_t *at = (int64_t *)case_memory(t, (m + 1) * (int64_t)sizeof(int64_t));
    for (int64_t i = 0; i <= m; i++) at[i] = k->n * i * i / (m * m); /* the first of five is short, or empty */
    if (k->m == 5) at[1] = 0;
    t->bound = 1e-15; /* the same sums in the same order */
    TENSOR(x, F_ADD, NORMAL(1.0), F64, k->n)->any_rows = true;
    if (k->m > 0) TENSOR(at, F_IN | (m == 1 ? OPTIONAL : 0), LISTED(at), I64, m + 1);
    TENSOR(roots, F_OUT, CONSTANT(0.0), F64, m);
}
#endif
