/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of two warpgroups stay on their multiprocessor and take tile after tile of 128 x 256 of a result, a warpgroup
 * 64 x 256 of it.  K comes in chunks of 64 through a ring of four stages: all threads copy (cp.async) two chunks ahead,
 * over the ends of tiles too, while the products of a chunk run.  Rows and columns outside a tile's own are zeros in
 * shared memory: neighbours' rows take no part. */
#include "kernels/grouped_linear/grouped_linear_bf16.h"
#include "kernels/grouped_linear/grouped_tiles.cuh"
#include "kernels/packs.cuh"
#include "kernels/ssd_bf16.cuh"
#include "kernels/wgmma.cuh"

constexpr int ROWS = 128, COLS = 256, DEEP = 64, STAGES = 4, LEAD = 2, SLOTS = LEAD + 2;
constexpr int STAGE = (ROWS + COLS) * DEEP, PANEL = DEEP * PANEL_COLS; /* elements */
constexpr int PROCESSORS = 132;
static_assert(THREADS == 2 * WARPGROUP && ROWS == 2 * 64, "two warpgroups share a tile");
static_assert(STAGES == LEAD + 2, "a chunk ahead, one to come, one whose products run, one whose may");

/* C (m, n) = or += A B; m: of all groups' rows or of dw; k: terms where they are not rows of an expert. */
struct wide {
    struct groups g;
    const bf16_bits *A, *B;
    void *C;
    int64_t m, n, k, lda, ldb, ldc;
    bool add;
};
/* One tile: where its rows, columns and terms begin, and how many there are. */
struct work {
    const bf16_bits *A, *B;
    void *C;
    int m, n, k;
};

static __device__ bool find_rows(const struct wide &x, enum wide_kind kind, int64_t i, struct work *w) {
    const int64_t across = ceil_div(x.n, COLS), col = i % across * COLS;
    int64_t group, row;
    struct group_rows at;
    if (!group_tile(x.g, ROWS, i / across, &group, &row, &at)) return false;
    const bf16_bits *weight = x.B + group % x.g.E * x.n * x.k;
    const int64_t first = at.begin + row;
    *w = {x.A + first * x.lda,
          weight + (kind == WIDE_Y ? col * x.ldb : col),
          (bf16_bits *)x.C + first * x.ldc + col,
          (int)least(ROWS, at.end - first),
          (int)least(COLS, x.n - col),
          (int)x.k};
    return true;
}

static __device__ bool find_weights(const struct wide &x, int64_t i, struct work *w) {
    const int64_t across = ceil_div(x.n, COLS), per = ceil_div(x.m, ROWS) * across, e = i / per;
    const int64_t row = i % per / across * ROWS, col = i % across * COLS;
    if (e >= x.g.E) return false;
    const struct group_rows at = group_at(x.g, e);
    *w = {x.A + at.begin * x.lda + row, x.B + at.begin * x.ldb + col, (float *)x.C + (e * x.m + row) * x.ldc + col,
          (int)least(ROWS, x.m - row),  (int)least(COLS, x.n - col),  (int)(at.end - at.begin)};
    return true;
}

/* The block's tile *i, or its next one that has terms, into `slot`; by all threads, behind a barrier of its own. */
template <enum wide_kind kind> static __device__ bool find(const struct wide &x, int64_t *i, struct work *slot) {
    for (;; *i += gridDim.x) {
        struct work w;
        if (!(kind == WIDE_DW ? find_weights(x, *i, &w) : find_rows(x, kind, *i, &w))) return false;
        if (w.k == 0) continue;
        if (threadIdx.x == 0) *slot = w;
        __syncthreads();
        return true;
    }
}

/* n rows of K along columns: terms [k0, k0 + DEEP) of `rows` rows into a panel. */
template <int rows>
static __device__ void fetch_rows(bf16_bits *to, const bf16_bits *from, int64_t ld, int n, int k0, int k) {
    const int piece = threadIdx.x % 8 * 8, first = threadIdx.x / 8;
    const bool inside = k0 + piece < k;
    const bf16_bits *at = from + first * ld + k0 + piece;
    bf16_bits *own = tile_piece<PANEL_COLS>(to, first, piece);
#pragma unroll
    for (int r = 0; r < rows; r += THREADS / 8) {
        const bool copy = inside && first + r < n;
        cp_async16_or_zero(own + r * PANEL_COLS, copy ? at + r * ld : from, copy);
    }
}
/* K along rows: rows [k0, k0 + DEEP) of `cols` columns into panels of 64 columns. */
template <int cols>
static __device__ void fetch_cols(bf16_bits *to, const bf16_bits *from, int64_t ld, int n, int k0, int k) {
    const int piece = threadIdx.x % 8 * 8, first = threadIdx.x / 8;
    const bf16_bits *at = from + (k0 + first) * ld + piece;
    bf16_bits *own = tile_piece<PANEL_COLS>(to, first, piece);
#pragma unroll
    for (int r = 0; r < DEEP; r += THREADS / 8)
#pragma unroll
        for (int c = 0; c < cols; c += PANEL_COLS) {
            const bool copy = k0 + first + r < k && piece + c < n;
            cp_async16_or_zero(own + c * DEEP + r * PANEL_COLS, copy ? at + r * ld + c : from, copy);
        }
}

template <enum wide_kind kind>
static __device__ void fetch(const struct wide &x, const struct work &w, bf16_bits *stage, int k0) {
    if (kind == WIDE_DW) fetch_cols<ROWS>(stage, w.A, x.lda, w.m, k0, w.k);
    else fetch_rows<ROWS>(stage, w.A, x.lda, w.m, k0, w.k);
    if (kind == WIDE_Y) fetch_rows<COLS>(stage + ROWS * DEEP, w.B, x.ldb, w.n, k0, w.k);
    else fetch_cols<COLS>(stage + ROWS * DEEP, w.B, x.ldb, w.n, k0, w.k);
}

template <enum wide_kind kind>
static __device__ void multiply(float (&d)[128], const bf16_bits *stage, int warpgroup, bool add) {
    const bf16_bits *B = stage + ROWS * DEEP;
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < DEEP; k += 16) {
        const uint64_t a =
            kind == WIDE_DW ? panel_cols(stage + warpgroup * PANEL, k) : panel_rows(stage, 64 * warpgroup, k);
        const uint64_t b = kind == WIDE_Y ? panel_rows(B, 0, k) : panels_cols(B, k, PANEL * 2);
        wgmma_wide<kind == WIDE_DW, kind != WIDE_Y>(d, a, b, add || k > 0);
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
static __device__ void store_rows(float (&d)[128], const struct wide &x, const struct work &w, int row) {
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
                float v[2] = {d[4 * (j + i) + 2 * half], d[4 * (j + i) + 2 * half + 1]};
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

/* += in F32, 16 bytes a lane: even lanes have columns of 8 j, odd ones of 8 (j + 1). */
static __device__ void add_weights(float (&d)[128], const struct wide &x, const struct work &w, int row) {
    const unsigned all = 0xffffffffu;
    const bool odd = threadIdx.x & 1;
    const int lane = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = row + 8 * half;
        float *to = (float *)w.C + r * x.ldc;
#pragma unroll
        for (int j = 0; j < 32; j += 2) {
            const float *p = &d[4 * j + 2 * half], *q = &d[4 * j + 4 + 2 * half];
            const float a = __shfl_xor_sync(all, odd ? p[0] : q[0], 1), b = __shfl_xor_sync(all, odd ? p[1] : q[1], 1);
            const int col = 8 * (j + odd) + lane / 2 * 4;
            if (r >= w.m || col >= w.n) continue;
            float4 v = *(const float4 *)(to + col);
            v.x += odd ? a : p[0], v.y += odd ? b : p[1];
            v.z += odd ? q[0] : a, v.w += odd ? q[1] : b;
            *(float4 *)(to + col) = v;
        }
    }
}

template <enum wide_kind kind> __global__ __launch_bounds__(THREADS, 1) static void wide_tiles(const struct wide x) {
    DYNAMIC_SHARED(shared);
    __shared__ struct work slots[SLOTS];
    bf16_bits *ring = (bf16_bits *)shared;
    const int warpgroup = threadIdx.x / WARPGROUP, row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
    int64_t next = blockIdx.x;
    int fetched = 0, k_fetch = 0, chunk = 0, tile = 0;
    bool more = find<kind>(x, &next, &slots[0]);
    float d[128];
    for (int tiles = more; tile < tiles; tile++) {
        const struct work w = slots[tile % SLOTS];
        const int chunks = (w.k + DEEP - 1) / DEEP;
        for (int i = tile == 0 ? -LEAD : 0; i < chunks; i++) {
            if (i >= 0) {
                cp_wait<LEAD - 1>();
                wgmma_see();
                __syncthreads();
                multiply<kind>(d, ring + chunk % STAGES * STAGE, warpgroup, i > 0);
                wgmma_wait<1>();
                chunk++;
            }
            if (more) {
                const struct work &to = slots[(tiles - 1) % SLOTS];
                fetch<kind>(x, to, ring + fetched % STAGES * STAGE, k_fetch);
                fetched++;
                k_fetch += DEEP;
                if (k_fetch >= to.k) {
                    next += gridDim.x;
                    k_fetch = 0;
                    more = find<kind>(x, &next, &slots[tiles % SLOTS]);
                    tiles += more;
                }
            }
            cp_commit();
        }
        wgmma_wait<0>();
        wgmma_ended(d);
        if (kind == WIDE_DW) add_weights(d, x, w, row);
        else store_rows(d, x, w, row);
    }
    cp_wait<0>();
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

template <enum wide_kind kind> static enum status start(struct ctx *c, const struct wide &x, int64_t tiles) {
    LAUNCH_SHARED(wide_tiles<kind>, least(tiles, PROCESSORS), THREADS, STAGES * STAGE * 2, x);
    return OK;
}

enum status grouped_linear_wide(struct ctx *c, const struct grouped_linear *a, enum wide_kind kind) {
    const struct tensor A = kind == WIDE_Y ? a->x : a->dy, B = kind == WIDE_DW ? a->x : a->w;
    const struct tensor C = kind == WIDE_Y ? a->y : kind == WIDE_DX ? a->dx : a->dw;
    struct wide x = {groups_of(a),
                     (const bf16_bits *)A.data,
                     (const bf16_bits *)B.data,
                     C.data,
                     A.shape[1],
                     C.shape[1],
                     A.shape[1],
                     A.pitch,
                     B.pitch,
                     C.pitch,
                     kind == WIDE_DX && a->dx_add};
    if (kind != WIDE_DW) x.ldb = B.shape[2];
    else x.n = x.ldc = C.shape[2];
    const int64_t across = ceil_div(x.n, COLS);
    if (kind == WIDE_Y) return start<WIDE_Y>(c, x, group_tiles_most(x.g, ROWS) * across);
    if (kind == WIDE_DX) return start<WIDE_DX>(c, x, group_tiles_most(x.g, ROWS) * across);
    return start<WIDE_DW>(c, x, x.g.E * ceil_div(x.m, ROWS) * across);
}
