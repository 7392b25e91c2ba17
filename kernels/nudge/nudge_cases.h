/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_NUDGE_CASES_H
#define BATON_KERNELS_NUDGE_CASES_H
#include "kernels/adamw/adamw.h"
#include "kernels/cases.h"
#include "kernels/nudge/nudge.h"

struct nudge_case {
    const char *why;
    int64_t E, begin, n;
    double load[8], skip;
};
static const struct nudge_case nudge_cases[] = {
    {"one expert is always even", 1, 0, 1, {7}, 0.0},
    {"below, at and above the mean", 4, 0, 4, {1, 4, 4, 7}, 0.0},
    {"a mean that is no integer", 3, 0, 3, {1, 2, 2}, 0.0},
    {"a part of the experts", 8, 3, 2, {9, 0, 0, 1, 30, 2, 2, 2}, 0.0},
    {"a skipped step", 3, 0, 3, {1, 2, 9}, 1.0},
};
static const struct nudge_case nudge_bench[] = {
    {"E 8", 8, 0, 8, {9, 0, 0, 1, 30, 2, 2, 2}, 0.0},
};

static inline void nudge_build(struct trial *t, struct nudge *a, const struct nudge_case *k) {
    double *knobs = (double *)case_memory(t, N_KNOBS * (int64_t)sizeof(double));
    knobs[KNOB_SKIP] = k->skip;
    a->rate = 1e-3;
    a->begin = k->begin;
    t->bound = 1e-6;
    TENSOR(load, F_IN, NUMBERS(k->load), F64, k->E)->any_rows = true; /* b may be a part */
    TENSOR(knobs, F_IN, NUMBERS(knobs), F64, N_KNOBS);
    WIDES(b, F_ADD, NORMAL(0.1), k->n)->any_rows = k->begin + k->n < k->E;
}
#endif
