/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_AFFINE_CASES_H
#define BATON_KERNELS_AFFINE_CASES_H
#include "kernels/cases.h"
#include "kernels/affine/affine.h"

struct affine_case {
    const char *why;
    int64_t n, M, gap;
    bool in_place; /* out is in                       */
    bool rates;    /* log_rate is given, decay is time */
    double bound;
};
static const struct affine_case affine_cases[] = {
    {"one head of one number", 1, 1, 0, false, false, 1e-6}, /* its two terms nearly cancel */
    {"odd sizes", 5, 67, 0, false, false, 2e-7},
    {"rows with a pitch", 7, 32, 5, false, false, 2e-7},
    {"in place", 9, 77, 3, true, false, 2e-7},
    {"no rows", 0, 8, 0, false, false, 2e-7},
    {"rates of their own, times of 0 and forever", 6, 19, 3, false, true, 2e-7},
    {"rates, in place", 40, 16, 0, true, true, 2e-7},
    {"several items of the pool", 24, 4096, 0, true, false, 2e-7},
    {"more heads than a block", 65, 1000, 0, false, false, 2e-7},
};
static const struct affine_case affine_bench[] = {
    {"2,048 heads of 64 x 128", 2048, 8192, 0, true, false, 2e-7},
    {"65537 heads of 8", 65537, 8, 0, false, false, 2e-7},
    {"65,536 channels of 16, rates", 65536, 16, 0, true, true, 2e-7},
};

static inline void affine_build(struct trial *t, struct affine *a, const struct affine_case *k) {
    t->bound = k->bound;
    static const double times[] = {0.0, AFFINE_FOREVER, 0.3, 3.0, 2.0 * AFFINE_FOREVER, 0.05};
    if (k->rates) WIDES(log_rate, F_IN | OPTIONAL, UNIFORM(-2.0, 3.0), k->n, k->M)->gap = k->gap;
    WIDES(decay, F_IN, k->rates && k->n == 6 ? NUMBERS(times) : UNIFORM(0.0, 1.0), k->n);
    WIDES(state, F_IN, NORMAL(1.0), k->n, k->M)->gap = k->gap;
    if (k->in_place) {
        struct case_tensor *in = WIDES(in, F_ADD, NORMAL(1.0), k->n, k->M);
        in->gap = k->gap;
        in->twin = &a->out;
        return;
    }
    WIDES(in, F_IN, NORMAL(1.0), k->n, k->M)->gap = k->gap;
    WIDES(out, F_OUT, NORMAL(1.0), k->n, k->M)->gap = k->gap;
}
#endif
