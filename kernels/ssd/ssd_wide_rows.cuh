/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_WIDE_ROWS_CUH
#define BATON_KERNELS_SSD_SSD_WIDE_ROWS_CUH
/* ssd_wide_rows.cuh - backward_rows of ssd_bf16_bwd.cu by warpgroups, for chunks of 128 tokens.  A block makes dC and
 * dB of a chunk and a group, so that x, dy, S and G come once; a warpgroup has 64 rows of one of them and sums all
 * heads:
 *
 *   0 and 1   dC = sum over heads of e_t (dy_t S) + K^T B,   u_t = e_t (dy_t S) . C_t
 *   2 and 3   dB = sum over heads of w_s (x_s G) + K C,      <S, G>
 *
 * A row's factor joins products, so that it rounds nothing: 64 columns at a time, since registers are few.  Of N 256 a
 * block has a half of the columns, and leaves its part of u and <S, G>.
 *
 * Time steps come straight to registers, a head ahead, 4 bytes of a row whose sector holds those of eight heads: what
 * tiles leave of the shared memory keeps them meanwhile.  A third stage of tiles, which leaves nothing, is slower. */
#include "kernels/ssd/ssd_wide.cuh"

enum { ROWS_THREADS = 4 * GROUP };

/* What a block owns, in shared memory, since registers are few: its chunk's rows (ssd_bf16.cuh), heads, the first of
 * which is h0; where its rows of x and dy begin, its columns of states, its time steps, u, <S, G>,
 * dB and dC. */
struct wide_rows_place {
    const bf16_bits *x, *dy, *S, *G;
    const float *cum, *dts;
    float *u, *products;
    bf16_bits *dB, *dC;
    int n, n_enter, last, heads, h0, shift;
    bool whole;
};

/* N columns of parts N.  own: at the place of the second head's tiles, at first. */
template <int N> struct wide_rows_shared {
    bf16_bits C[N / 64][WIDE_PANEL];
    union {
        struct {
            bf16_bits x[WIDE_PANEL], dy[WIDE_PANEL], S[N / 64][PANEL], G[N / 64][PANEL];
        } head[2];
        struct {
            bf16_bits first[2 * WIDE_PANEL + N / 32 * PANEL], K[2][WIDE_PANEL], B[N / 64][WIDE_PANEL];
        } own;
    };
    float room[2][2 * GROUP / WARP];
    struct wide_rows_place place;
};

/* Of place_begin: n_enter and last are not known yet. */
static __device__ struct wide_rows_place wide_rows_find(const struct ssd &a, const struct scratch &w,
                                                        const struct place &p, int part, int col) {
    struct wide_rows_place o = {};
    o.x = row16(a.x, p.k.begin) + p.h0 * SSD_P, o.dy = row16(a.dy, p.k.begin) + p.h0 * SSD_P;
    o.S = state16(a.states, p.chunk, p.h0) + col, o.G = state16(a.dstates, p.chunk, p.h0) + col;
    o.dB = row16(a.dB, p.k.begin) + p.g * a.state + col, o.dC = row16(a.dC, p.k.begin) + p.g * a.state + col;
    o.cum = row(a.cum, p.k.begin), o.dts = row(a.dts, p.k.begin);
    o.u = w.u + part * w.n_chunks * a.heads * WIDE_ROWS + rows_at(a, p.chunk, p.h0);
    o.products = w.products + (part * w.n_chunks + p.chunk) * a.heads + p.h0;
    o.n = p.n;
    o.heads = (int)(a.heads / a.groups), o.h0 = (int)p.h0, o.shift = w.shift;
    return o;
}

template <int N, int parts>
static __device__ void wide_rows_fetch(const struct ssd &a, const struct wide_rows_place &o, int i,
                                       wide_rows_shared<N> *m) {
    if (i < o.heads) {
        auto *to = &m->head[i & 1];
        const int step = i * SSD_P * (N * parts);
        const int n = o.n;
        const bool whole = o.whole;
        rows_fetch<WIDE_ROWS, ROWS_THREADS>(to->x, o.x, i * SSD_P, (int)a.x.pitch, n, whole);
        rows_fetch<WIDE_ROWS, ROWS_THREADS>(to->dy, o.dy, i * SSD_P, (int)a.dy.pitch, n, whole);
        for (int k = 0; k < N / 64; k++) {
            rows_fetch<SSD_P, ROWS_THREADS>(to->S[k], o.S, step + 64 * k, N * parts, SSD_P, true);
            rows_fetch<SSD_P, ROWS_THREADS>(to->G[k], o.G, step + 64 * k, N * parts, SSD_P, true);
        }
    }
    cp_commit();
}

/* sum = K^T B (dC), or K C (dB): what comes of the chunk's own tokens.  K is [s][t]; of its four blocks of 64 x 64 that
 * of s >= 64 > t is left out. */
template <int N, bool for_C>
static __device__ void own_products(float (&sum)[N / 64][32], const wide_rows_shared<N> *m, int half, bool add) {
    const panels other = panels_here(for_C ? m->own.B[0] : m->C[0]);
    const auto products = [&](int k0, bool more) {
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const struct operand K =
                for_C ? panel_cols(m->own.K[half], 64 * k0 + 16 * k) : panel_rows(m->own.K[k0], 64 * half, 16 * k);
            wgmma_shared<N, for_C, true>((float(*)[4])sum, K, cols_at(other, WIDE_ROWS, 64 * k0 + 16 * k, 0),
                                         more || k > 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_settled<N / 8>((float(*)[4])sum);
    };
    products(for_C ? 0 : 1, add);
    if (half == (for_C ? 1 : 0)) products(for_C ? 1 : 0, true);
}

/* sum += what rounding left of K on the diagonal, by mma.sync: a warp has the rows of one strip. */
template <int N, bool for_C>
static __device__ void own_rest(float (&sum)[N / 64][32], const wide_rows_shared<N> *m, int strip) {
    const bf16_bits(*other)[WIDE_PANEL] = for_C ? m->own.B : m->C;
    uint32_t A[4], b[4];
    if (for_C) a_cols<64>(A, m->own.K[0], rest_col(strip), rest_row(strip));
    else a_rows<64>(A, m->own.K[0], rest_row(strip), rest_col(strip));
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
        b_cols<64>(b, other[j / 4], j % 4 * 16, 16 * strip);
        mma(sum[j / 4] + j % 4 * 8, A, b[0], b[1]);
        mma(sum[j / 4] + j % 4 * 8 + 4, A, b[2], b[3]);
    }
}

/* The tiles of what comes of the chunk's own tokens, of columns from `cols` on. */
template <int N>
static __device__ void own_fetch(const struct ssd &a, const struct place &p, int64_t cols, bool whole,
                                 wide_rows_shared<N> *m) {
    for (int k = 0; k < N / 64; k++) {
        panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->C[k], row16(a.C, p.k.begin) + cols + 64 * k, a.C.pitch, p.n, whole);
        panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->own.B[k], row16(a.B, p.k.begin) + cols + 64 * k, a.B.pitch, p.n, whole);
    }
}
template <int N> static __device__ void weights_fetch(const bf16_bits *K, wide_rows_shared<N> *m) {
    for (int k = 0; k < 2; k++)
        panel_fetch<WIDE_ROWS, ROWS_THREADS>(m->own.K[k], K + 64 * k, WIDE_ROWS, WIDE_ROWS, true);
    cp_commit();
}

/* This thread's part of <S, G>, over two warpgroups, then its warp's. */
template <int N> static __device__ float part_product(const bf16_bits (*S)[PANEL], const bf16_bits (*G)[PANEL]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SSD_P * N / 8 / (2 * GROUP); i++) {
        const int e = (threadIdx.x % (2 * GROUP) + i * 2 * GROUP) * 8;
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
/* <S, G> of a head, by one thread of those that made its parts, after a barrier. */
template <int N> static __device__ void products_store(int i, const wide_rows_shared<N> *m) {
    float total = 0.0f;
    if (threadIdx.x != 2 * GROUP) return;
    for (int k = 0; k < 2 * GROUP / WARP; k++) total += m->room[i & 1][k];
    m->place.products[i] = total;
}

/* u of a thread's two rows, before factors, of 64 columns: (dy S) . C. */
static __device__ void add_u(const bf16_bits *C, int strip, const float (&own)[32], float (&u)[2]) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t c[4];
        a_rows<64>(c, C, 16 * strip, 16 * k);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float *z = own + 8 * k + e / 2 * 4 + e % 2 * 2;
            u[e % 2] = fmaf(low_half(c[e]), z[0], fmaf(high_half(c[e]), z[1], u[e % 2]));
        }
    }
}

/* What factors of a thread's two rows are made of, on its way; end: cum of the chunk's last row. */
struct rows_raw {
    float cum[2], dts[2], end;
};
template <bool for_C>
static __device__ struct rows_raw raw_take(const struct ssd &a, const struct wide_rows_place &o, int i, int r) {
    struct rows_raw s = {};
    if (i >= o.heads) return s;
    const int h = (o.h0 + i) >> o.shift, cum = (int)a.cum.pitch, dts = (int)a.dts.pitch;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int t = r + 8 * k < o.n ? r + 8 * k : o.n - 1;
        s.cum[k] = o.cum[(uint32_t)(t * cum + h)];
        if (!for_C) s.dts[k] = o.dts[(uint32_t)(t * dts + h)];
    }
    if (!for_C) s.end = o.cum[(uint32_t)((o.n - 1) * cum + h)];
    return s;
}
/* The factor of the k-th of them, row i. */
template <bool for_C>
static __device__ float rows_factor(const struct wide_rows_place &o, const struct rows_raw &s, int i, int k) {
    if (for_C) return i < o.n_enter ? step_exp(s.cum[k]) : 0.0f;
    return i >= o.last && i < o.n ? step_exp(s.end - s.cum[k]) * s.dts[k] : 0.0f;
}

/* One head joins sum. */
template <int N, bool for_C>
static __device__ void rows_head(int i, int half, int strip, const float (&f)[2], wide_rows_shared<N> *m,
                                 float (&sum)[N / 64][32]) {
    const auto *tiles = &m->head[i & 1];
    const int r = 16 * strip + threadIdx.x % WARP / 4;
    float u[2] = {};
#pragma unroll
    for (int part = 0; part < N / 64; part++) {
        float own[32];
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < SSD_P / 16; k++)
            product<false, true>(own, panel_rows(for_C ? tiles->dy : tiles->x, 64 * half, 16 * k),
                                 panel_cols(for_C ? tiles->S[part] : tiles->G[part], 16 * k), k > 0);
        wgmma_commit();
        if constexpr (!for_C)
            if (part == 0) {
                const float total = part_product<N>(tiles->S, tiles->G);
                if (threadIdx.x % WARP == 0) m->room[i & 1][strip] = total;
            }
        wgmma_wait<0>();
        sums_ended(own);
#pragma unroll
        for (int e = 0; e < 32; e++) sum[part][e] = fmaf(f[e / 2 % 2], own[e], sum[part][e]);
        if constexpr (for_C) add_u(m->C[part], strip, own, u);
        sums_ended(sum[part]); /* before own is needed again */
    }
    if constexpr (for_C) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            u[k] = quad_sum(u[k]);
            if (threadIdx.x % 4 == 0 && r + 8 * k < m->place.n) m->place.u[i * WIDE_ROWS + r + 8 * k] = f[k] * u[k];
        }
    }
}

/* dC or dB of a warpgroup's 64 rows; the first head's tiles are on their way. */
template <int N, int parts, bool for_C>
static __device__ void rows_heads(const struct ssd &a, int half, wide_rows_shared<N> *m, float (&sum)[N / 64][32]) {
    const struct wide_rows_place &o = m->place;
    const int strip = 4 * half + warp_of() % 4, r = 16 * strip + threadIdx.x % WARP / 4;
    struct rows_raw next = raw_take<for_C>(a, o, 0, r);
    for (int i = 0; i < o.heads; i++) {
        const float f[2] = {rows_factor<for_C>(o, next, r, 0), rows_factor<for_C>(o, next, r + 8, 1)};
        cp_wait<0>();
        shared_fence();
        barrier_of(0, ROWS_THREADS);
        if constexpr (!for_C)
            if (i > 0) products_store<N>(i - 1, m);
        wide_rows_fetch<N, parts>(a, m->place, i + 1, m);
        next = raw_take<for_C>(a, o, i + 1, r);
        rows_head<N, for_C>(i, half, strip, f, m, sum);
    }
    barrier_of(0, ROWS_THREADS);
    if constexpr (!for_C) products_store<N>(o.heads - 1, m);
    const int pitch = (int)(for_C ? a.dC : a.dB).pitch;
#pragma unroll
    for (int k = 0; k < 2 * N / 64; k++) {
        const int i = r + 8 * (k & 1);
        bf16_bits *to = (for_C ? o.dC : o.dB) + (int64_t)i * pitch + 64 * (k / 2) + threadIdx.x % 4 * 2;
        if (i >= o.n) continue;
#pragma unroll
        for (int j = 0; j < 8; j++)
            *(uint32_t *)(to + 8 * j) = pack(sum[k / 2][4 * j + 2 * (k & 1)], sum[k / 2][4 * j + 2 * (k & 1) + 1]);
    }
}

template <int N, int parts>
__global__ __launch_bounds__(ROWS_THREADS, 1) static void wide_rows(const struct ssd a, const struct scratch w,
                                                                    bool whole) {
    DYNAMIC_PANELS(tiles);
    wide_rows_shared<N> *m = (wide_rows_shared<N> *)tiles;
    const int part_at = blockIdx.x % parts, group = warpgroup_of(), half = group % 2;
    const int64_t heads = a.heads / a.groups;
    struct place p;
    if (!place_begin(blockIdx.x / parts, a.range, a.chunk, a.groups, heads, heads, &p)) return;
    struct wide_rows_place o = wide_rows_find(a, w, p, part_at, N * part_at);
    o.whole = whole;
    float sum[N / 64][32];
    own_fetch<N>(a, p, p.g * (N * parts) + N * part_at, whole, m);
    for (int64_t part = 0; part < w.parts; part++) {
        weights_fetch<N>(weights_at(a, w, part, p.chunk, p.g), m);
        if (part == 0) {
            wide_rows_fetch<N, parts>(a, o, 0, m);
            place_end(a.pos, &p);
            o.n_enter = p.n_enter, o.last = p.last;
            if (threadIdx.x == 0) m->place = o;
        }
        if (part == 0) cp_wait<1>();
        else cp_wait<0>();
        shared_fence();
        __syncthreads();
        if (group < 2) own_products<N, true>(sum, m, half, part > 0), own_rest<N, true>(sum, m, warp_of() % 8);
        else own_products<N, false>(sum, m, half, part > 0), own_rest<N, false>(sum, m, warp_of() % 8);
        __syncthreads();
    }
    if (group < 2) rows_heads<N, parts, true>(a, half, m, sum);
    else rows_heads<N, parts, false>(a, half, m, sum);
}
#endif
