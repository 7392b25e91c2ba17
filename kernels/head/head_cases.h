/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_HEAD_CASES_H
#define BATON_KERNELS_HEAD_CASES_H
#include "kernels/cases.h"
#include "kernels/head/head.h"

struct head_case {
    const char *why;
    int64_t T, D, V, gap;
    int64_t absent; /* every absent-th target is -1; 0: none                */
    bool dx, dw;
    double bound;
    int64_t first, vocab;
};
static const struct head_case head_cases[] = {
    {"one row", 1, 16, 11, 0, 0, true, true, 2e-6, 0, 0},
    {"odd sizes, some targets absent", 7, 19, 37, 0, 3, true, true, 2e-6, 0, 0},
    {"rows with a pitch", 9, 16, 33, 7, 4, true, true, 2e-6, 0, 0},
    {"a vocabulary of one", 3, 8, 1, 0, 0, true, true, 2e-6, 0, 0},
    {"no target at all", 4, 8, 9, 0, 1, true, true, 2e-6, 0, 0},
    {"no dx", 5, 8, 9, 0, 0, false, true, 2e-6, 0, 0},
    {"no dw", 5, 8, 9, 0, 0, true, false, 2e-6, 0, 0},
    {"no rows", 0, 8, 9, 0, 0, true, true, 2e-6, 0, 0},
    {"several tiles of the product", 130, 24, 1100, 0, 5, true, true, 2e-6, 0, 0},
    {"vectors, several packs a thread", 63, 64, 4104, 0, 3, true, true, 2e-6, 0, 0},
    {"a shard of the vocabulary", 30, 19, 11, 0, 4, true, true, 2e-6, 11, 33},
};
static const struct head_case head_bench[] = {
    {"T 512, D 1024, V 32768", 512, 1024, 32768, 0, 0, true, true, 2e-6, 0, 0},
    {"T 65537, D 16, V 64", 65537, 16, 64, 0, 0, true, true, 2e-6, 0, 0},
    {"T 2048, D 4096, V 131072", 2048, 4096, 131072, 0, 0, true, true, 2e-6, 0, 0},
};

static inline void head_build(struct trial *t, struct head *a, const struct head_case *k) {
    const double scale = 0.125;
    const int64_t all = k->vocab > 0 ? k->vocab : k->V;
    a->first = k->first;
    a->vocab = k->vocab;
    int64_t *targets = (int64_t *)case_memory(t, k->T * (int64_t)sizeof(int64_t));
    double *plus = (double *)case_memory(t, k->T * (int64_t)sizeof(double));
    double *minus = (double *)case_memory(t, k->T * (int64_t)sizeof(double));
    for (int64_t i = 0; i < k->T; i++) {
        targets[i] = k->absent && i % k->absent == k->absent - 1 ? -1 : (i * 7 + 3) % all;
        plus[i] = targets[i] < 0 ? 0.0 : scale;
        minus[i] = -plus[i];
    }
    a->logit_scale = 0.5;
    t->bound = k->bound;
    t->wide_bound = t->real == BF16 ? 0x1p-8 : 0.0; /* lse, picked and dw come from rounded logits and gradients */
    t->roundings = 2.0;                             /* dx: of the gradient of logits, and its own */
    t->flops[FORWARD] = 2.0 * (double)(k->T * k->D * k->V);
    t->flops[BACKWARD] = t->flops[FORWARD] * (k->dx + k->dw);
    REALS(x, IN, NORMAL(1.0), k->T, k->D)->gap = k->gap;
    REALS(w, IN, NORMAL(1.0), k->V, k->D)->gap = k->gap;
    struct case_tensor *ids = TENSOR(targets, IN, LISTED(targets), I32, k->T);
    ids->bad_status = ERR_DATA;
    ids->bad_value = all;
    REALS(logits, F_OUT | B_ADD, NORMAL(1.0), k->T, k->V)->gap = k->gap;
    WIDES(lse, KEPT, NORMAL(1.0), k->T)->weight = plus; /* the scalar is scale sum_t (lse_t - picked_t) */
    WIDES(picked, F_OUT, NORMAL(1.0), k->T)->weight = minus;
    TENSOR(scale, B_IN, CONSTANT(scale), F64, 1);
    if (k->dx) REALS(dx, B_OUT | OPTIONAL, NORMAL(1.0), k->T, k->D)->gap = k->gap;
    if (k->dw) WIDES(dw, B_ADD | OPTIONAL, NORMAL(1.0), k->V, k->D)->gap = k->gap;
}
#endif
