/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CHOICES_CUH
#define BATON_KERNELS_CHOICES_CUH
/* choices.cuh - counts of experts among the choices of tokens, ids (T, k), by stretches of tokens: stretch g of n has
 * the ranges [g R/n, (g + 1) R/n), or all tokens where range is absent and n is 1.
 *
 * A stretch is cut into chunks of choices; a warp walks one, 32 choices at a time, with a counter for each expert in
 * shared memory.  So a choice's place among its expert's is known without atomics, and in the order of the tokens.
 * An id outside the experts counts as one of the last expert: nothing is written outside. */
#include "kernels/device.cuh"
#include "kernels/route/route.h"

struct choices {
    struct tensor ids, range;
    int64_t stretches, E, chunk; /* choices of a chunk */
    int *counts;                 /* (chunks, E)        */
};

static inline struct choices choices_of(struct tensor ids, struct tensor range, int64_t stretches, int64_t E) {
    return {ids, range, stretches, E, most(512, E), NULL};
}
/* Most chunks there can be. */
static inline int64_t choices_chunks(const struct choices &c) {
    return c.ids.shape[0] * c.ids.shape[1] / c.chunk + c.stretches;
}
static inline int64_t choices_bytes(const struct choices &c) {
    return arena_round(choices_chunks(c) * c.E * (int64_t)sizeof(int));
}

/* First choice of stretch g; of g = stretches, the end. */
static inline __device__ int64_t stretch_begin(const struct choices &c, int64_t g) {
    if (!c.range.data) return g == 0 ? 0 : c.ids.shape[0] * c.ids.shape[1];
    return long_at(c.range, g * ((c.range.shape[0] - 1) / c.stretches)) * c.ids.shape[1];
}
/* Chunks of the stretches before g. */
static inline __device__ int64_t chunks_before(const struct choices &c, int64_t g) {
    int64_t n = 0;
    for (int64_t i = 0; i < g; i++) n += ceil_div(stretch_begin(c, i + 1) - stretch_begin(c, i), c.chunk);
    return n;
}
/* Choices [begin, end) of chunk i; false: there is none. */
static inline __device__ bool chunk_find(const struct choices &c, int64_t i, int64_t *begin, int64_t *end) {
    for (int64_t g = 0; g < c.stretches; g++) {
        const int64_t from = stretch_begin(c, g), to = stretch_begin(c, g + 1), n = ceil_div(to - from, c.chunk);
        if (i < n) {
            *begin = from + i * c.chunk;
            *end = least(to, *begin + c.chunk);
            return true;
        }
        i -= n;
    }
    return false;
}

/* One warp: takes the counters from `at` on; place(i, n): choice i is number n of its expert. */
template <typename F>
static __device__ void chunk_walk(const struct choices &c, int64_t begin, int64_t end, int *at, F place) {
    const unsigned all = 0xffffffffu, below = (1u << threadIdx.x) - 1u;
    const int32_t *ids = (const int32_t *)c.ids.data;
    for (int64_t first = begin; first < end; first += WARP) {
        const int64_t i = first + threadIdx.x;
        const unsigned id = i < end ? (unsigned)ids[i] : 0u, most_id = (unsigned)c.E - 1u;
        const int e = i < end ? (int)(id < most_id ? id : most_id) : -1; /* -1: beyond the end */
        const unsigned same = __match_any_sync(all, e);
        const int before = e < 0 ? 0 : at[e];
        __syncwarp();
        if (e >= 0 && (same & below) == 0) at[e] = before + __popc(same);
        if (e >= 0) place(i, before + __popc(same & below));
        __syncwarp();
    }
}

__global__ static void choices_count(const struct choices c) {
    __shared__ int at[ROUTE_EXPERTS_MAX];
    int64_t begin, end;
    if (!chunk_find(c, blockIdx.x, &begin, &end)) return;
    for (int64_t e = threadIdx.x; e < c.E; e += WARP) at[e] = 0;
    __syncwarp();
    chunk_walk(c, begin, end, at, [](int64_t, int) {});
    for (int64_t e = threadIdx.x; e < c.E; e += WARP) c.counts[blockIdx.x * c.E + e] = at[e];
}

/* Fills counts. */
static inline enum status choices_run(struct ctx *c, const struct choices *x) {
    LAUNCH(choices_count, dim3((unsigned)choices_chunks(*x)), WARP, *x);
    return OK;
}
#endif
