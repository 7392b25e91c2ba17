/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ROPE_CASES_H
#define BATON_KERNELS_ROPE_CASES_H
#include "kernels/cases.h"
#include "kernels/rope/rope.h"

struct rope_case {
    const char *why;
    int64_t T, heads, P, rot, gap, furthest;
    double theta;
};
static const struct rope_case rope_cases[] = {
    {"one token, one pair", 1, 1, 2, 2, 0, 3, 1e4},
    {"half of a head turns", 9, 3, 10, 4, 0, 100, 1e4},
    {"no channel turns", 3, 2, 4, 0, 0, 100, 1e4},
    {"far positions, rows with a pitch", 40, 2, 6, 6, 5, 1000000, 1e11},
    {"several items of the pool", 300, 8, 16, 16, 0, 1000, 1e4},
    {"no tokens", 0, 2, 4, 4, 0, 1, 1e4},
    {"vectors: half of a head turns, a pitch", 65, 3, 64, 32, 8, 1000, 1e4},
    {"vectors: a whole head", 63, 2, 128, 128, 0, 131072, 1e4},
};
static const struct rope_case rope_bench[] = {
    {"T 4096, H 16, P 128", 4096, 16, 128, 128, 0, 4096, 1e4},
    {"T 65537, H 1, P 64", 65537, 1, 64, 64, 0, 65536, 1e4},
    {"T 32768, H 32, P 128", 32768, 32, 128, 128, 0, 32768, 1e4},
    {"T 131072, H 8, P 128", 131072, 8, 128, 128, 0, 131072, 1e4},
};

static inline void rope_build(struct trial *t, struct rope *a, const struct rope_case *k) {
    a->heads = k->heads;
    a->rot = k->rot;
    a->theta = k->theta;
    t->bound = 3e-7;
    TENSOR(pos, IN, UNIFORM(0.0, (double)k->furthest), I64, k->T);
    REALS(x, F_ADD, NORMAL(1.0), k->T, k->heads * k->P)->gap = k->gap;
    REALS(dx, B_ADD, NORMAL(1.0), k->T, k->heads * k->P)->gap = k->gap;
}
#endif
