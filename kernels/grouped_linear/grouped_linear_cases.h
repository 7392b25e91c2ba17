/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GROUPED_LINEAR_CASES_H
#define BATON_KERNELS_GROUPED_LINEAR_CASES_H
#include "kernels/cases.h"
#include "kernels/grouped_linear/grouped_linear.h"

struct grouped_linear_case {
    const char *why;
    int64_t E, S, I, O, gap;
    int64_t offset[12]; /* (S, E + 1) */
    bool dx, dw, dx_add;
};
static const struct grouped_linear_case grouped_linear_cases[] = {
    {"one number", 1, 1, 1, 1, 0, {0, 1}, true, true, false},
    {"three experts, one without a row", 3, 1, 19, 37, 0, {0, 5, 5, 12}, true, true, false},
    {"one expert has all", 4, 1, 16, 9, 0, {0, 0, 0, 7, 7}, true, true, false},
    {"rows with a pitch, sums", 2, 1, 16, 32, 9, {0, 4, 11}, true, true, true},
    {"sections, an empty one", 2, 3, 12, 7, 0, {0, 3, 5, 5, 5, 5, 5, 5, 9}, true, true, false},
    {"no dx", 2, 1, 12, 7, 0, {0, 3, 5}, false, true, false},
    {"no dw", 2, 1, 12, 7, 0, {0, 3, 5}, true, false, false},
    {"no rows", 3, 1, 12, 7, 0, {0, 0, 0, 0}, true, true, false},
    {"eights of columns, tiles not full", 3, 1, 200, 328, 0, {0, 150, 150, 290}, true, true, false},
    {"eights of columns, a pitch, sums", 3, 1, 264, 72, 8, {0, 5, 77, 214}, true, true, true},
    {"eights of columns, sections", 2, 2, 64, 72, 0, {0, 70, 133, 133, 141, 200}, true, true, false},
    {"eights of columns, one expert has all", 4, 1, 72, 64, 0, {0, 0, 0, 400, 400}, true, true, false},
    {"tiles that the sizes do not fill", 2, 1, 600, 530, 0, {0, 300, 310}, true, true, false},
};
static const struct grouped_linear_case grouped_linear_bench[] = {
    {"N 4096, E 8, I 1024, O 1024",
     8,
     1,
     1024,
     1024,
     0,
     {0, 512, 1024, 1536, 2048, 2560, 3072, 3584, 4096},
     true,
     true,
     false},
    {"N 4096 to one expert of 8", 8, 1, 1024, 1024, 0, {0, 0, 0, 0, 4096, 4096, 4096, 4096, 4096}, true, true, false},
};

static inline void grouped_linear_build(struct trial *t, struct grouped_linear *a,
                                        const struct grouped_linear_case *k) {
    const int64_t N = k->offset[k->S * (k->E + 1) - 1];
    a->dx_add = k->dx_add;
    t->bound = 1e-6;
    t->flops[FORWARD] = 2.0 * (double)(N * k->I * k->O);
    t->flops[BACKWARD] = t->flops[FORWARD] * (k->dx + k->dw);
    REALS(x, k->dw ? IN : F_IN, NORMAL(1.0), N, k->I)->gap = k->gap;
    REALS(w, k->dx ? IN : F_IN, NORMAL(1.0), k->E, k->O, k->I);
    TENSOR(offset, IN, LISTED(k->offset), I64, k->S, k->E + 1)->any_rows = true; /* as many sections as there are */
    REALS(y, F_OUT, NORMAL(1.0), N, k->O)->gap = k->gap;
    REALS(dy, B_IN, NORMAL(1.0), N, k->O)->gap = k->gap;
    if (k->dx) REALS(dx, (k->dx_add ? B_ADD : B_OUT) | OPTIONAL, NORMAL(1.0), N, k->I)->gap = k->gap;
    if (k->dw) WIDES(dw, B_ADD | OPTIONAL, NORMAL(1.0), k->E, k->O, k->I);
}
#endif
