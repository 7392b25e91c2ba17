/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_SCAN_LOCAL_CASES_H
#define BATON_KERNELS_SELECTIVE_SCAN_LOCAL_CASES_H
#include "kernels/ranges_cases.h"
#include "kernels/selective_scan_local/selective_scan_local.h"

/* Rows of both halves of the scan. */
struct selective_scan_local_case {
    const char *why;
    struct layout l;
    int64_t D, N, Q, gap;
};
#define SELECTIVE_ROWS                                                                                                 \
    {"one token, one channel", {1, {0, 1}, 3, {0}}, 1, 1, 8, 0},                                                       \
        {"one document, a short last chunk", {1, {0, 65}, 0, {0}}, 20, 5, 16, 0},                                      \
        {"rows with a pitch", {1, {0, 40}, 3, {0}}, 17, 8, 16, 6},                                                     \
        {"chunks of one token", {1, {0, 9}, 3, {5}}, 5, 3, 1, 0},                                                      \
        {"one chunk, longer than the range", {1, {0, 100}, 3, {70}}, 16, 16, 256, 0},                                  \
        {"channels of several strips", {1, {0, 33}, 3, {0}}, 150, 16, 8, 0},                                           \
        {"more channels and chunks than a GPU takes at once", {1, {0, 40}, 3, {17}}, 1100, 5, 1, 0},                   \
        {"a wide state", {1, {0, 30}, 3, {0}}, 3, 70, 8, 0},                                                           \
        {"documents at, before and after edges", {2, {0, 48, 100}, 3, {15, 32, 47, 48, 65}}, 33, 16, 16, 0},           \
        {"ranges of several stretches", {2, {0, 2500, 4000}, 3, {3100}}, 3, 4, 40, 0},                                 \
        {"the same with whole pieces, the last warp's half", {2, {0, 2500, 4000}, 3, {3100}}, 40, 16, 64, 0},          \
        {"short ranges, one empty", {5, {0, 3, 3, 4, 40, 60}, 3, {50}}, 18, 5, 16, 0}, {                               \
        "no tokens", {1, {0, 0}, 0, {0}}, 4, 4, 8, 0                                                                   \
    }
#define SELECTIVE_BENCH                                                                                                \
    { "T 2048, D 4096, N 16, Q 128", {1, {0, 2048}, 0, {0}}, 4096, 16, 128, 0 }
static const struct selective_scan_local_case selective_scan_local_cases[] = {SELECTIVE_ROWS};
static const struct selective_scan_local_case selective_scan_local_bench[] = {SELECTIVE_BENCH};

static inline int64_t selective_chunks(const struct layout *l, int64_t chunk) {
    int64_t n = 0;
    for (int64_t r = 0; r < l->n_ranges; r++) n += (l->range[r + 1] - l->range[r] + chunk - 1) / chunk;
    return n;
}

static inline void selective_scan_local_build(struct trial *t, struct selective_scan_local *a,
                                              const struct selective_scan_local_case *k) {
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges, n = selective_chunks(&k->l, k->Q), D = k->D, N = k->N;
    a->state = N;
    a->chunk = k->Q;
    t->flops[FORWARD] = 7.0 * (double)(T * D * N);
    t->flops[BACKWARD] = 5.0 * (double)(T * D * N);
    t->bound = 1e-6;
    t->roundings =
        1.1; /* of out, products of many normal numbers, a few are most: F64's, rounded, are off by 1.97e-3 */
    t->no_bf16 = N > 16;
    TENSOR(range, IN, layout_range(&k->l), I64, R + 1)->rows_by_elements = true;
    TENSOR(pos, IN, layout_pos(t, &k->l), I64, T);
    REALS(x, F_IN, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(dt, IN, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(B, F_IN, NORMAL(1.0), T, N)->gap = k->gap;
    WIDES(A_log, IN, UNIFORM(-1.0, 3.0), D, N);
    WIDES(dt_bias, IN, UNIFORM(-5.0, 0.0), D);
    WIDES(D, F_IN, NORMAL(1.0), D);
    WIDES(states, F_OUT, NORMAL(1.0), n, D, 1, N)->any_shape = true;
    WIDES(chunk_time, KEPT, UNIFORM(0.1, 1.0), n, D);
    WIDES(range_time, F_OUT, NORMAL(1.0), R, D);
    WIDES(range_state, F_OUT, NORMAL(1.0), R, D, 1, N);
    REALS(z, IN, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(out, F_OUT, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(dout, B_IN, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(C, IN, NORMAL(1.0), T, N)->gap = k->gap;
    WIDES(dstates, B_OUT, NORMAL(1.0), n, D, 1, N)->any_shape = true;
    WIDES(range_dstate, B_OUT, NORMAL(1.0), R, D, 1, N);
}
#endif
