/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_FILL_CASES_H
#define BATON_KERNELS_FILL_CASES_H
#include "kernels/cases.h"
#include "kernels/fill/fill.h"

struct fill_case {
    const char *why;
    int64_t n, C, M, gap;
    bool wide; /* F64 whatever `real` is */
    double value;
};
static const struct fill_case fill_cases[] = {
    {"one number", 1, 0, 0, 0, false, 1.5},
    {"a total", 1, 0, 0, 0, true, 0.0},
    {"a few F64", 5, 3, 0, 2, true, -2.0},
    {"rows with a pitch", 7, 33, 0, 5, false, 0.25},
    {"three dims", 3, 5, 7, 0, false, 0.0},
    {"nothing", 0, 8, 0, 0, false, 1.0},
    {"a long vector", 100003, 0, 0, 0, false, 1.0},
    {"rows of whole packs", 65, 1000, 0, 0, false, -3.0},
    {"rows of whole packs, a pitch", 63, 64, 0, 8, false, 0.3125},
};
static const struct fill_case fill_bench[] = {
    {"16 Mi elements", 16 << 20, 0, 0, 0, false, 0.0},
    {"65537 rows of 64, a pitch", 65537, 64, 0, 8, false, 0.5},
};

static inline void fill_build(struct trial *t, struct fill *a, const struct fill_case *k) {
    a->value = k->value;
    struct case_tensor *x = TENSOR(x, F_OUT, NORMAL(1.0), k->wide ? F64 : t->real, k->n, k->C, k->M);
    x->gap = k->gap;
    x->any_shape = true;
}
#endif
