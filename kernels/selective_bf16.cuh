/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_BF16_CUH
#define BATON_KERNELS_SELECTIVE_BF16_CUH
/* selective_bf16.cuh - what the kernels of the selective scan in BF16 share.  A warp has ABREAST channels: two lanes a
 * channel, eight states a lane, SEGMENT tokens at a time.  What is once a token and channel - softplus, gates, loads
 * and stores - is another division of the same work: a lane does two tokens of two channels side by side, its desk.
 * Both sides meet in shared memory; nothing passes between warps. */
#include "kernels/packs.cuh"
#include "kernels/selective.cuh"

enum { OWN = 8, LANES = STATES / OWN, ABREAST = WARP / LANES, SEGMENT = 8, BC = 2 * STATES };
/* Lanes to a row of desks; rows of a segment from one of a desk's to its next; how many it has. */
enum { DESKS = ABREAST / 2, ROWS_APART = WARP / DESKS, MINE = SEGMENT / ROWS_APART };

static inline bool rows_in_pairs(struct tensor t) {
    return (uintptr_t)t.data % 4 == 0 && t.pitch % 2 == 0 && t.shape[1] % 2 == 0;
}
/* Channels and states in pieces of 16 bytes. */
static inline bool in_pieces(struct tensor A_log, struct tensor states) {
    return A_log.shape[0] % 8 == 0 && A_log.shape[1] == STATES && packs_fit(A_log) && packs_fit(states);
}
static inline __device__ bf16_bits *row16(const struct tensor &t, int64_t i) {
    return (bf16_bits *)t.data + i * t.pitch;
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

/* The scan's side: a channel and half of its states; rates times log2(e). */
struct own {
    int d, q;
    float A[OWN];
};
static __device__ void eight(float *to, const float4 *v) {
#pragma unroll
    for (int i = 0; i < OWN / 4; i++)
        to[4 * i] = v[i].x, to[4 * i + 1] = v[i].y, to[4 * i + 2] = v[i].z, to[4 * i + 3] = v[i].w;
}
/* whole: 16 states in rows of 16 bytes. */
template <bool whole> static __device__ struct own own_open(const struct tensor &A_log, int64_t d0) {
    struct own o;
    o.d = (int)d0 + threadIdx.x % ABREAST, o.q = threadIdx.x % WARP / ABREAST;
    if (whole) {
        const bool is = o.d < A_log.shape[0];
        eight(o.A, (const float4 *)(row(A_log, is ? o.d : 0) + OWN * o.q));
#pragma unroll
        for (int s = 0; s < OWN; s++) o.A[s] = is ? -exp2_fast(o.A[s] * LOG2_E) * LOG2_E : 0.0f;
    } else
#pragma unroll
        for (int s = 0; s < OWN; s++) o.A[s] = rate_at(A_log, o.d, OWN * o.q + s);
    return o;
}
/* The lane's states of (., D, 1, N), zeros where there are none. */
template <bool whole>
static __device__ void states_get(float *to, const struct tensor &from, int64_t i, const struct own &o) {
    const int64_t D = from.shape[1], N = from.shape[3];
    if (whole) {
        eight(to, (const float4 *)(row(from, i) + (o.d < D ? o.d : 0) * STATES + OWN * o.q));
#pragma unroll
        for (int s = 0; s < OWN; s++) to[s] = o.d < D ? to[s] : 0.0f;
    } else
#pragma unroll
        for (int s = 0; s < OWN; s++)
            to[s] = o.d < D && OWN * o.q + s < N ? row(from, i)[o.d * N + OWN * o.q + s] : 0.0f;
}
static __device__ void states_put(float *to, const struct own &o, const float *h, int64_t D, int64_t N) {
    float *at = to + o.d * N + OWN * o.q;
    if (o.d >= D) return;
    if (N == STATES && (uintptr_t)at % 16 == 0) {
        *(float4 *)at = make_float4(h[0], h[1], h[2], h[3]);
        *(float4 *)(at + 4) = make_float4(h[4], h[5], h[6], h[7]);
    } else
        for (int s = 0; s < OWN; s++)
            if (OWN * o.q + s < N) at[s] = h[s];
}

/* The desk: channels d and d + 1 of tokens `row` and ROWS_APART on. */
struct desk {
    int d, row, pair; /* pair: d less the warp's first channel, halved */
    bool live[2];
    float bias[2], D[2];
};
static __device__ struct desk desk_open(int64_t d0, int64_t D, const struct tensor &dt_bias,
                                        const struct tensor *skip) {
    struct desk k = {};
    k.pair = threadIdx.x % DESKS, k.row = threadIdx.x % WARP / DESKS, k.d = (int)d0 + 2 * k.pair;
    for (int i = 0; i < 2; i++) {
        k.live[i] = k.d + i < D;
        if (k.live[i]) k.bias[i] = vector_at(dt_bias, k.d + i), k.D[i] = skip ? vector_at(*skip, k.d + i) : 0.0f;
    }
    return k;
}
/* Its channels at row i; those that are not there read others', unused. */
static __device__ bf16_bits *desk_at(const struct tensor &t, int64_t i, const struct desk &k) {
    return row16(t, i) + (k.live[0] ? k.d : 0);
}
static __device__ bf16_bits *down(bf16_bits *from, uint32_t row_bytes, int row) {
    return (bf16_bits *)((char *)from + (uint64_t)(uint32_t)row * row_bytes);
}
static inline uint32_t row_bytes_of(struct tensor t) { return (uint32_t)t.pitch * (uint32_t)sizeof(bf16_bits); }
/* whole: rows_in_pairs */
template <bool whole> static __device__ uint32_t two(const bf16_bits *from, const struct desk &k) {
    if constexpr (whole) return *(const uint32_t *)from;
    else return from[0] | (k.live[1] ? (uint32_t)from[1] << 16 : 0u);
}
template <bool whole> static __device__ void two_put(bf16_bits *to, const struct desk &k, const float *v) {
    const uint32_t both = pack(v[0], v[1]);
    if constexpr (whole) *(uint32_t *)to = both;
    else {
        to[0] = (bf16_bits)both;
        if (k.live[1]) to[1] = (bf16_bits)(both >> 16);
    }
}

/* The desk's tokens of a segment that lies in shared memory as in its rows. */
static __device__ void stage_get(uint32_t *to, const uint4 (*from)[2], const struct desk &k) {
#pragma unroll
    for (int j = 0; j < MINE; j++) to[j] = ((const uint32_t *)from[j * ROWS_APART + k.row])[k.pair];
}
/* dts and dts x of a segment: [token][channel], two channels to a float4. */
typedef float4 pairs[DESKS];
/* n tokens are there: the others have no time.  time += dts. */
static __device__ void pairs_open(pairs *to, const uint32_t *dt, const uint32_t *x, const struct desk &k, int n,
                                  float *time) {
#pragma unroll
    for (int j = 0; j < MINE; j++) {
        const int t = j * ROWS_APART + k.row;
        float dts[2], dtx[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float e;
            const float all = softplus_fast(half_of(dt[j], i) + k.bias[i], &e);
            const bool is = t < n && k.live[i];
            dts[i] = is ? all : 0.0f, dtx[i] = is ? all * half_of(x[j], i) : 0.0f;
            if (time) time[i] += dts[i];
        }
        to[t][k.pair] = make_float4(dts[0], dtx[0], dts[1], dtx[1]);
    }
}
#endif
