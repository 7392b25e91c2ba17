/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_TOKEN_LOSS_CASES_H
#define BATON_KERNELS_TOKEN_LOSS_CASES_H
#include "kernels/cases.h"
#include "kernels/token_loss/token_loss.h"

struct token_loss_case {
    const char *why;
    int64_t T;
    int64_t absent; /* every absent-th target is -1; 0: none */
    bool loss;
    int64_t parts; /* shards of the vocabulary; 0: lse is whole */
};
static const struct token_loss_case token_loss_cases[] = {
    {"one token", 1, 0, true, 0},
    {"some targets absent", 77, 3, true, 0},
    {"no target at all", 5, 1, true, 0},
    {"only the sum", 33, 4, false, 0},
    {"no tokens", 0, 0, true, 0},
    {"several pieces", 1000, 7, true, 0},
    {"a vocabulary in three shards", 300, 7, true, 3},
};
static const struct token_loss_case token_loss_bench[] = {
    {"T 65536", 65536, 0, true, 0},
    {"T 65537, some targets absent", 65537, 5, true, 0},
};

static inline void token_loss_build(struct trial *t, struct token_loss *a, const struct token_loss_case *k) {
    int64_t *targets = (int64_t *)case_memory(t, k->T * (int64_t)sizeof(int64_t));
    for (int64_t i = 0; i < k->T; i++) targets[i] = k->absent && i % k->absent == k->absent - 1 ? -1 : i % 7;
    t->bound = 1e-6;
    WIDES(lse, k->parts > 0 ? F_OUT : F_IN, UNIFORM(3.0, 9.0), k->T);
    if (k->parts > 0) WIDES(parts, F_IN, UNIFORM(3.0, 9.0), k->parts, k->T)->any_rows = true;
    WIDES(picked, F_IN, UNIFORM(-2.0, 3.0), k->T);
    TENSOR(targets, F_IN, LISTED(targets), I32, k->T);
    if (k->loss) WIDES(loss, F_OUT | OPTIONAL, NORMAL(1.0), k->T);
    TENSOR(total, F_ADD, CONSTANT(1.5), F64, 1);
}
#endif
