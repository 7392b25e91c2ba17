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
    bool wide; /* F64 whatever `real` is */
};
static const struct add_case add_cases[] = {
    {"one element", 1, 1, 0, 1.0, false, 2e-7, false},
    {"odd sizes", 5, 67, 0, 1.0, false, 2e-7, false},
    {"rows with a pitch", 7, 32, 5, -0.5, false, 2e-7, false},
    {"in place", 9, 77, 3, 2.0, true, 2e-7, false},
    {"no rows", 0, 8, 0, 1.0, false, 2e-7, false},
    {"totals", 1, 77, 0, 1.0, false, 1e-15, true},
    {"a total in place", 1, 1, 0, 1.0, true, 1e-15, true},
    {"rows longer than an item of the pool", 2, 40001, 1, 1.0, true, 2e-7, false},
};
static const struct add_case add_bench[] = {
    {"T 4096, C 4096", 4096, 4096, 0, 1.0, false, 2e-7, false},
    {"T 4096, C 4096, in place", 4096, 4096, 0, 1.0, true, 2e-7, false},
};

static inline void add_build(struct trial *t, struct add *a, const struct add_case *k) {
    a->scale = k->scale;
    const enum dtype type = k->wide ? F64 : t->real;
    t->bound = k->bound;
    TENSOR(y, F_IN, NORMAL(1.0), type, k->T, k->C)->gap = k->gap;
    if (k->in_place) {
        struct case_tensor *x = TENSOR(x, F_ADD, NORMAL(1.0), type, k->T, k->C);
        x->gap = k->gap;
        x->twin = &a->out;
        return;
    }
    TENSOR(x, F_IN, NORMAL(1.0), type, k->T, k->C)->gap = k->gap;
    TENSOR(out, F_OUT, NORMAL(1.0), type, k->T, k->C)->gap = k->gap;
}
#endif
