/* SPDX-License-Identifier: Apache-2.0 */
/* The backward of heads up to 128 wide, with five products a tile.  A block of threads owns 128 keys of a key head, one
 * of its two groups of warps 64 of them, and walks the tiles of 64 queries that see them, the last one first, of all
 * heads that read that key head.  Scores are transposed, keys along rows, so that weights are operands in registers for
 * dv; dv and dk stay in registers.  The gradients of scores go to shared memory, for dk and for what the block's keys
 * add to a tile's dq: one group makes its first columns, the other one the rest.  The next step's scores are made
 * meanwhile, but begin behind dv: with more under way the groups are in each other's way, and all of it is slower.
 *
 * Of a third group one thread has the tiles brought, two steps ahead.  Two others, each every second step, wait for a
 * step's dq in shared memory and for its turn, have it added in the L2 cache and pass the turn on: a tile's dq is the
 * sum over blocks of keys, ascending (turns.cuh).  Blocks start with the longest, of the first keys; all walk the same
 * way, so each finds its turn come.  A step needs nothing but the steps before it of its own block and the same step
 * of the block of keys before, which has a lower number and runs: who waits, waits for one that does not wait for him.
 *
 * Where blocks of keys are few, several blocks share the heads of a key head; their dk and dv are summed in order.
 *
 *   p = 2^(scale' s - lse')   ds = p (do . v - delta)   dq = scale ds k   dv = p^T do   dk = scale ds^T q */
#include <stddef.h>
#include "kernels/attention/attention_walk.cuh"
#include "kernels/bulk.cuh"
#include "kernels/turns.cuh"
#include "kernels/wgmma.cuh"

#ifndef ATTENTION_PARTIAL
#define ATTENTION_PARTIAL (1 << 30)
#endif
#ifndef ATTENTION_BLOCKS
#define ATTENTION_BLOCKS 256
#endif
constexpr int64_t BLOCKS = ATTENTION_BLOCKS;        /* of a launch, which all processors share about evenly then */
constexpr int WORKERS = 2 * GROUP, ALL = 3 * GROUP; /* threads */
constexpr int STAGES = 3;                           /* the step that is read, and two that are under way or there */
constexpr int SENDERS = 2;                          /* warps */
constexpr int GRADIENT_BARRIER = 1;
constexpr int REGISTERS = 65536 / ALL / 8 * 8;       /* of each thread at the start: 168 */
constexpr int64_t PARTIAL_BYTES = ATTENTION_PARTIAL; /* of unfinished dq at a time, or those of one key head */

/* What the groups that compute need to know of a step. */
struct told {
    int tile;   /* of queries                                               */
    int partly; /* bit g: not all keys of group g are seen by all queries   */
    int more;   /* a step follows                                           */
};
/* Tiles are panels of 64 columns.  Barriers (bulk.cuh): k and v are there, a stage is there, it was read; dq of a
 * sender's step is made, and taken. */
template <int D> struct room {
    bf16_bits k[BLOCK * D], v[BLOCK * D];
    bf16_bits ds[2][BLOCK * SPAN]; /* (keys, queries), of a step and of the one before */
    bf16_bits q[STAGES][SPAN * D], dout[STAGES][SPAN * D];
    float4 dq[2][D / 16 * GROUP]; /* of each group, as its threads hold it */
    struct tile_sums sums[STAGES];
    struct told told[STAGES];
    uint64_t keys, there[STAGES], freed[STAGES], made[SENDERS], taken;
};
static_assert(sizeof(struct room<128>) <= 227 * 1024, "what a block of threads can have");

/* Of a head each: SPAN rows of q and dout, BLOCK rows of k and v. */
struct maps {
    tensor_map q, dout, k, v;
};

/* ---- the third group ---- */

template <int D> static __device__ void fetch_keys(struct room<D> *m, const struct maps &x, const struct work &w) {
    bulk_expect(&m->keys, sizeof m->k + sizeof m->v);
    for (int col = 0; col < D; col += 64) {
        bulk_fetch(m->k + col * BLOCK, &x.k, col, w.walk.u0, w.j, &m->keys);
        bulk_fetch(m->v + col * BLOCK, &x.v, col, w.walk.u0, w.j, &m->keys);
    }
}
template <int D>
static __device__ void fetch_step(struct room<D> *m, int i, const struct maps &x, const struct tables &t,
                                  const struct step &s) {
    uint64_t *const there = &m->there[i];
    const int t0 = s.tile * SPAN;
    bulk_expect(there, sizeof m->q[i] + sizeof m->dout[i] + sizeof m->sums[i]);
    for (int col = 0; col < D; col += 64) bulk_fetch(m->q[i] + col * SPAN, &x.q, col, t0, s.h, there);
    bulk_copy(&m->sums[i], t.tiles + s.h * (t.queries / SPAN) + s.tile, sizeof m->sums[i], there);
    for (int col = 0; col < D; col += 64) bulk_fetch(m->dout[i] + col * SPAN, &x.dout, col, t0, s.h, there);
}

/* One thread. */
template <int D>
static __device__ void bring(struct room<D> *m, const struct maps &x, const struct attention &a, const struct tables &t,
                             const struct part &p) {
    const struct work w = work_of(a, t, p);
    struct step now = w.first;
    if (now.tile >= w.walk.end) fetch_keys<D>(m, x, w);
    for (int n = 0, i = 0, parity = 0; now.tile >= w.walk.end; n++) {
        const struct step next = step_after(t, w.walk, now);
        const struct seen_by_tile sees = t.tile[now.tile];
        if (n >= STAGES - 1) bulk_wait(&m->freed[i], parity);
        m->told[i] = {now.tile, partly(sees, w.walk.u0) | partly(sees, w.walk.u0 + 64) << 1, next.tile >= w.walk.end};
        fetch_step<D>(m, i, x, t, now);
        now = next;
        if (n >= STAGES - 1 && i == STAGES - 2) parity ^= 1;
        if (++i == STAGES) i = 0;
    }
}

/* One thread for every SENDERS-th step from `first` on. */
template <int D>
static __device__ void send(struct room<D> *m, const struct attention &a, const struct tables &t, const struct part &p,
                            int first) {
    const struct work w = work_of(a, t, p);
    const int64_t per = a.heads / a.key_heads;
    struct step now = w.first;
    if (first == 1) now = step_after(t, w.walk, now);
    for (int parity = 0; now.tile >= w.walk.end; parity ^= 1) {
        unsigned *const turn = t.turn + now.tile * a.heads + now.h;
        const int order = w.key_tile - t.tile[now.tile].first / BLOCK;
        float *const to = (float *)(p.partial + (now.tile * p.n * per + now.h - p.first * per) * (D / 8 * GROUP));
        if (order > 0) turn_await(turn, (unsigned)order);
        bulk_turn();
        bulk_wait(&m->made[first], parity);
        if (order > 0) bulk_add(to, (const float *)m->dq, sizeof m->dq);
        else bulk_put(to, (const float *)m->dq, sizeof m->dq);
        bulk_commit();
        now = step_after(t, w.walk, step_after(t, w.walk, now));
        bulk_taken();
        bulk_arrive(&m->taken);
        bulk_done();
        turn_pass(turn, (unsigned)order + 1, true);
    }
}

/* ---- the two groups that compute ---- */

/* s (64 keys, 64 queries) of a group: rows r0.. of `keys` times the rows of `queries`, D terms.  Under way. */
template <int D> static __device__ void scores(float s[8][4], panels keys, int r0, panels queries) {
#pragma unroll
    for (int k = 0; k < D; k += 16)
        wgmma_shared<SPAN, false, false>(s, rows_at(keys, BLOCK, r0, k), rows_at(queries, SPAN, 0, k), k > 0);
    wgmma_commit();
}

/* Scores become weights.  Columns are queries. */
static __device__ void weights(float s[8][4], const struct tile_sums *sums, float scale) {
    const float4 *const lse = (const float4 *)sums->lse + threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
        const float4 x = lse[2 * n];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[n][e] = exp2_fast(fmaf(scale, s[n][e], -(e % 2 ? x.y : x.x)));
            s[n + 1][e] = exp2_fast(fmaf(scale, s[n + 1][e], -(e % 2 ? x.w : x.z)));
        }
    }
}
/* Those of keys u and u + 8, the rows, that their query does not see. */
static __device__ void hide_unseen(float s[8][4], const struct seen *seen, int u) {
    const int c = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const int4 rows = *(const int4 *)(seen + 8 * n + c);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int key = u + 8 * (e / 2);
            if (key < (e % 2 ? rows.z : rows.x) || key > (e % 2 ? rows.w : rows.y)) s[n][e] = 0.0f;
        }
    }
}
static __device__ void weights_back(const float s[8][4], float dp[8][4], const struct tile_sums *sums) {
    const float4 *const delta = (const float4 *)sums->delta + threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
        const float4 x = delta[2 * n];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            dp[n][e] = s[n][e] * (dp[n][e] - (e % 2 ? x.y : x.x));
            dp[n + 1][e] = s[n + 1][e] * (dp[n + 1][e] - (e % 2 ? x.w : x.z));
        }
    }
}

/* sum (64 keys, D) += a times the 64 rows of `queries`.  Under way. */
template <int D> static __device__ void add_rows(float sum[D / 8][4], const uint32_t a[4][4], panels queries) {
#pragma unroll
    for (int k = 0; k < 4; k++) wgmma_registers<D, true>(sum, a[k], cols_at(queries, SPAN, 16 * k, 0));
    wgmma_commit();
}
/* A warp's gradients of scores to shared memory, rows r0 to r0 + 15 of the panel. */
static __device__ void keep_gradients(bf16_bits *ds, const uint32_t a[4][4], int r0) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int k = 0; k < 4; k++) stmatrix(a[k], tile_piece<64>(ds, r0 + lane % 16, 16 * k + lane / 16 * 8));
}

/* A block's dk or dv: rounded, or to the parts of all sets. */
template <int D>
static __device__ void leave(const float sum[D / 8][4], const struct tensor &x, const struct part &p, int which,
                             int64_t P, float factor) {
    const int64_t item = blockIdx.x / p.sets, key_tile = item / p.n, j = p.first + item % p.n;
    const float factors[2] = {factor, factor};
    if (p.sets == 1) {
        store<D>(sum, x, key_tile * BLOCK, (int)threadIdx.x / WARP * 16, j * P, (int)P, factors);
        return;
    }
    float4 *const to = p.keys + ((int64_t)blockIdx.x * 2 + which) * (D / 8 * WORKERS) + threadIdx.x;
#pragma unroll
    for (int n = 0; n < D / 8; n++) to[n * WORKERS] = make_float4(sum[n][0], sum[n][1], sum[n][2], sum[n][3]);
}

/* A group's part of a step's dq, (64, D / 2), to shared memory, when what was there is taken. */
template <int D> static __device__ void hand_over(struct room<D> *m, int group, const float dq[D / 16][4], int odd) {
    float4 *const to = m->dq[group] + threadIdx.x % GROUP;
    bulk_wait(&m->taken, odd ^ 1);
#pragma unroll
    for (int n = 0; n < D / 16; n++) to[n * GROUP] = make_float4(dq[n][0], dq[n][1], dq[n][2], dq[n][3]);
    shared_fence();
    bulk_warp_arrive(&m->made[odd]);
}

/* A thread of them. */
template <int D> struct worker {
    struct room<D> *m;
    int group, key; /* the first of its two rows */
    float scale;
    panels k;
};
template <int D> static __device__ panels part_of(const struct worker<D> &w, size_t offset) {
    return panels_on(panels_anew(w.k), (int)offset);
}

/* The scores s of the step of stage i become its part of dv, and ds.  Whether a step follows. */
template <int D>
static __device__ bool weigh(const struct worker<D> &w, const struct seen *query, int i, float s[8][4],
                             float dv[D / 8][4], uint32_t ds[4][4]) {
    struct room<D> *const m = w.m;
    const panels dout = part_of(w, offsetof(struct room<D>, dout) + i * sizeof m->dout[0]);
    float dp[8][4];
    uint32_t packed[4][4];
    wgmma_fence();
    scores<D>(dp, part_of(w, offsetof(struct room<D>, v)), w.group * 64, dout);
    const bool hide = same(m->told[i].partly >> w.group & 1), more = same(m->told[i].more);
    weights(s, &m->sums[i], w.scale);
    if (hide) hide_unseen(s, query + m->told[i].tile * SPAN, w.key);
    pack_all<8>(packed, s);
    wgmma_fence();
    add_rows<D>(dv, packed, dout);
    wgmma_wait<1>();
    wgmma_settled<8>(dp);
    bulk_warp_arrive(&m->freed[i == 0 ? STAGES - 1 : i - 1]);
    weights_back(s, dp, &m->sums[i]);
    pack_all<8>(ds, dp);
    wgmma_wait<0>();
    return more;
}

/* dq of the step of stage i, and what it adds to dk.  Under way, dq in the older batch. */
template <int D>
static __device__ void multiply(const struct worker<D> &w, int i, int odd, const uint32_t gradients[4][4],
                                float dq[D / 16][4], float dk[D / 8][4]) {
    const panels k = part_of(w, 0), ds = part_of(w, offsetof(struct room<D>, ds) + odd * sizeof w.m->ds[0]),
                 q = part_of(w, offsetof(struct room<D>, q) + i * sizeof w.m->q[0]);
    keep_gradients(w.m->ds[odd], gradients, (int)threadIdx.x / WARP * 16);
    shared_fence();
    barrier_of(GRADIENT_BARRIER, WORKERS); /* ds of both groups is there */
    wgmma_fence();
#pragma unroll
    for (int key = 0; key < BLOCK; key += 16)
        wgmma_shared<D / 2, true, true>(dq, cols_at(ds, BLOCK, key, 0), cols_at(k, BLOCK, key, w.group * (D / 2)),
                                        key > 0);
    wgmma_commit();
#pragma unroll
    for (int c = 0; c < SPAN; c += 16)
        wgmma_shared<D, false, true>(dk, rows_at(ds, BLOCK, w.group * 64, c), cols_at(q, SPAN, c, 0), true);
    wgmma_commit();
}

template <int D> static __device__ void begin_scores(const struct worker<D> &w, int i, int parity, float s[8][4]) {
    bulk_wait(&w.m->there[i], parity);
    wgmma_fence();
    scores<D>(s, part_of(w, 0), w.group * 64, part_of(w, offsetof(struct room<D>, q) + i * sizeof w.m->q[0]));
}

/* All steps of the block. */
template <int D>
static __device__ void walk_all(const struct worker<D> &w, const struct seen *query, float dk[D / 8][4],
                                float dv[D / 8][4]) {
    int i = 0, parity = 0, odd = 0;
    float first[8][4], last[D / 16][4];
    uint32_t ds[4][4];
    bulk_wait(&w.m->keys, 0);
    begin_scores<D>(w, i, parity, first);
    wgmma_wait<0>();
    wgmma_settled<8>(first);
    bool more = weigh<D>(w, query, i, first, dv, ds);
#pragma unroll 1
    while (more) {
        float dq[D / 16][4], s[8][4];
        const int now = i;
        if (++i == STAGES) i = 0, parity ^= 1;
        begin_scores<D>(w, i, parity, s);
        multiply<D>(w, now, odd, ds, dq, dk);
        wgmma_wait<1>();
        wgmma_settled<8>(s);
        wgmma_settled<D / 16>(dq);
        hand_over<D>(w.m, w.group, dq, odd);
        odd ^= 1;
        more = weigh<D>(w, query, i, s, dv, ds);
    }
    multiply<D>(w, i, odd, ds, last, dk);
    wgmma_wait<1>();
    wgmma_settled<D / 16>(last);
    hand_over<D>(w.m, w.group, last, odd);
    wgmma_wait<0>();
    wgmma_settled<D / 8>(dk);
    wgmma_settled<D / 8>(dv);
}

template <int D>
static __device__ void compute(struct room<D> *m, const struct attention &a, const struct tables &t,
                               const struct part &p) {
    const int key_tile = (int)(blockIdx.x / (p.n * p.sets)), r = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
    const struct worker<D> w = {
        m, same(threadIdx.x / GROUP), key_tile *BLOCK + r, LOG2E *(float)a.scale, panels_of(m->k)
    };
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    if (same(t.key_tile[key_tile].last) >= 0) walk_all<D>(w, t.query, dk, dv);
    leave<D>(dk, a.dk, p, 0, a.head_width, (float)a.scale);
    leave<D>(dv, a.dv, p, 1, a.head_width, 1.0f);
}

/* One thread; a barrier follows. */
template <int D> static __device__ void open_barriers(struct room<D> *m) {
    bulk_barrier_init(&m->keys, 1);
    for (int i = 0; i < STAGES; i++) {
        bulk_barrier_init(&m->there[i], 1);
        bulk_barrier_init(&m->freed[i], WORKERS / WARP * WARP_ARRIVALS);
    }
    for (int i = 0; i < SENDERS; i++) bulk_barrier_init(&m->made[i], WORKERS / WARP * WARP_ARRIVALS);
    bulk_barrier_init(&m->taken, 1);
    bulk_barriers_see();
}

template <int D>
__global__ __launch_bounds__(ALL, 1) static void all_gradients(const struct attention a, const struct tables t,
                                                               const struct part p,
                                                               const __grid_constant__ struct maps x) {
    constexpr int more = 240, less = 24;
    static_assert(2 * more + less <= 3 * REGISTERS, "what two groups have more, the third one has less");
    DYNAMIC_PANELS(shared);
    struct room<D> *const m = (struct room<D> *)shared;
    if (threadIdx.x == 0) open_barriers<D>(m);
    __syncthreads();
    if (same(threadIdx.x / GROUP) == 2) {
        registers_down<less>();
        const int warp = threadIdx.x / WARP - WORKERS / WARP;
        if (threadIdx.x % WARP != 0) return;
        if (warp == 0) bring<D>(m, x, a, t, p);
        else if (warp <= SENDERS) send<D>(m, a, t, p, warp - 1);
    } else {
        registers_up<more>();
        compute<D>(m, a, t, p);
    }
}

/* dq of the heads of a part: a block of GROUP threads for a tile, a head and half of its columns.  A thread takes what
 * four of a computing group have: eight columns of two rows. */
template <int D>
__global__ __launch_bounds__(GROUP) static void finish_queries(const struct attention a, const struct part p) {
    const int64_t per = a.heads / a.key_heads, item = blockIdx.x / 2, half = blockIdx.x % 2;
    const int64_t tile = item / (p.n * per), h = p.first * per + item % (p.n * per);
    const int quad = threadIdx.x / 4, r = quad / 8 * 16 + quad % 8;
    const float scale = (float)a.scale;
#pragma unroll
    for (int n = threadIdx.x % 4; n < D / 16; n += 4) {
        const float4 *const from = p.partial + (blockIdx.x * (int64_t)(D / 16) + n) * GROUP + 4 * quad;
        const float4 x[4] = {from[0], from[1], from[2], from[3]};
        const int64_t t = tile * SPAN + r, column = half * (D / 2) + 8 * n;
        bf16_bits *const to = (bf16_bits *)a.dq.data + t * a.dq.pitch + h * a.head_width + column;
        uint32_t up[4], down[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            up[i] = pack(scale * x[i].x, scale * x[i].y);
            down[i] = pack(scale * x[i].z, scale * x[i].w);
        }
        if (column >= a.head_width) break;
        if (t < a.q.shape[0]) store_whole(to, make_uint4(up[0], up[1], up[2], up[3]));
        if (t + 8 < a.q.shape[0]) store_whole(to + 8 * a.dq.pitch, make_uint4(down[0], down[1], down[2], down[3]));
    }
}

/* dk and dv of a part whose heads several blocks had, in the order of the sets. */
template <int D>
__global__ __launch_bounds__(WORKERS) static void finish_keys(const struct attention a, const struct part p) {
    const int64_t item = blockIdx.x / 2, key_tile = item / p.n, column = (p.first + item % p.n) * a.head_width;
    const int which = blockIdx.x % 2;
    const float factor[2] = {which ? 1.0f : (float)a.scale, which ? 1.0f : (float)a.scale};
    float sum[D / 8][4] = {};
    for (int64_t set = 0; set < p.sets; set++) {
        const float4 *from = p.keys + ((item * p.sets + set) * 2 + which) * (D / 8 * WORKERS) + threadIdx.x;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            const float4 x = from[n * WORKERS];
            sum[n][0] += x.x, sum[n][1] += x.y;
            sum[n][2] += x.z, sum[n][3] += x.w;
        }
    }
    store<D>(sum, which ? a.dv : a.dk, key_tile * BLOCK, (int)threadIdx.x / WARP * 16, column, (int)a.head_width,
             factor);
}

/* ---- the launches ---- */

static int padded_width(const struct attention *a) { return a->head_width <= 64 ? 64 : 128; }
static int64_t key_head_bytes(const struct attention *a) {
    return padded(a->q.shape[0]) * (a->heads / a->key_heads) * padded_width(a) * (int64_t)sizeof(float);
}
/* In launches as alike as possible. */
static int64_t key_heads_at_once(const struct attention *a) {
    const int64_t fit = most(1, PARTIAL_BYTES / most(1, key_head_bytes(a)));
    return ceil_div(a->key_heads, ceil_div(a->key_heads, fit));
}

/* Blocks that share the heads of a key head: as few as give a launch BLOCKS blocks, where there are heads enough. */
static int64_t sets_of(const struct attention *a) {
    const int64_t per = a->heads / a->key_heads, blocks = ceil_div(a->k.shape[0], BLOCK) * key_heads_at_once(a);
    int64_t sets = 1;
    while (sets < per && (blocks * sets < BLOCKS || per % sets != 0)) sets++;
    return sets;
}
static int64_t keys_bytes(const struct attention *a) {
    const int64_t blocks = ceil_div(a->k.shape[0], BLOCK) * key_heads_at_once(a) * sets_of(a);
    return sets_of(a) == 1 ? 0 : blocks * 2 * BLOCK * padded_width(a) * (int64_t)sizeof(float);
}

int64_t attention_partial_bytes(const struct attention *a) {
    if (a->head_width > 128) return 0;
    return arena_round(key_heads_at_once(a) * key_head_bytes(a)) + arena_round(keys_bytes(a));
}

static enum status map_heads(tensor_map *map, const struct tensor *x, int64_t heads, int64_t P, int rows) {
    return tensor_map_apart(map, x->data, P, x->shape[0], heads, x->pitch, P, rows);
}
/* Without queries there is nothing to bring. */
static enum status map_all(struct maps *x, const struct attention *a) {
    if (a->q.shape[0] == 0 || a->k.shape[0] == 0) return OK;
    TRY(map_heads(&x->q, &a->q, a->heads, a->head_width, SPAN));
    TRY(map_heads(&x->dout, &a->dout, a->heads, a->head_width, SPAN));
    TRY(map_heads(&x->k, &a->k, a->key_heads, a->head_width, BLOCK));
    return map_heads(&x->v, &a->v, a->key_heads, a->head_width, BLOCK);
}

template <int D> static enum status start(struct ctx *c, const struct attention *a, const struct tables *t) {
    const int64_t at_once = key_heads_at_once(a), sets = sets_of(a), key_tiles = ceil_div(a->k.shape[0], BLOCK);
    struct maps maps = {};
    void *partial, *keys;
    TRY(map_all(&maps, a));
    TRY(arena_take(c->work, at_once * key_head_bytes(a), &partial));
    TRY(arena_take(c->work, keys_bytes(a), &keys));
    for (int64_t first = 0; first < a->key_heads; first += at_once) {
        const struct part p = {first, least(at_once, a->key_heads - first), sets, (float4 *)partial, (float4 *)keys};
        const int64_t halves = ceil_div(a->q.shape[0], SPAN) * p.n * (a->heads / a->key_heads) * 2;
        LAUNCH_TILES(all_gradients<D>, key_tiles * p.n * sets, ALL, (int64_t)sizeof(struct room<D>), *a, *t, p, maps);
        LAUNCH(finish_queries<D>, dim3((unsigned)halves), GROUP, *a, p);
        if (sets > 1) LAUNCH(finish_keys<D>, dim3((unsigned)(key_tiles * p.n * 2)), WORKERS, *a, p);
    }
    return OK;
}

enum status attention_gradients(struct ctx *c, const struct attention *a, const struct tables *t) {
    return a->head_width <= 64 ? start<64>(c, a, t) : start<128>(c, a, t);
}
