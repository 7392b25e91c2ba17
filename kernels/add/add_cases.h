/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ADD_CASES_H
#define BATON_KERNELS_ADD_CASES_H
#include "kernels/cases.h"
#include "kernels/add/add.h"

struct add_case {
    const char *why;
    int64_t T, C, gap;
    double scale;
    bool in_place; /* out is x */
    double bound;
};
static const struct add_case add_cases[] = {
    {"one element", 1, 1, 0, 1.0, false, 2e-7},
    {"odd sizes", 5, 67, 0, 1.0, false, 2e-7},
    {"rows with a pitch", 7, 32, 5, -0.5, false, 2e-7},
    {"in place", 9, 77, 3, 2.0, true, 2e-7},
    {"no rows", 0, 8, 0, 1.0, false, 2e-7},
    {"rows longer than an item of the pool", 2, 40001, 1, 1.0, true, 2e-7},
    {"vectors", 65, 1000, 0, -0.5, false, 2e-7},
    {"vectors, a pitch, in place", 63, 64, 8, 1.0, true, 2e-7},
};
static const struct add_case add_bench[] = {
    {"T 4096, C 4096", 4096, 4096, 0, 1.0, false, 2e-7},
    {"T 4096, C 4096, in place", 4096, 4096, 0, 1.0, true, 2e-7},
    {"T 65537, C 64", 65537, 64, 0, 1.0, false, 2e-7},
};

static inline void add_build(struct trial *t, struct add *a, const struct add_case *k) {
    a->scale = k->scale;
    t->bound = k->bound;
    REALS(y, F_IN, NORMAL(1.0), k->T, k->C)->gap = k->gap;
    if (k->in_place) {
        struct case_tensor *x = REALS(x, F_ADD, NORMAL(1.0), k->T, k->C);
        x->gap = k->gap;
        x->twin = &a->out;
        return;
    }
    REALS(x, F_IN, NORMAL(1.0), k->T, k->C)->gap = k->gap;
    REALS(out, F_OUT, NORMAL(1.0), k->T, k->C)->gap = k->gap;
}
#endif
