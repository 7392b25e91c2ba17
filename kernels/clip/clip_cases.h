/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CLIP_CASES_H
#define BATON_KERNELS_CLIP_CASES_H
#include "kernels/cases.h"
#include "kernels/clip/clip.h"

struct clip_case {
    const char *why;
    int64_t m;
    double limit;
};
/* Rows of finite numbers alone, for outputs must be; the others are in tests/step.c and tests/device_train.c. */
static const struct clip_case clip_cases[] = {
    {"no limit", 5, 0.0},         {"below the limit", 5, 1e9}, {"above the limit", 700, 0.5},
    {"two parameters", 2, 0.125}, {"no parameter", 0, 1.0},
};
static const struct clip_case clip_bench[] = {
    {"400 parameters", 400, 1.0},
};

static inline void clip_build(struct trial *t, struct clip *a, const struct clip_case *k) {
    double *squares = (double *)case_memory(t, (k->m + 1) * (int64_t)sizeof(double));
    for (int64_t i = 0; i < k->m; i++) squares[i] = 0.25 * (double)(i % 13);
    t->bound = 1e-15;
    a->limit = k->limit;
    TENSOR(squares, F_IN, NUMBERS(squares), F64, k->m)->any_rows = true;
    TENSOR(total, F_IN, CONSTANT(7.5), F64, 1);
    TENSOR(scale, F_IN, CONSTANT(0.125), F64, 1);
    TENSOR(knobs, F_ADD, CONSTANT(0.5), F64, N_KNOBS);
    TENSOR(report, F_OUT, CONSTANT(0.0), F64, N_REPORT);
}
#endif
