/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_WIDE_ROWS_CUH
#define BATON_KERNELS_SSD_SSD_WIDE_ROWS_CUH
/* ssd_wide_rows.cuh - backward_rows of ssd_bf16_bwd.cu by warpgroups, for chunks of 128 tokens: dC and u, or dB and
 * <S, G>.  A warpgroup has 64 rows; what a head adds comes in registers of its own, since its factor is a row's.  Of N
 * 256 a block has a half of the columns, and leaves its part of u and <S, G>. */
#include "kernels/ssd/ssd_wide.cuh"

enum { ROWS_STAGES = 3, ROWS_THREADS = 2 * GROUP };

/* N columns of parts N.  Y: C, of dC alone; other: B for dC, C for dB; rows: dy or x; state: S or G. */
template <int N> struct wide_rows_shared {
    bf16_bits Y[N / 64][WIDE_PANEL], other[N / 64][WIDE_PANEL], K[2][WIDE_PANEL];
    struct {
        bf16_bits rows[WIDE_PANEL], state[N / 64][PANEL];
    } head[ROWS_STAGES];
    struct wide_steps steps[ROWS_STAGES];
    float room[2][ROWS_THREADS / WARP];
};

/* col: the first of the block's columns of a state. */
template <int N, int parts, bool for_C>
static __device__ void wide_rows_fetch(const struct ssd &a, int shift, const struct place &p, int col, int64_t i,
                                       int64_t heads, wide_rows_shared<N> *m, bool whole) {
    if (i >= heads) return;
    const int at = (int)(i % ROWS_STAGES);
    const int64_t h = p.h0 + i;
    const struct tensor &rows = for_C ? a.dy : a.x, &states = for_C ? a.states : a.dstates;
    panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->head[at].rows, row16(rows, p.k.begin) + h * SSD_P, rows.pitch, p.n, whole);
    for (int k = 0; k < N / 64; k++)
        panel_fetch<SSD_P, ROWS_THREADS>(m->head[at].state[k], state16(states, p.chunk, h) + col + 64 * k, parts * N,
                                         SSD_P, true);
    steps_fetch(a, p, h >> shift, &m->steps[at]);
}

/* sum = K^T B (dC), or K C (dB): what comes of the chunk's own tokens.  K is [s][t]; of its four blocks of 64 x 64 that
 * of s >= 64 > t is left out. */
template <int N, bool for_C>
static __device__ void own_products(float (&sum)[N / 64][32], const wide_rows_shared<N> *m, int half, bool add) {
    const auto products = [&](int k0, bool more) {
        wgmma_fence();
#pragma unroll
        for (int j = 0; j < N / 64; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const struct operand b = panel_cols(m->other[j], 64 * k0 + 16 * k);
                if (for_C) product<true, true>(sum[j], panel_cols(m->K[half], 64 * k0 + 16 * k), b, more || k > 0);
                else product<false, true>(sum[j], panel_rows(m->K[k0], 64 * half, 16 * k), b, more || k > 0);
            }
        wgmma_commit();
        wgmma_wait<0>();
#pragma unroll
        for (int j = 0; j < N / 64; j++) sums_ended(sum[j]);
    };
    products(for_C ? 0 : 1, add);
    if (half == (for_C ? 1 : 0)) products(for_C ? 1 : 0, true);
}

/* This thread's part of <S, G>: S from memory, early; G from the panels. */
template <int N> struct state_part { uint4 S[SSD_P * N / 8 / ROWS_THREADS]; };
template <int N, int parts> static __device__ void part_fetch(struct state_part<N> *s, const bf16_bits *S) {
#pragma unroll
    for (int i = 0; i < SSD_P * N / 8 / ROWS_THREADS; i++) {
        const int e = threadIdx.x + i * ROWS_THREADS;
        s->S[i] = *(const uint4 *)(S + e / (N / 8) * parts * N + e % (N / 8) * 8);
    }
}
template <int N> static __device__ float part_product(const struct state_part<N> *s, const bf16_bits (*G)[PANEL]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SSD_P * N / 8 / ROWS_THREADS; i++) {
        const int e = threadIdx.x + i * ROWS_THREADS, r = e / (N / 8), col = e % (N / 8) * 8;
        const uint4 g = *(const uint4 *)tile_piece<64>((bf16_bits *)G[col / 64], r, col % 64), x = s->S[i];
        const uint32_t sw[4] = {x.x, x.y, x.z, x.w}, gw[4] = {g.x, g.y, g.z, g.w};
#pragma unroll
        for (int k = 0; k < 4; k++)
            sum = fmaf(low_half(sw[k]), low_half(gw[k]), fmaf(high_half(sw[k]), high_half(gw[k]), sum));
    }
#pragma unroll
    for (int half = WARP / 2; half > 0; half /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
    return sum;
}

/* sum += f own of a thread's two rows, and u, into us. */
template <int N, bool for_C>
static __device__ void add_own(const struct ssd &a, float *us, const struct place &p, int64_t h, int r,
                               const struct wide_steps *steps, const wide_rows_shared<N> *m,
                               const float (&own)[N / 64][32], float (&sum)[N / 64][32]) {
    const int c = threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = r + 8 * half;
        float f = 0.0f, u = 0.0f;
        if (for_C && i < p.n_enter) f = step_exp(steps->cum[i]);
        if (!for_C && i >= p.last && i < p.n) f = step_exp(steps->cum[WIDE_ROWS - 1] - steps->cum[i]) * steps->dts[i];
#pragma unroll
        for (int k = 0; k < N / 64; k++)
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float o0 = own[k][4 * j + 2 * half], o1 = own[k][4 * j + 2 * half + 1];
                if (for_C) {
                    const uint32_t y = tile_pair<64>(m->Y[k], i, 8 * j + c);
                    u = fmaf(o0, low_half(y), fmaf(o1, high_half(y), u));
                }
                sum[k][4 * j + 2 * half] = fmaf(f, o0, sum[k][4 * j + 2 * half]);
                sum[k][4 * j + 2 * half + 1] = fmaf(f, o1, sum[k][4 * j + 2 * half + 1]);
            }
        if (!for_C) continue;
        u = quad_sum(u);
        if (c == 0 && i < p.n) us[(p.k.begin + i) * a.heads + h] = f * u;
    }
}

template <int N, int parts, bool for_C>
__global__ __launch_bounds__(ROWS_THREADS) static void wide_rows(const struct ssd a, const struct scratch w,
                                                                 bool whole) {
    DYNAMIC_PANELS(tiles);
    wide_rows_shared<N> *m = (wide_rows_shared<N> *)tiles;
    const int64_t heads = a.heads / a.groups;
    const struct tensor &other = for_C ? a.B : a.C, &out = for_C ? a.dC : a.dB;
    const int part_at = blockIdx.x % parts, col = N * part_at;
    float *us = w.u + part_at * a.pos.shape[0] * a.heads, *products = w.products + part_at * w.n_chunks * a.heads;
    struct place p;
    if (!place_of(blockIdx.x / parts, a.range, a.pos, a.chunk, a.groups, heads, heads, &p)) return;
    const int64_t cols = p.g * parts * N + col;
    const int half = warpgroup_of(), r = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
    for (int k = 0; k < N / 64; k++) {
        if (for_C)
            panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->Y[k], row16(a.C, p.k.begin) + cols + 64 * k, a.C.pitch, p.n, whole);
        panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->other[k], row16(other, p.k.begin) + cols + 64 * k, other.pitch, p.n,
                                             whole);
    }
    float sum[N / 64][32];
    for (int64_t part = 0; part < w.parts; part++) {
        if (part > 0) __syncthreads();
        for (int k = 0; k < 2; k++)
            panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->K[k], weights_at(a, w, part, p.chunk, p.g) + 64 * k, WIDE_ROWS,
                                                 WIDE_ROWS, true);
        cp_commit();
        if (part + 1 == w.parts)
            for (int i = 0; i < ROWS_STAGES - 1; i++) {
                wide_rows_fetch<N, parts, for_C>(a, w.shift, p, col, i, heads, m, whole);
                cp_commit();
            }
        if (part + 1 == w.parts) cp_wait<ROWS_STAGES - 1>();
        else cp_wait<0>();
        shared_fence();
        __syncthreads();
        own_products<N, for_C>(sum, m, half, part > 0);
    }
    struct state_part<N> S;
    if (!for_C) part_fetch<N, parts>(&S, state16(a.states, p.chunk, p.h0) + col);
    for (int64_t i = 0; i < heads; i++) {
        const int at = (int)(i % ROWS_STAGES);
        const int64_t h = p.h0 + i;
        float own[N / 64][32];
        cp_wait<ROWS_STAGES - 2>();
        shared_fence();
        __syncthreads();
        if (!for_C && i > 0 && threadIdx.x == 0) {
            float total = 0.0f;
            for (int k = 0; k < ROWS_THREADS / WARP; k++) total += m->room[(i - 1) & 1][k];
            products[p.chunk * a.heads + h - 1] = total;
        }
        wide_rows_fetch<N, parts, for_C>(a, w.shift, p, col, i + ROWS_STAGES - 1, heads, m, whole);
        cp_commit();
        wgmma_fence();
#pragma unroll
        for (int j = 0; j < N / 64; j++)
#pragma unroll
            for (int k = 0; k < SSD_P / 16; k++)
                product<false, true>(own[j], panel_rows(m->head[at].rows, 64 * half, 16 * k),
                                     panel_cols(m->head[at].state[j], 16 * k), k > 0);
        wgmma_commit();
        wgmma_wait<0>();
#pragma unroll
        for (int j = 0; j < N / 64; j++) sums_ended(own[j]);
        add_own<N, for_C>(a, us, p, h, r, &m->steps[at], m, own, sum);
        if (!for_C) {
            const float total = part_product<N>(&S, m->head[at].state);
            if (i + 1 < heads) part_fetch<N, parts>(&S, state16(a.states, p.chunk, h + 1) + col);
            if (threadIdx.x % WARP == 0) m->room[i & 1][threadIdx.x / WARP] = total;
        }
    }
    __syncthreads();
    if (!for_C && threadIdx.x == 0) {
        float total = 0.0f;
        for (int k = 0; k < ROWS_THREADS / WARP; k++) total += m->room[(heads - 1) & 1][k];
        products[p.chunk * a.heads + p.h0 + heads - 1] = total;
    }
#pragma unroll
    for (int k = 0; k < 2 * N / 64; k++) {
        const int i = r + 8 * (k & 1);
        bf16_bits *to = row16(out, p.k.begin + i) + cols + 64 * (k / 2) + threadIdx.x % 4 * 2;
        if (i >= p.n) continue;
#pragma unroll
        for (int j = 0; j < 8; j++)
            *(uint32_t *)(to + 8 * j) = pack(sum[k / 2][4 * j + 2 * (k & 1)], sum[k / 2][4 * j + 2 * (k & 1) + 1]);
    }
}
#endif
