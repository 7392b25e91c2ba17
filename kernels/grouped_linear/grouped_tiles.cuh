/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GROUPED_LINEAR_GROUPED_TILES_CUH
#define BATON_KERNELS_GROUPED_LINEAR_GROUPED_TILES_CUH
/* grouped_tiles.cuh - which rows a block has: the host does not know how many there are of an expert, so blocks find
 * out from offset.  Group i is expert i % E of section i / E. */
#include "kernels/device.cuh"
#include "kernels/grouped_linear/grouped_linear.h"

struct groups {
    const int64_t *offset;
    int64_t n, E, rows; /* rows: of all groups, at most */
};
struct group_rows {
    int64_t begin, end;
};

static inline struct groups groups_of(const struct grouped_linear *a) {
    const int64_t E = a->offset.shape[1] - 1, S = a->offset.shape[0];
    return {(const int64_t *)a->offset.data, S * E, E, most(a->x.shape[0], a->dy.shape[0])};
}
/* Most tiles of `step` rows that the groups can have. */
static inline int64_t group_tiles_most(const struct groups &g, int64_t step) {
    return g.rows / step + least(g.n, g.rows);
}
static inline __device__ struct group_rows group_at(const struct groups &g, int64_t i) {
    const int64_t *at = g.offset + i / g.E * (g.E + 1) + i % g.E;
    return {at[0], at[1]};
}

/* The same by one warp, for ascending i: the search goes on from where it was.  Begins with {0, 0}. */
struct group_search {
    int64_t first, before; /* groups [first, first + WARP) are looked at; tiles before them */
};
static __device__ bool group_find(const struct groups &g, int64_t step, int64_t i, struct group_search *s,
                                  int64_t *group, int64_t *row) {
    const int lane = threadIdx.x % WARP;
    for (; s->first < g.n; s->first += WARP) {
        const int64_t own = s->first + lane;
        const struct group_rows r = own < g.n ? group_at(g, own) : (struct group_rows){0, 0};
        const int n = (int)ceil_div(r.end - r.begin, step);
        int sum = n;
        for (int by = 1; by < WARP; by *= 2) {
            const int x = __shfl_up_sync(0xffffffffu, sum, by);
            if (lane >= by) sum += x;
        }
        const int64_t at = i - s->before;
        const int has = __ffs((int)__ballot_sync(0xffffffffu, at < sum)) - 1;
        if (has >= 0) {
            *group = s->first + has;
            *row = (at - __shfl_sync(0xffffffffu, sum - n, has)) * step;
            return true;
        }
        s->before += __shfl_sync(0xffffffffu, sum, WARP - 1);
    }
    return false;
}

/* Tile i of all groups' rows in steps of `step`, by a whole block of THREADS threads: its group, the group's rows, and
 * its first row counted from them.  false: there is none.  Begins and ends with a barrier. */
static __device__ bool group_tile(const struct groups &g, int64_t step, int64_t i, int64_t *group, int64_t *row,
                                  struct group_rows *at) {
    __shared__ int64_t found[2];
    __shared__ int before[WARPS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    __syncthreads();
    if (threadIdx.x == 0) found[0] = -1;
    for (int64_t first = 0; first < g.n; first += THREADS) {
        const int64_t own = first + threadIdx.x;
        const struct group_rows r = own < g.n ? group_at(g, own) : (struct group_rows){0, 0};
        const int n = (int)ceil_div(r.end - r.begin, step);
        int sum = n;
        for (int by = 1; by < WARP; by *= 2) {
            const int x = __shfl_up_sync(0xffffffffu, sum, by);
            if (lane >= by) sum += x;
        }
        __syncthreads();
        if (lane == WARP - 1) before[warp] = sum;
        __syncthreads();
        int64_t all = 0;
        for (int w = 0; w < WARPS; w++) {
            if (w == warp) sum += (int)all;
            all += before[w];
        }
        if (i >= sum - n && i < sum) {
            found[0] = own;
            found[1] = (i - (sum - n)) * step;
        }
        if (i < all) break;
        i -= all;
    }
    __syncthreads();
    *group = found[0];
    *row = found[1];
    if (*group < 0) return false;
    *at = group_at(g, *group);
    return true;
}
#endif
