/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_SUMS_CUH
#define BATON_KERNELS_SELECTIVE_SUMS_CUH
/* selective_sums.cuh - sums of the scan's backward that many blocks of threads have parts of: each writes its own, and
 * they are added in order. */
#include "kernels/packs.cuh"
#include "kernels/selective.cuh"
#include "kernels/selective_scan/selective_scan.h"

enum { STRIPS = 16 }; /* at most: parts of the channels, a whole number of blocks each */
struct sums {
    float *dA;          /* (c, D, N) of dA_log     */
    double *dbias, *dD; /* (c, D) each             */
    float *bc;          /* (strips, T, 2 N) dB | dC */
    int64_t strips;
};

/* dB and dC: the strips in order. */
template <typename real> __global__ static void strips_add(const struct selective_scan a, const struct sums w) {
    const int64_t T = a.pos.shape[0], N = a.state;
    FOR_CELLS(t, i, T, 2 * N) {
        double sum = 0.0;
        for (int64_t s = 0; s < w.strips; s++) sum += (double)w.bc[(s * T + t) * 2 * N + i];
        set(&row_of<real>(i < N ? a.dB : a.dC, t)[i % N], (float)sum);
    }
}

/* n numbers, `step` apart, in order; what is added has been asked for in one go. */
template <typename type> static __device__ float chunks_sum(const type *from, int64_t step, int64_t n) {
    enum { MANY = 16 };
    double sum = 0.0;
    for (int64_t c = 0; c < n; c += MANY, from += MANY * step) {
        type v[MANY];
#pragma unroll
        for (int i = 0; i < MANY; i++) v[i] = c + i < n ? from[i * step] : (type)0;
#pragma unroll
        for (int i = 0; i < MANY; i++) sum += (double)v[i];
    }
    return (float)sum;
}
/* dA_log, ddt_bias, dD: the chunks in order. */
__global__ static void chunks_add(const struct selective_scan a, const struct sums w) {
    const int64_t D = a.A_log.shape[0], N = a.state;
    const int64_t n = spans_before(a.range, a.range.shape[0] - 1, a.chunk);
    FOR_CELLS(unused, i, 1, D * (N + 2)) {
        const int64_t d = (i - D * N) / 2;
        if (i < D * N) row(a.dA_log, i / N)[i % N] += chunks_sum(w.dA + i, D * N, n);
        else if (i % 2 == D * N % 2) ((float *)a.ddt_bias.data)[d] += chunks_sum(w.dbias + d, D, n);
        else ((float *)a.dD.data)[d] += chunks_sum(w.dD + d, D, n);
    }
}

static inline int64_t strips_of(const struct selective_scan *a, int64_t block) {
    return least(STRIPS, ceil_div(a->A_log.shape[0], block));
}
static void sums_sizes(const struct selective_scan *a, int64_t n_chunks, int64_t strips, int64_t bytes[4]) {
    const int64_t T = a->pos.shape[0], D = a->A_log.shape[0], N = a->state;
    bytes[0] = n_chunks * D * N * (int64_t)sizeof(float);
    bytes[1] = bytes[2] = n_chunks * D * (int64_t)sizeof(double);
    bytes[3] = strips * T * 2 * N * (int64_t)sizeof(float);
}
static int64_t sums_bytes(const struct selective_scan *a, int64_t n_chunks, int64_t strips) {
    int64_t bytes[4], all = 0;
    sums_sizes(a, n_chunks, strips, bytes);
    for (int i = 0; i < 4; i++) all += arena_round(bytes[i]);
    return all;
}
/* Out of ctx->work, which the caller has marked. */
static enum status sums_open(struct sums *s, struct ctx *c, const struct selective_scan *a, int64_t n_chunks,
                             int64_t strips) {
    int64_t bytes[4];
    void *at[4];
    sums_sizes(a, n_chunks, strips, bytes);
    for (int i = 0; i < 4; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    *s = (struct sums){(float *)at[0], (double *)at[1], (double *)at[2], (float *)at[3], strips};
    return OK;
}
template <typename real>
static enum status sums_close(struct ctx *c, const struct selective_scan *a, const struct sums &w) {
    LAUNCH_CELLS(strips_add<real>, a->pos.shape[0], 2 * a->state, *a, w);
    LAUNCH_CELLS(chunks_add, 1, a->A_log.shape[0] * (a->state + 2), *a, w);
    return OK;
}
#endif
