/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_WIDE_CUH
#define BATON_KERNELS_SSD_SSD_WIDE_CUH
/* ssd_wide.cuh - backward_heads of ssd_bf16_bwd.cu by warpgroups, for chunks of 128 tokens.  Of the four blocks of 64 x
 * 64 of K, L and C B^T a block of threads owns the three that are not zero, a warpgroup each:
 *
 *   warpgroup   rows s    columns t   and of its rows
 *   0           0-63      0-63        dx
 *   1           0-63      64-127      w G B; da of all rows
 *   2           64-127    64-127      w G B and dx
 *
 * A warp has 16 rows s, a thread rows s and s + 8 of them.  v comes for nothing: v_s = dts_s x_s . (w_s G B_s). */
#include "kernels/ssd/ssd_tiles.cuh"

enum { WIDE_ROWS = 128, WIDE_GROUPS = 3, WIDE_THREADS = WIDE_GROUPS * GROUP, WIDE_PANEL = WIDE_ROWS * 64 };

/* ssd_bf16_bwd.cu: the double sum of da; later: over the block's own half of t, and over the other. */
struct wide_sums {
    float earlier[WIDE_ROWS / 16][WIDE_ROWS], diagonal[WIDE_ROWS / 16][16][17], later[2][WIDE_ROWS], across[4][8];
};
struct wide_steps {
    float cum[WIDE_ROWS], dts[WIDE_ROWS];
};
template <int N> struct wide_shared {
    bf16_bits C[N / 64][WIDE_PANEL], B[N / 64][WIDE_PANEL];
    struct {
        bf16_bits x[WIDE_PANEL], dy[WIDE_PANEL], G[N / 64][PANEL];
    } head[2];
    bf16_bits out[WIDE_PANEL];
    float part[32][GROUP]; /* of q, from warpgroup 1 to 0 */
    struct wide_sums w;
    struct wide_steps steps[2];
    int from[WIDE_ROWS];
};

/* Where a thread is. */
struct wide_place {
    int group, half_s, half_t, strip, s,
        c; /* strip: of 16 rows, of eight; s: its first row; c: its first column of 8 */
};
static inline __device__ struct wide_place wide_find() {
    struct wide_place i;
    const int lane = threadIdx.x % WARP;
    i.group = warpgroup_of();
    i.half_s = i.group == 2, i.half_t = i.group > 0;
    i.strip = 4 * i.half_s + warp_of() % 4;
    i.s = 16 * i.strip + lane / 4;
    i.c = lane % 4 * 2;
    return i;
}

static __device__ void steps_fetch(const struct ssd &a, const struct place &p, int64_t h, struct wide_steps *to) {
    const int t = threadIdx.x % WIDE_ROWS;
    const int64_t r = p.k.begin + (t < p.n ? t : p.n - 1);
    if (threadIdx.x < WIDE_ROWS) cp_async4(&to->cum[t], &row(a.cum, r)[h]);
    else if (threadIdx.x < 2 * WIDE_ROWS) cp_async4(&to->dts[t], &row(a.dts, r)[h]);
}
template <int N>
static __device__ void wide_fetch(const struct ssd &a, const struct place &p, int64_t h, int at, wide_shared<N> *m,
                                  bool whole) {
    panel_fetch<WIDE_ROWS, WIDE_THREADS>(m->head[at].x, row16(a.x, p.k.begin) + h * SSD_P, a.x.pitch, p.n, whole);
    panel_fetch<WIDE_ROWS, WIDE_THREADS>(m->head[at].dy, row16(a.dy, p.k.begin) + h * SSD_P, a.dy.pitch, p.n, whole);
    for (int k = 0; k < N / 64; k++)
        panel_fetch<SSD_P, WIDE_THREADS>(m->head[at].G[k], state16(a.dstates, p.chunk, h) + 64 * k, N, SSD_P, true);
    steps_fetch(a, p, h, &m->steps[at]);
}

/* Sums over lanes that differ in bits half, half / 2 .. last: of 2 k values a lane keeps k, its upper ones where its
 * bit is set, and sends the others; one value is summed whole.  Values, not places, are chosen: no local memory. */
template <int k, int half, int last> static inline __device__ void scatter_sum(float *x) {
    if constexpr (half >= last) {
        const bool upper = threadIdx.x & half;
        if constexpr (k == 0) x[0] += __shfl_xor_sync(0xffffffffu, x[0], half);
#pragma unroll
        for (int i = 0; i < k; i++) {
            const float low = x[i], high = x[i + k];
            x[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, half);
        }
        scatter_sum<k / 2, half / 2, last>(x);
    }
}

/* From x dy^T, 16 rows s of 64 columns t: K joins the sum over heads, W its sums; M = L C B^T, rounded. */
static __device__ void wide_weights(const struct wide_place &i, const struct wide_steps *steps, const int *from,
                                    bool through, const float (&xdy)[32], const float (&bc)[32], float (&K)[32],
                                    uint32_t (&M)[4][4], struct wide_sums *w) {
    const float *cum = steps->cum, dts[2] = {steps->dts[i.s], steps->dts[i.s + 8]};
    const float cum_s[2] = {cum[i.s], cum[i.s + 8]}, middle = cum[i.group == 1 ? 63 : 16 * i.strip + 15];
    const float f[2] = {step_exp(middle - cum_s[0]), step_exp(middle - cum_s[1])};
    float col[16], later[2] = {0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const int block = 4 * i.half_t + j / 2, t = 64 * i.half_t + 8 * j + i.c;
        col[2 * j] = col[2 * j + 1] = 0.0f;
        M[j / 2][j % 2 * 2] = M[j / 2][j % 2 * 2 + 1] = 0;
        if (block < i.strip) continue;
        const bool plain = through && block > i.strip; /* all rows t see all s: the decay goes over `middle` */
        float W[4], m[4], on[2] = {0.0f, 0.0f};
        if (plain) on[0] = step_exp(cum[t] - middle), on[1] = step_exp(cum[t + 1] - middle);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int s = i.s + e / 2 * 8, te = t + e % 2;
            float L = on[e % 2] * f[e / 2];
            if (!plain) L = s <= te && s >= from[te] ? step_exp(cum[te] - cum_s[e / 2]) : 0.0f;
            const float own = L * dts[e / 2] * xdy[4 * j + e];
            K[4 * j + e] += own;
            W[e] = own * bc[4 * j + e];
            m[e] = L * bc[4 * j + e];
        }
        M[j / 2][j % 2 * 2] = pack(m[0], m[1]);
        M[j / 2][j % 2 * 2 + 1] = pack(m[2], m[3]);
        if (block > i.strip) {
            col[2 * j] = W[0] + W[2], col[2 * j + 1] = W[1] + W[3];
            later[0] += W[0] + W[1], later[1] += W[2] + W[3];
            continue;
        }
        float(*to)[17] = &w->diagonal[i.strip][i.s % 16];
        to[0][t % 16] = W[0], to[0][t % 16 + 1] = W[1];
        to[8][t % 16] = W[2], to[8][t % 16 + 1] = W[3];
    }
    scatter_sum<8, 16, 4>(col); /* over a warp's rows: two columns to a lane */
    *(float2 *)(w->earlier[i.strip] + 64 * i.half_t + threadIdx.x % WARP / 4 * 8 + i.c) = make_float2(col[0], col[1]);
    later[0] = quad_sum(later[0]), later[1] = quad_sum(later[1]);
    if (i.c > 0) return;
    w->later[i.half_t - i.half_s][i.s] = later[0];
    w->later[i.half_t - i.half_s][i.s + 8] = later[1];
}

/* The double sum of da inside the 16 x 16 blocks on the diagonal: by a warp, two of them, a lane for a column t, then
 * for a row j: the sum over s < j of W[s][t], over t >= j. */
static __device__ float diagonal_sums(const struct wide_sums *w, int warp) {
    const int lane = threadIdx.x % WARP, t = lane % 16;
    const float(*W)[17] = w->diagonal[2 * warp + lane / 16];
    float sum = 0.0f, x[16];
#pragma unroll
    for (int j = 0; j < 16; j++) {
        x[j] = t >= j ? sum : 0.0f;
        sum += W[j][t];
    }
    scatter_sum<8, 8, 1>(x);
    return x[0];
}

/* What blocks off the diagonal add, by a warpgroup, thread t for column t, then for row t: `earlier` summed over the
 * strips before a block, of columns in later blocks (across), and of its own from row j on; `later` of rows before j.
 */
static __device__ float block_sums(struct wide_sums *w) {
    const int t = threadIdx.x % GROUP, lane = threadIdx.x % WARP, l = t % 16;
    float sum = 0.0f, own = 0.0f, x[8];
#pragma unroll
    for (int block = 0; block < 8; block++) {
        x[block] = block < t / 16 ? sum : 0.0f;
        if (block == t / 16) own = sum;
        if (block < t / 16) sum += w->earlier[block][t];
    }
    scatter_sum<4, 16, 1>(x);
    if (lane % 4 == 0) w->across[t / WARP][lane / 4] = x[0];
    float later = w->later[0][t] + (t < 64 ? w->later[1][t] : 0.0f);
#pragma unroll
    for (int by = 1; by < 16; by *= 2) {
        const float o = __shfl_down_sync(0xffffffffu, own, by), a = __shfl_up_sync(0xffffffffu, later, by);
        if (l + by < 16) own += o;
        if (l >= by) later += a;
    }
    barrier_of(2, GROUP);
    const float before = __shfl_up_sync(0xffffffffu, later, 1);
    sum = own + (l > 0 ? before : 0.0f);
    for (int k = 0; k < GROUP / WARP; k++) sum += w->across[k][t / 16];
    return sum;
}

static __device__ void store_da(const struct ssd &a, const struct scratch &sc, const struct place &p, int64_t h,
                                struct wide_sums *w) {
    const int t = threadIdx.x % GROUP;
    const float da = diagonal_sums(w, t / WARP) + block_sums(w);
    if (t < p.n) sc.da[(p.k.begin + t) * a.heads + h] = da;
}

/* q += w G B, and v, of a thread's two rows. */
static __device__ void add_later(const struct ssd &a, const struct scratch &sc, const struct place &p, int64_t h,
                                 const struct wide_place &i, const struct wide_steps *steps, const bf16_bits *x,
                                 const float (&gb)[32], float (&q)[32]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int s = i.s + 8 * half;
        const float out = s >= p.last && s < p.n ? step_exp(steps->cum[WIDE_ROWS - 1] - steps->cum[s]) : 0.0f;
        float v = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t xs = tile_pair<64>(x, s, 8 * j + i.c);
            const float q0 = out * gb[4 * j + 2 * half], q1 = out * gb[4 * j + 2 * half + 1];
            v = fmaf(low_half(xs), q0, fmaf(high_half(xs), q1, v));
            q[4 * j + 2 * half] += q0, q[4 * j + 2 * half + 1] += q1;
        }
        v = quad_sum(v);
        if (i.c == 0 && s < p.n) sc.v[(p.k.begin + s) * a.heads + h] = steps->dts[s] * v;
    }
}

/* dx = dts q + D dy in whole rows, x . q and x . dy of a warp's 16 rows. */
static __device__ void wide_dx(const struct ssd &a, const struct scratch &sc, const struct place &p, int64_t h,
                               const struct wide_place &i, const float *dts, const bf16_bits *x, const bf16_bits *dy,
                               const float (&q)[32], bf16_bits *out, bool whole) {
    const int lane = threadIdx.x % WARP;
    const float D = ((const float *)a.D.data)[h];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int s = i.s + 8 * half;
        float xq = 0.0f, xdy = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t xs = tile_pair<64>(x, s, 8 * j + i.c), dys = tile_pair<64>(dy, s, 8 * j + i.c);
            const float q0 = q[4 * j + 2 * half], q1 = q[4 * j + 2 * half + 1];
            xq = fmaf(low_half(xs), q0, fmaf(high_half(xs), q1, xq));
            xdy = fmaf(low_half(xs), low_half(dys), fmaf(high_half(xs), high_half(dys), xdy));
            *(uint32_t *)(tile_piece<64>(out, s, 8 * j) + i.c) =
                pack(dts[s] * q0 + D * low_half(dys), dts[s] * q1 + D * high_half(dys));
        }
        xq = quad_sum(xq), xdy = quad_sum(xdy);
        if (i.c || s >= p.n) continue;
        sc.xq[(p.k.begin + s) * a.heads + h] = xq;
        sc.xdy[(p.k.begin + s) * a.heads + h] = xdy;
    }
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int s = 16 * i.strip + 4 * k + lane / 8, col = lane % 8 * 8;
        const bf16_bits *piece = tile_piece<64>(out, s, col);
        bf16_bits *to = row16(a.dx, p.k.begin + s) + h * SSD_P + col;
        if (s >= p.n) continue;
        if (whole) *(uint4 *)to = *(const uint4 *)piece;
        else
            for (int e = 0; e < 8; e++) to[e] = piece[e];
    }
}

template <int N>
__global__ __launch_bounds__(WIDE_THREADS) static void wide_heads(const struct ssd a, const struct scratch sc,
                                                                  int64_t heads, bool whole, bool whole_dx) {
    DYNAMIC_PANELS(tiles);
    wide_shared<N> *m = (wide_shared<N> *)tiles;
    const int64_t per_group = a.heads / a.groups;
    const struct wide_place i = wide_find();
    struct place p;
    if (!place_find(a.range, a.pos, a.chunk, a.groups, per_group, heads, &p)) return;
    for (int k = 0; k < N / 64; k++) {
        panel_fetch<WIDE_ROWS, WIDE_THREADS>(m->C[k], row16(a.C, p.k.begin) + p.g * N + 64 * k, a.C.pitch, p.n, whole);
        panel_fetch<WIDE_ROWS, WIDE_THREADS>(m->B[k], row16(a.B, p.k.begin) + p.g * N + 64 * k, a.B.pitch, p.n, whole);
    }
    first_seen(a.pos, p, WIDE_ROWS, m->from);
    wide_fetch<N>(a, p, p.h0, 0, m, whole);
    cp_commit();
    cp_wait<0>();
    shared_fence();
    __syncthreads();
    float bc[32], K[32] = {};
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        product<false, false>(bc, panel_rows(m->B[k / 4], 64 * i.half_s, k % 4 * 16),
                              panel_rows(m->C[k / 4], 64 * i.half_t, k % 4 * 16), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    sums_ended(bc);
    for (int64_t head = 0; head < heads; head++) {
        const int at = (int)(head & 1);
        const int64_t h = p.h0 + head;
        const struct wide_steps *steps = &m->steps[at];
        float xdy[32], q[32], gb[32];
        uint32_t M[4][4];
        cp_wait<0>();
        shared_fence();
        __syncthreads();
        if (head + 1 < heads) wide_fetch<N>(a, p, h + 1, 1 - at, m, whole);
        cp_commit();
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < SSD_P / 16; k++)
            product<false, false>(xdy, panel_rows(m->head[at].x, 64 * i.half_s, 16 * k),
                                  panel_rows(m->head[at].dy, 64 * i.half_t, 16 * k), k > 0);
        wgmma_commit();
        wgmma_wait<0>();
        sums_ended(xdy);
        wide_weights(i, steps, m->from, p.k.through, xdy, bc, K, M, &m->w);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) product<true>(q, M[k], panel_cols(m->head[at].dy, 64 * i.half_t + 16 * k), k > 0);
        if (i.group > 0) {
#pragma unroll
            for (int k = 0; k < N / 16; k++)
                product<false, false>(gb, panel_rows(m->B[k / 4], 64 * i.half_s, k % 4 * 16),
                                      panel_rows(m->head[at].G[k / 4], 0, k % 4 * 16), k > 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        sums_ended(q);
        if (i.group > 0) {
            sums_ended(gb);
            add_later(a, sc, p, h, i, steps, m->head[at].x, gb, q);
        }
        float *part = &m->part[0][threadIdx.x % GROUP];
        if (i.group == 1)
            for (int e = 0; e < 32; e++) part[e * GROUP] = q[e];
        __syncthreads();
        if (i.group == 1) {
            store_da(a, sc, p, h, &m->w);
            continue;
        }
        if (i.group == 0)
            for (int e = 0; e < 32; e++) q[e] += part[e * GROUP];
        wide_dx(a, sc, p, h, i, steps->dts, m->head[at].x, m->head[at].dy, q, m->out, whole_dx);
    }
    bf16_bits *to =
        weights_at(a, sc, (p.h0 - p.g * per_group) / heads, p.chunk, p.g) + i.s * WIDE_ROWS + 64 * i.half_t + i.c;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        *(uint32_t *)(to + 8 * j) = pack(K[4 * j], K[4 * j + 1]);
        *(uint32_t *)(to + 8 * WIDE_ROWS + 8 * j) = pack(K[4 * j + 2], K[4 * j + 3]);
    }
}
#endif
