/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_COMBINE_CASES_H
#define BATON_KERNELS_COMBINE_CASES_H
#include "kernels/cases.h"
#include "kernels/combine/combine.h"

struct combine_case {
    const char *why;
    int64_t T, k, D, gap;
    bool w, dw, add;
};
static const struct combine_case combine_cases[] = {
    {"one number", 1, 1, 1, 0, true, true, false},
    {"two of each, a strip that is not whole", 9, 2, 300, 0, true, true, false},
    {"no weights", 9, 3, 17, 0, false, false, false},
    {"rows with a pitch, sums", 11, 4, 19, 5, true, true, true},
    {"no weights, sums", 7, 2, 8, 0, false, false, true},
    {"no tokens", 0, 2, 8, 0, true, true, false},
    {"several items of the pool", 300, 3, 70, 0, true, true, false},
    {"rows longer than an item of the pool", 3, 2, 20000, 1, true, true, true},
};
static const struct combine_case combine_bench[] = {
    {"T 2048, k 6, D 2688", 2048, 6, 2688, 0, true, true, false},
    {"T 2048, k 6, D 2688, to the experts and back", 2048, 6, 2688, 0, false, false, false},
};

static inline int64_t combine_gcd(int64_t a, int64_t b) { return b ? combine_gcd(b, a % b) : a; }

/* Every row once, in an order that jumps: i step mod N, step prime to N. */
static inline struct values combine_rows(struct trial *t, int64_t N) {
    int64_t *row = (int64_t *)case_memory(t, (N + 1) * (int64_t)sizeof(int64_t)), step = N / 2 + 1;
    while (N > 1 && combine_gcd(step, N) != 1) step++;
    for (int64_t i = 0; i < N; i++) row[i] = i * step % N;
    return LISTED(row);
}

static inline void combine_build(struct trial *t, struct combine *a, const struct combine_case *k) {
    const int64_t N = k->T * k->k;
    a->add = k->add;
    t->bound = 1e-6;
    REALS(x, k->dw ? IN : F_IN, NORMAL(1.0), N, k->D)->gap = k->gap;
    if (k->w) WIDES(w, IN | OPTIONAL, NORMAL(1.0), k->T, k->k);
    struct case_tensor *row = TENSOR(row, IN, combine_rows(t, N), I64, k->T, k->k);
    row->bad_status = ERR_DATA;
    row->bad_value = N;
    REALS(y, k->add ? F_ADD : F_OUT, NORMAL(1.0), k->T, k->D)->gap = k->gap;
    REALS(dy, B_IN, NORMAL(1.0), k->T, k->D)->gap = k->gap;
    REALS(dx, B_OUT, NORMAL(1.0), N, k->D)->gap = k->gap;
    if (k->dw) WIDES(dw, B_OUT | OPTIONAL, NORMAL(1.0), k->T, k->k);
}
#endif
