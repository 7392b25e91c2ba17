/* SPDX-License-Identifier: Apache-2.0 */
/* The backward of heads up to 128 wide, with five products a tile.  A block of threads owns 128 keys of a key head, one
 * of its two groups of warps 64 of them, and walks the tiles of 64 queries that see them, the last one first, of all
 * heads that read that key head.  Scores are transposed, keys along rows, so that weights and their gradients are
 * operands in registers for dv and dk, which stay in registers.  The gradients of scores also go to shared memory, and
 * what the block's keys add to a tile's dq is made there: one group makes its first columns, the other one the rest.
 *
 * A third group of warps brings the next tile, waits for turns and passes them on, so that the two that compute do not.
 *
 * A tile's dq is the sum over blocks of keys, ascending, each in its turn (turns.cuh).  Blocks start with the longest,
 * of the first keys; all walk the same way, so each finds its turn come.  What a step has made is added one step later,
 * while the products of that step's scores are under way, so that neither a late turn nor the addition stops the tensor
 * cores at once; the turn is passed on at the step after that.  A block that waits with step n has passed on, or will
 * without waiting for anybody, the turns of all steps before n, and blocks with the same heads come to their steps in
 * one order: who waits, waits for a block of lower keys, which has a lower number and runs, and the lowest waits for
 * none.
 *
 * Where blocks of keys are few, several blocks share the heads of a key head; their dk and dv are summed in order.
 *
 *   p = 2^(scale' s - lse')   ds = p (do . v - delta)   dq = scale ds k   dv = p^T do   dk = scale ds^T q */
#include <stddef.h>
#include "kernels/attention/attention_bf16.cuh"
#include "kernels/turns.cuh"
#include "kernels/wgmma.cuh"

#ifndef ATTENTION_PARTIAL
#define ATTENTION_PARTIAL (1 << 30)
#endif
#ifndef ATTENTION_BLOCKS
#define ATTENTION_BLOCKS 256
#endif
constexpr int64_t BLOCKS = ATTENTION_BLOCKS;          /* of a launch, which all processors share about evenly then */
constexpr int WORKERS = 2 * GROUP, ALL = 3 * GROUP;   /* threads */
constexpr int STAGES = 3;                             /* the step that is read, and two that are under way or there */
constexpr int GRADIENT_BARRIER = 1, TURN_BARRIER = 2; /* the latter of each group */
constexpr int REGISTERS = 65536 / ALL / 8 * 8;        /* of each thread at the start: 168 */
constexpr int64_t PARTIAL_BYTES =
    ATTENTION_PARTIAL; /* of unfinished dq at a time, unless one key head's heads are more */

/* What comes for a tile of queries of a head: panels of 64 columns. */
template <int D> struct stage {
    bf16_bits q[SPAN * D], dout[SPAN * D];
    struct row_sums sums[SPAN];
    struct seen seen[SPAN];
};
/* What all threads need to know of a step. */
struct told {
    int place;  /* of its dq among the unfinished: (tile, head of the part) */
    int turn;   /* of its dq; below 0: there is no step                     */
    int order;  /* blocks that add to it before                             */
    int partly; /* bit g: not all keys of group g are seen by all queries   */
    int more;   /* a step follows                                           */
};
template <int D> struct room {
    bf16_bits k[BLOCK * D], v[BLOCK * D];
    bf16_bits ds[BLOCK * SPAN]; /* (keys, queries) */
    struct stage<D> stages[STAGES];
    struct told told[STAGES];
};
static_assert(sizeof(struct stage<64>) % 1024 == 0 && sizeof(struct stage<128>) % 1024 == 0, "panels of the next one");

/* Key heads [first, first + n) of one launch, the heads of each on `sets` blocks, and what is unfinished of them. */
struct part {
    int64_t first, n, sets;
    float4 *partial; /* dq: (queries / SPAN, heads of the part, 2 groups, D / 16, GROUP)    */
    float4 *keys;    /* dk and dv, if sets > 1: (key tiles, n, sets, 2, D / 8, WORKERS)     */
};

/* A tile of SPAN queries, and a head; none: a tile before the walk's end. */
struct step {
    int tile, h;
};
/* What key block u0 walks: tiles from the last one down to `end` that see some of its rows, and the heads from h0 on.
 */
struct walk {
    int u0, end, h0, per;
};
static __device__ struct step step_at(const struct tables &t, const struct walk &w, int tile) {
    for (; tile >= w.end; tile--)
        if (t.tile[tile].first < w.u0 + BLOCK && t.tile[tile].last >= w.u0) break;
    return {same(tile), w.h0};
}
static __device__ struct step step_after(const struct tables &t, const struct walk &w, const struct step &s) {
    if (s.tile < w.end) return s;
    if (s.h + 1 < w.h0 + w.per) return {s.tile, s.h + 1};
    return step_at(t, w, s.tile - 1);
}

/* `rows` rows into panels by the third group; what lies outside the matrix becomes zero. */
template <int D, int rows> static __device__ void fetch_rows(bf16_bits *to, const struct rows16 &x, int thread) {
    constexpr int step = GROUP / (D / 8);
    static_assert(step % 8 == 0, "a thread's pieces lie in one column");
    const int first = thread / (D / 8), col = thread % (D / 8) * 8;
    const bf16_bits *from = x.at + first * x.pitch + col;
    bf16_bits *piece = tile_piece<64>(to + col / 64 * rows * 64, first, col % 64);
#pragma unroll 2
    for (int r = first; r < rows; r += step, from += step * x.pitch, piece += step * 64) {
        const bool inside = r < x.n && col < x.P;
        cp_async16_or_zero(piece, inside ? from : x.at, inside);
    }
}

/* By the GROUP threads of the third group. */
template <int D>
static __device__ void fetch_step(struct stage<D> *to, const struct attention &a, const struct tables &t,
                                  const struct step &s, int thread) {
    const int64_t t0 = (int64_t)s.tile * SPAN;
    const int P = (int)a.head_width;
    fetch_rows<D, SPAN>(to->q, rows_of(a.q, t0, (int64_t)s.h * P, P), thread);
    fetch_rows<D, SPAN>(to->dout, rows_of(a.dout, t0, (int64_t)s.h * P, P), thread);
    if (thread < SPAN / 2) cp_async16(to->sums + 2 * thread, t.sums + s.h * t.queries + t0 + 2 * thread);
    else if (thread < SPAN) cp_async16(to->seen + 2 * thread - SPAN, t.query + t0 + 2 * thread - SPAN);
}

/* s (64 keys, 64 queries) of a group: rows r0.. of `keys` times the rows of `queries`, D terms.  Under way. */
template <int D> static __device__ void scores(float s[8][4], panels keys, int r0, panels queries) {
#pragma unroll
    for (int k = 0; k < D; k += 16)
        wgmma_shared<SPAN, false, false>(s, rows_at(keys, BLOCK, r0, k), rows_at(queries, SPAN, 0, k), k > 0);
    wgmma_commit();
}

/* Scores become weights.  Rows are keys u and u + 8, columns queries; `partly`: not all is seen. */
static __device__ void weights(float s[8][4], const struct row_sums *sums, const struct seen *seen, int u, bool partly,
                               float scale) {
    const int c = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const float4 two = *(const float4 *)(sums + 8 * n + c);
#pragma unroll
        for (int e = 0; e < 4; e++) s[n][e] = exp2_fast(fmaf(scale, s[n][e], -(e % 2 ? two.z : two.x)));
        if (!partly) continue;
        const int4 rows = *(const int4 *)(seen + 8 * n + c);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int key = u + 8 * (e / 2);
            if (key < (e % 2 ? rows.z : rows.x) || key > (e % 2 ? rows.w : rows.y)) s[n][e] = 0.0f;
        }
    }
}
static __device__ void weights_back(const float s[8][4], float dp[8][4], const struct row_sums *sums) {
    const int c = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const float4 two = *(const float4 *)(sums + 8 * n + c);
#pragma unroll
        for (int e = 0; e < 4; e++) dp[n][e] = s[n][e] * (dp[n][e] - (e % 2 ? two.w : two.y));
    }
}

/* sum (64 keys, D) += a times the 64 rows of `queries`.  Under way. */
template <int D> static __device__ void add_rows(float sum[D / 8][4], const uint32_t a[4][4], panels queries) {
#pragma unroll
    for (int k = 0; k < 4; k++) wgmma_registers<D, true>(sum, a[k], cols_at(queries, SPAN, 16 * k, 0));
    wgmma_commit();
}
/* The gradients of scores to shared memory: row r of the panel and r + 8. */
static __device__ void keep_gradients(bf16_bits *ds, const uint32_t a[4][4], int r) {
    const int c = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < 8; n++) {
        *(uint32_t *)(tile_piece<64>(ds, r, 8 * n) + c) = a[n / 2][n % 2 * 2];
        *(uint32_t *)(tile_piece<64>(ds, r + 8, 8 * n) + c) = a[n / 2][n % 2 * 2 + 1];
    }
}

/* A group's part of a step's dq, (64, D / 2), to what blocks before have made. */
template <int D>
static __device__ void part_add(float4 *partial, const struct told *step, int group, const float dq[D / 16][4]) {
    float4 *const here = partial + ((int64_t)step->place * 2 + group) * (D / 16 * GROUP) + threadIdx.x % GROUP;
    const bool first = same(step->order) == 0;
    if (same(step->turn) < 0) return;
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        float4 *const at = here + n * GROUP;
        const float4 x = make_float4(dq[n][0], dq[n][1], dq[n][2], dq[n][3]);
        if (first) sum_store(at, x);
        else sum_add(at, x);
    }
}

/* What a block works on. */
struct work {
    int key_tile, j;
    struct walk walk;
    struct step now, next, later;
};
static __device__ struct work work_of(const struct attention &a, const struct tables &t, const struct part &p) {
    const int item = (int)(blockIdx.x / p.sets), key_tile = (int)(item / p.n), j = (int)(p.first + item % p.n);
    const int per = (int)(a.heads / a.key_heads / p.sets), set = (int)(blockIdx.x % p.sets);
    const int h0 = (int)(j * p.sets + set) * per;
    const struct seen by = t.key_tile[key_tile];
    struct work w = {key_tile, j, {key_tile * BLOCK, same(by.last < 0 ? 0 : by.first), h0, per}, {}, {}, {}};
    w.now = step_at(t, w.walk, same(by.last));
    w.next = step_after(t, w.walk, w.now);
    w.later = step_after(t, w.walk, w.next);
    return w;
}
static __device__ void move_on(struct work *w, const struct tables &t) {
    w->now = w->next;
    w->next = w->later;
    w->later = step_after(t, w->walk, w->later);
}

static __device__ int partly(const struct seen_by_tile &sees, int u) {
    return u < sees.first_all || u + 63 > sees.last_all;
}
static __device__ void tell(struct told *to, const struct attention &a, const struct tables &t, const struct work &w,
                            const struct part &p) {
    const struct seen_by_tile sees = t.tile[w.now.tile];
    const int64_t per = a.heads / a.key_heads;
    to->place = (int)(w.now.tile * p.n * per + w.now.h - p.first * per);
    to->turn = (int)(w.now.tile * a.heads + w.now.h);
    to->order = w.key_tile - sees.first / BLOCK;
    to->partly = partly(sees, w.walk.u0) | partly(sees, w.walk.u0 + 64) << 1;
    to->more = w.next.tile >= w.walk.end;
}

/* The stage of the step before that of stage i. */
static __device__ int stage_before(int i) { return i == 0 ? STAGES - 1 : i - 1; }
static __device__ int stage_after(int i) { return i == STAGES - 1 ? 0 : i + 1; }

/* One warp, for both groups: a step's turn has come.  Some looked before, and may have seen it. */
static __device__ void bring_turn(const struct told *step, const struct tables &t, bool came) {
    if (!came && step->order > 0) turn_await(t.turn + step->turn, (unsigned)step->order);
    __syncwarp();
    barrier_arrive(TURN_BARRIER, GROUP + WARP);
    barrier_arrive(TURN_BARRIER + 1, GROUP + WARP);
}
/* One warp, whose first thread says it. */
static __device__ void pass_turn(const struct told *step, const struct tables &t) {
    const bool mine = threadIdx.x % WARP == 0 && step->turn >= 0;
    turn_pass(t.turn + (mine ? step->turn : 0), (unsigned)step->order + 1, mine);
}

/* The third group loads, two steps ahead; one warp of it waits for turns, one passes them on. */
template <int D>
static __device__ void bring(struct room<D> *m, const struct attention &a, const struct tables &t, const struct part &p,
                             struct work w) {
    const int thread = threadIdx.x - WORKERS, warp = same(thread / WARP);
    bool came = false;
    int i = 0;
    const auto fetch = [&](const struct step &s, int stage) {
        if (s.tile >= w.walk.end) fetch_step<D>(m->stages + stage, a, t, s, thread);
        cp_commit(); /* an empty one too: they are counted */
    };
    if (thread == 2 * WARP) m->told[1].turn = m->told[2].turn = -1, m->told[2].order = 0;
    if (w.now.tile >= w.walk.end) {
        fetch_rows<D, BLOCK>(m->k, rows_of(a.k, w.walk.u0, w.j * a.head_width, (int)a.head_width), thread);
        fetch_rows<D, BLOCK>(m->v, rows_of(a.v, w.walk.u0, w.j * a.head_width, (int)a.head_width), thread);
        fetch(w.now, 0);
        fetch(w.next, 1);
    }
#pragma unroll 1
    for (; w.now.tile >= w.walk.end; i = stage_after(i)) {
        if (thread == 2 * WARP) tell(m->told + i, a, t, w, p);
        cp_wait<1>();
        shared_fence();
        barrier_of(0, ALL); /* the step is there, and nobody reads the one before any more */
        if (warp == 3) bring_turn(m->told + stage_before(i), t, came);
        if (warp == 2) pass_turn(m->told + stage_after(i), t); /* of two steps before: it is added */
        fetch(w.later, stage_before(i));
        if (warp == 3) came = turn_came(t.turn + m->told[i].turn, (unsigned)m->told[i].order);
        move_on(&w, t);
    }
    barrier_of(0, ALL);
    if (warp == 3) bring_turn(m->told + stage_before(i), t, came);
    if (warp == 2) pass_turn(m->told + stage_after(i), t);
    barrier_of(0, ALL); /* the last step is added */
    if (warp == 2) pass_turn(m->told + stage_before(i), t);
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

/* The two groups that compute. */
template <int D>
static __device__ void compute(struct room<D> *m, const struct attention &a, const struct tables &t,
                               const struct part &p) {
    const int key_tile = (int)(blockIdx.x / (p.n * p.sets)), group = same(threadIdx.x / GROUP), r0 = group * 64,
              r = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
    const float scale = LOG2E * (float)a.scale;
    const panels k = panels_of(m->k);
    constexpr int bytes = sizeof(struct stage<D>), dout_at = sizeof m->stages->q;
    float dk[D / 8][4] = {}, dv[D / 8][4] = {}, made[D / 16][4] = {}; /* the last: a part of dq, to be added */
    bool more = same(t.key_tile[key_tile].last) >= 0;
    int i = 0;
#pragma unroll 1
    for (; more; i = stage_after(i)) {
        const struct stage<D> *const at = m->stages + i;
        const panels at_q = panels_on(k, (int)offsetof(struct room<D>, stages) + i * bytes);
        float s[8][4], dp[8][4], dq[D / 16][4];
        uint32_t packed[4][4], ds[4][4];

        barrier_of(0, ALL);
        wgmma_fence();
        scores<D>(s, k, r0, at_q);
        const bool hide = same(m->told[i].partly >> group & 1);
        more = same(m->told[i].more);
        barrier_of(TURN_BARRIER + group, GROUP + WARP); /* of the step before */
        part_add<D>(p.partial, m->told + stage_before(i), group, made);
        wgmma_fence();
        scores<D>(dp, panels_on(k, sizeof m->k), r0, panels_on(at_q, dout_at));

        wgmma_wait<1>();
        wgmma_settled<8>(s);
        weights(s, at->sums, at->seen, key_tile * BLOCK + r, hide, scale);
        pack_all<8>(packed, s);
        wgmma_wait<0>();
        wgmma_settled<8>(dp);
        wgmma_fence();
        add_rows<D>(dv, packed, panels_on(at_q, dout_at));
        weights_back(s, dp, at->sums);
        pack_all<8>(ds, dp);
        keep_gradients(m->ds, ds, r);
        shared_fence();
        barrier_of(GRADIENT_BARRIER, WORKERS); /* ds of both groups is there */
        wgmma_fence();
        add_rows<D>(dk, ds, at_q);
#pragma unroll
        for (int key = 0; key < BLOCK; key += 16)
            wgmma_shared<D / 2, true, true>(dq, cols_at(panels_on(k, offsetof(struct room<D>, ds)), BLOCK, key, 0),
                                            cols_at(k, BLOCK, key, group * (D / 2)), key > 0);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_settled<D / 16>(dq);
#pragma unroll
        for (int n = 0; n < D / 16; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) made[n][e] = (float)a.scale * dq[n][e];
    }
    wgmma_settled<D / 8>(dk);
    wgmma_settled<D / 8>(dv);
    barrier_of(0, ALL);
    barrier_of(TURN_BARRIER + group, GROUP + WARP);
    part_add<D>(p.partial, m->told + stage_before(i), group, made);
    barrier_of(0, ALL);
    leave<D>(dk, a.dk, p, 0, a.head_width, (float)a.scale);
    leave<D>(dv, a.dv, p, 1, a.head_width, 1.0f);
}

template <int D>
__global__ __launch_bounds__(ALL, 1) static void all_gradients(const struct attention a, const struct tables t,
                                                               const struct part p) {
    constexpr int more = D == 64 ? 216 : 240, less = D == 64 ? 72 : 24;
    static_assert(2 * more + less <= 3 * REGISTERS, "what two groups have more, the third one has less");
    DYNAMIC_PANELS(shared);
    struct room<D> *const m = (struct room<D> *)shared;
    if (same(threadIdx.x / GROUP) == 2) {
        registers_down<less>();
        bring<D>(m, a, t, p, work_of(a, t, p));
    } else {
        registers_up<more>();
        compute<D>(m, a, t, p);
    }
}

/* dq of the heads of a part: a block of GROUP threads for a tile, a head and half of its columns. */
template <int D>
__global__ __launch_bounds__(GROUP) static void finish_queries(const struct attention a, const struct part p) {
    const int64_t per = a.heads / a.key_heads, item = blockIdx.x / 2, half = blockIdx.x % 2;
    const int64_t tile = item / (p.n * per), h = p.first * per + item % (p.n * per);
    const float factor[2] = {1.0f, 1.0f};
    float dq[D / 16][4];
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        const float4 x = p.partial[(blockIdx.x * (int64_t)(D / 16) + n) * GROUP + threadIdx.x];
        dq[n][0] = x.x;
        dq[n][1] = x.y;
        dq[n][2] = x.z;
        dq[n][3] = x.w;
    }
    store<D / 2>(dq, a.dq, tile * SPAN, (int)threadIdx.x / WARP * 16, h * a.head_width + half * (D / 2),
                 (int)(a.head_width - half * (D / 2)), factor);
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
            sum[n][0] += x.x;
            sum[n][1] += x.y;
            sum[n][2] += x.z;
            sum[n][3] += x.w;
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

template <int D> static enum status start(struct ctx *c, const struct attention *a, const struct tables *t) {
    const int64_t at_once = key_heads_at_once(a), sets = sets_of(a), key_tiles = ceil_div(a->k.shape[0], BLOCK);
    void *partial, *keys;
    TRY(arena_take(c->work, at_once * key_head_bytes(a), &partial));
    TRY(arena_take(c->work, keys_bytes(a), &keys));
    for (int64_t first = 0; first < a->key_heads; first += at_once) {
        const struct part p = {first, least(at_once, a->key_heads - first), sets, (float4 *)partial, (float4 *)keys};
        const int64_t halves = ceil_div(a->q.shape[0], SPAN) * p.n * (a->heads / a->key_heads) * 2;
        LAUNCH_TILES(all_gradients<D>, key_tiles * p.n * sets, ALL, (int64_t)sizeof(struct room<D>), *a, *t, p);
        LAUNCH(finish_queries<D>, dim3((unsigned)halves), GROUP, *a, p);
        if (sets > 1) LAUNCH(finish_keys<D>, dim3((unsigned)(key_tiles * p.n * 2)), WORKERS, *a, p);
    }
    return OK;
}

enum status attention_gradients(struct ctx *c, const struct attention *a, const struct tables *t) {
    return a->head_width <= 64 ? start<64>(c, a, t) : start<128>(c, a, t);
}
