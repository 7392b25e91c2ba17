/* SPDX-License-Identifier: Apache-2.0 */
/* The tables, and the forward: streamed softmax over tiles of KEYS keys, in powers of 2.  A block of threads owns 128
 * queries of one head, a warp 16 of them: 16 rows of scores, of weights and of o stay in its registers. */
#include "kernels/attention/attention_bf16.cuh"
#include "kernels/attention/attention_dnn.h"

/* ---- tables ---- */

static __device__ struct seen seen_by(const struct attention &a, int64_t t) {
    const int64_t r = range_of(a.range, t), pos = long_at(a.pos, t);
    const int64_t at = long_at(a.keys, 2 * r + 1) - (long_at(a.range, r + 1) - t); /* row of k beside query t */
    const int64_t first = most(long_at(a.keys, 2 * r), at - (a.window > 0 ? least(pos, a.window - 1) : pos));
    return {(int)first, (int)at};
}

__global__ static void find_seen(const struct attention a, const struct tables t) {
    FOR_WARPS(tile, t.queries / SPAN) {
        struct seen_by_tile all = {INT_MAX, -1, -1, INT_MAX};
        for (int i = threadIdx.x; i < SPAN; i += WARP) {
            const int64_t q = tile * SPAN + i;
            struct seen one = {INT_MAX, -1};
            if (q < a.q.shape[0]) one = seen_by(a, q);
            t.query[q] = one;
            all = {min(all.first, one.first), max(all.last, one.last), max(all.first_all, one.first),
                   min(all.last_all, one.last)};
        }
        for (int half = WARP / 2; half > 0; half /= 2) {
            all.first = min(all.first, __shfl_xor_sync(0xffffffffu, all.first, half));
            all.last = max(all.last, __shfl_xor_sync(0xffffffffu, all.last, half));
            all.first_all = max(all.first_all, __shfl_xor_sync(0xffffffffu, all.first_all, half));
            all.last_all = min(all.last_all, __shfl_xor_sync(0xffffffffu, all.last_all, half));
        }
        if (threadIdx.x == 0) t.tile[tile] = all;
    }
}

__global__ static void find_tiles(const struct tables t, int64_t n_key_tiles) {
    FOR_WARPS(key_tile, n_key_tiles) {
        const int64_t u0 = key_tile * BLOCK;
        int first = INT_MAX, last = -1;
        for (int64_t i = threadIdx.x; i < t.queries / SPAN; i += WARP)
            if (t.tile[i].first < u0 + BLOCK && t.tile[i].last >= u0) {
                first = min(first, (int)i);
                last = max(last, (int)i);
            }
        for (int half = WARP / 2; half > 0; half /= 2) {
            first = min(first, __shfl_xor_sync(0xffffffffu, first, half));
            last = max(last, __shfl_xor_sync(0xffffffffu, last, half));
        }
        if (threadIdx.x == 0) t.key_tile[key_tile] = {first, last};
    }
}

static __device__ float two_products(uint32_t x, uint32_t y) {
    return fmaf(low_half(x), low_half(y), high_half(x) * high_half(y));
}

static __device__ void keep_sums(const struct tables &t, int64_t P, int64_t item, const struct row_sums &sums) {
    struct tile_sums *const tile = t.tiles + item / SPAN;
    const int place = place_in_tile((int)(item % SPAN));
    if (P > 128) t.sums[item] = sums;
    else tile->lse[place] = sums.lse, tile->delta[place] = sums.delta;
}

/* 16 lanes a (head, query); queries from T on: zeros, so that nothing in a last tile is undefined. */
__global__ static void sum_rows_back(const struct attention a, const struct tables t) {
    const int64_t P = a.head_width, lane = threadIdx.x % 16;
    FOR_WARPS(pair, t.queries * a.heads / 2) {
        const int64_t item = 2 * pair + threadIdx.x / 16, h = item / t.queries, q = item % t.queries;
        struct row_sums sums = {0.0f, 0.0f};
        if (q < a.q.shape[0]) {
            const bf16_bits *dout = (const bf16_bits *)a.dout.data + q * a.dout.pitch + h * P;
            const bf16_bits *o = (const bf16_bits *)a.o.data + q * a.o.pitch + h * P;
            for (int64_t p = 8 * lane; p < P; p += 8 * 16) {
                const uint4 x = *(const uint4 *)(dout + p), y = *(const uint4 *)(o + p);
                sums.delta += two_products(x.x, y.x) + two_products(x.y, y.y);
                sums.delta += two_products(x.z, y.z) + two_products(x.w, y.w);
            }
            sums.lse = LOG2E * row(a.lse, q)[h];
        }
        for (int half = 8; half > 0; half /= 2) sums.delta += __shfl_xor_sync(0xffffffffu, sums.delta, half);
        if (lane == 0) keep_sums(t, P, item, sums);
        if (lane == 0 && q % SPAN == 0) t.turn[q / SPAN * a.heads + h] = 0;
    }
}

static bool aligned(struct tensor x) { return (uintptr_t)x.data % 16 == 0 && x.pitch % 8 == 0; }

extern "C" enum status attention_shape_bf16(const struct attention *a) {
    CHECK_THAT(attention, a->head_width % 8 == 0 && a->head_width <= 256,
               "head_width %" PRId64 " has no BF16 kernel: multiples of 8 up to 256 do, all in F32", a->head_width);
    return OK;
}

extern "C" enum status attention_bf16_check(const struct attention *a, bool backward) {
    const struct tensor x[] = {a->q, a->k, a->v, a->o, a->dout, a->dq, a->dk, a->dv};
    TRY(attention_shape_bf16(a));
    CHECK_THAT(attention, a->scale > 0.0, "scale %g: expected above 0", a->scale);
    CHECK_THAT(attention, a->k.shape[0] < INT32_MAX - BLOCK, "%" PRId64 " rows of k: expected fewer than 2^31",
               a->k.shape[0]);
    for (int i = 0; i < (backward ? 8 : 4); i++)
        CHECK_THAT(attention, aligned(x[i]),
                   "in BF16 rows of q, k, v, o and their gradients begin at multiples of 16 "
                   "bytes: tensor %d of these has the pitch %" PRId64 " at %p",
                   i, x[i].pitch, x[i].data);
    return OK;
}

static int64_t key_tiles(const struct attention *a) { return ceil_div(a->k.shape[0], BLOCK); }

enum { N_TABLES = 5 };
static void table_bytes(const struct attention *a, bool backward, int64_t bytes[N_TABLES]) {
    const int64_t queries = padded(a->q.shape[0]);
    bytes[0] = queries * (int64_t)sizeof(struct seen);
    bytes[1] = queries / SPAN * (int64_t)sizeof(struct seen_by_tile);
    bytes[2] = backward ? key_tiles(a) * (int64_t)sizeof(struct seen) : 0;
    bytes[3] = backward ? queries * a->heads * (int64_t)sizeof(struct row_sums) : 0;
    bytes[4] = backward ? queries / SPAN * a->heads * (int64_t)sizeof(unsigned) : 0;
}

extern "C" int64_t attention_work_bf16(const struct attention *a) {
    int64_t bytes[N_TABLES], sum = attention_partial_bytes(a), forward = 0;
    table_bytes(a, true, bytes);
    for (int i = 0; i < N_TABLES; i++) sum += arena_round(bytes[i]);
    table_bytes(a, false, bytes);
    for (int i = 0; i < N_TABLES; i++) forward += arena_round(bytes[i]);
    forward += arena_round((int64_t)sizeof(struct attention_entries)) + arena_round(ATTENTION_DNN_WORKSPACE);
    return most(sum, forward);
}

/* The caller has marked the arena. */
enum status attention_tables(struct ctx *c, const struct attention *a, bool backward, struct tables *t) {
    int64_t bytes[N_TABLES];
    void *at[N_TABLES];
    table_bytes(a, backward, bytes);
    for (int i = 0; i < N_TABLES; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    *t = {(struct seen *)at[0],      (struct seen_by_tile *)at[1],
          (struct seen *)at[2],      (struct row_sums *)at[3],
          (struct tile_sums *)at[3], (unsigned *)at[4],
          padded(a->q.shape[0]),     NULL};
    LAUNCH_WARPS(find_seen, t->queries / SPAN, *a, *t);
    if (!backward) return OK;
    LAUNCH_WARPS(find_tiles, key_tiles(a), *t, key_tiles(a));
    LAUNCH_WARPS(sum_rows_back, t->queries * a->heads / 2, *a, *t);
    return OK;
}

/* The documents of all ranges, the last one first, until there is no entry left: one thread, since there are few. */
__global__ static void list_entries(const struct attention a, struct attention_entries *e) {
    int64_t n = 0, left = a.q.shape[0];
    for (int64_t r = a.range.shape[0] - 2; r >= 0; r--) {
        const int64_t begin = long_at(a.range, r), end = long_at(a.range, r + 1);
        const int64_t keys = long_at(a.keys, 2 * r), keys_end = long_at(a.keys, 2 * r + 1);
        while (left > begin && n < ATTENTION_ENTRIES) {
            const int64_t pos = long_at(a.pos, left - 1), t = most(begin, left - 1 - pos);
            const int64_t key_end = keys_end - (end - left), key = most(keys, key_end - 1 - pos);
            const int64_t i = ATTENTION_ENTRIES - ++n;
            e->q[i] = t * a.q.pitch;
            e->o[i] = t * a.o.pitch;
            e->lse[i] = t * a.lse.pitch;
            e->k[i] = key * a.k.pitch;
            e->v[i] = key * a.v.pitch;
            e->n_queries[i] = (int32_t)(left - t);
            e->n_keys[i] = (int32_t)(key_end - key);
            left = t;
        }
    }
    e->rest = left;
    for (int64_t i = 0; i < ATTENTION_ENTRIES - n; i++) {
        e->q[i] = e->o[i] = e->lse[i] = e->k[i] = e->v[i] = 0;
        e->n_queries[i] = e->n_keys[i] = 0;
    }
    e->q[ATTENTION_ENTRIES] = a.q.shape[0] * a.q.pitch;
    e->o[ATTENTION_ENTRIES] = a.q.shape[0] * a.o.pitch;
    e->lse[ATTENTION_ENTRIES] = a.q.shape[0] * a.lse.pitch;
    e->k[ATTENTION_ENTRIES] = a.k.shape[0] * a.k.pitch;
    e->v[ATTENTION_ENTRIES] = a.v.shape[0] * a.v.pitch;
}

/* ---- forward ---- */

template <int D>
__global__ __launch_bounds__(THREADS, 1) static void forward(const struct attention a, const struct tables t) {
    constexpr int KEYS = keys_of(D), N = KEYS / 8;
    DYNAMIC_SHARED(shared);
    bf16_bits *const q = (bf16_bits *)shared, *const k = q + BLOCK * D, *const v = k + 2 * KEYS * D;
    const int64_t n_blocks = t.queries / BLOCK, block = n_blocks - 1 - blockIdx.x / a.heads; /* the longest first */
    const int64_t h = blockIdx.x % a.heads, t0 = block * BLOCK, column = h / (a.heads / a.key_heads) * a.head_width;
    const int P = (int)a.head_width, m0 = threadIdx.x / WARP * 16;
    const float scale = LOG2E * (float)a.scale;
    if (t.rest && t0 >= *t.rest) return;
    const struct warp_rows w = warp_rows_of(t.query + t0 + m0);
    const struct seen span = block_sees(t.tile + t0 / SPAN);
    float o[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};

    fetch<D, BLOCK>(q, rows_of(a.q, t0, h * P, P));
    const int tiles = (span.last + KEYS - span.first) / KEYS;
    for (int i = -1; i < tiles; i++) {
        cp_wait<0>();
        __syncthreads(); /* tile i is there for all, and nobody reads tile i - 1 any more */
        if (i + 1 < tiles) {
            const int64_t next = span.first + (int64_t)(i + 1) * KEYS;
            fetch<D, KEYS>(k + (i + 1) % 2 * KEYS * D, rows_of(a.k, next, column, P));
            fetch<D, KEYS>(v + (i + 1) % 2 * KEYS * D, rows_of(a.v, next, column, P));
            cp_commit();
        }
        const int k0 = span.first + i * KEYS;
        if (i < 0 || k0 > w.all.last || k0 + KEYS <= w.all.first) continue;
        float s[N][4], shrink[2];
        products<D, N>(s, q, m0, k + i % 2 * KEYS * D, 0);
        if (k0 < w.all.first_all || k0 + KEYS - 1 > w.all.last_all) hide<N>(s, w, k0, -INFINITY);
        soften<N>(s, top, sum, shrink, scale);
        shrink_rows<D>(o, shrink);
        add_products<D, N>(o, s, v + i % 2 * KEYS * D, 0);
    }
    finish<D>(a, t0, m0, h, o, top, sum);
}

template <int D> static enum status start_forward(struct ctx *c, const struct attention *a, const struct tables *t) {
    const int64_t bytes = (BLOCK + 4 * keys_of(D)) * D * (int64_t)sizeof(bf16_bits);
    LAUNCH_TILES(forward<D>, t->queries / BLOCK * a->heads, THREADS, bytes, *a, *t);
    return OK;
}

/* What cuDNN does of the forward; t->rest: what it leaves. */
static enum status library_forward(struct ctx *c, const struct attention *a, struct tables *t) {
    void *mem, *workspace;
    TRY(arena_take(c->work, (int64_t)sizeof(struct attention_entries), &mem));
    TRY(arena_take(c->work, ATTENTION_DNN_WORKSPACE, &workspace));
    struct attention_entries *entries = (struct attention_entries *)mem;
    LAUNCH(list_entries, dim3(1), dim3(1), *a, entries);
    t->rest = &entries->rest;
    return attention_dnn_forward(c, a, entries, workspace);
}

/* A plain batch, all of it and without tables. */
static enum status library_plain(struct ctx *c, const struct attention *a) {
    void *workspace;
    TRY(arena_take(c->work, ATTENTION_DNN_WORKSPACE, &workspace));
    return attention_dnn_forward(c, a, NULL, workspace);
}

static enum status run_forward(struct ctx *c, const struct attention *a) {
    const enum dnn_form form = attention_dnn_form(c, a);
    struct tables t;
    if (form == DNN_PLAIN) return library_plain(c, a);
    TRY(attention_tables(c, a, false, &t));
    if (form == DNN_ENTRIES) TRY(library_forward(c, a, &t));
    if (a->head_width <= 128) return attention_forward(c, a, &t);
    return start_forward<256>(c, a, &t);
}

extern "C" enum status attention_fwd_bf16(struct ctx *c, const struct attention *a) {
    TRY(attention_bf16_check(a, false));
    const int64_t mark = arena_mark(c->work);
    const enum status st = run_forward(c, a);
    arena_release(c->work, mark);
    return st;
}
