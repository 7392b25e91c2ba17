/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GATED_NORM_CASES_H
#define BATON_KERNELS_GATED_NORM_CASES_H
#include "kernels/cases.h"
#include "kernels/gated_norm/gated_norm.h"

struct gated_norm_case {
    const char *why;
    int64_t T, C, group, gap;
    bool norm_first;
    double eps, bound;
};
static const struct gated_norm_case gated_norm_cases[] = {
    {"gate first: one row, one group", 1, 64, 64, 0, false, 1e-5, 1e-6},
    {"gate first: groups that end inside a lane block", 5, 66, 22, 0, false, 1e-5, 1e-6},
    {"gate first: rows with a pitch", 7, 64, 16, 8, false, 1e-5, 1e-6},
    {"gate first: groups of one channel", 3, 4, 1, 0, false, 1.0, 1e-6},
    {"norm first: one row, one group", 1, 64, 64, 0, true, 1e-5, 1e-6},
    {"norm first: groups that end inside a lane block", 5, 66, 22, 0, true, 1e-5, 1e-6},
    {"norm first: rows with a pitch", 7, 64, 16, 8, true, 1e-5, 1e-6},
    {"no rows", 0, 16, 8, 0, false, 1e-5, 1e-6},
    {"several items of the pool", 200, 515, 103, 0, false, 1e-5, 1e-6},
    {"vectors, gate first: groups of a warp", 65, 4096, 1024, 0, false, 1e-5, 1e-6},
    {"vectors, norm first: groups of a warp, a pitch", 63, 1536, 192, 16, true, 1e-5, 1e-6},
    {"vectors, gate first: a group of a block", 5, 4096, 4096, 0, false, 1e-5, 1e-6},
    {"vectors, norm first: rows in several parts", 1000, 64, 32, 0, true, 1e-5, 1e-6},
};
static const struct gated_norm_case gated_norm_bench[] = {
    {"gate first, T 4096, C 2048, 8 groups", 4096, 2048, 256, 0, false, 1e-5, 1e-6},
    {"norm first, T 4096, C 2048, 8 groups", 4096, 2048, 256, 0, true, 1e-5, 1e-6},
    {"gate first, T 65537, C 64, 2 groups", 65537, 64, 32, 0, false, 1e-5, 1e-6},
    {"gate first, T 4096, C 8192, 8 groups", 4096, 8192, 1024, 0, false, 1e-5, 1e-6},
    {"gate first, T 16384, C 8192, 8 groups", 16384, 8192, 1024, 0, false, 1e-5, 1e-6},
};

static inline void gated_norm_build(struct trial *t, struct gated_norm *a, const struct gated_norm_case *k) {
    a->group = k->group;
    a->eps = k->eps;
    a->norm_first = k->norm_first;
    t->bound = k->bound;
    REALS(y, IN, NORMAL(1.0), k->T, k->C)->gap = k->gap;
    REALS(z, IN, NORMAL(1.0), k->T, k->C)->gap = k->gap;
    WIDES(w, IN, NORMAL(1.0), k->C);
    struct case_tensor *out = REALS(out, F_OUT, NORMAL(1.0), k->T, k->C);
    out->gap = k->gap;
    out->gradient = "dout";
    WIDES(r, KEPT, NORMAL(1.0), k->T, k->C / k->group);
    REALS(dout, B_IN, NORMAL(1.0), k->T, k->C)->gap = k->gap;
    REALS(dy, B_OUT, NORMAL(1.0), k->T, k->C)->gap = k->gap;
    REALS(dz, B_OUT, NORMAL(1.0), k->T, k->C)->gap = k->gap;
    WIDES(dw, B_ADD | OPTIONAL, NORMAL(1.0), k->C);
}
#endif
