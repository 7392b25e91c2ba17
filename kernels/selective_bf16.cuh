/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_BF16_CUH
#define BATON_KERNELS_SELECTIVE_BF16_CUH
/* selective_bf16.cuh - what both halves of the selective scan in BF16 share: a thread owns a pair of channels with all
 * their states, tokens come STEP at a time into registers, rows of B and C in F32 through shared memory. */
#include "kernels/packs.cuh"
#include "kernels/selective.cuh"

enum { STEP = 4, TILE_ROWS = 32, QUADS = STATES / 4, PAIRS = CHANNELS };
/* PAIRS pairs of channels to a block, four states to a quad. */

static inline bool rows_in_pairs(struct tensor t) {
    return (uintptr_t)t.data % 4 == 0 && t.pitch % 2 == 0 && t.shape[1] % 2 == 0;
}
static inline __device__ bf16_bits *row16(const struct tensor &t, int64_t i) {
    return (bf16_bits *)t.data + i * t.pitch;
}

/* A pair of channels down the rows of a tensor, d below their number; whole: rows_in_pairs. */
struct column {
    bf16_bits *at;
    int pitch;
    bool both; /* channel d + 1 is there */
};
static inline __device__ struct column column_open(const struct tensor &t, int64_t i, int64_t d) {
    return (struct column){row16(t, i) + d, (int)t.pitch, d + 1 < t.shape[1]};
}
static inline __device__ void column_move(struct column *c, int rows) { c->at += (int64_t)rows * c->pitch; }
/* `row` rows on, a few. */
template <bool whole> static inline __device__ uint32_t column_get(const struct column &c, int row) {
    const bf16_bits *from = c.at + row * c.pitch;
    if constexpr (whole) return *(const uint32_t *)from;
    else return from[0] | (c.both ? (uint32_t)from[1] << 16 : 0u);
}
template <bool whole> static inline __device__ void column_set(const struct column &c, int row, float low, float high) {
    const uint32_t both = pack(low, high);
    bf16_bits *to = c.at + row * c.pitch;
    if constexpr (whole) *(uint32_t *)to = both;
    else {
        to[0] = (bf16_bits)both;
        if (c.both) to[1] = (bf16_bits)(both >> 16);
    }
}
static inline __device__ float half_of(uint32_t pair, int i) { return i ? high_half(pair) : low_half(pair); }

/* 2^x for x <= 0 without the special-function unit: 2^n 2^f, |f| <= 1/2, by a polynomial off by 1e-7.  0 becomes 1. */
static inline __device__ float exp2_by_fma(float x) {
    const float magic = 12582912.0f; /* 1.5 2^23: the sum's last bits are the nearest integer */
    x = fmaxf(x, -126.0f);
    const float whole = x + magic, f = x - (whole - magic);
    float p = fmaf(1.3264642e-3f, f, 9.6715111e-3f);
    p = fmaf(p, f, 5.5507340e-2f);
    p = fmaf(p, f, 2.4022242e-1f);
    p = fmaf(p, f, 6.9314698e-1f);
    p = fmaf(p, f, 1.0f);
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(whole) << 23));
}
/* The decay of state s: of 16 states, `by_fma` go to the FMA units so that both kinds of unit are busy. */
template <int by_fma> static inline __device__ float decay_of(int s, float x) {
    return (s + 1) * by_fma / STATES > s * by_fma / STATES ? exp2_by_fma(x) : exp2_fast(x);
}

/* softplus, and with e = exp(-|v|) its slope: log(1 + e) = 2 atanh(e / (2 + e)). */
static inline __device__ float softplus_fast(float v, float *e) {
    *e = exp2_fast(-fabsf(v) * LOG2_E);
    const float s = *e * reciprocal_fast(2.0f + *e), q = s * s;
    float p = fmaf(2.8178326e-1f, q, 2.7960603e-1f);
    p = fmaf(p, q, 4.0024910e-1f);
    p = fmaf(p, q, 6.6666315e-1f);
    p = fmaf(p, q, 2.0f);
    return fmaf(s, p, fmaxf(v, 0.0f));
}

/* Rows [t, t + TILE_ROWS) of B or C, zeros from `end` on; the block calls. */
static inline __device__ void tile_rows(float4 (*to)[QUADS], const struct tensor &from, int64_t t, int64_t end) {
    const int first = threadIdx.x / STATES, n = threadIdx.x % STATES, rows = (int)least(end - t, TILE_ROWS);
    const bf16_bits *at = row16(from, t + first) + n;
    const bool is = n < from.shape[1];
#pragma unroll
    for (int r = 0; r < TILE_ROWS; r += PAIRS / STATES)
        ((float *)to)[(first + r) * STATES + n] = is && first + r < rows ? bf16_float(at[r * (int)from.pitch]) : 0.0f;
}

/* A pair of channels: rates times log2(e), biases.  Channels and states that are not there have rate 0. */
struct pair {
    int64_t d;
    bool live;
    float A[2][STATES], bias[2];
};
static inline __device__ struct pair pair_open(const struct tensor &A_log, const struct tensor &dt_bias) {
    struct pair p;
    p.d = 2 * ((int64_t)blockIdx.x * PAIRS + threadIdx.x);
    p.live = p.d < A_log.shape[0];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        p.bias[i] = p.d + i < A_log.shape[0] ? vector_at(dt_bias, p.d + i) : 0.0f;
#pragma unroll
        for (int s = 0; s < STATES; s++) p.A[i][s] = rate_at(A_log, p.d + i, s);
    }
    return p;
}
static inline dim3 pairs_grid(int64_t n_chunks, int64_t D) {
    return dim3((unsigned)ceil_div(D, 2 * PAIRS), (unsigned)least(n_chunks, 32768));
}
#endif
