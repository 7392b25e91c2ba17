/* SPDX-License-Identifier: Apache-2.0 */
/* The formulas of attention_ref.c over 32 x 32 tiles of scores.  forward and dq: a block of threads owns 32 queries of
 * a head; dk and dv: a block owns 32 keys of a key head and walks the queries that see them, so each sum has one owner
 * and one order.  Tiles that nobody sees cost nothing. */
#include "kernels/attention/attention.h"
#include "kernels/attention/attention_bf16.h"
#include "kernels/attention/attention_dnn.h"
#include "kernels/ranges.cuh"
#include "kernels/tiles.cuh"

/* Queries of one tile and the keys they may see. */
struct queries {
    int64_t row;  /* first query                                   */
    int64_t keys; /* row of k and v that key index 0 stands for    */
    int64_t at;   /* key index of the first query                  */
    int n;        /* queries                                       */
};

static __device__ struct queries queries_at(const struct attention &a, int64_t r, int64_t begin, int64_t end) {
    const int64_t keys = long_at(a.keys, 2 * r), keys_end = long_at(a.keys, 2 * r + 1);
    const int64_t at = keys_end - keys - (long_at(a.range, r + 1) - begin);
    return {begin, keys, at, (int)(end - begin)};
}

/* First key index that query i of the tile sees, never less than that of i - 1; the last is at + i. */
static __device__ int64_t sees_from(const struct attention &a, const struct queries &t, int64_t i) {
    const int64_t pos = long_at(a.pos, t.row + i);
    return most(0, t.at + i - (a.window > 0 ? least(pos, a.window - 1) : pos));
}
static __device__ bool sees(const struct attention &a, const struct queries &t, int64_t i, int64_t key) {
    return i < t.n && key <= t.at + i && key >= sees_from(a, t, i);
}

static __device__ int64_t key_head_of(const struct attention &a, int64_t h) { return h / (a.heads / a.key_heads); }
static __device__ struct mat query_rows(const struct attention &a, const struct tensor &x, const struct queries &t,
                                        int64_t h) {
    return mat_of(x, t.row, h * a.head_width);
}

/* ---- forward ---- */

/* A tile of scores becomes weights against the new maxima; keep: the factor of what o has so far.  A warp owns a row.
 */
static __device__ void soften(const struct attention &a, const struct queries &t, int64_t k0, const float *score,
                              float *top, double *sum, tile M, float *keep) {
    TILE_EACH(i, j, q) {
        const bool seen = sees(a, t, i, k0 + j);
        const float s = (float)a.scale * score[q], old = top[q];
        top[q] = fmaxf(old, warp_most(seen ? s : -INFINITY));
        const float weight = seen ? expf(s - top[q]) : 0.0f;
        const float shrink = top[q] > old ? expf(old - top[q]) : 1.0f;
        sum[q] = sum[q] * (double)shrink + warp_sum((double)weight);
        M[i][j] = weight;
        if (j == 0) keep[i] = shrink;
    }
}

__global__ __launch_bounds__(THREADS) static void forward_tiles(const struct attention a, int64_t n_spans) {
    __shared__ tile M;
    __shared__ float keep[TILE];
    const int64_t P = a.head_width;
    for (int64_t item = blockIdx.x; item < n_spans * a.heads; item += gridDim.x) {
        const int64_t h = item % a.heads, column = key_head_of(a, h) * P;
        struct device_span span;
        if (!span_find(a.range, a.pos, TILE, item / a.heads, &span)) return;
        const struct queries t = queries_at(a, span.range, span.begin, span.end);
        float top[TILE_OWN], own[TILE_OWN];
        double sum[TILE_OWN] = {};
        for (int q = 0; q < TILE_OWN; q++) top[q] = -INFINITY;
        tile_clear(query_rows(a, a.o, t, h), t.n, P);
        for (int64_t k0 = sees_from(a, t, 0); k0 < t.at + t.n; k0 += TILE) {
            const int m = (int)least(TILE, t.at + t.n - k0);
            tile_dots(own, query_rows(a, a.q, t, h), t.n, mat_of(a.k, t.keys + k0, column), m, P);
            soften(a, t, k0, own, top, sum, M, keep);
            tile_add<false>(query_rows(a, a.o, t, h), t.n, M, mat_of(a.v, t.keys + k0, column), m, P, keep);
        }
        TILE_EACH(i, j, q) {
            if (i >= t.n) continue;
            float *o = row(a.o, t.row + i) + h * P;
            const float share = (float)(1.0 / sum[q]);
            for (int64_t p = j; p < P; p += WARP) o[p] *= share;
            if (j == 0) row(a.lse, t.row + i)[h] = (float)((double)top[q] + log(sum[q]));
        }
        __syncthreads();
    }
}

/* ---- backward ---- */

/* delta = do . o of every row and head. */
__global__ static void make_delta(const struct attention a, float *delta) {
    const int64_t P = a.head_width;
    FOR_WARPS(item, a.q.shape[0] * a.heads) {
        const float *dout = row(a.dout, item / a.heads) + item % a.heads * P;
        const float *o = row(a.o, item / a.heads) + item % a.heads * P;
        double sum = 0.0;
        for (int64_t p = threadIdx.x; p < P; p += WARP) sum += (double)dout[p] * (double)o[p];
        sum = warp_sum(sum);
        if (threadIdx.x == 0) delta[item] = (float)sum;
    }
}

/* p = exp(s - lse) and ds = scale p (do . v - delta) of a tile; key indices from k0 on. */
static __device__ void weights_back(const struct attention &a, const struct queries &t, int64_t h, int64_t k0, int m,
                                    const float *delta, tile weight, tile ds) {
    const int64_t P = a.head_width, column = key_head_of(a, h) * P;
    float s[TILE_OWN], dp[TILE_OWN];
    tile_dots(s, query_rows(a, a.q, t, h), t.n, mat_of(a.k, t.keys + k0, column), m, P);
    tile_dots(dp, query_rows(a, a.dout, t, h), t.n, mat_of(a.v, t.keys + k0, column), m, P);
    TILE_EACH(i, j, q) {
        float p = 0.0f, gradient = 0.0f;
        if (j < m && sees(a, t, i, k0 + j)) {
            p = expf((float)a.scale * s[q] - row(a.lse, t.row + i)[h]);
            gradient = (float)a.scale * p * (dp[q] - delta[(t.row + i) * a.heads + h]);
        }
        weight[i][j] = p;
        ds[i][j] = gradient;
    }
}

__global__ __launch_bounds__(THREADS) static void query_gradients(const struct attention a, int64_t n_spans,
                                                                  const float *delta) {
    __shared__ tile weight, ds;
    const int64_t P = a.head_width;
    for (int64_t item = blockIdx.x; item < n_spans * a.heads; item += gridDim.x) {
        const int64_t h = item % a.heads;
        struct device_span span;
        if (!span_find(a.range, a.pos, TILE, item / a.heads, &span)) return;
        const struct queries t = queries_at(a, span.range, span.begin, span.end);
        const struct mat dq = query_rows(a, a.dq, t, h);
        tile_clear(dq, t.n, P);
        for (int64_t k0 = sees_from(a, t, 0); k0 < t.at + t.n; k0 += TILE) {
            const int m = (int)least(TILE, t.at + t.n - k0);
            weights_back(a, t, h, k0, m, delta, weight, ds);
            tile_add<false>(dq, t.n, ds, mat_of(a.k, t.keys + k0, key_head_of(a, h) * P), m, P, NULL);
        }
    }
}

/* What the queries of range r add to the gradients of the key rows [u0, u1). */
static __device__ void range_gradients(const struct attention &a, int64_t r, int64_t key_head, int64_t u0, int64_t u1,
                                       const float *delta, tile weight, tile ds) {
    const int64_t P = a.head_width, per = a.heads / a.key_heads, end = long_at(a.range, r + 1);
    const int64_t begin = most(u0, long_at(a.keys, 2 * r)), stop = least(u1, long_at(a.keys, 2 * r + 1));
    const int m = (int)(stop - begin);
    for (int64_t t0 = long_at(a.range, r); t0 < end && m > 0; t0 += TILE) {
        const struct queries t = queries_at(a, r, t0, least(end, t0 + TILE));
        const int64_t k0 = begin - t.keys;
        if (t.at + t.n <= k0) continue;
        if (sees_from(a, t, 0) >= k0 + m) break;
        for (int64_t h = key_head * per; h < (key_head + 1) * per; h++) {
            weights_back(a, t, h, k0, m, delta, weight, ds);
            tile_add<true>(mat_of(a.dv, begin, key_head * P), m, weight, query_rows(a, a.dout, t, h), t.n, P, NULL);
            tile_add<true>(mat_of(a.dk, begin, key_head * P), m, ds, query_rows(a, a.q, t, h), t.n, P, NULL);
        }
    }
}

__global__ __launch_bounds__(THREADS) static void key_gradients(const struct attention a, const float *delta) {
    __shared__ tile weight, ds;
    const int64_t U = a.k.shape[0], P = a.head_width;
    for (int64_t item = blockIdx.x; item < ceil_div(U, TILE) * a.key_heads; item += gridDim.x) {
        const int64_t key_head = item % a.key_heads, u0 = item / a.key_heads * TILE, u1 = least(U, u0 + TILE);
        tile_clear(mat_of(a.dk, u0, key_head * P), (int)(u1 - u0), P);
        tile_clear(mat_of(a.dv, u0, key_head * P), (int)(u1 - u0), P);
        for (int64_t r = 0; r < a.range.shape[0] - 1; r++) range_gradients(a, r, key_head, u0, u1, delta, weight, ds);
    }
}

/* ---- both ---- */

static enum status check(struct ctx *c, const struct attention *a, bool backward) {
    const int64_t T = a->q.shape[0], U = a->k.shape[0], H = a->heads, J = a->key_heads, P = a->head_width;
    const int64_t R = a->range.shape[0] - 1;
    CHECK_THAT(attention, H > 0 && J > 0 && P > 0 && H % J == 0 && a->window >= 0,
               "heads %" PRId64 ", key_heads %" PRId64 ", head_width %" PRId64 ", window %" PRId64
               ": expected counts above 0, key_heads dividing heads, and a window of 0 or more",
               H, J, P, a->window);
    CHECK_THAT(attention, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(attention, range, I64, R + 1);
    CHECK_SHAPE(attention, pos, I64, T);
    CHECK_SHAPE(attention, keys, I64, R, 2);
    CHECK_THAT(attention, R == 0 || a->keys.pitch == 2, "keys has the row pitch %" PRId64 ": expected a packed tensor",
               a->keys.pitch);
    CHECK_SHAPE(attention, q, c->real, T, H * P);
    CHECK_SHAPE(attention, k, c->real, U, J * P);
    CHECK_SHAPE(attention, v, c->real, U, J * P);
    CHECK_SHAPE(attention, o, c->real, T, H * P);
    CHECK_SHAPE(attention, lse, F32, T, H);
    CHECK_THAT(attention, !a->plain || (U == T && T % most(R, 1) == 0),
               "plain promises documents of one length that see the same rows of k: expected it of %" PRId64
               " queries, %" PRId64 " keys and %" PRId64 " ranges",
               T, U, R);
    if (!backward) return OK;
    CHECK_SHAPE(attention, dout, c->real, T, H * P);
    CHECK_SHAPE(attention, dq, c->real, T, H * P);
    CHECK_SHAPE(attention, dk, c->real, U, J * P);
    CHECK_SHAPE(attention, dv, c->real, U, J * P);
    return OK;
}

/* Tiles of queries that the ranges can make. */
static int64_t spans_of(const struct attention *a) { return spans_max(a->q.shape[0], a->range.shape[0] - 1, TILE); }
static dim3 grid_of(int64_t items) { return dim3((unsigned)least(items, 1 << 20)); }

extern "C" enum status attention_fwd_cuda(struct ctx *c, const struct attention *a) {
    TRY(check(c, a, false));
    if (c->real == BF16) return attention_fwd_bf16(c, a);
    LAUNCH(forward_tiles, grid_of(spans_of(a) * a->heads), THREADS, *a, spans_of(a));
    return OK;
}

static enum status backward(struct ctx *c, const struct attention *a) {
    const int64_t T = a->q.shape[0], H = a->heads;
    void *delta;
    TRY(arena_take(c->work, T * H * (int64_t)sizeof(float), &delta));
    LAUNCH_WARPS(make_delta, T * H, *a, (float *)delta);
    LAUNCH(query_gradients, grid_of(spans_of(a) * H), THREADS, *a, spans_of(a), (const float *)delta);
    LAUNCH(key_gradients, grid_of(ceil_div(a->k.shape[0], TILE) * a->key_heads), THREADS, *a, (const float *)delta);
    return OK;
}

extern "C" enum status attention_bwd_cuda(struct ctx *c, const struct attention *a) {
    TRY(check(c, a, true));
    if (c->real == BF16) return attention_bwd_bf16(c, a);
    const int64_t mark = arena_mark(c->work);
    const enum status st = backward(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" int64_t attention_work_cuda(const struct ctx *c, const struct attention *a) {
    if (c->real == BF16) {
        if (attention_shape_bf16(a) != OK) return -1;
        attention_dnn_prepare(c, a);
        return attention_work_bf16(a);
    }
    return arena_round(a->q.shape[0] * a->heads * (int64_t)sizeof(float));
}
