/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ATTENTION_ATTENTION_WALK_CUH
#define BATON_KERNELS_ATTENTION_ATTENTION_WALK_CUH
/* attention_walk.cuh - what a block of threads of attention_wgmma_bwd.cu works on, step by step. */
#include "kernels/attention/attention_bf16.cuh"

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
/* The walk of key block u0: tiles that see some of its rows, from the last one down to `end`, and heads from h0 on. */
struct walk {
    int u0, end, h0, per;
};
static __device__ struct step step_at(const struct tables &t, const struct walk &w, int tile) {
    for (; tile >= w.end; tile--)
        if (t.tile[tile].first < w.u0 + BLOCK && t.tile[tile].last >= w.u0) break;
    return {tile, w.h0};
}
static __device__ struct step step_after(const struct tables &t, const struct walk &w, const struct step &s) {
    if (s.tile < w.end) return s;
    if (s.h + 1 < w.h0 + w.per) return {s.tile, s.h + 1};
    return step_at(t, w, s.tile - 1);
}

/* What a block works on. */
struct work {
    int key_tile, j;
    struct walk walk;
    struct step first;
};
static __device__ struct work work_of(const struct attention &a, const struct tables &t, const struct part &p) {
    const int item = (int)(blockIdx.x / p.sets), key_tile = (int)(item / p.n), j = (int)(p.first + item % p.n);
    const int per = (int)(a.heads / a.key_heads / p.sets), set = (int)(blockIdx.x % p.sets);
    const int h0 = (int)(j * p.sets + set) * per;
    const struct seen by = t.key_tile[key_tile];
    struct work w = {key_tile, j, {key_tile * BLOCK, by.last < 0 ? 0 : by.first, h0, per}, {}};
    w.first = step_at(t, w.walk, by.last);
    return w;
}

/* Not all of the 64 keys from u on are seen by all queries. */
static __device__ int partly(const struct seen_by_tile &sees, int u) {
    return u < sees.first_all || u + 63 > sees.last_all;
}
#endif
