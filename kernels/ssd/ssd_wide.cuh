/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_WIDE_CUH
#define BATON_KERNELS_SSD_SSD_WIDE_CUH
/* ssd_wide.cuh - backward_heads of ssd_bf16_bwd.cu by warpgroups, for chunks of 128 tokens.  Of the four blocks of 64 x
 * 64 of K, L and C B^T a block of threads owns the three that are not zero, a warpgroup each:
 *
 *   warpgroup   rows s    columns t
 *   0           0-63      0-63        and dx of its rows
 *   1           0-63      64-127      and da of all rows; its M = L C B^T goes to warpgroup 0 through shared memory.
 *                                     It alone copies the next head's tiles: the others have more to do
 *   2           64-127    64-127      and dx of its rows
 *
 * A warp has a strip of 16 rows s, a thread rows s and s + 8 of it.  Warps k of all warpgroups run on one scheduler,
 * and those of 0 and 2 have the less to do the later their strip: so warpgroup 2 has its strips from the last up, as
 * tiles of x and B have rows 64-127.
 *
 * What sums over p comes for nothing: x_s . dy_s is on the diagonal of x dy^T, and with q = M dy + w G B
 *   x_s . q_s = sum over t of M[s, t] (x_s . dy_t) + w_s x_s . (G B_s),   v_s = dts_s times its second term */
#include "kernels/ssd/ssd_wide_sums.cuh"

struct alignas(16) wide_steps {
    float cum[WIDE_ROWS], dts[WIDE_ROWS], D;
};
/* on: of every warp, decays from `middle` to its columns; xq: of rows 0-63, the part of warpgroup 1.  w: where there is
 * room for two, warpgroup 1 sums one head's while the others make the next one's. */
template <int N> struct wide_shared {
    enum { SUMS = N > 128 ? 1 : 2 };
    bf16_bits B[N / 64][WIDE_PANEL];
    struct {
        bf16_bits x[WIDE_PANEL], dy[WIDE_PANEL], G[N / 64][PANEL];
    } head[2]; /* the second holds C at first */
    bf16_bits M[PANEL];
    struct wide_sums w[SUMS];
    struct wide_steps steps[2];
    float on[WIDE_THREADS / WARP][64], xq[64];
    int from[WIDE_ROWS];
    struct wide_owns owns;
};

/* Of place_begin: last and through are not known yet. */
static __device__ struct wide_owns wide_find_block(const struct ssd &a, const struct scratch &sc, const struct place &p,
                                                   int64_t heads) {
    const int64_t part = (unsigned)(p.h0 - p.g * (a.heads / a.groups)) / (unsigned)heads;
    const int64_t first = rows_at(a, p.chunk, p.h0);
    struct wide_owns o = {};
    o.x = row16(a.x, p.k.begin) + p.h0 * SSD_P, o.dy = row16(a.dy, p.k.begin) + p.h0 * SSD_P;
    o.G = state16(a.dstates, p.chunk, p.h0), o.dx = row16(a.dx, p.k.begin) + p.h0 * SSD_P;
    o.cum = row(a.cum, p.k.begin), o.dts = row(a.dts, p.k.begin), o.D = (const float *)a.D.data;
    o.da = sc.da + first, o.v = sc.v + first, o.xq = sc.xq + first, o.xdy = sc.xdy + first;
    o.K = weights_at(a, sc, part, p.chunk, p.g);
    o.n = p.n, o.h0 = (int)p.h0, o.shift = sc.shift;
    return o;
}

static __device__ void steps_fetch(const struct ssd &a, const struct wide_owns &o, int head, struct wide_steps *to) {
    const int t = threadIdx.x % GROUP, h = (o.h0 + head) >> o.shift, r = t < o.n ? t : o.n - 1;
    cp_async4(to->cum + t, o.cum + (uint32_t)(r * (int)a.cum.pitch + h));
    cp_async4(to->dts + t, o.dts + (uint32_t)(r * (int)a.dts.pitch + h));
    if (t == 0) cp_async4(&to->D, o.D + h);
}
/* A head's tiles, by a warpgroup. */
template <int N>
static __device__ void wide_fetch(const struct ssd &a, const struct wide_owns &o, int head, wide_shared<N> *m) {
    const int at = head & 1;
    const bool whole = o.whole;
    rows_fetch<WIDE_ROWS, GROUP, true>(m->head[at].x, o.x, head * SSD_P, (int)a.x.pitch, o.n, whole);
    rows_fetch<WIDE_ROWS, GROUP>(m->head[at].dy, o.dy, head * SSD_P, (int)a.dy.pitch, o.n, whole);
    for (int k = 0; k < N / 64; k++)
        rows_fetch<SSD_P, GROUP>(m->head[at].G[k], o.G, head * (SSD_P * N) + 64 * k, N, SSD_P, true);
    steps_fetch(a, o, head, &m->steps[at]);
}

/* A choice that the compiler knows. */
template <bool x> struct choice {
    enum { yes = x };
};

/* What a thread's decays are made of, read before products are on their way, and two columns' cum. */
struct wide_raw {
    float middle, cum[2], dts[2];
    float2 of_t;
};
static __device__ struct wide_raw wide_read(const struct wide_place &i, const struct wide_steps *steps) {
    struct wide_raw r;
    r.middle = steps->cum[i.group == 1 ? 63 : 16 * i.strip + 15];
    r.of_t = *(const float2 *)(steps->cum + 64 * i.half_t + threadIdx.x % WARP * 2);
#pragma unroll
    for (int half = 0; half < 2; half++)
        r.cum[half] = steps->cum[i.s + 8 * half], r.dts[half] = steps->dts[i.s + 8 * half];
    return r;
}
static __device__ struct wide_two wide_begin(const struct wide_raw &r, float *on) {
    struct wide_two two = {};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        two.cum[half] = r.cum[half];
        two.dts[half] = r.dts[half];
        two.f[half] = step_exp(r.middle - r.cum[half]);
    }
    *(float2 *)(on + threadIdx.x % WARP * 2) =
        make_float2(step_exp(r.of_t.x - r.middle), step_exp(r.of_t.y - r.middle));
    __syncwarp();
    return two;
}

/* L of 16 x 16, 8 numbers of a thread, the first at row s, column t.  plain: all t see all s, and the decay goes over
 * `middle`.  Nothing is loaded on condition: one wait for all. */
template <bool plain, bool diagonal>
static __device__ void wide_decays(float (&L)[8], int s, int t, const float *cum, const int *from, const float *on,
                                   const struct wide_two &two) {
    float2 c[2];
    uint2 first[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        c[j] = *(const float2 *)((plain ? on : cum + t) + 8 * j);
        if (!plain) first[j] = *(const uint2 *)(from + t + 8 * j);
    }
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const int half = e / 2 % 2, se = s + 8 * half, te = t + e / 4 * 8 + e % 2;
        const float of_t = e % 2 ? c[e / 4].y : c[e / 4].x;
        if (plain) {
            L[e] = of_t * two.f[half];
            continue;
        }
        const bool sees = se >= (int)(e % 2 ? first[e / 4].y : first[e / 4].x), before = !diagonal || se <= te;
        const float decay = step_exp(of_t - two.cum[half]);
        L[e] = sees & before ? decay : 0.0f;
    }
}

/* 16 x 16 of x dy^T and B C^T: K joins the sum over heads, M = L C B^T, rounded, and col, W summed over the rows, or,
 * on the diagonal, W itself. */
template <bool diagonal>
static __device__ void wide_block(const float (&L)[8], const float *xdy, const float *bc, float *K, uint32_t *M,
                                  float *col, float *W, struct wide_two *two) {
    float w[8], m[8];
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const int half = e / 2 % 2;
        const float y = two->dts[half] * xdy[e];
        m[e] = L[e] * bc[e];
        w[e] = y * m[e];
        K[e] = fmaf(L[e], y, K[e]);
        float *sum = diagonal ? two->own : two->later;
        sum[half] = fmaf(xdy[e], m[e], sum[half]);
        if (!diagonal) col[e / 4 * 2 + e % 2] += w[e];
    }
#pragma unroll
    for (int k = 0; k < 4; k++) M[k] = pack(m[2 * k], m[2 * k + 1]);
#pragma unroll
    for (int e = 0; e < 8 && diagonal; e++) W[e / 2 % 2 * 8 * 17 + e / 4 * 8 + e % 2] = w[e];
}

/* v of a thread's two rows, which x . q takes in; q becomes w q. */
static __device__ void add_later(const struct wide_owns &o, int head, const struct wide_place &i,
                                 const struct wide_steps *steps, const bf16_bits *x, float (&q)[32],
                                 struct wide_two *two) {
    const int piece = lane_piece();
    float out[2], v[2] = {};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int s = i.s + 8 * half;
        out[half] = s >= o.last && s < o.n ? step_exp(steps->cum[WIDE_ROWS - 1] - two->cum[half]) : 0.0f;
    }
    x += (i.at - threadIdx.x % WARP / 4) * 64;
#pragma unroll
    for (int k = 0; k < SSD_P / 16; k++) {
        uint32_t xs[4];
        ldmatrix(xs, x + (piece ^ 16 * k));
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float *own = q + 8 * k + e / 2 * 4 + e % 2 * 2;
            v[e % 2] = fmaf(low_half(xs[e]), own[0], fmaf(high_half(xs[e]), own[1], v[e % 2]));
            own[0] *= out[e % 2], own[1] *= out[e % 2];
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int s = i.s + 8 * half;
        const float own = out[half] * quad_sum(v[half]);
        two->own[half] += own;
        if (i.c == 0 && s < o.n) o.v[head * WIDE_ROWS + s] = two->dts[half] * own;
    }
}

/* dx = dts q + D dy in whole rows, which go through x's own tile. */
static __device__ void wide_dx(const struct ssd &a, const struct wide_owns &o, int head, const struct wide_place &i,
                               float D, const float (&dts)[2], const bf16_bits *dy, const float (&q)[32],
                               bf16_bits *tile_at) {
    const int lane = threadIdx.x % WARP, piece = lane_piece();
    dy += 16 * i.strip * 64;
    tile_at += (i.at - lane / 4) * 64;
#pragma unroll
    for (int k = 0; k < SSD_P / 16; k++) {
        uint32_t dys[4];
        ldmatrix(dys, dy + (piece ^ 16 * k));
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float *own = q + 8 * k + e / 2 * 4 + e % 2 * 2, d = dts[e % 2];
            dys[e] = pack(fmaf(d, own[0], D * low_half(dys[e])), fmaf(d, own[1], D * high_half(dys[e])));
        }
        stmatrix(dys, tile_at + (piece ^ 16 * k));
    }
    __syncwarp();
    const int s = i.s - lane / 4 + lane / 8, pitch = (int)a.dx.pitch;
    bf16_bits *to = o.dx + (int64_t)s * pitch + head * SSD_P + lane % 8 * 8;
    const bool whole = o.whole_dx;
    rows_leave(to, pitch, tile_at, lane / 8 * 64 + (lane % 8 ^ lane / 8) * 8, o.n - s, whole);
}

/* x dy^T of a warpgroup's block, on its way. */
template <int N>
static __device__ void product_xdy(const struct wide_place &i, const wide_shared<N> *m, int at, float (&xdy)[32]) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < SSD_P / 16; k++)
        product<false, false>(xdy, panel_rows(m->head[at].x, 64 * i.half_s, 16 * k),
                              panel_rows(m->head[at].dy, 64 * i.half_t, 16 * k), k > 0);
    wgmma_commit();
}

/* Fast decays leave most of K near its diagonal, and its rounding is most of the error of dC and dB: what it leaves of
 * a strip's block of 16 x 16 there is kept too, in the block of 64 x 64 that is zero, from this row and column on. */
static __device__ int rest_row(int strip) { return 64 + strip / 4 * 16; }
static __device__ int rest_col(int strip) { return strip % 4 * 16; }

/* K of a thread's two rows, summed over the block's heads. */
static __device__ void store_weights(const struct wide_owns &o, const struct wide_place &i, const float (&K)[32]) {
    bf16_bits *to = o.K + i.s * WIDE_ROWS + 64 * i.half_t + i.c;
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float *own = K + 4 * j + 2 * half;
            const uint32_t rounded = pack(own[0], own[1]);
            *(uint32_t *)(to + 8 * j + half * 8 * WIDE_ROWS) = rounded;
            if (i.half_s != i.half_t || 4 * i.half_t + j / 2 != i.strip) continue;
            const int row = rest_row(i.strip) + i.s % 16 + 8 * half, col = rest_col(i.strip) + j % 2 * 8 + i.c;
            *(uint32_t *)(o.K + row * WIDE_ROWS + col) = pack(own[0] - low_half(rounded), own[1] - high_half(rounded));
        }
}

/* Warpgroup 1. */
template <int N>
static __device__ void across_heads(const struct ssd &a, int heads, const struct wide_place &i, wide_shared<N> *m,
                                    const float (&bc)[32]) {
    constexpr int SUMS = wide_shared<N>::SUMS;
    float *on = m->on[warp_of()], K[32] = {};
    for (int head = 0; head < heads; head++) {
        const int at = head & 1;
        const struct wide_steps *steps = &m->steps[at];
        struct wide_sums *w = &m->w[head % SUMS];
        float xdy[32], col[16] = {};
        uint32_t M[4][4];
        cp_wait<0>();
        shared_fence();
        barrier_of(0, WIDE_THREADS); /* tiles are there, and nobody reads those of the head before */
        const struct wide_raw raw = wide_read(i, steps);
        product_xdy<N>(i, m, at, xdy);
        if (head + 1 < heads) wide_fetch<N>(a, m->owns, head + 1, m);
        cp_commit();
        struct wide_two two = wide_begin(raw, on);
        wgmma_wait<0>();
        sums_ended(xdy);
        const auto blocks = [&](auto plain) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float L[8];
                wide_decays<decltype(plain)::yes, false>(L, i.s, 64 + 16 * k + i.c, steps->cum, m->from,
                                                         on + 16 * k + i.c, two);
                wide_block<false>(L, xdy + 8 * k, bc + 8 * k, K + 8 * k, M[k], col + 4 * k, NULL, &two);
            }
        };
        if (m->owns.through) blocks(choice<true>());
        else blocks(choice<false>());
        const int piece = lane_piece();
#pragma unroll
        for (int j = 0; j < 4; j++) stmatrix(M[j], m->M + 16 * i.strip * 64 + (piece ^ 16 * j));
        wide_sum(i, col, &two, w);
        if (i.c == 0) m->xq[i.s] = two.later[0], m->xq[i.s + 8] = two.later[1];
        shared_fence();
        barrier_arrive(3, 2 * GROUP); /* M and xq are there, and the products of x have ended */
        if (SUMS > 1 && head > 0) store_da(m->owns, head - 1, &m->w[(head - 1) % SUMS]);
        if (SUMS > 1 && head + 1 < heads) continue;
        barrier_of(1, WIDE_THREADS);
        store_da(m->owns, head, w);
    }
    store_weights(m->owns, i, K);
}

/* x_s . dy_s of a warp's 16 rows, from the block on the diagonal. */
static __device__ void store_xdy(const struct wide_owns &o, int head, const struct wide_place &i, const float *xdy) {
    const int lane = threadIdx.x % WARP;
    const bool odd = lane / 4 % 2;
    const float x[2] = {odd ? xdy[1] : xdy[0], odd ? xdy[7] : xdy[6]};
    if (lane / 8 != lane % 4) return;
#pragma unroll
    for (int half = 0; half < 2; half++)
        if (i.s + 8 * half < o.n) o.xdy[head * WIDE_ROWS + i.s + 8 * half] = x[half];
}

/* The four blocks of a strip's 16 rows, from the diagonal on. */
static __device__ void strip_blocks(const struct wide_owns &o, int head, const struct wide_place &i,
                                    const struct wide_steps *steps, const int *from, const float *on,
                                    const float (&xdy)[32], const float (&bc)[32], float (&K)[32], uint32_t (&M)[4][4],
                                    float (&col)[16], struct wide_sums *w, struct wide_two *two) {
    const bool through = o.through;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int t = 64 * i.half_t + 16 * k + i.c, block = 4 * i.half_t + k;
        const auto run = [&](auto plain, auto diagonal) {
            float L[8], *W = &w->diagonal[i.strip][threadIdx.x % WARP / 4][i.c];
            wide_decays<decltype(plain)::yes, decltype(diagonal)::yes>(L, i.s, t, steps->cum, from, on + 16 * k + i.c,
                                                                       *two);
            wide_block<decltype(diagonal)::yes>(L, xdy + 8 * k, bc + 8 * k, K + 8 * k, M[k], col + 4 * k, W, two);
        };
        if (block < i.strip) M[k][0] = M[k][1] = M[k][2] = M[k][3] = 0;
        else if (block == i.strip) run(choice<false>(), choice<true>()), store_xdy(o, head, i, xdy + 8 * k);
        else if (through) run(choice<true>(), choice<false>());
        else run(choice<false>(), choice<false>());
    }
}

/* Warpgroups 0 and 2. */
template <int N>
static __device__ void diagonal_heads(const struct ssd &a, int heads, const struct wide_place &i, wide_shared<N> *m,
                                      const float (&bc)[32]) {
    constexpr int SUMS = wide_shared<N>::SUMS;
    float *on = m->on[warp_of()], K[32] = {};
    for (int head = 0; head < heads; head++) {
        const int at = head & 1;
        const struct wide_steps *steps = &m->steps[at];
        struct wide_sums *w = &m->w[head % SUMS];
        float xdy[32], q[32], col[16] = {};
        uint32_t M[4][4];
        barrier_of(0, WIDE_THREADS);
        const struct wide_raw raw = wide_read(i, steps);
        product_xdy<N>(i, m, at, xdy);
#pragma unroll
        for (int k = 0; k < N / 16; k++)
            product<false, false>(q, panel_rows(m->B[k / 4], 64 * i.half_s, k % 4 * 16),
                                  panel_rows(m->head[at].G[k / 4], 0, k % 4 * 16), k > 0);
        wgmma_commit();
        struct wide_two two = wide_begin(raw, on);
        wgmma_wait<1>();
        sums_ended(xdy);
        strip_blocks(m->owns, head, i, steps, m->from, on, xdy, bc, K, M, col, w, &two);
        wide_sum(i, col, &two, w);
        wgmma_wait<0>();
        sums_ended(q);
        add_later(m->owns, head, i, steps, m->head[at].x, q, &two);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) product<true>(q, M[k], panel_cols(m->head[at].dy, 64 * i.half_t + 16 * k), true);
        wgmma_commit();
        if (i.group == 0) {
            barrier_of(3, 2 * GROUP);
#pragma unroll
            for (int k = 0; k < 4; k++)
                product<false, true>(q, panel_rows(m->M, 0, 16 * k), panel_cols(m->head[at].dy, 64 + 16 * k), true);
            wgmma_commit();
        }
        const bool last = SUMS == 1 || head + 1 == heads;
        if (ALL_MEET && SUMS > 1 && head > 0) barrier_of(2, WIDE_THREADS);
        if (last) barrier_arrive(1, WIDE_THREADS); /* the sums of da are there */
        if (ALL_MEET && last) barrier_of(2, WIDE_THREADS);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int s = i.s + 8 * half;
            const float xq = two.later[half] + two.own[half] + (i.group == 0 ? m->xq[s % 64] : 0.0f);
            if (i.c == 0 && s < m->owns.n) m->owns.xq[head * WIDE_ROWS + s] = xq;
        }
        wgmma_wait<0>();
        sums_ended(q);
        wide_dx(a, m->owns, head, i, steps->D, two.dts, m->head[at].dy, q, m->head[at].x);
    }
    store_weights(m->owns, i, K);
}

template <int N>
__global__ __launch_bounds__(WIDE_THREADS, 1) static void wide_heads(const struct ssd a, const struct scratch sc,
                                                                     int64_t heads, bool whole, bool whole_dx) {
    DYNAMIC_PANELS(tiles);
    wide_shared<N> *m = (wide_shared<N> *)tiles;
    bf16_bits(*C)[WIDE_PANEL] = (bf16_bits(*)[WIDE_PANEL]) & m->head[1];
    constexpr int LESS = 152, MORE = 176; /* registers: 168 each at first */
    static_assert(LESS + 2 * MORE <= 3 * 168, "what one warpgroup gives up");
    static_assert(sizeof m->head[1] >= N / 64 * sizeof *C, "C fits into it");
    const int64_t per_group = a.heads / a.groups;
    const struct wide_place i = wide_find();
    struct place p;
    if (!place_begin(blockIdx.x, a.range, a.chunk, a.groups, per_group, heads, &p)) return;
    struct wide_owns owns = wide_find_block(a, sc, p, heads);
    owns.whole = whole, owns.whole_dx = whole_dx;
    for (int k = 0; k < N / 64; k++) {
        const int64_t col = p.g * N + 64 * k;
        if (i.group == 0)
            panel_fetch<WIDE_ROWS, GROUP, true>(m->B[k], row16(a.B, p.k.begin) + col, a.B.pitch, p.n, whole);
        if (i.group == 1) panel_fetch<WIDE_ROWS, GROUP>(C[k], row16(a.C, p.k.begin) + col, a.C.pitch, p.n, whole);
    }
    if (i.group == 2) wide_fetch<N>(a, owns, 0, m);
    cp_commit();
    place_end(a.pos, &p);
    owns.last = p.last, owns.through = p.k.through;
    if (threadIdx.x == 0) m->owns = owns;
    first_seen(a.pos, p, WIDE_ROWS, m->from);
    cp_wait<0>();
    shared_fence();
    __syncthreads();
    float bc[32];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        product<false, false>(bc, panel_rows(m->B[k / 4], 64 * i.half_s, k % 4 * 16),
                              panel_rows(C[k / 4], 64 * i.half_t, k % 4 * 16), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    sums_ended(bc);
    if (i.group == 1) {
        registers_down<LESS>();
        across_heads<N>(a, (int)heads, i, m, bc);
    } else {
        registers_up<MORE>();
        diagonal_heads<N>(a, (int)heads, i, m, bc);
    }
}
#endif
