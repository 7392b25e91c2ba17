/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_OUTPUTS_CUH
#define BATON_KERNELS_SSD_SSD_OUTPUTS_CUH
/* ssd_outputs.cuh - the outputs of ssd.h from the states that enter chunks, by warpgroups.  Rows t, s of a chunk of Q:
 *
 *   M[t, s] = exp(cum_t - cum_s) (C_t . B_s) dts_s for s <= t,   y_t = exp(cum_t) S C_t + sum_s M[t, s] x_s + D x_t
 *
 * A block owns a chunk and some heads of a group, two heads at a time: of each a warpgroup has 64 rows t and waits for
 * nobody but the head's other one.  C B^T is made once: of the 64 columns on the diagonal it stays in registers, of
 * those before in shared memory.  A head's x and S come while the one before is made, copied by the hardware (bulk.cuh)
 * but for rows of short chunks, or such as begin at odd places.  N 256 in chunks of 128: one head at a time.
 *
 * Where a chunk lies hangs on ranges alone, so copies begin before positions are read. */
#include "kernels/ssd/ssd_tiles.cuh"

/* What a block owns, in shared memory, since registers are few: rows of its chunk, of the document that enters, heads,
 * of which the first is h0; where the first row of that head begins, and its state. */
struct outputs_place {
    const bf16_bits *x;
    bf16_bits *y;
    const float *cum, *dts;
    int n, n_enter, heads, h0, shift;
    int row, state;      /* where the hardware finds its first row, and the first head's state */
    bool whole, whole_y; /* whole: the hardware copies rows of x, B and C */
};
struct outputs_maps {
    tensor_map C, B, x, S;
};
/* Of place_begin: n_enter is not known yet, and what the hardware copies is the caller's to say. */
static __device__ struct outputs_place outputs_find(const struct ssd &a, const struct place &p, int shift, int heads) {
    struct outputs_place o;
    o.x = row16(a.x, p.k.begin) + p.h0 * SSD_P, o.y = row16(a.y, p.k.begin) + p.h0 * SSD_P;
    o.cum = row(a.cum, p.k.begin), o.dts = row(a.dts, p.k.begin);
    o.row = (int)p.k.begin, o.state = (int)(p.chunk * a.heads + p.h0);
    o.n = p.n, o.n_enter = 0, o.heads = heads, o.h0 = (int)p.h0, o.shift = shift;
    return o;
}
template <int N, int Q> struct outputs_shared {
    enum { GROUPS = Q / 64, EACH = GROUPS * GROUP, AT_ONCE = N * Q > 128 * 128 ? 1 : 2, BLOCK = AT_ONCE * EACH };
    bf16_bits C[N / 64][Q * 64];
    struct {
        struct {
            bf16_bits x[Q * 64], S[N / 64][PANEL];
        } tiles[2]; /* those of the last head hold B at first, from the second on */
        bf16_bits y[Q * 64];
    } head[AT_ONCE];
    struct alignas(16) outputs_steps {
        float cum[Q], dts[Q], D;
    } steps[AT_ONCE][3];                  /* two heads ahead, tiles one */
    float reach[AT_ONCE * GROUPS][2][Q];  /* dts times the decay to outputs_middle; each warpgroup has its own */
    float4 across[Q > 64 ? 8 : 1][GROUP]; /* C B^T of rows 64-127, columns 0-63: what each thread holds of it */
    int from[Q];
    uint64_t there[AT_ONCE][2], first; /* tiles of heads; B and C */
    struct outputs_place place;
};
/* What the hardware brings for a head: at the word of one thread. */
template <int N, int Q>
static __device__ void outputs_bring(const struct outputs_maps &maps, bool whole, int head, int row, int state, int own,
                                     int at, outputs_shared<N, Q> *m) {
    auto *to = &m->head[own].tiles[at];
    uint64_t *there = &m->there[own][at];
    bulk_expect(there, (int)sizeof to->S + (whole ? (int)sizeof to->x : 0));
    if (whole) bulk_fetch(to->x, &maps.x, head * SSD_P, row, 0, there);
    for (int k = 0; k < N / 64; k++) bulk_fetch(to->S[k], &maps.S, 64 * k, 0, state, there);
}
/* Tiles of the block's head i. */
template <int N, int Q>
static __device__ void outputs_fetch(const struct ssd &a, const struct outputs_maps &maps, int i, int at,
                                     outputs_shared<N, Q> *m) {
    constexpr int threads = outputs_shared<N, Q>::EACH;
    const struct outputs_place &o = m->place;
    if (i >= o.heads) return;
    const int own = threadIdx.x / threads;
    const bool whole = o.whole;
    if (threadIdx.x % threads == 0) outputs_bring<N, Q>(maps, whole, o.h0 + i, o.row, o.state + i, own, at, m);
    if (!whole) panel_fetch<Q, threads>(m->head[own].tiles[at].x, o.x + i * SSD_P, a.x.pitch, o.n, rows_whole(a.x));
}
template <int N, int Q>
static __device__ void outputs_fetch_steps(const struct ssd &a, const struct outputs_place &o, int i, int at,
                                           outputs_shared<N, Q> *m) {
    constexpr int threads = outputs_shared<N, Q>::EACH;
    if (i >= o.heads) return;
    const int n = o.n, t = threadIdx.x % Q, of_dts = threadIdx.x % threads >= Q, h = (o.h0 + i) >> o.shift;
    auto *to = &m->steps[threadIdx.x / threads][at];
    const float *raw = (of_dts ? o.dts : o.cum) + (int64_t)(t < n ? t : n - 1) * (int)(of_dts ? a.dts : a.cum).pitch;
    cp_async4((of_dts ? to->dts : to->cum) + t, raw + h);
    if (threadIdx.x % threads == 0) cp_async4(&to->D, (const float *)a.D.data + h);
}
/* The row over which the decay from column s goes to rows below: the last of its block of 16, or, for rows 64 on, of
 * columns 0 to 63. */
template <int half> static inline __device__ int outputs_middle(int s) { return half && s < 64 ? 63 : s | 15; }
template <int half, typename steps_of>
static __device__ void outputs_reach(float *reach, const steps_of *steps, int n) {
    const int s = threadIdx.x % GROUP;
    if (s >= 64 * (half + 1)) return;
    reach[s] = s < n ? step_exp(steps->cum[outputs_middle<half>(s)] - steps->cum[s]) * steps->dts[s] : 0.0f;
}

/* M of 16 x 16 at column s; of a thread's numbers the first is at row t, c columns on.  plain: all rows see all
 * columns, left of the diagonal: the decay goes over `middle`, f from there.  Nothing is loaded on condition: one wait
 * for all. */
template <bool plain, bool diagonal, typename steps_of>
static __device__ void outputs_block(uint32_t (&M)[4], const float *cb, const steps_of *steps, const float *reach,
                                     const int *from, const float (&cum)[2], const float (&f)[2], int t, int s) {
    const int c = threadIdx.x % 4 * 2, row = threadIdx.x % WARP / 4; /* of eight */
    float2 d[2], cum_s[2];
    int first[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        d[i] = *(const float2 *)((plain ? reach : steps->dts) + c + s + 8 * i);
        if (!plain) cum_s[i] = *(const float2 *)(steps->cum + c + s + 8 * i), first[i] = from[t + 8 * i] - c;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int half = i % 2, k = i / 2, col = s + 8 * k;
        float w[2] = {d[k].x, d[k].y};
        if (plain) {
            w[0] *= f[half], w[1] *= f[half];
        } else if (diagonal && k > half) { /* columns 8 on come after rows 0 to 7 */
            M[i] = 0;
            continue;
        } else {
            const bool all = !diagonal || k < half;
            w[0] *= step_exp(cum[half] - cum_s[k].x), w[1] *= step_exp(cum[half] - cum_s[k].y);
            w[0] = (all || c <= row) & (col >= first[half]) ? w[0] : 0.0f;
            w[1] = (all || c < row) & (col + 1 >= first[half]) ? w[1] : 0.0f;
        }
        M[i] = pack(cb[4 * k + 2 * half] * w[0], cb[4 * k + 2 * half + 1] * w[1]);
    }
}

/* M of a warp's 16 rows and 64 columns from s0 on: zero above the diagonal.  own: of the four blocks, that on it. */
template <int half, int s0, typename steps_of, typename products_of>
static __device__ void outputs_weights(uint32_t (&M)[4][4], const steps_of *steps, const float *reach, const int *from,
                                       int t, int own, int seen, products_of products) {
    const float cum[2] = {steps->cum[t], steps->cum[t + 8]};
    float f[2];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        constexpr bool one = half && s0 == 0; /* middle of all */
        const int s = s0 + 16 * k;
        float cb[8];
        if (k > own) {
            M[k][0] = M[k][1] = M[k][2] = M[k][3] = 0;
            continue;
        }
        products(cb, k);
        const float middle = steps->cum[outputs_middle<half>(s)];
        if (k == 0 || !one) f[0] = step_exp(cum[0] - middle), f[1] = step_exp(cum[1] - middle);
        if (k == own) outputs_block<false, true>(M[k], cb, steps, reach, from, cum, f, t, s);
        else if (seen <= s) outputs_block<true, false>(M[k], cb, steps, reach, from, cum, f, t, s);
        else outputs_block<false, false>(M[k], cb, steps, reach, from, cum, f, t, s);
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
static __device__ void outputs_store(const struct ssd &a, const struct outputs_place &o, int i, int r0,
                                     const float (&y)[32], const bf16_bits *x, float D, bf16_bits *room) {
    const int lane = threadIdx.x % WARP, r = r0 + lane / 8, n = o.n - r, piece = (r * 64 + lane % 8 * 8) ^ lane / 8 * 8;
    const int pitch = (int)a.y.pitch;
    const bool whole = o.whole_y;
    bf16_bits *to = o.y + (int64_t)r * pitch + i * SSD_P + lane % 8 * 8;
    const int at = (r0 + lane % 16) * 64 + (lane / 16 ^ lane % 8) * 8; /* of rows 0-7, 8-15, then of the next columns */
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
        uint32_t xs[4];
        ldmatrix(xs, x + (at ^ 8 * j));
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float *own = &y[4 * j + 2 * k];
            xs[k] = pack(fmaf(D, low_half(xs[k]), own[0]), fmaf(D, high_half(xs[k]), own[1]));
        }
        stmatrix(xs, room + (at ^ 8 * j));
    }
    __syncwarp();
    if (o.whole && whole) {
#pragma unroll
        for (int k = 0; k < 16; k += 4) {
            store_whole(to, *(const uint4 *)(room + k * 64 + (piece ^ k % 8 * 8)));
            to += 4 * pitch;
        }
    } else rows_leave(to, pitch, room, piece, n, whole);
}

/* One head of rows 64 half and on, the c-th of the warpgroup. */
template <int N, int Q, int half>
static __device__ void outputs_head(const struct ssd &a, int i, int c, int group, int warp, int seen,
                                    const float (&cb)[32], outputs_shared<N, Q> *m) {
    const int own = group / outputs_shared<N, Q>::GROUPS, r0 = 64 * half + 16 * warp;
    const int t0 = threadIdx.x % GROUP, t = r0 + threadIdx.x % WARP / 4;
    const auto *tiles = &m->head[own].tiles[c % 2];
    const auto *steps = &m->steps[own][c % 3];
    const float *reach = m->reach[group][c % 2];
    float y[32];
    uint32_t M[half + 1][4][4];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        product<false, false>(y, panel_rows(m->C[k / 4], 64 * half, k % 4 * 16),
                              panel_rows(tiles->S[k / 4], 0, k % 4 * 16), k > 0);
    wgmma_commit();
    const auto across = [&](float(&to)[8], int k) {
        *(float4 *)to = m->across[2 * k][t0], *(float4 *)(to + 4) = m->across[2 * k + 1][t0];
    };
    const auto diagonal = [&](float(&to)[8], int k) {
#pragma unroll
        for (int i = 0; i < 8; i++) to[i] = cb[8 * k + i];
    };
    if constexpr (half) outputs_weights<half, 0>(M[0], steps, reach, m->from, t, 4, seen, across);
    else outputs_weights<half, 0>(M[0], steps, reach, m->from, t, warp, seen, diagonal);
    wgmma_wait<0>();
    sums_ended(y);
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const float in = t + 8 * k < m->place.n_enter ? step_exp(steps->cum[t + 8 * k]) : 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) y[4 * j + 2 * k] *= in, y[4 * j + 2 * k + 1] *= in;
    }
    outputs_add(y, M[0], tiles->x, 0);
    if constexpr (half) {
        outputs_weights<half, 64>(M[1], steps, reach, m->from, t, warp, seen, diagonal);
        outputs_add(y, M[1], tiles->x, 64);
    }
    outputs_reach<half>(m->reach[group][(c + 1) % 2], &m->steps[own][(c + 1) % 3], m->place.n);
    wgmma_wait<0>();
    sums_ended(y);
    outputs_store(a, m->place, i, r0, y, tiles->x, steps->D, m->head[own].y);
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
static __device__ void outputs_heads(const struct ssd &a, const struct outputs_maps &maps, const bf16_bits (*B)[Q * 64],
                                     outputs_shared<N, Q> *m) {
    using shared = outputs_shared<N, Q>;
    const int group = warpgroup_of(), own = group / shared::GROUPS, warp = warp_of() % 4;
    float cb[32];
    if (half && own == 0) {
        products_CB<N, Q>(cb, half, 0, m->C, B);
#pragma unroll
        for (int k = 0; k < 8; k++) m->across[k][threadIdx.x % GROUP] = *(const float4 *)(cb + 4 * k);
    }
    products_CB<N, Q>(cb, half, half, m->C, B);
    const int seen = seen_by_all(m->from, 4 * half + warp, m->place.n);
    barrier_of(0, shared::BLOCK); /* nobody reads B any more */
    outputs_reach<half>(m->reach[group][0], &m->steps[own][0], m->place.n);
    int c = 0;
    for (int i = own; i < m->place.heads; i += shared::AT_ONCE, c++) {
        cp_wait<0>();
        bulk_wait(&m->there[own][c % 2], c / 2 % 2);
        if (!m->place.whole) shared_fence();
        barrier_of(1 + own, shared::EACH);
        outputs_fetch<N, Q>(a, maps, i + shared::AT_ONCE, (c + 1) % 2, m);
        outputs_fetch_steps<N, Q>(a, m->place, i + 2 * shared::AT_ONCE, (c + 2) % 3, m);
        cp_commit();
        outputs_head<N, Q, half>(a, i, c, group, warp, seen, cb, m);
    }
}

/* What the block begins with: C, B, and tiles of the first heads.  By one thread, before anybody knows the rest. */
template <int N, int Q>
static __device__ void outputs_begin(const struct outputs_maps &maps, const struct place &p, bool whole, int heads,
                                     int64_t all_heads, bf16_bits (*B)[Q * 64], outputs_shared<N, Q> *m) {
    constexpr int at_once = outputs_shared<N, Q>::AT_ONCE;
    for (int i = 0; i < 2 * at_once; i++) bulk_barrier_init(&m->there[i / 2][i % 2], 1);
    bulk_barrier_init(&m->first, 1);
    bulk_barriers_see();
    bulk_expect(&m->first, whole ? 2 * N * Q * (int)sizeof(bf16_bits) : 0);
    for (int k = 0; k < N / 64 && whole; k++) {
        bulk_fetch(m->C[k], &maps.C, (int)p.g * N + 64 * k, (int)p.k.begin, 0, &m->first);
        bulk_fetch(B[k], &maps.B, (int)p.g * N + 64 * k, (int)p.k.begin, 0, &m->first);
    }
    for (int i = 0; i < at_once && i < heads; i++)
        outputs_bring<N, Q>(maps, whole, (int)p.h0 + i, (int)p.k.begin, (int)(p.chunk * all_heads + p.h0) + i, i, 0, m);
}
/* Where rows are not the hardware's to copy, by all threads. */
template <int N, int Q>
static __device__ void outputs_begin_slow(const struct ssd &a, const struct place &p, int heads, bf16_bits (*B)[Q * 64],
                                          outputs_shared<N, Q> *m) {
    using shared = outputs_shared<N, Q>;
    const int own = threadIdx.x / shared::EACH;
    NO_UNROLL for (int k = 0; k < N / 64; k++) {
        const int64_t col = p.g * N + 64 * k;
        panel_fetch<Q, shared::BLOCK>(m->C[k], row16(a.C, p.k.begin) + col, a.C.pitch, p.n, rows_whole(a.C));
        panel_fetch<Q, shared::BLOCK>(B[k], row16(a.B, p.k.begin) + col, a.B.pitch, p.n, rows_whole(a.B));
    }
    if (own < heads)
        panel_fetch<Q, shared::EACH>(m->head[own].tiles[0].x, row16(a.x, p.k.begin) + (p.h0 + own) * SSD_P, a.x.pitch,
                                     p.n, rows_whole(a.x));
}

/* Blocks run in rounds, one to a multiprocessor.  The last round has fewer of them than there are multiprocessors, so
 * each of its blocks is cut into `parts`; the first `full` blocks have `heads` heads.  A head's bits hang on none of
 * it, nor on the number of multiprocessors, another of which costs time. */
#ifndef SSD_PROCESSORS
#define SSD_PROCESSORS 132
#endif
struct outputs_cut {
    unsigned full;
    int heads, parts;
};
static inline struct outputs_cut outputs_cut_of(int64_t blocks, int heads, int at_once) {
    const int64_t rest = blocks % SSD_PROCESSORS;
    struct outputs_cut cut = {(unsigned)(blocks - rest), heads, 1};
    int64_t least_time = INT64_MAX;
    for (int parts = 1; parts <= heads; parts++) {
        if (heads % parts) continue;
        /* In turns of at_once heads; what a block begins with takes as long as one more. */
        const int64_t time = ceil_div(rest * parts, SSD_PROCESSORS) * (ceil_div(heads / parts, at_once) + 1);
        if (time < least_time) least_time = time, cut.parts = parts;
    }
    return cut;
}
static inline int64_t outputs_blocks(const struct outputs_cut &cut, int64_t blocks) {
    return cut.full + (blocks - cut.full) * cut.parts;
}

template <int N, int Q>
__global__ __launch_bounds__((outputs_shared<N, Q>::BLOCK),
                             1) static void chunk_outputs(const struct ssd a, int shift, const struct outputs_cut cut,
                                                          bool whole, bool whole_y,
                                                          const __grid_constant__ struct outputs_maps maps) {
    DYNAMIC_PANELS(tiles);
    using shared = outputs_shared<N, Q>;
    shared *m = (shared *)tiles;
    bf16_bits(*B)[Q * 64] = (bf16_bits(*)[Q * 64]) & m->head[shared::AT_ONCE - 1].tiles[1];
    static_assert(sizeof m->head[0].tiles[1] + sizeof m->head[0].y >= N / 64 * sizeof *B, "B fits into it");
    const int64_t per_group = a.heads / a.groups;
    const bool fine = blockIdx.x >= cut.full;
    const int heads = fine ? cut.heads / cut.parts : cut.heads, own = threadIdx.x / shared::EACH;
    struct place p;
    if (!place_begin(fine ? cut.full * (cut.parts - 1) + blockIdx.x : blockIdx.x, a.range, a.chunk, a.groups, per_group,
                     heads, &p))
        return;
    whole = whole && p.n == Q;
    if (threadIdx.x == 0) outputs_begin<N, Q>(maps, p, whole, heads, a.heads, B, m);
    if (!whole) outputs_begin_slow<N, Q>(a, p, heads, B, m);
    struct outputs_place o = outputs_find(a, p, shift, heads);
    o.whole = whole, o.whole_y = whole_y;
    outputs_fetch_steps<N, Q>(a, o, own, 0, m);
    outputs_fetch_steps<N, Q>(a, o, own + shared::AT_ONCE, 1, m);
    cp_commit();
    place_end(a.pos, &p);
    o.n_enter = p.n_enter;
    if (threadIdx.x == 0) m->place = o;
    first_seen(a.pos, p, Q, m->from);
    __syncthreads();
    cp_wait<0>();
    bulk_wait(&m->first, 0);
    shared_fence();
    __syncthreads();
    if (warpgroup_of() % shared::GROUPS == 0) outputs_heads<N, Q, 0>(a, maps, B, m);
    else if constexpr (shared::GROUPS > 1) outputs_heads<N, Q, 1>(a, maps, B, m);
}

template <int N, int Q> static enum status outputs(struct ctx *c, const struct ssd *a, int64_t n) {
    using shared = outputs_shared<N, Q>;
    const struct ssd k = ssd_by_halves(a);
    const int64_t heads = heads_of_block(k.heads / k.groups, 16), blocks = n * (k.heads / heads), T = a->pos.shape[0];
    const struct outputs_cut cut = outputs_cut_of(blocks, (int)heads, shared::AT_ONCE);
    const bool whole = rows_whole(a->x) && rows_whole(a->B) && rows_whole(a->C) && T > 0;
    struct outputs_maps maps = {};
    static_assert(sizeof(shared) <= 227 * 1024, "the tiles fit into a processor's shared memory");
    if (whole) {
        TRY(tensor_map_make(&maps.C, a->C.data, a->C.shape[1], T, 1, a->C.pitch, Q));
        TRY(tensor_map_make(&maps.B, a->B.data, a->B.shape[1], T, 1, a->B.pitch, Q));
        TRY(tensor_map_make(&maps.x, a->x.data, a->x.shape[1], T, 1, a->x.pitch, Q));
    }
    if (n > 0) TRY(tensor_map_make(&maps.S, a->states.data, N, SSD_P, n * k.heads, N, SSD_P));
    LAUNCH_SHARED((chunk_outputs<N, Q>), outputs_blocks(cut, blocks), shared::BLOCK, sizeof(shared), k,
                  ssd_shift(a->head_width), cut, whole, rows_whole(a->y), maps);
    return OK;
}
#endif
