/* SPDX-License-Identifier: Apache-2.0 */
/* The tables, and the forward: streamed softmax over tiles of KEYS keys, in powers of 2.  A block of threads owns 128
 * queries of one head, a warp 16 of them: 16 rows of scores, of weights and of o stay in its registers. */
#include "kernels/attention/attention_bf16.cuh"

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

/* A warp a (head, query); queries from T on: zeros, so that nothing in a last tile is undefined. */
__global__ static void sum_rows_back(const struct attention a, const struct tables t) {
    const int64_t P = a.head_width;
    FOR_WARPS(item, t.queries * a.heads) {
        const int64_t h = item / t.queries, q = item % t.queries;
        struct row_sums sums = {0.0f, 0.0f};
        if (q < a.q.shape[0]) {
            const bf16_bits *dout = (const bf16_bits *)a.dout.data + q * a.dout.pitch + h * P;
            const bf16_bits *o = (const bf16_bits *)a.o.data + q * a.o.pitch + h * P;
            for (int64_t p = 2 * threadIdx.x; p < P; p += 2 * WARP) {
                const uint32_t x = *(const uint32_t *)(dout + p), y = *(const uint32_t *)(o + p);
                sums.delta = fmaf(low_half(x), low_half(y), fmaf(high_half(x), high_half(y), sums.delta));
            }
            for (int half = WARP / 2; half > 0; half /= 2) sums.delta += __shfl_xor_sync(0xffffffffu, sums.delta, half);
            sums.lse = LOG2E * row(a.lse, q)[h];
        }
        if (threadIdx.x == 0) t.sums[item] = sums;
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

static void table_bytes(const struct attention *a, bool backward, int64_t bytes[4]) {
    const int64_t queries = padded(a->q.shape[0]);
    bytes[0] = queries * (int64_t)sizeof(struct seen);
    bytes[1] = queries / SPAN * (int64_t)sizeof(struct seen_by_tile);
    bytes[2] = backward ? key_tiles(a) * (int64_t)sizeof(struct seen) : 0;
    bytes[3] = backward ? queries * a->heads * (int64_t)sizeof(struct row_sums) : 0;
}

extern "C" int64_t attention_work_bf16(const struct attention *a) {
    int64_t bytes[4], sum = 0;
    table_bytes(a, true, bytes);
    for (int i = 0; i < 4; i++) sum += arena_round(bytes[i]);
    return sum;
}

/* The caller has marked the arena. */
enum status attention_tables(struct ctx *c, const struct attention *a, bool backward, struct tables *t) {
    int64_t bytes[4];
    void *at[4];
    table_bytes(a, backward, bytes);
    for (int i = 0; i < 4; i++) TRY(arena_take(c->work, bytes[i], &at[i]));
    *t = {(struct seen *)at[0], (struct seen_by_tile *)at[1], (struct seen *)at[2], (struct row_sums *)at[3],
          padded(a->q.shape[0])};
    LAUNCH_WARPS(find_seen, t->queries / SPAN, *a, *t);
    if (!backward) return OK;
    LAUNCH_WARPS(find_tiles, key_tiles(a), *t, key_tiles(a));
    LAUNCH_WARPS(sum_rows_back, t->queries * a->heads, *a, *t);
    return OK;
}

/* ---- forward ---- */

/* Scores of a row pair become weights against the new maxima, o and the sums shrink to them.  Lanes 4 g to 4 g + 3 hold
 * row g's columns in s[.][0..1], row g + 8's in s[.][2..3]. */
template <int D, int N>
static __device__ void soften(float s[N][4], float o[D / 8][4], float top[2], float sum[2], float scale) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most_of = top[half];
#pragma unroll
        for (int n = 0; n < N; n++) most_of = fmaxf(most_of, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        most_of = fmaxf(most_of, __shfl_xor_sync(0xffffffffu, most_of, 1));
        most_of = fmaxf(most_of, __shfl_xor_sync(0xffffffffu, most_of, 2));
        const float shift = most_of == -INFINITY ? 0.0f : scale * most_of; /* a row that sees nothing yet */
        const float shrink = exp2_fast(fmaf(scale, top[half], -shift));
        top[half] = most_of;
        sum[half] *= shrink;
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                s[n][e] = exp2_fast(fmaf(scale, s[n][e], -shift));
                sum[half] += s[n][e];
            }
#pragma unroll
        for (int d = 0; d < D / 8; d++) {
            o[d][2 * half] *= shrink;
            o[d][2 * half + 1] *= shrink;
        }
    }
}

/* o / sum and lse of a lane's two rows. */
template <int D>
static __device__ void finish(const struct attention &a, int64_t t0, int m0, int64_t h, const float o[D / 8][4],
                              const float top[2], float sum[2]) {
    const int lane = threadIdx.x % WARP;
    float share[2];
    for (int half = 0; half < 2; half++) {
        const int64_t t = t0 + m0 + lane / 4 + 8 * half;
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        share[half] = 1.0f / sum[half];
        if (lane % 4 == 0 && t < a.q.shape[0]) row(a.lse, t)[h] = (float)a.scale * top[half] + logf(sum[half]);
    }
    store<D>(o, a.o, t0, m0, h * a.head_width, (int)a.head_width, share);
}

template <int D>
__global__ __launch_bounds__(THREADS, 1) static void forward(const struct attention a, const struct tables t) {
    constexpr int KEYS = keys_of(D), N = KEYS / 8;
    DYNAMIC_SHARED(shared);
    bf16_bits *const q = (bf16_bits *)shared, *const k = q + BLOCK * D, *const v = k + 2 * KEYS * D;
    const int64_t n_blocks = t.queries / BLOCK, block = n_blocks - 1 - blockIdx.x / a.heads; /* the longest first */
    const int64_t h = blockIdx.x % a.heads, t0 = block * BLOCK, column = h / (a.heads / a.key_heads) * a.head_width;
    const int P = (int)a.head_width, m0 = threadIdx.x / WARP * 16;
    const float scale = LOG2E * (float)a.scale;
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
        float s[N][4];
        products<D, N>(s, q, m0, k + i % 2 * KEYS * D, 0);
        if (k0 < w.all.first_all || k0 + KEYS - 1 > w.all.last_all) hide<N>(s, w, k0, -INFINITY);
        soften<D, N>(s, o, top, sum, scale);
        add_products<D, N>(o, s, v + i % 2 * KEYS * D, 0);
    }
    finish<D>(a, t0, m0, h, o, top, sum);
}

template <int D> static enum status start_forward(struct ctx *c, const struct attention *a, const struct tables *t) {
    const int64_t bytes = (BLOCK + 4 * keys_of(D)) * D * (int64_t)sizeof(bf16_bits);
    LAUNCH_TILES(forward<D>, t->queries / BLOCK * a->heads, bytes, *a, *t);
    return OK;
}

static enum status run_forward(struct ctx *c, const struct attention *a) {
    struct tables t;
    TRY(attention_tables(c, a, false, &t));
    if (a->head_width <= 64) return start_forward<64>(c, a, &t);
    if (a->head_width <= 128) return start_forward<128>(c, a, &t);
    return start_forward<256>(c, a, &t);
}

extern "C" enum status attention_fwd_bf16(struct ctx *c, const struct attention *a) {
    TRY(attention_bf16_check(a, false));
    const int64_t mark = arena_mark(c->work);
    const enum status st = run_forward(c, a);
    arena_release(c->work, mark);
    return st;
}
