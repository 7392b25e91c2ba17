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

/* What a block owns, in shared memory, since registers are few: its chunk's rows (ssd_bf16.cuh), heads, the first of
 * which is h0; where its rows of dy or x begin, its columns of a state, of `pitch` in all, its time steps, u, <S, G>,
 * and dC or dB. */
struct wide_rows_place {
    const bf16_bits *rows, *state, *with;
    const float *cum, *dts;
    float *u, *products;
    bf16_bits *out;
    int n, n_enter, last, heads, h0, shift, pitch;
    bool whole;
};
template <bool for_C>
static __device__ struct wide_rows_place wide_rows_find(const struct ssd &a, const struct place &p, int col) {
    const struct tensor &rows = for_C ? a.dy : a.x, &states = for_C ? a.states : a.dstates;
    struct wide_rows_place o = {};
    o.rows = row16(rows, p.k.begin) + p.h0 * SSD_P;
    o.state = state16(states, p.chunk, p.h0) + col, o.with = state16(a.states, p.chunk, p.h0) + col;
    o.out = row16(for_C ? a.dC : a.dB, p.k.begin) + p.g * a.state + col;
    o.cum = row(a.cum, p.k.begin), o.dts = row(a.dts, p.k.begin);
    o.n = p.n, o.n_enter = p.n_enter, o.last = p.last, o.h0 = (int)p.h0;
    return o;
}

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
    const int at = i % ROWS_STAGES, n = o.n, pitch = o.pitch, of_dts = threadIdx.x >= WIDE_ROWS;
    const int t = threadIdx.x % WIDE_ROWS, step = i * SSD_P * pitch;
    const bf16_bits *rows = o.rows + i * SSD_P, *state = o.state + step, *with = o.with + step;
    const float *raw = (of_dts ? o.dts : o.cum) + ((o.h0 + i) >> o.shift);
    panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->head[at].rows, rows, (for_C ? a.dy : a.x).pitch, n, o.whole);
    for (int k = 0; k < N / 64; k++) {
        panel_fetch<SSD_P, ROWS_THREADS>(m->head[at].state[k], state + 64 * k, pitch, SSD_P, true);
        if (!for_C) panel_fetch<SSD_P, ROWS_THREADS>(m->head[at].with[k], with + 64 * k, pitch, SSD_P, true);
    }
    raw += (int64_t)(t < n ? t : n - 1) * (int)(of_dts ? a.dts : a.cum).pitch;
    cp_async4((of_dts ? m->steps[at].dts : m->steps[at].cum) + t, raw);
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

/* The same of all parts of K, of columns from `cols` on; the tiles are free afterwards. */
template <int N, bool for_C>
static __device__ void all_own(const struct ssd &a, const struct scratch &w, const struct place &p, int64_t cols,
                               bool whole, int half, wide_rows_shared<N, for_C> *m, float (&sum)[N / 64][32]) {
    const struct tensor &other = for_C ? a.B : a.C;
    for (int k = 0; k < N / 64; k++) {
        if (for_C)
            panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->C[k], row16(a.C, p.k.begin) + cols + 64 * k, a.C.pitch, p.n, whole);
        panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->own.other[k], row16(other, p.k.begin) + cols + 64 * k, other.pitch, p.n,
                                             whole);
    }
    for (int64_t part = 0; part < w.parts; part++) {
        for (int k = 0; k < 2; k++)
            panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->own.K[k], weights_at(a, w, part, p.chunk, p.g) + 64 * k, WIDE_ROWS,
                                                 WIDE_ROWS, true);
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
static __device__ float rows_factor(const struct wide_rows_place &p, const struct wide_steps *steps, int i) {
    if (for_C) return i < p.n_enter ? step_exp(steps->cum[i]) : 0.0f;
    return i >= p.last && i < p.n ? step_exp(steps->cum[WIDE_ROWS - 1] - steps->cum[i]) * steps->dts[i] : 0.0f;
}

/* u of a thread's two rows; A: its fragments of dy. */
template <int N>
static __device__ void rows_u(int i, int heads, int half, int r, const wide_rows_shared<N, true> *m,
                              const uint32_t (&A)[4][4], const float (&f)[2]) {
    const int at = i % ROWS_STAGES;
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
        for (int e = 0; e < 4; e++) {
            const float *own = Cs + 8 * k + e / 2 * 4 + e % 2 * 2;
            u[e % 2] = fmaf(low_half(A[k][e]), own[0], fmaf(high_half(A[k][e]), own[1], u[e % 2]));
        }
#pragma unroll
    for (int k = 0; k < 2; k++) {
        u[k] = quad_sum(u[k]);
        if (threadIdx.x % 4 == 0 && r + 8 * k < m->place.n) m->place.u[(r + 8 * k) * heads + i] = f[k] * u[k];
    }
}

/* sum of one head, on its way when this returns. */
template <int N, bool for_C>
static __device__ void rows_head(int i, int heads, int half, wide_rows_shared<N, for_C> *m, float (&sum)[N / 64][32]) {
    const struct wide_rows_place &o = m->place;
    const int at = i % ROWS_STAGES, m0 = warp_of() * 16, r = m0 + threadIdx.x % WARP / 4;
    uint32_t A[SSD_P / 16][4];
#pragma unroll
    for (int k = 0; k < SSD_P / 16; k++) a_rows<64>(A[k], m->head[at].rows, m0, 16 * k);
    const float f[2] = {rows_factor<for_C>(o, &m->steps[at], r), rows_factor<for_C>(o, &m->steps[at], r + 8)};
    if constexpr (for_C) rows_u<N>(i, heads, half, r, m, A, f);
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
template <int N> static __device__ void products_store(int i, const wide_rows_shared<N, false> *m) {
    float total = 0.0f;
    if (threadIdx.x > 0) return;
    for (int k = 0; k < ROWS_THREADS / WARP; k++) total += m->room[i & 1][k];
    m->place.products[i] = total;
}

/* dC or dB of a (chunk, group, part of the columns). */
template <int N, int parts, bool for_C>
static __device__ void rows_block(const struct ssd &a, const struct scratch &w, int item, bool whole,
                                  wide_rows_shared<N, for_C> *m) {
    const int part_at = item % parts, half = warpgroup_of(), heads = (int)(a.heads / a.groups);
    struct place p;
    if (!place_of(item / parts, a.range, a.pos, a.chunk, a.groups, heads, heads, &p)) return;
    if (threadIdx.x == 0) {
        struct wide_rows_place o = wide_rows_find<for_C>(a, p, N * part_at);
        o.heads = heads, o.shift = w.shift, o.pitch = N * parts, o.whole = whole;
        o.u = w.u + (part_at * a.pos.shape[0] + p.k.begin) * a.heads + p.h0;
        o.products = w.products + (part_at * w.n_chunks + p.chunk) * a.heads + p.h0;
        m->place = o;
    }
    float sum[N / 64][32];
    all_own<N, for_C>(a, w, p, p.g * (N * parts) + N * part_at, whole, half, m, sum);
    wide_rows_fetch<N, for_C>(a, 0, m);
    cp_commit();
    for (int i = 0; i < heads; i++) {
        cp_wait<0>();
        shared_fence();
        __syncthreads();
        if constexpr (!for_C)
            if (i > 0) products_store<N>(i - 1, m);
        wide_rows_fetch<N, for_C>(a, i + 1, m);
        cp_commit();
        rows_head<N, for_C>(i, (int)a.heads, half, m, sum);
    }
    __syncthreads();
    if constexpr (!for_C) products_store<N>(heads - 1, m);
    const int r = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
    const int pitch = (int)(for_C ? a.dC : a.dB).pitch;
#pragma unroll
    for (int k = 0; k < 2 * N / 64; k++) {
        const int i = r + 8 * (k & 1);
        bf16_bits *to = m->place.out + (int64_t)i * pitch + 64 * (k / 2) + threadIdx.x % 4 * 2;
        if (i >= m->place.n) continue;
#pragma unroll
        for (int j = 0; j < 8; j++)
            *(uint32_t *)(to + 8 * j) = pack(sum[k / 2][4 * j + 2 * (k & 1)], sum[k / 2][4 * j + 2 * (k & 1) + 1]);
    }
}

/* Blocks that make dC and dB of the same tokens lie side by side: the second to read states and K finds them in the L2.
 */
template <int N, int parts>
__global__ __launch_bounds__(ROWS_THREADS, 2) static void wide_rows(const struct ssd a, const struct scratch w,
                                                                    bool whole) {
    DYNAMIC_PANELS(tiles);
    const int item = blockIdx.x / 2;
    if (blockIdx.x % 2 == 0) rows_block<N, parts, true>(a, w, item, whole, (wide_rows_shared<N, true> *)tiles);
    else rows_block<N, parts, false>(a, w, item, whole, (wide_rows_shared<N, false> *)tiles);
}
#endif
