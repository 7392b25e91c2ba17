/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_WIDE_ROWS_CUH
#define BATON_KERNELS_SSD_SSD_WIDE_ROWS_CUH
/* ssd_wide_rows.cuh - backward_rows of ssd_bf16_bwd.cu by warpgroups, for chunks of 128 tokens, two blocks to a
 * processor.  A warpgroup has 64 rows and sums all heads where its products leave them:
 *
 *   dC = sum over heads of (e_t dy_t) S + K^T B,   u_t = e_t dy_t . (S C_t)       for_C
 *   dB = sum over heads of (w_s x_s) G + K C,      <S, G>                         otherwise
 *
 * A row's factor joins its fragment of dy or x in registers, rounded.  Of N 256 a block has a half of the columns, and
 * leaves its part of u and <S, G>. */
#include "kernels/ssd/ssd_wide.cuh"

enum { ROWS_STAGES = 2, ROWS_THREADS = 2 * GROUP };

/* What a block owns, in shared memory, since registers are few; col: the first of its columns of a state, `pitch` of
 * them in all. */
struct wide_rows_place {
    struct place p;
    int64_t heads;
    int shift, col, pitch;
    bool whole;
};

/* N columns of parts N.  rows: dy or x; state: S or G; with: S beside G. */
template <int N, bool for_C> struct wide_rows_shared {
    bf16_bits C[for_C ? N / 64 : 1][for_C ? WIDE_PANEL : 512];
    union {
        struct {
            bf16_bits rows[WIDE_PANEL], state[N / 64][PANEL], with[for_C ? 1 : N / 64][for_C ? 512 : PANEL];
        } head[ROWS_STAGES];
        struct {
            bf16_bits K[2][WIDE_PANEL], other[N / 64][WIDE_PANEL]; /* other: B for dC, C for dB */
        } own;
    };
    struct wide_steps steps[ROWS_STAGES];
    float room[2][ROWS_THREADS / WARP];
    struct wide_rows_place place;
};

template <int N, bool for_C>
static __device__ void wide_rows_fetch(const struct ssd &a, int i, wide_rows_shared<N, for_C> *m) {
    const struct wide_rows_place &o = m->place;
    if (i >= o.heads) return;
    const int at = i % ROWS_STAGES;
    const int64_t h = o.p.h0 + i;
    const struct tensor &rows = for_C ? a.dy : a.x, &states = for_C ? a.states : a.dstates;
    panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->head[at].rows, row16(rows, o.p.k.begin) + h * SSD_P, rows.pitch, o.p.n,
                                         o.whole);
    for (int k = 0; k < N / 64; k++) {
        const int64_t col = o.col + 64 * k;
        panel_fetch<SSD_P, ROWS_THREADS>(m->head[at].state[k], state16(states, o.p.chunk, h) + col, o.pitch, SSD_P,
                                         true);
        if (!for_C)
            panel_fetch<SSD_P, ROWS_THREADS>(m->head[at].with[k], state16(a.states, o.p.chunk, h) + col, o.pitch, SSD_P,
                                             true);
    }
    steps_fetch(a, o.p, h >> o.shift, &m->steps[at]);
}

/* sum = K^T B (dC), or K C (dB): what comes of the chunk's own tokens.  K is [s][t]; of its four blocks of 64 x 64 that
 * of s >= 64 > t is left out. */
template <int N, bool for_C>
static __device__ void own_products(float (&sum)[N / 64][32], const wide_rows_shared<N, for_C> *m, int half, bool add) {
    const auto products = [&](int k0, bool more) {
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const struct operand b = cols_at(panels_here(m->own.other[0]), WIDE_ROWS, 64 * k0 + 16 * k, 0);
            const struct operand K =
                for_C ? panel_cols(m->own.K[half], 64 * k0 + 16 * k) : panel_rows(m->own.K[k0], 64 * half, 16 * k);
            wgmma_shared<N, for_C, true>((float(*)[4])sum, K, b, more || k > 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_settled<N / 8>((float(*)[4])sum);
    };
    products(for_C ? 0 : 1, add);
    if (half == (for_C ? 1 : 0)) products(for_C ? 1 : 0, true);
}

/* The same of all parts of K; the tiles are free afterwards. */
template <int N, bool for_C>
static __device__ void all_own(const struct ssd &a, const struct scratch &w, const struct wide_rows_place &o, int half,
                               wide_rows_shared<N, for_C> *m, float (&sum)[N / 64][32]) {
    const struct tensor &other = for_C ? a.B : a.C;
    const int64_t cols = o.p.g * o.pitch + o.col;
    for (int k = 0; k < N / 64; k++) {
        if (for_C)
            panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->C[k], row16(a.C, o.p.k.begin) + cols + 64 * k, a.C.pitch, o.p.n,
                                                 o.whole);
        panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->own.other[k], row16(other, o.p.k.begin) + cols + 64 * k, other.pitch,
                                             o.p.n, o.whole);
    }
    for (int64_t part = 0; part < w.parts; part++) {
        for (int k = 0; k < 2; k++)
            panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->own.K[k], weights_at(a, w, part, o.p.chunk, o.p.g) + 64 * k,
                                                 WIDE_ROWS, WIDE_ROWS, true);
        cp_commit();
        cp_wait<0>();
        shared_fence();
        __syncthreads();
        own_products<N, for_C>(sum, m, half, part > 0);
        __syncthreads();
    }
}

/* This thread's part of <S, G>, then its warp's. */
template <int N> static __device__ float part_product(const bf16_bits (*S)[PANEL], const bf16_bits (*G)[PANEL]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SSD_P * N / 8 / ROWS_THREADS; i++) {
        const int e = (threadIdx.x + i * ROWS_THREADS) * 8;
        const uint4 g = *(const uint4 *)(G[0] + e), x = *(const uint4 *)(S[0] + e);
        const uint32_t sw[4] = {x.x, x.y, x.z, x.w}, gw[4] = {g.x, g.y, g.z, g.w};
#pragma unroll
        for (int k = 0; k < 4; k++)
            sum = fmaf(low_half(sw[k]), low_half(gw[k]), fmaf(high_half(sw[k]), high_half(gw[k]), sum));
    }
#pragma unroll
    for (int half = WARP / 2; half > 0; half /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
    return sum;
}

/* The factor of row i of a head. */
template <bool for_C>
static __device__ float rows_factor(const struct place &p, const struct wide_steps *steps, int i) {
    if (for_C) return i < p.n_enter ? step_exp(steps->cum[i]) : 0.0f;
    return i >= p.last && i < p.n ? step_exp(steps->cum[WIDE_ROWS - 1] - steps->cum[i]) * steps->dts[i] : 0.0f;
}

/* u of a thread's two rows; A: its fragments of dy. */
template <int N>
static __device__ void rows_u(const struct ssd &a, float *us, const struct place &p, int64_t h, int at, int half, int r,
                              const wide_rows_shared<N, true> *m, const uint32_t (&A)[4][4], const float (&f)[2]) {
    float Cs[32], u[2] = {};
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        product<false, false>(Cs, panel_rows(m->C[k / 4], 64 * half, k % 4 * 16),
                              panel_rows(m->head[at].state[k / 4], 0, k % 4 * 16), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    sums_ended(Cs);
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *own = Cs + 8 * k + i / 2 * 4 + i % 2 * 2;
            u[i % 2] = fmaf(low_half(A[k][i]), own[0], fmaf(high_half(A[k][i]), own[1], u[i % 2]));
        }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        u[i] = quad_sum(u[i]);
        if (threadIdx.x % 4 == 0 && r + 8 * i < p.n) us[(p.k.begin + r + 8 * i) * a.heads + h] = f[i] * u[i];
    }
}

/* sum of one head, on its way when this returns. */
template <int N, bool for_C>
static __device__ void rows_head(const struct ssd &a, float *us, int i, int half, wide_rows_shared<N, for_C> *m,
                                 float (&sum)[N / 64][32]) {
    const struct wide_rows_place &o = m->place;
    const int at = i % ROWS_STAGES, m0 = warp_of() * 16, r = m0 + threadIdx.x % WARP / 4;
    uint32_t A[SSD_P / 16][4];
#pragma unroll
    for (int k = 0; k < SSD_P / 16; k++) a_rows<64>(A[k], m->head[at].rows, m0, 16 * k);
    const float f[2] = {rows_factor<for_C>(o.p, &m->steps[at], r), rows_factor<for_C>(o.p, &m->steps[at], r + 8)};
    if constexpr (for_C) rows_u<N>(a, us, o.p, o.p.h0 + i, at, half, r, m, A, f);
#pragma unroll
    for (int k = 0; k < SSD_P / 16; k++)
#pragma unroll
        for (int e = 0; e < 4; e++) A[k][e] = pack(f[e % 2] * low_half(A[k][e]), f[e % 2] * high_half(A[k][e]));
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < SSD_P / 16; k++)
        wgmma_registers<N, true>((float(*)[4])sum, A[k], panel_cols(m->head[at].state[0], 16 * k));
    wgmma_commit();
    if constexpr (!for_C) {
        const float total = part_product<N>(m->head[at].with, m->head[at].state);
        if (threadIdx.x % WARP == 0) m->room[i & 1][threadIdx.x / WARP] = total;
    }
    wgmma_wait<0>();
    wgmma_settled<N / 8>((float(*)[4])sum);
}

/* <S, G> of a head, by one thread, after a barrier. */
template <int N> static __device__ void products_store(float *products, int i, const wide_rows_shared<N, false> *m) {
    float total = 0.0f;
    if (threadIdx.x > 0) return;
    for (int k = 0; k < ROWS_THREADS / WARP; k++) total += m->room[i & 1][k];
    products[i] = total;
}

template <int N, int parts, bool for_C>
__global__ __launch_bounds__(ROWS_THREADS, 2) static void wide_rows(const struct ssd a, const struct scratch w,
                                                                    bool whole) {
    DYNAMIC_PANELS(tiles);
    wide_rows_shared<N, for_C> *m = (wide_rows_shared<N, for_C> *)tiles;
    const struct tensor &out = for_C ? a.dC : a.dB;
    const int part_at = blockIdx.x % parts, half = warpgroup_of();
    struct wide_rows_place found;
    found.heads = a.heads / a.groups, found.shift = w.shift, found.col = N * part_at, found.pitch = parts * N;
    found.whole = whole;
    if (!place_of(blockIdx.x / parts, a.range, a.pos, a.chunk, a.groups, found.heads, found.heads, &found.p)) return;
    if (threadIdx.x == 0) m->place = found;
    __syncthreads();
    const struct wide_rows_place &o = m->place;
    float *us = w.u + part_at * a.pos.shape[0] * a.heads;
    float sum[N / 64][32];
    all_own<N, for_C>(a, w, o, half, m, sum);
    wide_rows_fetch<N, for_C>(a, 0, m);
    cp_commit();
    float *products = w.products + (part_at * w.n_chunks + o.p.chunk) * a.heads + o.p.h0;
    for (int i = 0; i < o.heads; i++) {
        cp_wait<0>();
        shared_fence();
        __syncthreads();
        if constexpr (!for_C)
            if (i > 0) products_store<N>(products, i - 1, m);
        wide_rows_fetch<N, for_C>(a, i + 1, m);
        cp_commit();
        rows_head<N, for_C>(a, us, i, half, m, sum);
    }
    __syncthreads();
    if constexpr (!for_C) products_store<N>(products, (int)o.heads - 1, m);
    const int64_t cols = o.p.g * o.pitch + o.col;
    const int r = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
#pragma unroll
    for (int k = 0; k < 2 * N / 64; k++) {
        const int i = r + 8 * (k & 1);
        bf16_bits *to = row16(out, o.p.k.begin + i) + cols + 64 * (k / 2) + threadIdx.x % 4 * 2;
        if (i >= o.p.n) continue;
#pragma unroll
        for (int j = 0; j < 8; j++)
            *(uint32_t *)(to + 8 * j) = pack(sum[k / 2][4 * j + 2 * (k & 1)], sum[k / 2][4 * j + 2 * (k & 1) + 1]);
    }
}
#endif
