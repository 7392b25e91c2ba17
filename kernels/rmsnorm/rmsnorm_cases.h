/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_RMSNORM_CASES_H
#define BATON_KERNELS_RMSNORM_CASES_H
#include "kernels/cases.h"
#include "kernels/rmsnorm/rmsnorm.h"

struct rmsnorm_case {
    const char *why;
    int64_t T, D, gap;
    bool weight, add;
    double eps, bound;
};
static const struct rmsnorm_case rmsnorm_cases[] = {
    {"one row", 1, 64, 0, true, false, 1e-5, 3e-7},
    {"a row that ends inside a lane block", 5, 67, 0, true, false, 1e-5, 3e-7},
    {"one channel: with a small eps dx is what a cancellation leaves", 3, 1, 0, true, false, 1.0, 1e-6},
    {"rows with a pitch, dx added to", 7, 64, 32, true, true, 1e-5, 3e-7},
    {"no weight", 9, 33, 0, false, false, 1e-5, 3e-7},
    {"no weight, dx added to", 9, 33, 5, false, true, 1e-5, 3e-7},
    {"no rows", 0, 16, 0, true, false, 1e-5, 3e-7},
    {"several items of the pool", 200, 515, 0, true, true, 1e-5, 3e-7},
    {"vectors: a warp's row, dx added to", 63, 1000, 24, true, true, 1e-5, 3e-7},
    {"vectors: a block's row of two packs", 65, 4096, 0, true, true, 1e-5, 3e-7},
    {"vectors: a block's row of four packs, no weight", 3, 8192, 0, false, false, 1e-5, 3e-7},
    {"vectors: a row longer than four packs", 3, 8200, 0, true, true, 1e-5, 3e-7},
    {"vectors: rows in several parts", 1000, 256, 0, true, false, 1e-5, 3e-7},
};
static const struct rmsnorm_case rmsnorm_bench[] = {
    {"T 4096, D 1024", 4096, 1024, 0, true, true, 1e-5, 3e-7},
    {"T 4096, D 4096", 4096, 4096, 0, true, true, 1e-5, 3e-7},
    {"T 32768, D 4096", 32768, 4096, 0, true, true, 1e-5, 3e-7},
    /* dw is 45, not the 256 that so many random terms give: the values repeat, and their sum nearly cancels. */
    {"T 65537, D 64", 65537, 64, 0, true, true, 1e-5, 1e-6},
};

static inline void rmsnorm_build(struct trial *t, struct rmsnorm *a, const struct rmsnorm_case *k) {
    a->eps = k->eps;
    a->dx_add = k->add;
    t->bound = k->bound;
    REALS(x, IN, NORMAL(1.0), k->T, k->D)->gap = k->gap;
    if (k->weight) WIDES(w, IN | OPTIONAL, NORMAL(1.0), k->D);
    REALS(y, F_OUT, NORMAL(1.0), k->T, k->D)->gap = k->gap;
    WIDES(r, KEPT, NORMAL(1.0), k->T);
    REALS(dy, B_IN, NORMAL(1.0), k->T, k->D)->gap = k->gap;
    REALS(dx, k->add ? B_ADD : B_OUT, NORMAL(1.0), k->T, k->D)->gap = k->gap;
    if (k->weight) WIDES(dw, B_ADD | OPTIONAL, NORMAL(1.0), k->D);
}
#endif
