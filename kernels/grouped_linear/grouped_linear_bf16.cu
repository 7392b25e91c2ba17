/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks stay on their multiprocessor and take tile after tile of 128 x 256 of a result.  One warp finds the tiles and
 * has boxes of them copied, K in chunks of 64, through a ring of four stages; two warpgroups multiply, each 64 x 256 of
 * the tile.  A stage goes to the copies and back by a pair of barriers, over the ends of tiles too, so that the first
 * chunks of a tile arrive while the one before is stored.
 *
 * Boxes know the ends of matrices, not of an expert's rows: rows beyond them belong to others.  In y and dx they make
 * rows that are not stored; in dw, where they are terms, both factors become zeros there. */
#include "kernels/bulk.cuh"
#include "kernels/grouped_linear/grouped_linear_bf16.h"
#include "kernels/grouped_linear/grouped_tiles.cuh"
#include "kernels/packs.cuh"
#include "kernels/ssd_bf16.cuh"
#include "kernels/wgmma.cuh"

constexpr int PANEL_WIDTH = 64;
constexpr int ROWS = 128, COLS = 256, DEEP = 64, STAGES = 4, SLOTS = 2 * STAGES;
constexpr int STAGE = (ROWS + COLS) * DEEP, PANEL = DEEP * PANEL_WIDTH; /* elements */
constexpr int PROCESSORS = 132, CONSUMERS = 2 * GROUP, BLOCK_THREADS = CONSUMERS + GROUP;
constexpr int TAIL_BARRIER = 2;
static_assert(ROWS == 2 * 64, "two warpgroups share a tile");

/* C (m, n) = or += A B; m: of all groups' rows or of dw; k: terms where they are not rows of an expert. */
struct wide {
    struct groups g;
    void *C;
    int64_t m, n, k, ldc;
    bool add;
};
/* One tile: where its results begin, and how many rows, columns and terms it has; k < 0: there are no more.  Boxes
 * begin at row, col and matrix `expert`; in dw `expert` is the first row of the terms. */
struct work {
    void *C;
    int m, n, k, expert, row, col;
};
struct ring {
    uint64_t full[STAGES], empty[STAGES];
    struct work slots[SLOTS];
};

/* ---- the warp that finds tiles and has them copied ---- */

static __device__ bool find_rows(const struct wide &x, int64_t i, struct group_search *s, struct work *w) {
    const int64_t across = ceil_div(x.n, COLS), col = i % across * COLS;
    int64_t group, row;
    if (!group_find(x.g, ROWS, i / across, s, &group, &row)) return false;
    const struct group_rows at = group_at(x.g, group);
    const int64_t first = at.begin + row;
    *w = {(bf16_bits *)x.C + first * x.ldc + col,
          (int)least(ROWS, at.end - first),
          (int)least(COLS, x.n - col),
          (int)x.k,
          (int)(group % x.g.E),
          (int)first,
          (int)col};
    return true;
}

static __device__ bool find_weights(const struct wide &x, int64_t i, struct work *w) {
    const int64_t across = ceil_div(x.n, COLS), per = ceil_div(x.m, ROWS) * across, e = i / per;
    const int64_t row = i % per / across * ROWS, col = i % across * COLS;
    if (e >= x.g.E) return false;
    const struct group_rows at = group_at(x.g, e);
    *w = {(float *)x.C + (e * x.m + row) * x.ldc + col,
          (int)least(ROWS, x.m - row),
          (int)least(COLS, x.n - col),
          (int)(at.end - at.begin),
          (int)at.begin,
          (int)row,
          (int)col};
    return true;
}

/* One lane: terms [k, k + DEEP) into a stage. */
template <enum wide_kind kind>
static __device__ void fetch(const tensor_map *A, const tensor_map *B, const struct work &w, bf16_bits *stage, int k,
                             uint64_t *full) {
    bf16_bits *b = stage + ROWS * DEEP;
    bulk_expect(full, STAGE * 2);
    if (kind == WIDE_DW)
        for (int i = 0; i < ROWS / PANEL_WIDTH; i++)
            bulk_fetch(stage + i * PANEL, A, w.row + i * PANEL_WIDTH, w.expert + k, 0, full);
    else bulk_fetch(stage, A, k, w.row, 0, full);
    if (kind == WIDE_Y) bulk_fetch(b, B, k, w.col, w.expert, full);
    else
        for (int i = 0; i < COLS / PANEL_WIDTH; i++)
            bulk_fetch(b + i * PANEL, B, w.col + i * PANEL_WIDTH, kind == WIDE_DX ? k : w.expert + k,
                       kind == WIDE_DX ? w.expert : 0, full);
}

/* Results that will be added to, into the cache. */
static __device__ void warm(const struct work &w, int64_t ld, int bytes) {
    for (int r = threadIdx.x % WARP; r < w.m; r += WARP) bulk_prefetch((char *)w.C + r * ld * bytes, w.n * bytes);
}

template <enum wide_kind kind>
static __device__ void produce(const tensor_map *A, const tensor_map *B, const struct wide &x, struct ring *r,
                               bf16_bits *stages) {
    const bool leads = threadIdx.x % WARP == 0;
    struct group_search search = {0, 0};
    int chunk = 0, tile = 0;
    for (int64_t i = blockIdx.x;; i += gridDim.x) {
        struct work w;
        const bool found = kind == WIDE_DW ? find_weights(x, i, &w) : find_rows(x, i, &search, &w);
        if (!found) w.k = -1;
        else if (w.k == 0) continue;
        else if (kind == WIDE_DW || x.add) warm(w, x.ldc, kind == WIDE_DW ? sizeof(float) : sizeof(bf16_bits));
        for (int k = 0; k == 0 || k < w.k; k += DEEP, chunk++) {
            uint64_t *full = &r->full[chunk % STAGES];
            if (leads) {
                bulk_wait(&r->empty[chunk % STAGES], chunk / STAGES % 2 ^ 1);
                if (k == 0) r->slots[tile % SLOTS] = w;
                if (found) fetch<kind>(A, B, w, stages + chunk % STAGES * STAGE, k, full);
                else bulk_arrive(full);
            }
        }
        __syncwarp();
        tile++;
        if (!found) return;
    }
}

/* ---- the warpgroups that multiply ---- */

/* dw: rows [from, DEEP) of the stage's panels become zeros; by both warpgroups. */
static __device__ void clear_tail(bf16_bits *stage, int from) {
    const int pieces = (DEEP - from) * 8, panels = (ROWS + COLS) / PANEL_WIDTH;
    for (int i = threadIdx.x; i < pieces * panels; i += CONSUMERS)
        *(uint4 *)(stage + i / pieces * PANEL + from * PANEL_WIDTH + i % pieces * 8) = make_uint4(0, 0, 0, 0);
    shared_fence();
    barrier_of(TAIL_BARRIER, CONSUMERS);
}

template <enum wide_kind kind>
static __device__ void multiply(float (&d)[COLS / 8][4], panels stage, int warpgroup, bool add) {
    const panels B = panels_on(stage, ROWS * DEEP * 2);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < DEEP; k += 16) {
        const struct operand a =
            kind == WIDE_DW ? cols_at(stage, DEEP, k, 64 * warpgroup) : rows_at(stage, ROWS, 64 * warpgroup, k);
        const struct operand b = kind == WIDE_Y ? rows_at(B, COLS, 0, k) : cols_at(B, DEEP, k, 0);
        wgmma_shared<COLS, kind == WIDE_DW, kind != WIDE_Y>(d, a, b, add || k > 0);
    }
    wgmma_commit();
}

/* Between the four lanes that share rows: lane q gives word i to lane i and has its own words of all, in their order.
 */
static __device__ void turn(uint32_t (&u)[4]) {
    const unsigned all = 0xffffffffu;
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint32_t got = __shfl_xor_sync(all, odd ? u[i] : u[i + 1], 1);
        if (odd) u[i] = got;
        else u[i + 1] = got;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t got = __shfl_xor_sync(all, high ? u[i] : u[i + 2], 2);
        if (high) u[i] = got;
        else u[i + 2] = got;
    }
}

/* Rows of BF16, 16 bytes a lane. */
static __device__ void store_rows(const float (&d)[COLS / 8][4], const struct wide &x, const struct work &w, int row) {
    const int lane = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = row + 8 * half;
        bf16_bits *to = (bf16_bits *)w.C + r * x.ldc;
#pragma unroll
        for (int j = 0; j < 32; j += 4) {
            uint32_t u[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float v[2] = {d[j + i][2 * half], d[j + i][2 * half + 1]};
                if (x.add && r < w.m && 8 * (j + i) < w.n) {
                    const uint32_t old = *(const uint32_t *)(to + 8 * (j + i) + 2 * lane);
                    v[0] += low_half(old), v[1] += high_half(old);
                }
                u[i] = pack(v[0], v[1]);
            }
            turn(u);
            if (r < w.m && 8 * (j + lane) < w.n) *(uint4 *)(to + 8 * (j + lane)) = make_uint4(u[0], u[1], u[2], u[3]);
        }
    }
}

/* += in F32, 16 bytes a lane: even lanes have columns of 8 j, odd ones of 8 (j + 1).  Loads of a batch are under way
 * together. */
static __device__ void add_weights(const float (&d)[COLS / 8][4], const struct wide &x, const struct work &w, int row) {
    constexpr int batch = 8;
    const bool odd = threadIdx.x & 1;
    const int first = 8 * odd + threadIdx.x % 4 / 2 * 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = row + 8 * half;
        float *to = (float *)w.C + r * x.ldc + first;
#pragma unroll
        for (int j = 0; j < 32; j += 2 * batch) {
            float4 v[batch];
#pragma unroll
            for (int i = 0; i < batch; i++) {
                v[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (r < w.m && first + 8 * (j + 2 * i) < w.n) v[i] = *(const float4 *)(to + 8 * (j + 2 * i));
            }
#pragma unroll
            for (int i = 0; i < batch; i++) {
                const float *p = &d[j + 2 * i][2 * half], *q = &d[j + 2 * i + 1][2 * half];
                const float a = __shfl_xor_sync(0xffffffffu, odd ? p[0] : q[0], 1);
                const float b = __shfl_xor_sync(0xffffffffu, odd ? p[1] : q[1], 1);
                v[i].x += odd ? a : p[0], v[i].y += odd ? b : p[1];
                v[i].z += odd ? q[0] : a, v[i].w += odd ? q[1] : b;
                if (r < w.m && first + 8 * (j + 2 * i) < w.n) *(float4 *)(to + 8 * (j + 2 * i)) = v[i];
            }
        }
    }
}

template <enum wide_kind kind> static __device__ void consume(const struct wide &x, struct ring *r, bf16_bits *stages) {
    const int warpgroup = same(threadIdx.x / GROUP), row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
    const bool leads = threadIdx.x % WARP == 0;
    const panels first = panels_of(stages);
    float d[COLS / 8][4];
    for (int chunk = 0, tile = 0;; tile++) {
        bulk_wait(&r->full[chunk % STAGES], chunk / STAGES % 2);
        const struct work w = r->slots[tile % SLOTS];
        if (w.k < 0) return;
        for (int k = 0; k < w.k; k += DEEP, chunk++) {
            bf16_bits *stage = stages + chunk % STAGES * STAGE;
            if (k > 0) bulk_wait(&r->full[chunk % STAGES], chunk / STAGES % 2);
            if (kind == WIDE_DW && w.k - k < DEEP) clear_tail(stage, w.k - k);
            multiply<kind>(d, panels_on(first, chunk % STAGES * STAGE * 2), warpgroup, k > 0);
            if (k == 0) continue;
            wgmma_wait<1>();
            if (leads) bulk_arrive(&r->empty[(chunk - 1) % STAGES]);
        }
        wgmma_wait<0>();
        wgmma_settled<COLS / 8>(d);
        if (leads) bulk_arrive(&r->empty[(chunk - 1) % STAGES]);
        if (kind == WIDE_DW) add_weights(d, x, w, row);
        else store_rows(d, x, w, row);
    }
}

template <enum wide_kind kind>
__global__ __launch_bounds__(BLOCK_THREADS, 1) static void wide_tiles(const __grid_constant__ tensor_map A,
                                                                      const __grid_constant__ tensor_map B,
                                                                      const struct wide x) {
    DYNAMIC_PANELS(shared);
    __shared__ struct ring ring;
    bf16_bits *stages = (bf16_bits *)shared;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            bulk_barrier_init(&ring.full[i], 1);
            bulk_barrier_init(&ring.empty[i], CONSUMERS / WARP);
        }
        bulk_barriers_see();
    }
    __syncthreads();
    if (same(threadIdx.x / GROUP) == CONSUMERS / GROUP) {
        registers_down<40>();
        if (same(threadIdx.x / WARP) == CONSUMERS / WARP) produce<kind>(&A, &B, x, &ring, stages);
        return;
    }
    registers_up<232>();
    consume<kind>(x, &ring, stages);
}

static bool fits(struct tensor t) { return tensor_has(t) && rows_whole(t); }

bool wide_fits(const struct grouped_linear *a, enum wide_kind kind) {
    const struct tensor by = kind == WIDE_Y ? a->x : a->dy, to = kind == WIDE_Y    ? a->y
                                                                 : kind == WIDE_DX ? a->dx
                                                                                   : a->dw;
    const struct tensor other = kind == WIDE_DW ? a->x : a->w;
    const int64_t I = kind == WIDE_DW ? a->dw.shape[2] : a->w.shape[2],
                  O = kind == WIDE_Y ? a->y.shape[1] : a->dy.shape[1];
    return I % 8 == 0 && O % 8 == 0 && fits(by) && fits(to) && fits(other) &&
           (kind != WIDE_DW || a->offset.shape[0] == 1);
}

template <enum wide_kind kind>
static enum status start(struct ctx *c, const struct wide &x, const tensor_map *maps, int64_t tiles) {
    LAUNCH_SHARED(wide_tiles<kind>, least(tiles, PROCESSORS), BLOCK_THREADS, STAGES * STAGE * 2, maps[0], maps[1], x);
    return OK;
}

/* Boxes: of K along columns ROWS or COLS rows, of K along rows DEEP. */
static enum status map_factors(const struct grouped_linear *a, enum wide_kind kind, tensor_map maps[2]) {
    const struct tensor A = kind == WIDE_Y ? a->x : a->dy;
    TRY(tensor_map_make(&maps[0], A.data, A.shape[1], A.shape[0], 1, A.pitch, kind == WIDE_DW ? DEEP : ROWS));
    if (kind == WIDE_DW) return tensor_map_make(&maps[1], a->x.data, a->x.shape[1], a->x.shape[0], 1, a->x.pitch, DEEP);
    return tensor_map_make(&maps[1], a->w.data, a->w.shape[2], a->w.shape[1], a->w.shape[0], a->w.shape[2],
                           kind == WIDE_Y ? COLS : DEEP);
}

enum status grouped_linear_wide(struct ctx *c, const struct grouped_linear *a, enum wide_kind kind) {
    const struct tensor A = kind == WIDE_Y ? a->x : a->dy;
    const struct tensor C = kind == WIDE_Y ? a->y : kind == WIDE_DX ? a->dx : a->dw;
    const int64_t n = kind == WIDE_DW ? C.shape[2] : C.shape[1], across = ceil_div(n, COLS);
    const struct wide x = {
        groups_of(a), C.data, A.shape[1], n, A.shape[1], kind == WIDE_DW ? n : C.pitch, kind == WIDE_DX && a->dx_add};
    const int64_t tiles = across * (kind == WIDE_DW ? x.g.E * ceil_div(x.m, ROWS) : group_tiles_most(x.g, ROWS));
    tensor_map maps[2];
    FAIL_UNLESS(A.shape[0] < INT32_MAX, ERR_ARG, "grouped_linear: %" PRId64 " rows are more than 2^31", A.shape[0]);
    if (A.shape[0] == 0 || tiles == 0) return OK;
    TRY(map_factors(a, kind, maps));
    if (kind == WIDE_Y) return start<WIDE_Y>(c, x, maps, tiles);
    if (kind == WIDE_DX) return start<WIDE_DX>(c, x, maps, tiles);
    return start<WIDE_DW>(c, x, maps, tiles);
}
