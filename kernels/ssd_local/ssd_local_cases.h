/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_LOCAL_CASES_H
#define BATON_KERNELS_SSD_LOCAL_CASES_H
#include <math.h>
#include "kernels/ranges_cases.h"
#include "kernels/ssd_local/ssd_local.h"

/* Rows of both halves of the scan. */
struct ssd_local_case {
    const char *why;
    struct layout l;
    int64_t H, P, N, G, Q, gap;
    double dt_min, dt_max;
};
#define SSD_ROWS                                                                                                       \
    {"one token", {1, {0, 1}, 3, {0}}, 2, 3, 4, 1, 8, 0, 0.0, INFINITY},                                               \
        {"one document, a short last chunk", {1, {0, 65}, 0, {0}}, 4, 3, 5, 2, 16, 0, 0.0, INFINITY},                  \
        {"rows with a pitch", {1, {0, 40}, 3, {0}}, 4, 3, 5, 4, 16, 6, 0.0, INFINITY},                                 \
        {"chunks of one token", {1, {0, 9}, 3, {5}}, 2, 3, 5, 1, 1, 0, 0.0, INFINITY},                                 \
        {"several tiles in a chunk", {1, {0, 200}, 3, {130}}, 2, 4, 8, 1, 256, 0, 0.0, INFINITY},                      \
        {"documents at, before and after edges",                                                                       \
         {2, {0, 48, 100}, 3, {15, 32, 47, 48, 65}},                                                                   \
         4,                                                                                                            \
         3,                                                                                                            \
         5,                                                                                                            \
         2,                                                                                                            \
         16,                                                                                                           \
         0,                                                                                                            \
         0.0,                                                                                                          \
         INFINITY},                                                                                                    \
        {"short ranges, one empty", {5, {0, 3, 3, 4, 40, 60}, 3, {50}}, 4, 3, 5, 2, 16, 0, 0.0, INFINITY},             \
        {"limits of the time step", {1, {0, 40}, 3, {0}}, 4, 3, 5, 1, 16, 0, 0.05, 0.3},                               \
        {"no tokens", {1, {0, 0}, 0, {0}}, 2, 3, 4, 1, 8, 0, 0.0, INFINITY},                                           \
        {"tensor cores, one token", {1, {0, 1}, 3, {0}}, 2, 64, 64, 1, 64, 0, 0.0, INFINITY},                          \
        {"tensor cores, 63 tokens, rows at odd places", {1, {0, 63}, 3, {0}}, 2, 64, 64, 1, 64, 6, 0.0, INFINITY},     \
        {"tensor cores, 65 tokens", {1, {0, 65}, 0, {0}}, 4, 64, 128, 2, 64, 0, 0.0, INFINITY},                        \
        {"tensor cores, documents at, before and after edges",                                                         \
         {2, {0, 130, 300}, 3, {15, 64, 129, 130, 199}},                                                               \
         4,                                                                                                            \
         64,                                                                                                           \
         64,                                                                                                           \
         2,                                                                                                            \
         64,                                                                                                           \
         0,                                                                                                            \
         0.0,                                                                                                          \
         INFINITY},                                                                                                    \
        {"tensor cores, short ranges, one empty, limits",                                                              \
         {5, {0, 3, 3, 4, 140, 160}, 3, {150}},                                                                        \
         3,                                                                                                            \
         64,                                                                                                           \
         256,                                                                                                          \
         1,                                                                                                            \
         128,                                                                                                          \
         8,                                                                                                            \
         0.05,                                                                                                         \
         0.3},                                                                                                         \
        {"tensor cores, six heads of a group to a block",                                                              \
         {1, {0, 200}, 3, {60, 150}},                                                                                  \
         6,                                                                                                            \
         64,                                                                                                           \
         128,                                                                                                          \
         1,                                                                                                            \
         128,                                                                                                          \
         0,                                                                                                            \
         0.05,                                                                                                         \
         0.3},                                                                                                         \
        {"tensor cores, heads in several parts", {1, {0, 70}, 0, {0}}, 18, 64, 64, 1, 64, 0, 0.0, INFINITY},           \
        {"tensor cores, N 256, an even number of heads",                                                               \
         {2, {0, 130, 300}, 3, {199}},                                                                                 \
         4,                                                                                                            \
         64,                                                                                                           \
         256,                                                                                                          \
         2,                                                                                                            \
         128,                                                                                                          \
         0,                                                                                                            \
         0.0,                                                                                                          \
         INFINITY},                                                                                                    \
        {"tensor cores, N 256, Q 64, odd places", {1, {0, 100}, 3, {70}}, 2, 64, 256, 1, 64, 6, 0.0, INFINITY},        \
        {"tensor cores, heads of 128, several parts",                                                                  \
         {2, {0, 130, 200}, 3, {15, 180}},                                                                             \
         9,                                                                                                            \
         128,                                                                                                          \
         64,                                                                                                           \
         1,                                                                                                            \
         128,                                                                                                          \
         0,                                                                                                            \
         0.0,                                                                                                          \
         INFINITY},                                                                                                    \
        {"tensor cores, heads of 128, one to a group, odd places",                                                     \
         {1, {0, 300}, 3, {250}},                                                                                      \
         2,                                                                                                            \
         128,                                                                                                          \
         128,                                                                                                          \
         2,                                                                                                            \
         128,                                                                                                          \
         6,                                                                                                            \
         0.05,                                                                                                         \
         0.3},                                                                                                         \
        {"tensor cores, heads of 128, N 256", {1, {0, 200}, 3, {150}}, 2, 128, 256, 1, 128, 0, 0.0, INFINITY},         \
        {"tensor cores, slow decays over segments",                                                                    \
         {2, {0, 700, 1100}, 3, {650, 900}},                                                                           \
         8,                                                                                                            \
         64,                                                                                                           \
         128,                                                                                                          \
         2,                                                                                                            \
         128,                                                                                                          \
         0,                                                                                                            \
         1e-3,                                                                                                         \
         1e-2},                                                                                                        \
        {"tensor cores, short segments of a short range", {1, {0, 600}, 3, {0}}, 32, 64, 64, 2, 64, 0, 1e-3, 1e-2},    \
        {"tensor cores, slow decays, heads of 128, N 256", {1, {0, 600}, 3, {0}}, 4, 128, 256, 2, 128, 6, 1e-3, 1e-2}, \
        {"heads of 128, chunks of 64", {1, {0, 70}, 0, {0}}, 2, 128, 64, 1, 64, 0, 0.0, INFINITY},                     \
        {"heads of 192", {1, {0, 70}, 0, {0}}, 2, 192, 64, 1, 128, 0, 0.0, INFINITY}, {                                \
        "tensor cores, 1000 tokens", {1, {0, 1000}, 0, {300}}, 2, 64, 128, 1, 128, 0, 0.0, INFINITY                    \
    }
#define SSD_BENCH                                                                                                      \
    {"T 4096, H 16, P 64, N 128, Q 256", {1, {0, 4096}, 0, {0}}, 16, 64, 128, 1, 256, 0, 0.0, INFINITY},               \
        {"T 4096, H 32, P 64, N 128, G 8, Q 128", {1, {0, 4096}, 0, {0}}, 32, 64, 128, 8, 128, 0, 0.0, INFINITY}, {    \
        "T 65537, H 4, P 64, N 128, G 2, Q 128", {1, {0, 65537}, 0, {40000}}, 4, 64, 128, 2, 128, 0, 0.0, INFINITY     \
    }
static const struct ssd_local_case ssd_local_cases[] = {SSD_ROWS};
static const struct ssd_local_case ssd_local_bench[] = {SSD_BENCH};

/* cum is kept in F32, so a decay is off by its rounding, some 2^-24 |cum|, whoever computes: the F32 reference itself
 * is 2e-6 off in chunks of 64 tokens, 4.7e-6 in the long ones of the benchmark. */
static inline double ssd_bound(double bound, const struct ssd_local_case *k) {
    if (layout_tokens(&k->l) >= 4096) return 6e-6;
    return k->P >= 64 && bound < 3e-6 ? 3e-6 : bound;
}

/* In BF16, four roundings between inputs and outputs: weights times x, or the weights of a chunk's own tokens, states
 * twice, the output itself.  F32 outputs sum what was rounded; those of a few heads hold few numbers. */
static inline void ssd_bf16(struct trial *t, const struct ssd_local_case *k) {
    const bool width = k->P == 64 || (k->P == 128 && k->Q == 128), length = k->Q == 64 || k->Q == 128;
    const bool sizes = width && length && (k->N == 64 || k->N == 128 || k->N == 256);
    t->no_bf16 = !sizes;
    t->roundings = 4.0;
    t->wide_bound = 2.0 * 0x1p-8;
}

static inline int64_t layout_chunks(const struct layout *l, int64_t chunk) {
    int64_t n = 0;
    for (int64_t r = 0; r < l->n_ranges; r++) n += (l->range[r + 1] - l->range[r] + chunk - 1) / chunk;
    return n;
}

static inline void ssd_local_build(struct trial *t, struct ssd_local *a, const struct ssd_local_case *k) {
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges, n = layout_chunks(&k->l, k->Q);
    const bool between = t->real == BF16; /* states and dstates: ssd_walk.cuh */
    a->heads = k->H;
    a->head_width = k->P;
    a->state = k->N;
    a->groups = k->G;
    a->chunk = k->Q;
    a->dt_min = k->dt_min;
    a->dt_max = k->dt_max;
    t->flops[FORWARD] = t->flops[BACKWARD] = 2.0 * (double)(T * k->H * k->P * k->N);
    t->bound = ssd_bound(1e-6, k);
    ssd_bf16(t, k);
    TENSOR(range, IN, layout_range(&k->l), I64, R + 1)->rows_by_elements = true;
    TENSOR(pos, IN, layout_pos(t, &k->l), I64, T);
    REALS(x, F_IN, NORMAL(1.0), T, k->H * k->P)->gap = k->gap;
    REALS(dt, F_IN, NORMAL(1.0), T, k->H)->gap = k->gap;
    REALS(B, F_IN, NORMAL(1.0), T, k->G * k->N)->gap = k->gap;
    REALS(C, B_IN, NORMAL(1.0), T, k->G * k->N)->gap = k->gap;
    WIDES(A_log, F_IN, UNIFORM(-1.0, 2.0), k->H);
    WIDES(dt_bias, F_IN, UNIFORM(-5.0, 0.0), k->H);
    WIDES(dts, F_OUT, NORMAL(1.0), T, k->H);
    WIDES(cum, KEPT, NORMAL(1.0), T, k->H);
    struct case_tensor *states = REALS(states, F_OUT, NORMAL(1.0), n, k->H, k->P, k->N);
    states->any_shape = true;
    states->between = between;
    WIDES(range_decay, F_OUT, NORMAL(1.0), R, k->H);
    WIDES(range_state, F_OUT, NORMAL(1.0), R, k->H, k->P, k->N);
    REALS(dy, B_IN, NORMAL(1.0), T, k->H * k->P)->gap = k->gap;
    struct case_tensor *dstates = REALS(dstates, B_OUT, NORMAL(1.0), n, k->H, k->P, k->N);
    dstates->any_shape = true;
    dstates->between = between;
    WIDES(range_dstate, B_OUT, NORMAL(1.0), R, k->H, k->P, k->N);
}
#endif
