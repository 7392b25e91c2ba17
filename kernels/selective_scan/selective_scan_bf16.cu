/* SPDX-License-Identifier: Apache-2.0 */
/* Forward of the second half in BF16: a thread owns two channels with 16 states each, and y is its own sum.
 *
 * Per token and channel: reads x, z, dt, writes out, 8 bytes, and reads 4 N / chunk of the state; N + 4 special
 * functions, 6 N flops.  At D 8,192, N 16, 1.755 GHz the special functions of an H200 need 44 ns a token, the bytes 16
 * ns of 4.8 TB/s, 5 N + 35 instructions 26 ns; two exponentials of sixteen on the FMA units leave 40 ns. */
#include "kernels/selective_scan/selective_scan_bf16.h"
#include "kernels/selective_bf16.cuh"

enum { BY_FMA = 2 };

struct tokens {
    uint32_t dt[STEP], x[STEP], z[STEP];
};
struct columns {
    struct column dt, x, z, out;
};

/* The first `n` rows of the STEP at the columns' places, which then move on. */
template <bool whole> static __device__ void tokens_fetch(struct tokens *k, struct columns *c, int n) {
#pragma unroll
    for (int i = 0; i < STEP; i++) {
        if (i >= n) continue;
        k->dt[i] = column_get<whole>(c->dt, i);
        k->x[i] = column_get<whole>(c->x, i);
        k->z[i] = column_get<whole>(c->z, i);
    }
    column_move(&c->dt, STEP);
    column_move(&c->x, STEP);
    column_move(&c->z, STEP);
}

static __device__ void pair_load(float h[2][STATES], const struct tensor &from, int64_t chunk, const struct pair &p) {
    const int64_t N = from.shape[3];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int s = 0; s < STATES; s++)
            h[i][s] = p.d + i < from.shape[1] && s < N ? row(from, chunk)[(p.d + i) * N + s] : 0.0f;
}

/* One token of one channel: what goes into out. */
static __device__ float token(float dt, float x, float z, float bias, float D, const float *A, float *h,
                              const float4 *B, const float4 *C) {
    float e, y = D * x;
    const float dts = softplus_fast(dt + bias, &e), dtx = dts * x;
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        const float4 quad_B = B[q], quad_C = C[q];
        const float b[4] = {quad_B.x, quad_B.y, quad_B.z, quad_B.w}, g[4] = {quad_C.x, quad_C.y, quad_C.z, quad_C.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int s = 4 * q + k;
            h[s] = fmaf(decay_of<BY_FMA>(s, dts * A[s]), h[s], dtx * b[k]);
            y = fmaf(g[k], h[s], y);
        }
    }
    return y * z * sigmoid_fast(z);
}

/* What the block works with: tiles in shared memory, a pair's own. */
struct work {
    float4 (*B)[QUADS], (*C)[QUADS];
    bool *fresh;
    struct pair p;
    float D[2], h[2][STATES];
};

/* resets: documents may start in the chunk. */
template <bool whole, bool resets>
static __device__ void forward_chunk(const struct selective_scan &a, const struct device_span &k, struct work *w) {
    const int n = (int)(k.end - k.begin);
    const int64_t d = w->p.d;
    struct columns c = {column_open(a.dt, k.begin, d), column_open(a.x, k.begin, d), column_open(a.z, k.begin, d),
                        column_open(a.out, k.begin, d)};
    struct tokens next = {};
    tokens_fetch<whole>(&next, &c, w->p.live ? n : 0);
    for (int t0 = 0; t0 < n; t0 += TILE_ROWS) {
        __syncthreads();
        tile_rows(w->B, a.B, k.begin + t0, k.end);
        tile_rows(w->C, a.C, k.begin + t0, k.end);
        if (resets && threadIdx.x < TILE_ROWS && t0 + (int)threadIdx.x < n)
            w->fresh[threadIdx.x] = long_at(a.pos, k.begin + t0 + threadIdx.x) == 0;
        __syncthreads();
        for (int r = 0; w->p.live && r < TILE_ROWS && t0 + r < n; r += STEP) {
            const struct tokens now = next;
            tokens_fetch<whole>(&next, &c, n - t0 - r - STEP);
#pragma unroll
            for (int j = 0; j < STEP; j++) {
                if (t0 + r + j >= n) continue;
                if (resets && w->fresh[r + j])
                    for (int s = 0; s < STATES; s++) w->h[0][s] = w->h[1][s] = 0.0f;
                float out[2];
#pragma unroll
                for (int i = 0; i < 2; i++)
                    out[i] = token(half_of(now.dt[j], i), half_of(now.x[j], i), half_of(now.z[j], i), w->p.bias[i],
                                   w->D[i], w->p.A[i], w->h[i], w->B[r + j], w->C[r + j]);
                column_set<whole>(c.out, j, out[0], out[1]);
            }
            column_move(&c.out, STEP);
        }
    }
}

template <bool whole>
__global__ static void __launch_bounds__(PAIRS, 4) forward_chunks(const struct selective_scan a, int64_t n_chunks) {
    __shared__ float4 B[TILE_ROWS][QUADS], C[TILE_ROWS][QUADS];
    __shared__ bool fresh[TILE_ROWS];
    struct work w = {B, C, fresh, pair_open(a.A_log, a.dt_bias), {}, {}};
    struct device_span k;
    for (int i = 0; i < 2; i++) w.D[i] = w.p.d + i < a.A_log.shape[0] ? vector_at(a.D, w.p.d + i) : 0.0f;
    for (int64_t chunk = blockIdx.y; chunk < n_chunks; chunk += gridDim.y) {
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        pair_load(w.h, a.states, chunk, w.p);
        if (k.through) forward_chunk<whole, false>(a, k, &w);
        else forward_chunk<whole, true>(a, k, &w);
    }
}

enum status selective_scan_fwd_bf16(struct ctx *c, const struct selective_scan *a, int64_t n_chunks) {
    const dim3 grid = pairs_grid(n_chunks, a->A_log.shape[0]);
    const bool whole = rows_in_pairs(a->x) && rows_in_pairs(a->z) && rows_in_pairs(a->dt) && rows_in_pairs(a->out);
    if (whole) LAUNCH(forward_chunks<true>, grid, PAIRS, *a, n_chunks);
    else LAUNCH(forward_chunks<false>, grid, PAIRS, *a, n_chunks);
    return OK;
}
