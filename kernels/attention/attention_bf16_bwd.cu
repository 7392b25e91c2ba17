/* SPDX-License-Identifier: Apache-2.0 */
/* The backward.  dq: a block of threads owns 128 queries of a head, as in the forward, and makes p and ds again tile by
 * tile.  dk and dv: a block owns 128 keys of a key head, a warp 16 of them, and walks the queries that see them, of all
 * heads that read that key head; scores are transposed there, keys along rows.  Every sum has one owner and one order.
 *
 *   p = 2^(scale' s - lse')   ds = p (do . v - delta)   dq = scale ds k   dv = p^T do   dk = scale ds^T q */
#include "kernels/attention/attention_bf16.cuh"

/* ---- dq ---- */

/* s and dp of a lane's rows become ds, in s. */
template <int N>
static __device__ void gradients(float s[N][4], const float dp[N][4], const struct row_sums sums[2], float scale) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[n][e] = exp2_fast(fmaf(scale, s[n][e], -sums[e / 2].lse)) * (dp[n][e] - sums[e / 2].delta);
}

template <int D>
__global__ __launch_bounds__(THREADS, 1) static void query_gradients(const struct attention a, const struct tables t) {
    constexpr int KEYS = keys_of(D), N = KEYS / 8;
    DYNAMIC_SHARED(shared);
    bf16_bits *const q = (bf16_bits *)shared, *const dout = q + BLOCK * D, *const k = dout + BLOCK * D,
                     *const v = k + 2 * KEYS * D;
    const int64_t n_blocks = t.queries / BLOCK, block = n_blocks - 1 - blockIdx.x / a.heads;
    const int64_t h = blockIdx.x % a.heads, t0 = block * BLOCK, column = h / (a.heads / a.key_heads) * a.head_width;
    const int P = (int)a.head_width, m0 = threadIdx.x / WARP * 16, g = threadIdx.x % WARP / 4;
    const struct row_sums *const at = t.sums + h * t.queries + t0 + m0, sums[2] = {at[g], at[g + 8]};
    const struct warp_rows w = warp_rows_of(t.query + t0 + m0);
    const struct seen span = block_sees(t.tile + t0 / SPAN);
    const float scale = LOG2E * (float)a.scale, factor[2] = {(float)a.scale, (float)a.scale};
    float dq[D / 8][4] = {};

    fetch<D, BLOCK>(q, rows_of(a.q, t0, h * P, P));
    fetch<D, BLOCK>(dout, rows_of(a.dout, t0, h * P, P));
    const int tiles = (span.last + KEYS - span.first) / KEYS;
    for (int i = -1; i < tiles; i++) {
        cp_wait<0>();
        __syncthreads();
        if (i + 1 < tiles) {
            const int64_t next = span.first + (int64_t)(i + 1) * KEYS;
            fetch<D, KEYS>(k + (i + 1) % 2 * KEYS * D, rows_of(a.k, next, column, P));
            fetch<D, KEYS>(v + (i + 1) % 2 * KEYS * D, rows_of(a.v, next, column, P));
            cp_commit();
        }
        const int k0 = span.first + i * KEYS;
        if (i < 0 || k0 > w.all.last || k0 + KEYS <= w.all.first) continue;
        float s[N][4], dp[N][4];
        products<D, N>(s, q, m0, k + i % 2 * KEYS * D, 0);
        products<D, N>(dp, dout, m0, v + i % 2 * KEYS * D, 0);
        if (k0 < w.all.first_all || k0 + KEYS - 1 > w.all.last_all) hide<N>(s, w, k0, -INFINITY);
        gradients<N>(s, dp, sums, scale);
        add_products<D, N>(dq, s, k + i % 2 * KEYS * D, 0);
    }
    store<D>(dq, a.dq, t0, m0, h * P, P, factor);
}

/* ---- dk and dv ---- */

/* Queries of one tile, and of one part of it, whose scores a warp holds at a time. */
static constexpr __host__ __device__ int queries_of(int D) { return D > 128 ? 32 : 64; }
constexpr int PART = 32;
static_assert(SPAN % 64 == 0, "a tile of queries has one entry in the table");

/* One stage of what comes for a tile of queries of a head. */
template <int D> struct stage {
    bf16_bits q[queries_of(D) * D], dout[queries_of(D) * D];
    struct row_sums sums[queries_of(D)];
    struct seen seen[queries_of(D)];
};

/* A tile of queries, counted in queries_of(D), and a head. */
struct step {
    int64_t tile, h;
};

template <int D>
static __device__ void fetch_step(struct stage<D> *to, const struct attention &a, const struct tables &t,
                                  struct step s) {
    constexpr int n = queries_of(D);
    const int64_t t0 = s.tile * n;
    const int P = (int)a.head_width;
    fetch<D, n>(to->q, rows_of(a.q, t0, s.h * P, P));
    fetch<D, n>(to->dout, rows_of(a.dout, t0, s.h * P, P));
    static_assert(sizeof(struct row_sums) == 8 && sizeof(struct seen) == 8, "two of them are one copy of 16 bytes");
    if (threadIdx.x < n / 2) cp_async16(to->sums + 2 * threadIdx.x, t.sums + s.h * t.queries + t0 + 2 * threadIdx.x);
    else if (threadIdx.x < n) cp_async16(to->seen + 2 * threadIdx.x - n, t.query + t0 + 2 * threadIdx.x - n);
}

/* The next tile from `tile` on that sees some of the rows [u0, u0 + BLOCK) of k, or `end`. */
template <int D> static __device__ int64_t next_tile(const struct tables &t, int64_t tile, int64_t end, int u0) {
    while (tile < end) {
        const struct seen_by_tile s = t.tile[tile * queries_of(D) / SPAN];
        if (s.first < u0 + BLOCK && s.last >= u0) break;
        tile++;
    }
    return tile;
}

/* Transposed: rows are keys u, u + 8, columns queries.  s becomes p, dp becomes ds; `partly`: not all is seen. */
template <int N>
static __device__ void weights_back(float s[N][4], float dp[N][4], const struct row_sums *sums, const struct seen *seen,
                                    int u, bool partly, float scale) {
    const int c = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < N; n++) {
        const float4 two = *(const float4 *)(sums + 8 * n + c);
        const int4 rows = partly ? *(const int4 *)(seen + 8 * n + c) : make_int4(0, INT_MAX, 0, INT_MAX);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float lse = e % 2 ? two.z : two.x, delta = e % 2 ? two.w : two.y;
            const int key = u + 8 * (e / 2), first = e % 2 ? rows.z : rows.x, last = e % 2 ? rows.w : rows.y;
            s[n][e] = key < first || key > last ? 0.0f : exp2_fast(fmaf(scale, s[n][e], -lse));
            dp[n][e] = s[n][e] * (dp[n][e] - delta);
        }
    }
}

/* What PART queries of a stage add to a warp's 16 keys. */
template <int D, bool dk_too, bool dv_too>
static __device__ void add_part(float dk[D / 8][4], float dv[D / 8][4], const bf16_bits *k, const bf16_bits *v,
                                const struct stage<D> *at, int q0, int m0, int u, bool partly, float scale) {
    constexpr int N = PART / 8;
    float s[N][4], dp[N][4] = {};
    products<D, N>(s, k, m0, at->q, q0);
    if (dk_too) products<D, N>(dp, v, m0, at->dout, q0);
    weights_back<N>(s, dp, at->sums + q0, at->seen + q0, u, partly, scale);
    if (dv_too) add_products<D, N>(dv, s, at->dout, q0);
    if (dk_too) add_products<D, N>(dk, dp, at->q, q0);
}

/* Both, or one of them where registers do not hold both. */
template <int D, bool dk_too, bool dv_too>
__global__ __launch_bounds__(THREADS, 1) static void key_gradients(const struct attention a, const struct tables t) {
    constexpr int n = queries_of(D);
    DYNAMIC_SHARED(shared);
    bf16_bits *const k = (bf16_bits *)shared, *const v = k + BLOCK * D;
    struct stage<D> *const stages = (struct stage<D> *)(v + BLOCK * D);
    const int64_t j = blockIdx.x % a.key_heads, key_tile = blockIdx.x / a.key_heads, per = a.heads / a.key_heads;
    const int P = (int)a.head_width, m0 = threadIdx.x / WARP * 16, u0 = (int)(key_tile * BLOCK),
              g = threadIdx.x % WARP / 4;
    const struct seen by = t.key_tile[key_tile];
    const int64_t end = (int64_t)(by.last + 1) * (SPAN / n);
    const float scale = LOG2E * (float)a.scale, factor_k[2] = {(float)a.scale, (float)a.scale}, factor_v[2] = {1, 1};
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};

    struct step now = {end, 0},
                next = {by.last < 0 ? end : next_tile<D>(t, (int64_t)by.first * (SPAN / n), end, u0), j * per};
    if (next.tile < end) {
        fetch<D, BLOCK>(k, rows_of(a.k, u0, j * P, P));
        fetch<D, BLOCK>(v, rows_of(a.v, u0, j * P, P));
    }
    for (int i = -1; i < 0 || now.tile < end; i++) {
        cp_wait<0>();
        __syncthreads();
        if (next.tile < end) {
            fetch_step<D>(stages + (i + 1) % 2, a, t, next);
            cp_commit();
        }
        if (i >= 0) {
            const struct seen_by_tile all = t.tile[now.tile * n / SPAN];
            const int u = u0 + m0;
            if (all.first < u + 16 && all.last >= u)
#pragma unroll 1
                for (int q0 = 0; q0 < n; q0 += PART)
                    add_part<D, dk_too, dv_too>(dk, dv, k, v, stages + i % 2, q0, m0, u + g,
                                                u < all.first_all || u + 15 > all.last_all, scale);
        }
        now = next;
        if (next.tile < end && ++next.h == (j + 1) * per) next = {next_tile<D>(t, next.tile + 1, end, u0), j * per};
    }
    if (dk_too) store<D>(dk, a.dk, u0, m0, j * P, P, factor_k);
    if (dv_too) store<D>(dv, a.dv, u0, m0, j * P, P, factor_v);
}

/* ---- both ---- */

template <int D> static enum status start_queries(struct ctx *c, const struct attention *a, const struct tables *t) {
    const int64_t bytes = (2 * BLOCK + 4 * keys_of(D)) * D * (int64_t)sizeof(bf16_bits);
    LAUNCH_TILES(query_gradients<D>, t->queries / BLOCK * a->heads, THREADS, bytes, *a, *t);
    return OK;
}

template <int D, bool dk_too, bool dv_too>
static enum status start_keys(struct ctx *c, const struct attention *a, const struct tables *t) {
    const int64_t bytes = 2 * BLOCK * D * (int64_t)sizeof(bf16_bits) + 2 * (int64_t)sizeof(struct stage<D>);
    LAUNCH_TILES((key_gradients<D, dk_too, dv_too>), ceil_div(a->k.shape[0], BLOCK) * a->key_heads, THREADS, bytes, *a,
                 *t);
    return OK;
}

static enum status run_backward(struct ctx *c, const struct attention *a) {
    struct tables t;
    TRY(attention_tables(c, a, true, &t));
    if (a->head_width <= 128) return attention_gradients(c, a, &t);
    TRY(start_queries<256>(c, a, &t));
    TRY((start_keys<256, true, false>(c, a, &t)));
    return start_keys<256, false, true>(c, a, &t);
}

extern "C" enum status attention_bwd_bf16(struct ctx *c, const struct attention *a) {
    TRY(attention_bf16_check(a, true));
    const int64_t mark = arena_mark(c->work);
    const enum status st = run_backward(c, a);
    arena_release(c->work, mark);
    return st;
}
