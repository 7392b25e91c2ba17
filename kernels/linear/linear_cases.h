/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_LINEAR_CASES_H
#define BATON_KERNELS_LINEAR_CASES_H
#include "kernels/cases.h"
#include "kernels/linear/linear.h"

struct linear_case {
    const char *why;
    int64_t T, I, O, gap;
    bool bias, add, dx, dw, dx_add, wide;
    double bound;
};
static const struct linear_case linear_cases[] = {
    {"one number", 1, 1, 1, 0, false, false, true, true, false, false, 1e-6},
    {"one row", 1, 33, 17, 0, false, false, true, true, false, false, 1e-6},
    {"odd sizes, a bias", 5, 19, 37, 0, true, false, true, true, false, false, 1e-6},
    {"rows with a pitch, sums", 7, 16, 32, 9, false, true, true, true, true, false, 1e-6},
    {"a bias on top of a sum", 7, 16, 32, 0, true, true, true, true, true, false, 1e-6},
    {"no dx", 6, 16, 9, 0, true, false, false, true, false, false, 1e-6},
    {"no dw", 6, 16, 9, 0, false, false, true, false, false, false, 1e-6},
    {"no rows", 0, 16, 9, 0, true, false, true, true, false, false, 1e-6},
    {"tiles that the sizes do not fill, several lines of db", 700, 24, 1030, 0, true, false, true, true, false, false,
     1e-6},
    {"vectors", 65, 64, 1000, 0, false, false, true, true, true, false, 1e-6},
    {"vectors, a pitch, a bias", 63, 128, 64, 8, true, true, true, true, false, false, 1e-6},
    {"a wide result, as of a router", 130, 64, 24, 0, false, false, true, true, false, true, 1e-6},
    {"wide, dx is a sum", 65, 32, 16, 0, false, false, true, true, true, true, 1e-6},
    {"wide, a pitch, a bias on top of a sum", 33, 20, 7, 3, true, true, true, true, true, true, 1e-6},
    {"wide, no dx", 40, 16, 9, 0, false, false, false, true, false, true, 1e-6},
    {"wide, no dw", 40, 16, 9, 1, false, false, true, false, false, true, 1e-6},
    {"wide, no rows", 0, 16, 9, 0, false, false, true, true, false, true, 1e-6},
};
static const struct linear_case linear_bench[] = {
    {"T 64, I 2048, O 2048", 64, 2048, 2048, 0, false, false, true, true, false, false, 1e-6},
    {"T 512, I 2048, O 2048", 512, 2048, 2048, 0, false, false, true, true, false, false, 1e-6},
    {"T 512, I 1024, O 4096", 512, 1024, 4096, 0, false, false, true, true, false, false, 1e-6},
    {"T 4096, I 2048, O 2048", 4096, 2048, 2048, 0, false, false, true, true, false, false, 1e-6},
    {"T 65537, I 64, O 64", 65537, 64, 64, 0, false, false, true, true, false, false, 1e-6},
    {"T 4096, I 2048, O 128, wide", 4096, 2048, 128, 0, false, false, true, true, true, true, 1e-6},
};

static inline void linear_build(struct trial *t, struct linear *a, const struct linear_case *k) {
    a->add = k->add;
    a->dx_add = k->dx_add;
    a->wide = k->wide;
    t->bound = k->bound;
    /* A tensor core adds 16 terms at a time to an F32 sum and may cut, not round: an ulp of the sum for each step. */
    if (t->real == BF16) t->wide_bound = k->bound + 0x1p-23 * (double)((k->T + 15) / 16);
    /* y with its bias, before the product and after it; a product that the library rounds before it is added to dx; dy,
     * where it is wide, of which dw then has two parts. */
    t->roundings = (k->bias || k->dx_add ? 2.0 : 1.0) + k->wide;
    if (t->real == BF16 && k->wide) t->wide_bound += 0x1p-16;
    t->flops[FORWARD] = 2.0 * (double)(k->T * k->I * k->O);
    t->flops[BACKWARD] = t->flops[FORWARD] * (k->dx + k->dw);
    REALS(x, k->dw ? IN : F_IN, NORMAL(1.0), k->T, k->I)->gap = k->gap;
    REALS(w, k->dx ? IN : F_IN, NORMAL(1.0), k->O, k->I)->gap = k->gap;
    if (k->bias) WIDES(b, F_IN | OPTIONAL, NORMAL(1.0), k->O);
    if (k->wide) {
        WIDES(y, k->add ? F_ADD : F_OUT, NORMAL(1.0), k->T, k->O)->gap = k->gap;
        WIDES(dy, B_IN, NORMAL(1.0), k->T, k->O)->gap = k->gap;
    } else {
        REALS(y, k->add ? F_ADD : F_OUT, NORMAL(1.0), k->T, k->O)->gap = k->gap;
        REALS(dy, B_IN, NORMAL(1.0), k->T, k->O)->gap = k->gap;
    }
    if (k->dx) REALS(dx, (k->dx_add ? B_ADD : B_OUT) | OPTIONAL, NORMAL(1.0), k->T, k->I)->gap = k->gap;
    if (k->dw) WIDES(dw, B_ADD | OPTIONAL, NORMAL(1.0), k->O, k->I)->gap = k->gap;
    if (k->bias) WIDES(db, B_ADD | OPTIONAL, NORMAL(1.0), k->O);
}
#endif
