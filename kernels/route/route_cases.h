/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ROUTE_CASES_H
#define BATON_KERNELS_ROUTE_CASES_H
#include "kernels/route/route.h"
#include "kernels/ranges_cases.h"

struct route_case {
    const char *why;
    struct layout l;
    int64_t E, k, G; /* G sequences; 0: no count, no load */
    enum route_scores scores;
    int64_t groups, top_groups;
    bool renormalise, bias;
    double scale;
    int64_t gap;
    double bound;
};
static const struct route_case route_cases[] = {
    {"one token, one expert", {1, {0, 1}, 0, {0}}, 1, 1, 1, ROUTE_SOFTMAX, 1, 1, false, false, 1.0, 0, 1e-6},
    {"one expert, renormalised: no gradient",
     {1, {0, 3}, 0, {0}},
     1,
     1,
     0,
     ROUTE_SIGMOID,
     1,
     1,
     true,
     true,
     2.5,
     0,
     1e-6},
    {"softmax, the largest of five", {1, {0, 40}, 0, {0}}, 5, 1, 1, ROUTE_SOFTMAX, 1, 1, false, false, 1.0, 0, 1e-6},
    {"softmax, two of sixteen, a pitch",
     {2, {0, 9, 50}, 0, {0}},
     16,
     2,
     2,
     ROUTE_SOFTMAX,
     1,
     1,
     false,
     false,
     1.0,
     3,
     1e-6},
    {"softmax over the chosen", {1, {0, 30}, 0, {0}}, 12, 4, 1, ROUTE_SOFTMAX, 1, 1, true, false, 1.0, 0, 3e-6},
    {"sigmoid, a bias, renormalised", {2, {0, 20, 31}, 0, {0}}, 8, 3, 1, ROUTE_SIGMOID, 1, 1, true, true, 2.5, 0, 3e-6},
    {"sigmoid, not renormalised", {1, {0, 31}, 0, {0}}, 8, 3, 1, ROUTE_SIGMOID, 1, 1, false, true, 5.0, 1, 1e-6},
    {"two of four groups", {4, {0, 5, 5, 20, 33}, 0, {0}}, 12, 4, 2, ROUTE_SIGMOID, 4, 2, false, true, 5.0, 0, 1e-6},
    {"groups of one", {1, {0, 17}, 0, {0}}, 6, 2, 1, ROUTE_SOFTMAX, 6, 3, true, false, 1.0, 0, 3e-6},
    {"all experts", {1, {0, 17}, 0, {0}}, 6, 6, 1, ROUTE_SIGMOID, 1, 1, true, true, 1.0, 0, 3e-6},
    {"no tokens", {2, {0, 0, 0}, 0, {0}}, 6, 2, 2, ROUTE_SOFTMAX, 1, 1, false, false, 1.0, 0, 1e-6},
    {"several items of the pool", {1, {0, 700}, 0, {0}}, 40, 6, 1, ROUTE_SIGMOID, 1, 1, true, true, 2.5, 0, 3e-6},
};
static const struct route_case route_bench[] = {
    {"T 4096, E 16, k 2", {1, {0, 4096}, 0, {0}}, 16, 2, 1, ROUTE_SOFTMAX, 1, 1, false, false, 1.0, 0, 1e-6},
    {"T 4096, E 128, k 6", {1, {0, 4096}, 0, {0}}, 128, 6, 1, ROUTE_SIGMOID, 1, 1, true, true, 2.5, 0, 3e-6},
    {"T 4096, E 512, k 22", {1, {0, 4096}, 0, {0}}, 512, 22, 1, ROUTE_SIGMOID, 1, 1, true, true, 5.0, 0, 3e-6},
};

static inline void route_build(struct trial *t, struct route *a, const struct route_case *k) {
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges;
    a->scores = k->scores;
    a->groups = k->groups;
    a->top_groups = k->top_groups;
    a->renormalise = k->renormalise;
    a->scale = k->scale;
    t->bound = k->bound;
    WIDES(logits, IN, NORMAL(1.5), T, k->E)->gap = k->gap;
    if (k->bias) WIDES(bias, F_IN | OPTIONAL, NORMAL(0.1), k->E);
    TENSOR(ids, KEPT, CONSTANT(0.0), I32, T, k->k);
    WIDES(w, F_OUT, NORMAL(1.0), T, k->k);
    if (k->G) {
        TENSOR(range, F_IN, layout_range(&k->l), I64, R + 1)->rows_by_elements = true;
        TENSOR(count, F_OUT | OPTIONAL, CONSTANT(0.0), F64, k->G, k->E)->any_rows = true; /* any that divides R */
        TENSOR(load, F_ADD | OPTIONAL, UNIFORM(0.0, 9.0), F64, k->E);
    }
    WIDES(dw, B_IN, NORMAL(1.0), T, k->k);
    WIDES(dlogits, B_OUT, NORMAL(1.0), T, k->E)->gap = k->gap;
}
#endif
