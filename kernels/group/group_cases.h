/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GROUP_CASES_H
#define BATON_KERNELS_GROUP_CASES_H
#include "kernels/group/group.h"
#include "kernels/ranges_cases.h"

struct group_case {
    const char *why;
    struct layout l;
    int64_t k, E, lowest, highest; /* ids are in [lowest, highest] */
    bool sections;
};
static const struct group_case group_cases[] = {
    {"one token", {1, {0, 1}, 0, {0}}, 1, 1, 0, 0, false},
    {"two choices of five", {1, {0, 30}, 0, {0}}, 2, 5, 0, 4, false},
    {"experts without a token at both ends", {1, {0, 30}, 0, {0}}, 3, 9, 2, 6, false},
    {"all to one expert", {1, {0, 30}, 0, {0}}, 3, 4, 2, 2, false},
    {"sections, one empty", {4, {0, 7, 7, 20, 31}, 0, {0}}, 2, 5, 0, 4, true},
    {"no tokens", {1, {0, 0}, 0, {0}}, 2, 5, 0, 4, false},
};
static const struct group_case group_bench[] = {
    {"T 65536, k 6, E 128", {1, {0, 65536}, 0, {0}}, 6, 128, 0, 127, false},
};

static inline void group_build(struct trial *t, struct group *a, const struct group_case *k) {
    const int64_t T = layout_tokens(&k->l), S = k->sections ? k->l.n_ranges : 1;
    t->bound = 0.0;
    struct case_tensor *ids = TENSOR(ids, F_IN, UNIFORM((double)k->lowest, (double)k->highest), I32, T, k->k);
    ids->bad_status = ERR_DATA;
    ids->bad_value = k->E;
    if (k->sections) TENSOR(range, F_IN, layout_range(&k->l), I64, S + 1);
    TENSOR(row, F_OUT, CONSTANT(0.0), I64, T, k->k);
    TENSOR(offset, F_OUT, CONSTANT(0.0), I64, S, k->E + 1);
}
#endif
