/* SPDX-License-Identifier: Apache-2.0 */
/* The forward of heads up to 128 wide: streamed softmax over tiles of 128 keys, in powers of 2.  A block of threads
 * owns 128 queries of one head, one of its two groups of warps 64 of them, whose o stays in registers.  The scores of a
 * tile are made while the weights of the tile before are multiplied with its values, and softened meanwhile. */
#include "kernels/attention/attention_bf16.cuh"
#include "kernels/wgmma.cuh"

template <int D> struct room { bf16_bits q[BLOCK * D], k[2][BLOCK * D], v[2][BLOCK * D]; };

/* s (64, BLOCK) of a group: its queries times all keys of a tile.  Under way. */
template <int D> static __device__ void scores(float s[BLOCK / 8][4], panels q, int m0, panels k) {
#pragma unroll
    for (int at = 0; at < D; at += 16)
        wgmma_shared<BLOCK, false, false>(s, rows_at(q, BLOCK, m0, at), rows_at(k, BLOCK, 0, at), at > 0);
    wgmma_commit();
}
/* o += weights times values.  Under way. */
template <int D> static __device__ void add_values(float o[D / 8][4], const uint32_t weight[BLOCK / 16][4], panels v) {
#pragma unroll
    for (int k = 0; k < BLOCK / 16; k++) wgmma_registers<D, true>(o, weight[k], cols_at(v, BLOCK, 16 * k, 0));
    wgmma_commit();
}

/* Scores of the keys from k0 on become weights. */
template <int N>
static __device__ void weigh(float s[N][4], const struct warp_rows &w, int k0, float top[2], float sum[2],
                             float shrink[2], float scale) {
    if (same(k0 < w.all.first_all || k0 + 8 * N - 1 > w.all.last_all)) hide<N>(s, w, k0, -INFINITY);
    soften<N>(s, top, sum, shrink, scale);
}
/* What was fetched is there, for products too, and all threads have come here. */
static __device__ void arrive() {
    cp_wait<0>();
    shared_fence();
    __syncthreads();
}

/* Item n: a block of queries of a head, the longest first. */
template <int D>
static __device__ void forward_item(struct room<D> *m, const struct attention &a, const struct tables &t, int64_t n) {
    constexpr int N = BLOCK / 8;
    const int64_t block = t.queries / BLOCK - 1 - n / a.heads;
    const int64_t h = n % a.heads, t0 = block * BLOCK, column = h / (a.heads / a.key_heads) * a.head_width;
    const int P = (int)a.head_width, m0 = threadIdx.x / WARP * 16, group0 = same(threadIdx.x / GROUP) * 64;
    const float scale = LOG2E * (float)a.scale;
    const struct warp_rows w = warp_rows_of(t.query + t0 + m0);
    const struct seen span = block_sees(t.tile + t0 / SPAN);
    const int first = same(span.first), tiles = same((span.last + BLOCK - span.first) / BLOCK);
    float s[N][4], o[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, shrink[2];
    uint32_t weight[N / 2][4];
    if (tiles <= 0) return;
    const panels q = panels_of(m->q), k = panels_of(m->k[0]), v = panels_of(m->v[0]);
    constexpr int stage = sizeof m->k[0];

    /* Keys of the tile behind tile i, and its own values. */
    const auto fetch_next = [&](int i) {
        const int k0 = first + i * BLOCK;
        if (i + 1 < tiles)
            fetch_panels<D, BLOCK, THREADS>(m->k[(i + 1) % 2], rows_of(a.k, k0 + BLOCK, column, P), threadIdx.x);
        fetch_panels<D, BLOCK, THREADS>(m->v[i % 2], rows_of(a.v, k0, column, P), threadIdx.x);
        cp_commit();
    };
    fetch_panels<D, BLOCK, THREADS>(m->q, rows_of(a.q, t0, h * P, P), threadIdx.x);
    fetch_panels<D, BLOCK, THREADS>(m->k[0], rows_of(a.k, first, column, P), threadIdx.x);
    cp_commit();
    arrive();
    fetch_next(0);
    wgmma_fence();
    scores<D>(s, q, group0, k);
    wgmma_wait<0>();
    wgmma_settled<N>(s);
    weigh<N>(s, w, first, top, sum, shrink, scale);
    pack_all<N>(weight, s);
#pragma unroll 1
    for (int i = 1; i < tiles; i++) {
        arrive(); /* keys of tile i and values of i - 1; nobody reads those before any more */
        fetch_next(i);
        wgmma_fence();
        scores<D>(s, q, group0, panels_on(k, i % 2 * stage));
        add_values<D>(o, weight, panels_on(v, (i + 1) % 2 * stage));
        wgmma_wait<1>();
        wgmma_settled<N>(s);
        weigh<N>(s, w, first + i * BLOCK, top, sum, shrink, scale);
        wgmma_wait<0>();
        wgmma_settled<D / 8>(o);
        shrink_rows<D>(o, shrink);
        pack_all<N>(weight, s);
    }
    arrive();
    wgmma_fence();
    add_values<D>(o, weight, panels_on(v, (tiles - 1) % 2 * stage));
    wgmma_wait<0>();
    wgmma_settled<D / 8>(o);
    finish<D>(a, t0, m0, h, o, top, sum);
}

template <int D>
__global__ __launch_bounds__(THREADS, 1) static void forward(const struct attention a, const struct tables t) {
    DYNAMIC_PANELS(shared);
    forward_item<D>((struct room<D> *)shared, a, t, blockIdx.x);
}

/* The blocks of queries that begin before t.rest: mostly none, so a few blocks of threads look whether there are. */
template <int D>
__global__ __launch_bounds__(THREADS, 1) static void forward_rest(const struct attention a, const struct tables t) {
    DYNAMIC_PANELS(shared);
    const int64_t all = t.queries / BLOCK, left = ceil_div(*t.rest, BLOCK);
    for (int64_t n = (all - left) * a.heads + blockIdx.x; n < all * a.heads; n += gridDim.x) {
        __syncthreads(); /* nobody reads the tiles of the item before any more */
        forward_item<D>((struct room<D> *)shared, a, t, n);
    }
}

template <int D> static enum status start(struct ctx *c, const struct attention *a, const struct tables *t) {
    const int64_t items = t->queries / BLOCK * a->heads, bytes = sizeof(struct room<D>);
    if (t->rest) LAUNCH_TILES(forward_rest<D>, least(items, PROCESSORS), THREADS, bytes, *a, *t);
    else LAUNCH_TILES(forward<D>, items, THREADS, bytes, *a, *t);
    return OK;
}

enum status attention_forward(struct ctx *c, const struct attention *a, const struct tables *t) {
    return a->head_width <= 64 ? start<64>(c, a, t) : start<128>(c, a, t);
}
