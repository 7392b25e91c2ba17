/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_OUTPUTS_CUH
#define BATON_KERNELS_SSD_SSD_OUTPUTS_CUH
/* ssd_outputs.cuh - the outputs of ssd.h from the states that enter chunks, by warpgroups.  Rows t, s of a chunk of Q:
 *
 *   M[t, s] = exp(cum_t - cum_s) (C_t . B_s) dts_s for s <= t,   y_t = exp(cum_t) S C_t + sum_s M[t, s] x_s + D x_t
 *
 * A block owns a chunk and some heads of a group, two heads at a time: of each a warpgroup has 64 rows t and waits for
 * nobody but the head's other one.  C B^T is made once: of the 64 columns on the diagonal it stays in registers, of
 * those before in shared memory.  A head's x and S come while the one before is made.  N 256 in chunks of 128: one head
 * at a time. */
#include "kernels/ssd/ssd_tiles.cuh"

/* What a block owns; in shared memory, since registers are few. */
struct outputs_place {
    struct place p;
    int64_t heads;
    int shift;
    bool whole, whole_y;
};
template <int N, int Q> struct outputs_shared {
    enum { GROUPS = Q / 64, EACH = GROUPS * GROUP, AT_ONCE = N * Q > 128 * 128 ? 1 : 2, BLOCK = AT_ONCE * EACH };
    bf16_bits C[N / 64][Q * 64];
    struct {
        struct {
            bf16_bits x[Q * 64], S[N / 64][PANEL];
        } tiles[2]; /* those of the last head hold B at first, from the second on */
        bf16_bits y[Q * 64];
    } head[AT_ONCE];
    struct outputs_steps {
        float cum[Q], dts[Q];
    } steps[AT_ONCE][2];
    float reach[AT_ONCE * GROUPS][Q];     /* ssd_tiles.cuh; each warpgroup has its own */
    float4 across[Q > 64 ? 8 : 1][GROUP]; /* C B^T of rows 64-127, columns 0-63: what each thread holds of it */
    int from[Q];
    struct outputs_place place;
};
/* Which of the heads at once a warpgroup has. */
template <int N, int Q> static inline __device__ int outputs_own() {
    return warpgroup_of() / outputs_shared<N, Q>::GROUPS;
}

template <int N, int Q>
static __device__ void outputs_fetch(const struct ssd &a, int i, int at, outputs_shared<N, Q> *m) {
    constexpr int threads = outputs_shared<N, Q>::EACH;
    const struct outputs_place &o = m->place;
    const struct place &p = o.p;
    if (i >= o.heads) return;
    const int own = outputs_own<N, Q>();
    const int64_t h = p.h0 + i;
    auto *to = &m->head[own].tiles[at];
    auto *steps = &m->steps[own][at];
    panel_fetch<Q, threads>(to->x, row16(a.x, p.k.begin) + h * SSD_P, a.x.pitch, p.n, o.whole);
    for (int k = 0; k < N / 64; k++)
        panel_fetch<SSD_P, threads>(to->S[k], state16(a.states, p.chunk, h) + 64 * k, N, SSD_P, true);
    const int t = threadIdx.x % Q;
    const int64_t r = p.k.begin + (t < p.n ? t : p.n - 1);
    if (threadIdx.x % threads < Q) cp_async4(&steps->cum[t], &row(a.cum, r)[h >> o.shift]);
    else cp_async4(&steps->dts[t], &row(a.dts, r)[h >> o.shift]);
}

/* M of 16 x 16 at column s; of a thread's numbers the first is at row t, c columns on.  plain: all rows see all
 * columns, left of the diagonal: an exponential a row.  Nothing is loaded on condition: one wait for all. */
template <bool plain, typename steps_of>
static __device__ void outputs_block(uint32_t (&M)[4], const float *cb, const steps_of *steps, const float *reach,
                                     const int *from, const float (&cum)[2], int t, int s) {
    const int c = threadIdx.x % 4 * 2, before = t - c; /* columns s and on compare with it: no register for each */
    float2 d[2], cum_s[2];
    float f[2];
    int first[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        d[i] = *(const float2 *)((plain ? reach : steps->dts) + c + s + 8 * i);
        if (plain) f[i] = step_exp(cum[i] - steps->cum[s + 15]);
        else cum_s[i] = *(const float2 *)(steps->cum + c + s + 8 * i), first[i] = from[t + 8 * i] - c;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int half = i % 2, k = i / 2, col = s + 8 * k;
        float w[2] = {d[k].x, d[k].y};
        if (plain) {
            w[0] *= f[half], w[1] *= f[half];
        } else {
            w[0] *= step_exp(cum[half] - cum_s[k].x), w[1] *= step_exp(cum[half] - cum_s[k].y);
            w[0] = (col - 8 * half <= before) & (col >= first[half]) ? w[0] : 0.0f;
            w[1] = (col + 1 - 8 * half <= before) & (col + 1 >= first[half]) ? w[1] : 0.0f;
        }
        M[i] = pack(cb[4 * k + 2 * half] * w[0], cb[4 * k + 2 * half + 1] * w[1]);
    }
}

/* M of a warp's 16 rows and 64 columns from s0 on: zero above the diagonal.  own: of the four blocks, that on it. */
template <typename steps_of, typename products_of>
static __device__ void outputs_weights(uint32_t (&M)[4][4], const steps_of *steps, const float *reach, const int *from,
                                       int t, int s0, int own, int seen, products_of products) {
    const float cum[2] = {steps->cum[t], steps->cum[t + 8]};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float cb[8];
        if (k > own) {
            M[k][0] = M[k][1] = M[k][2] = M[k][3] = 0;
            continue;
        }
        products(cb, k);
        if (k < own && seen <= s0 + 16 * k) outputs_block<true>(M[k], cb, steps, reach, from, cum, t, s0 + 16 * k);
        else outputs_block<false>(M[k], cb, steps, reach, from, cum, t, s0 + 16 * k);
    }
}
/* y += M x over 64 rows s from s0 on, on its way. */
static __device__ void outputs_add(float (&y)[32], const uint32_t (&M)[4][4], const bf16_bits *x, int s0) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) product<true>(y, M[k], panel_cols(x, s0 + 16 * k), true);
    wgmma_commit();
}

/* y + D x of a warp's 16 rows from r0 on, through shared memory into whole rows. */
static __device__ void outputs_store(const struct ssd &a, const struct outputs_place &o, int64_t h, int r0,
                                     const float (&y)[32], const bf16_bits *x, bf16_bits *room) {
    const int lane = threadIdx.x % WARP;
    const float D = ((const float *)a.D.data)[h >> o.shift];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int at = panel_pair(r0 + lane / 4, i / 2) + i % 2 * 512;
        const uint32_t xs = *(const uint32_t *)(x + at);
        const float *own = &y[4 * (i / 2) + 2 * (i % 2)];
        *(uint32_t *)(room + at) = pack(fmaf(D, low_half(xs), own[0]), fmaf(D, high_half(xs), own[1]));
    }
    __syncwarp();
    const int r = r0 + lane / 8, n = o.p.n - r, piece = (r * 64 + lane % 8 * 8) ^ lane / 8 * 8;
    bf16_bits *to = row16(a.y, o.p.k.begin + r) + h * SSD_P + lane % 8 * 8;
    const int64_t pitch = a.y.pitch;
    const bool whole = o.whole_y;
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
        const bf16_bits *from = room + i * 64 + (piece ^ i % 8 * 8);
        if (i >= n) continue;
        if (whole) *(uint4 *)(to + i * pitch) = *(const uint4 *)from;
        else
            for (int e = 0; e < 8; e++) to[i * pitch + e] = from[e];
    }
}

/* One head of rows 64 half and on. */
template <int N, int Q, int half>
static __device__ void outputs_head(const struct ssd &a, int i, int at, int seen, const float (&cb)[32],
                                    outputs_shared<N, Q> *m) {
    const int group = warpgroup_of(), own = outputs_own<N, Q>(), warp = warp_of() % 4, r0 = 64 * half + 16 * warp;
    const int t0 = threadIdx.x % GROUP, t = r0 + threadIdx.x % WARP / 4;
    const auto *tiles = &m->head[own].tiles[at];
    const auto *steps = &m->steps[own][at];
    float y[32], *reach = m->reach[group];
    uint32_t M[half + 1][4][4];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        product<false, false>(y, panel_rows(m->C[k / 4], 64 * half, k % 4 * 16),
                              panel_rows(tiles->S[k / 4], 0, k % 4 * 16), k > 0);
    wgmma_commit();
    if (t0 < 64 * (half + 1))
        reach[t0] = t0 < m->place.p.n ? step_exp(steps->cum[t0 | 15] - steps->cum[t0]) * steps->dts[t0] : 0.0f;
    barrier_of(4 + group, GROUP);
    const auto across = [&](float(&to)[8], int k) {
        *(float4 *)to = m->across[2 * k][t0], *(float4 *)(to + 4) = m->across[2 * k + 1][t0];
    };
    const auto diagonal = [&](float(&to)[8], int k) {
#pragma unroll
        for (int i = 0; i < 8; i++) to[i] = cb[8 * k + i];
    };
    if (half) outputs_weights(M[0], steps, reach, m->from, t, 0, 4, seen, across);
    else outputs_weights(M[0], steps, reach, m->from, t, 0, warp, seen, diagonal);
    wgmma_wait<0>();
    sums_ended(y);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float in = t + 8 * i < m->place.p.n_enter ? step_exp(steps->cum[t + 8 * i]) : 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) y[4 * j + 2 * i] *= in, y[4 * j + 2 * i + 1] *= in;
    }
    outputs_add(y, M[0], tiles->x, 0);
    if (half) {
        outputs_weights(M[half], steps, reach, m->from, t, 64, warp, seen, diagonal);
        outputs_add(y, M[half], tiles->x, 64);
    }
    wgmma_wait<0>();
    sums_ended(y);
    outputs_store(a, m->place, m->place.p.h0 + i, r0, y, tiles->x, m->head[own].y);
}

/* Rows 64 half.. and columns 64 b.. of C B^T. */
template <int N, int Q>
static __device__ void products_CB(float (&cb)[32], int half, int b, const bf16_bits (*C)[Q * 64],
                                   const bf16_bits (*B)[Q * 64]) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        product<false, false>(cb, panel_rows(C[k / 4], 64 * half, k % 4 * 16), panel_rows(B[k / 4], 64 * b, k % 4 * 16),
                              k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    sums_ended(cb);
}

/* All heads of a warpgroup of rows 64 half and on. */
template <int N, int Q, int half>
static __device__ void outputs_heads(const struct ssd &a, const bf16_bits (*B)[Q * 64], outputs_shared<N, Q> *m) {
    using shared = outputs_shared<N, Q>;
    const int own = outputs_own<N, Q>();
    float cb[32];
    if (half && own == 0) {
        products_CB<N, Q>(cb, half, 0, m->C, B);
#pragma unroll
        for (int k = 0; k < 8; k++) m->across[k][threadIdx.x % GROUP] = *(const float4 *)(cb + 4 * k);
    }
    products_CB<N, Q>(cb, half, half, m->C, B);
    const int seen = seen_by_all(m->from, 4 * half + warp_of() % 4, m->place.p.n);
    barrier_of(0, shared::BLOCK); /* nobody reads B any more */
    int at = 0;
    for (int i = own; i < m->place.heads; i += shared::AT_ONCE) {
        cp_wait<0>();
        shared_fence();
        barrier_of(1 + own, shared::EACH);
        outputs_fetch<N, Q>(a, i + shared::AT_ONCE, 1 - at, m);
        cp_commit();
        outputs_head<N, Q, half>(a, i, at, seen, cb, m);
        at = 1 - at;
    }
}

template <int N, int Q>
__global__ __launch_bounds__((outputs_shared<N, Q>::BLOCK), 1) static void chunk_outputs(const struct ssd a, int shift,
                                                                                         int64_t heads, bool whole,
                                                                                         bool whole_y) {
    DYNAMIC_PANELS(tiles);
    using shared = outputs_shared<N, Q>;
    shared *m = (shared *)tiles;
    bf16_bits(*B)[Q * 64] = (bf16_bits(*)[Q * 64]) & m->head[shared::AT_ONCE - 1].tiles[1];
    static_assert(sizeof m->head[0].tiles[1] + sizeof m->head[0].y >= N / 64 * sizeof *B, "B fits into it");
    const int64_t per_group = a.heads / a.groups;
    struct outputs_place o;
    if (!place_find(a.range, a.pos, a.chunk, a.groups, per_group, heads, &o.p)) return;
    o.heads = heads, o.shift = shift, o.whole = whole, o.whole_y = whole_y;
    if (threadIdx.x == 0) m->place = o;
    for (int k = 0; k < N / 64; k++) {
        const int64_t col = o.p.g * N + 64 * k;
        panel_fetch<Q, shared::BLOCK>(m->C[k], row16(a.C, o.p.k.begin) + col, a.C.pitch, o.p.n, whole);
        panel_fetch<Q, shared::BLOCK>(B[k], row16(a.B, o.p.k.begin) + col, a.B.pitch, o.p.n, whole);
    }
    first_seen(a.pos, o.p, Q, m->from);
    __syncthreads();
    outputs_fetch<N, Q>(a, outputs_own<N, Q>(), 0, m);
    cp_commit();
    cp_wait<0>();
    shared_fence();
    __syncthreads();
    if (warpgroup_of() % shared::GROUPS == 0) outputs_heads<N, Q, 0>(a, B, m);
    else if constexpr (shared::GROUPS > 1) outputs_heads<N, Q, 1>(a, B, m);
}

template <int N, int Q> static enum status outputs(struct ctx *c, const struct ssd *a, int64_t n) {
    using shared = outputs_shared<N, Q>;
    const struct ssd k = ssd_by_halves(a);
    const int64_t heads = heads_of_block(k.heads / k.groups, 16);
    static_assert(sizeof(shared) <= 227 * 1024, "the tiles fit into a processor's shared memory");
    LAUNCH_SHARED((chunk_outputs<N, Q>), n * (k.heads / heads), shared::BLOCK, sizeof(shared), k,
                  ssd_shift(a->head_width), heads, rows_whole(a->x) && rows_whole(a->B) && rows_whole(a->C),
                  rows_whole(a->y));
    return OK;
}
#endif
