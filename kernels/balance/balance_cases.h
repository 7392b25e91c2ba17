/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_BALANCE_CASES_H
#define BATON_KERNELS_BALANCE_CASES_H
#include "kernels/balance/balance.h"
#include "kernels/ranges_cases.h"

struct balance_case {
    const char *why;
    struct layout l;
    int64_t E, G;
    enum route_scores scores;
    double aux, z, most; /* loads are 0 to most */
    int64_t gap;
};
static const struct balance_case balance_cases[] = {
    {"one token, one expert", {1, {0, 1}, 0, {0}}, 1, 1, ROUTE_SIGMOID, 0.5, 0.3, 3.0, 0},
    {"softmax, one sequence of two ranges", {2, {0, 9, 31}, 0, {0}}, 7, 1, ROUTE_SOFTMAX, 0.5, 0.0, 20.0, 0},
    {"sigmoid, by sequence, a pitch", {4, {0, 9, 9, 20, 31}, 0, {0}}, 6, 2, ROUTE_SIGMOID, 0.5, 0.0, 20.0, 3},
    {"z alone", {1, {0, 17}, 0, {0}}, 5, 1, ROUTE_SOFTMAX, 0.0, 0.1, 20.0, 0},
    {"both", {3, {0, 5, 17, 30}, 0, {0}}, 12, 3, ROUTE_SIGMOID, 0.3, 0.1, 9.0, 1},
    {"no choices at all", {1, {0, 6}, 0, {0}}, 5, 1, ROUTE_SOFTMAX, 0.5, 0.1, 0.0, 0},
    {"no tokens", {2, {0, 0, 0}, 0, {0}}, 5, 2, ROUTE_SOFTMAX, 0.5, 0.1, 9.0, 0},
    {"several items of the pool", {2, {0, 200, 700}, 0, {0}}, 40, 2, ROUTE_SIGMOID, 0.5, 0.01, 9.0, 0},
};
static const struct balance_case balance_bench[] = {
    {"T 4096, E 128", {1, {0, 4096}, 0, {0}}, 128, 1, ROUTE_SIGMOID, 0.5, 0.01, 400.0, 0},
};

static inline void balance_build(struct trial *t, struct balance *a, const struct balance_case *k) {
    static const double one = 1.0;
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges;
    a->scores = k->scores;
    a->aux = k->aux;
    a->z = k->z;
    t->bound = 3e-6;
    struct case_tensor *logits = WIDES(logits, IN, NORMAL(1.5), T, k->E);
    logits->gap = k->gap;
    logits->rows_by_elements = true;
    TENSOR(range, IN, layout_range(&k->l), I64, R + 1)->rows_by_elements = true;
    struct case_tensor *load = TENSOR(load, IN, UNIFORM(0.0, k->most), F64, k->G, k->E);
    load->any_rows = true; /* any that divides R */
    load->gradient = "";
    TENSOR(loss, F_ADD, CONSTANT(0.5), F64, 1)->weight = &one;
    WIDES(dlogits, B_ADD, NORMAL(1.0), T, k->E)->gap = k->gap;
}
#endif
