/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_LIMIT_CASES_H
#define BATON_KERNELS_LIMIT_CASES_H
#include "kernels/limit/limit.h"
#include "kernels/ranges_cases.h"

struct limit_case {
    const char *why;
    struct layout l;
    int64_t k, E, capacity;
    int64_t entering; /* of every expert; below 0: counts alone */
};
static const struct limit_case limit_cases[] = {
    {"one token", {1, {0, 1}, 0, {0}}, 1, 1, 1, 0},
    {"room for all", {1, {0, 30}, 0, {0}}, 2, 5, 60, 0},
    {"one a sequence", {2, {0, 17, 40}, 0, {0}}, 2, 5, 1, 0},
    {"some, behind others", {3, {0, 17, 17, 60}, 0, {0}}, 3, 7, 9, 5},
    {"none is left", {1, {0, 21}, 0, {0}}, 2, 6, 4, 4},
    {"counts alone", {2, {0, 17, 40}, 0, {0}}, 2, 5, 1, -1},
    {"no tokens", {2, {0, 0, 0}, 0, {0}}, 2, 5, 3, 0},
    {"more experts than threads of a block", {1, {0, 300}, 0, {0}}, 4, 300, 3, 0},
};
static const struct limit_case limit_bench[] = {
    {"T 65536, k 6, E 128", {1, {0, 65536}, 0, {0}}, 6, 128, 4096, 0},
};

static inline void limit_build(struct trial *t, struct limit *a, const struct limit_case *k) {
    static const double one = 1.0;
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges;
    a->capacity = k->capacity;
    t->bound = 0.0;
    struct case_tensor *ids = TENSOR(ids, F_IN, UNIFORM(0.0, (double)(k->E - 1)), I32, T, k->k);
    ids->bad_status = ERR_DATA;
    ids->bad_value = k->E;
    ids->any_shape = k->entering < 0; /* any number of choices can be counted */
    TENSOR(range, F_IN, layout_range(&k->l), I64, R + 1);
    WIDES(count, F_OUT, CONSTANT(0.0), R, k->E);
    if (k->entering < 0) return;
    WIDES(entering, F_IN, CONSTANT((double)k->entering), R, k->E);
    TENSOR(taken, F_OUT | OPTIONAL, CONSTANT(0.0), I32, T, k->k);
    TENSOR(dropped, F_ADD | OPTIONAL, CONSTANT(2.0), F64, 1)->weight = &one;
}
#endif
