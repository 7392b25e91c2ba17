/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ADAMW_CASES_H
#define BATON_KERNELS_ADAMW_CASES_H
#include "kernels/cases.h"
#include "kernels/adamw/adamw.h"

struct adamw_case {
    const char *why;
    int64_t n;
    double skip, decay, bound;
    bool out;
};
static const struct adamw_case adamw_cases[] = {
    {"one element", 1, 0.0, 0.1, 1e-6, true},
    {"an odd length", 1003, 0.0, 0.1, 1e-6, true},
    {"no weight decay, no rounded copy", 64, 0.0, 0.0, 1e-6, false},
    {"a skipped step changes nothing", 77, 1.0, 0.1, 0.0, true},
    {"no elements", 0, 0.0, 0.1, 1e-6, true},
    {"several items of the pool", 50000, 0.0, 0.1, 1e-6, true},
    {"a length of no vector, no rounded copy", 63, 0.0, 0.1, 1e-6, false},
    {"a length that comes in no whole packs", 65, 0.0, 0.1, 1e-6, true},
    {"whole packs", 1000, 0.0, 0.1, 1e-6, true},
};
static const struct adamw_case adamw_bench[] = {
    {"16 Mi elements", 16 << 20, 0.0, 0.1, 1e-6, true},
    {"65537 elements", 65537, 0.0, 0.1, 1e-6, true},
    {"128 Mi elements", 128 << 20, 0.0, 0.1, 1e-6, true},
};

static inline void adamw_build(struct trial *t, struct adamw *a, const struct adamw_case *k) {
    double *knobs = (double *)case_memory(t, N_KNOBS * (int64_t)sizeof(double));
    a->beta1 = 0.9;
    a->beta2 = 0.95;
    a->eps = 1e-8;
    a->decay = k->decay;
    a->lr_scale = 0.5;
    t->bound = k->bound;
    knobs[KNOB_LR] = 0.01;
    knobs[KNOB_CLIP] = 0.75;
    knobs[KNOB_FIX1] = 1.0 / (1.0 - 0.9 * 0.9 * 0.9);
    knobs[KNOB_FIX2] = 1.0 / (1.0 - 0.95 * 0.95 * 0.95);
    knobs[KNOB_SKIP] = k->skip;
    WIDES(w, F_ADD, NORMAL(1.0), k->n);
    WIDES(m, F_ADD, NORMAL(1.0), k->n);
    WIDES(v, F_ADD, UNIFORM(0.0, 1.0), k->n);
    WIDES(g, F_IN, NORMAL(1.0), k->n);
    if (k->out) REALS(out, F_ADD | OPTIONAL, NORMAL(1.0), k->n);
    TENSOR(knobs, F_IN, NUMBERS(knobs), F64, N_KNOBS);
}
#endif
