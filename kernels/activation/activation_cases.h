/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ACTIVATION_CASES_H
#define BATON_KERNELS_ACTIVATION_CASES_H
#include "kernels/cases.h"
#include "kernels/activation/activation.h"

struct activation_case {
    const char *why;
    enum activation_kind kind;
    int64_t T, F, gap;
    double bound;
};
static const struct activation_case activation_cases[] = {
    {"relu2: a row that ends inside a vector", ACT_RELU2, 5, 67, 0, 3e-7},
    {"relu2: rows with a pitch", ACT_RELU2, 7, 32, 9, 3e-7},
    {"swiglu: one row", ACT_SWIGLU, 1, 64, 0, 3e-7},
    {"swiglu: one channel", ACT_SWIGLU, 5, 1, 0, 3e-7},
    {"swiglu: rows with a pitch", ACT_SWIGLU, 7, 45, 6, 3e-7},
    {"gelu: odd sizes", ACT_GELU, 3, 37, 0, 1e-6},
    {"gelu_tanh: odd sizes", ACT_GELU_TANH, 3, 37, 1, 1e-6},
    {"no rows", ACT_SWIGLU, 0, 8, 0, 3e-7},
    {"rows longer than an item of the pool", ACT_RELU2, 2, 40001, 3, 3e-7},
    {"several items of the pool", ACT_SWIGLU, 150, 301, 0, 3e-7},
    {"vectors: relu2", ACT_RELU2, 65, 1000, 0, 3e-7},
    {"vectors: swiglu, a pitch", ACT_SWIGLU, 63, 136, 8, 3e-7},
    {"vectors: gelu", ACT_GELU, 65, 64, 0, 1e-6},
    {"vectors: gelu_tanh", ACT_GELU_TANH, 63, 64, 0, 1e-6},
};
static const struct activation_case activation_bench[] = {
    {"relu2, T 4096, F 4096", ACT_RELU2, 4096, 4096, 0, 3e-7},
    {"swiglu, T 4096, F 4096", ACT_SWIGLU, 4096, 4096, 0, 3e-7},
    {"gelu, T 4096, F 2048", ACT_GELU, 4096, 2048, 0, 1e-6},
    {"gelu_tanh, T 4096, F 2048", ACT_GELU_TANH, 4096, 2048, 0, 1e-6},
    {"relu2, T 8192, F 21504", ACT_RELU2, 8192, 21504, 0, 3e-7},
    {"gelu, T 8192, F 14336", ACT_GELU, 8192, 14336, 0, 1e-6},
    {"gelu_tanh, T 8192, F 14336", ACT_GELU_TANH, 8192, 14336, 0, 1e-6},
    {"swiglu, T 8192, F 14336", ACT_SWIGLU, 8192, 14336, 0, 3e-7},
    {"swiglu, T 65537, F 64", ACT_SWIGLU, 65537, 64, 0, 3e-7},
};

static inline void activation_build(struct trial *t, struct activation *a, const struct activation_case *k) {
    const int64_t width = k->kind == ACT_SWIGLU ? 2 * k->F : k->F;
    a->kind = k->kind;
    t->bound = k->bound;
    REALS(h, IN, NORMAL(2.0), k->T, width)->gap = k->gap;
    REALS(y, F_OUT, NORMAL(1.0), k->T, k->F)->gap = k->gap;
    REALS(dy, B_IN, NORMAL(1.0), k->T, k->F)->gap = k->gap;
    REALS(dh, B_OUT, NORMAL(1.0), k->T, width)->gap = k->gap;
}
#endif
