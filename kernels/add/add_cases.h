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
    bool total; /* F64 whatever `real` is */
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
    {"vectors", 65, 1000, 0, -0.5, false, 2e-7, false},
    {"vectors, a pitch, in place", 63, 64, 8, 1.0, true, 2e-7, false},
};
static const struct add_case add_bench[] = {
    {"T 4096, C 4096", 4096, 4096, 0, 1.0, false, 2e-7, false},
    {"T 4096, C 4096, in place", 4096, 4096, 0, 1.0, true, 2e-7, false},
    {"T 65537, C 64", 65537, 64, 0, 1.0, false, 2e-7, false},
    {"T 32768, C 4096, in place", 32768, 4096, 0, 1.0, true, 2e-7, false},
};

/* As REALS, or F64. */
static inline struct case_tensor *add_tensor(struct trial *t, const struct add_case *k, const char *name,
                                             struct tensor *at, unsigned roles) {
    struct case_tensor *x =
        case_tensor(t, name, at, roles, NORMAL(1.0), k->total ? F64 : t->real, (struct dims){{k->T, k->C}});
    x->gap = k->gap;
    x->rounds = !k->total;
    return x;
}

static inline void add_build(struct trial *t, struct add *a, const struct add_case *k) {
    a->scale = k->scale;
    t->bound = k->bound;
    add_tensor(t, k, "y", &a->y, F_IN);
    struct case_tensor *x = add_tensor(t, k, "x", &a->x, k->in_place ? F_ADD : F_IN);
    if (k->in_place) x->twin = &a->out;
    else add_tensor(t, k, "out", &a->out, F_OUT);
}
#endif
