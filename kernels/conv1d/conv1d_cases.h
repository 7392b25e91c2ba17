/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CONV1D_CASES_H
#define BATON_KERNELS_CONV1D_CASES_H
#include "kernels/conv1d/conv1d.h"
#include "kernels/ranges_cases.h"

struct conv1d_case {
    const char *why;
    struct layout l;
    int64_t C, K, gap;
    bool silu, bias;
};
static const struct conv1d_case conv1d_cases[] = {
    {"one token", {1, {0, 1}, 2, {0}}, 3, 4, 0, true, true},
    {"one tap, no rows before", {2, {0, 9, 20}, 3, {0}}, 5, 1, 0, true, true},
    {"sixteen taps", {2, {0, 30, 90}, 40, {50}}, 5, 16, 0, true, true},
    {"no bias, no SiLU, rows with a pitch", {2, {0, 30, 90}, 1, {50}}, 9, 4, 7, false, false},
    {"ranges shorter than the taps, one empty", {5, {0, 2, 2, 3, 67, 70}, 7, {0}}, 5, 4, 0, true, true},
    {"documents at, before and after edges", {3, {0, 64, 130, 200}, 1, {63, 65, 66, 130, 199}}, 5, 4, 0, true, true},
    {"more channels than a block", {1, {0, 66}, 0, {0}}, 2051, 4, 0, true, true},
    {"no tokens", {1, {0, 0}, 0, {0}}, 5, 4, 0, true, true},
    {"vectors: documents at, before and after edges",
     {3, {0, 64, 130, 200}, 1, {63, 65, 66, 130, 199}},
     40,
     4,
     0,
     true,
     true},
    {"vectors: ranges shorter than the taps, one empty", {5, {0, 2, 2, 3, 67, 70}, 7, {0}}, 1032, 4, 8, true, true},
    {"vectors: edges at, before and behind a run's",
     {4, {0, 31, 63, 65, 1000}, 5, {32, 64, 96, 97, 990}},
     24,
     4,
     0,
     true,
     false},
    {"vectors: no SiLU, one token a range", {4, {0, 1, 2, 3, 4}, 1, {2}}, 8, 4, 0, false, true},
};
static const struct conv1d_case conv1d_bench[] = {
    {"T 4096, C 2304, K 4", {1, {0, 4096}, 0, {0}}, 2304, 4, 0, true, true},
    {"T 65537, C 64, K 4", {1, {0, 65537}, 0, {0}}, 64, 4, 0, true, true},
    {"T 8192, C 4352, K 4", {1, {0, 8192}, 0, {0}}, 4352, 4, 0, true, true},
    {"T 16384, C 10240, K 4", {1, {0, 16384}, 0, {0}}, 10240, 4, 0, true, true},
};

static inline void conv1d_build(struct trial *t, struct conv1d *a, const struct conv1d_case *k) {
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges;
    a->silu = k->silu;
    t->bound = 1e-6;
    TENSOR(range, IN, layout_range(&k->l), I64, R + 1)->rows_by_elements = true;
    TENSOR(pos, IN, layout_pos(t, &k->l), I64, T);
    REALS(x, IN, NORMAL(1.0), T, k->C)->gap = k->gap;
    WIDES(w, IN, NORMAL(0.5), k->C, k->K);
    if (k->bias) WIDES(b, IN | OPTIONAL, NORMAL(0.5), k->C);
    if (k->K > 1) REALS(before, IN, NORMAL(1.0), R, k->K - 1, k->C);
    REALS(y, F_OUT, NORMAL(1.0), T, k->C)->gap = k->gap;
    REALS(dy, B_IN, NORMAL(1.0), T, k->C)->gap = k->gap;
    REALS(dx, B_OUT, NORMAL(1.0), T, k->C)->gap = k->gap;
    WIDES(dw, B_ADD, NORMAL(1.0), k->C, k->K);
    if (k->bias) WIDES(db, B_ADD | OPTIONAL, NORMAL(1.0), k->C);
    if (k->K > 1) REALS(dbefore, B_OUT, NORMAL(1.0), R, k->K - 1, k->C);
}
#endif
