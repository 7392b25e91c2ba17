/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_OUT_BF16_CUH
#define BATON_KERNELS_SELECTIVE_OUT_BF16_CUH
/* selective_out_bf16.cuh - selective_out.cuh in BF16: a thread owns two channels with 16 states each, and y is its own
 * sum.
 *
 * Per token and channel: reads x, z, dt, writes out, 8 bytes, and reads 4 N / chunk of the state; N + 4 special
 * functions, 6 N flops, 151 instructions.  Over all of 65,536 tokens of 8,192 channels in chunks of 64, 77 ns a token
 * at 1.5 GHz under ncu. */
#include "kernels/selective_bf16.cuh"
#include "kernels/selective_out.cuh"

enum { OUT_BY_FMA = 2 };

struct out_tokens {
    uint32_t dt[STEP], x[STEP], z[STEP];
};
struct out_columns {
    struct column dt, x, z, out;
};

/* The first `n` rows of the STEP at the columns' places, which then move on. */
template <bool whole> static __device__ void out_fetch(struct out_tokens *k, struct out_columns *c, int n) {
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

static __device__ void out_load(float h[2][STATES], const struct tensor &from, int64_t chunk, const struct pair &p) {
    const int64_t N = from.shape[3];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int s = 0; s < STATES; s++)
            h[i][s] = p.d + i < from.shape[1] && s < N ? row(from, chunk)[(p.d + i) * N + s] : 0.0f;
}

/* One token of one channel: what goes into out. */
static __device__ float out_token(float dt, float x, float z, float bias, float D, const float *A, float *h,
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
            h[s] = fmaf(decay_of<OUT_BY_FMA>(s, dts * A[s]), h[s], dtx * b[k]);
            y = fmaf(g[k], h[s], y);
        }
    }
    return y * z * sigmoid_fast(z);
}

/* What the block works with: tiles in shared memory, a pair's own. */
struct out_work {
    float4 (*B)[QUADS], (*C)[QUADS];
    bool *fresh;
    struct pair p;
    float D[2], h[2][STATES];
};

/* resets: documents may start in the chunk. */
template <bool whole, bool resets, typename args>
static __device__ void out_chunk(const args &a, const struct device_span &k, struct out_work *w) {
    const int n = (int)(k.end - k.begin);
    const int64_t d = w->p.d;
    struct out_columns c = {column_open(a.dt, k.begin, d), column_open(a.x, k.begin, d), column_open(a.z, k.begin, d),
                            column_open(a.out, k.begin, d)};
    struct out_tokens next = {};
    out_fetch<whole>(&next, &c, w->p.live ? n : 0);
    for (int t0 = 0; t0 < n; t0 += TILE_ROWS) {
        __syncthreads();
        tile_rows(w->B, a.B, k.begin + t0, k.end);
        tile_rows(w->C, a.C, k.begin + t0, k.end);
        if (resets && threadIdx.x < TILE_ROWS && t0 + (int)threadIdx.x < n)
            w->fresh[threadIdx.x] = long_at(a.pos, k.begin + t0 + threadIdx.x) == 0;
        __syncthreads();
        for (int r = 0; w->p.live && r < TILE_ROWS && t0 + r < n; r += STEP) {
            const struct out_tokens now = next;
            out_fetch<whole>(&next, &c, n - t0 - r - STEP);
#pragma unroll
            for (int j = 0; j < STEP; j++) {
                if (t0 + r + j >= n) continue;
                if (resets && w->fresh[r + j])
                    for (int s = 0; s < STATES; s++) w->h[0][s] = w->h[1][s] = 0.0f;
                float out[2];
#pragma unroll
                for (int i = 0; i < 2; i++)
                    out[i] = out_token(half_of(now.dt[j], i), half_of(now.x[j], i), half_of(now.z[j], i), w->p.bias[i],
                                       w->D[i], w->p.A[i], w->h[i], w->B[r + j], w->C[r + j]);
                column_set<whole>(c.out, j, out[0], out[1]);
            }
            column_move(&c.out, STEP);
        }
    }
}

/* Of two strips of CHANNELS, the block's. */
static inline __device__ bool is_reached(const struct reached &to, int64_t chunk) {
    const int64_t strip = 2 * (int64_t)blockIdx.x;
    const uint8_t *mark = to.mark + chunk * to.strips + strip;
    return mark[0] || (strip + 1 < to.strips && mark[1]);
}

/* s_out: absent, or what leaves the ranges. */
template <bool whole, typename args>
__global__ static void __launch_bounds__(PAIRS, 4)
    out_chunks_bf16(const args a, const struct reached reached, const struct tensor s_out, int64_t n_chunks) {
    __shared__ float4 B[TILE_ROWS][QUADS], C[TILE_ROWS][QUADS];
    __shared__ bool fresh[TILE_ROWS];
    const int64_t N = a.state;
    int64_t chunk = blockIdx.y; /* most blocks have nothing to do */
    while (chunk < n_chunks && !is_reached(reached, chunk)) chunk += gridDim.y;
    if (chunk >= n_chunks) return;
    struct out_work w = {B, C, fresh, pair_open(a.A_log, a.dt_bias), {}, {}};
    struct device_span k;
    for (int i = 0; i < 2; i++) w.D[i] = w.p.d + i < a.A_log.shape[0] ? vector_at(a.D, w.p.d + i) : 0.0f;
    for (; chunk < n_chunks; chunk += gridDim.y) {
        if (!is_reached(reached, chunk)) continue;
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        out_load(w.h, a.states, chunk, w.p);
        if (k.through) out_chunk<whole, false>(a, k, &w);
        else out_chunk<whole, true>(a, k, &w);
        if (!s_out.data || k.end != long_at(a.range, k.range + 1)) continue;
        for (int i = 0; i < 2; i++)
            for (int s = 0; s < STATES; s++)
                if (w.p.d + i < a.A_log.shape[0] && s < N) row(s_out, k.range)[(w.p.d + i) * N + s] = w.h[i][s];
    }
}

template <typename args>
static enum status out_again(struct ctx *c, const args *a, const struct reached &reached, struct tensor s_out,
                             int64_t n_chunks) {
    const dim3 grid = pairs_grid(n_chunks, a->A_log.shape[0]);
    const bool whole = rows_in_pairs(a->x) && rows_in_pairs(a->z) && rows_in_pairs(a->dt) && rows_in_pairs(a->out);
    if (whole) LAUNCH((out_chunks_bf16<true, args>), grid, PAIRS, *a, reached, s_out, n_chunks);
    else LAUNCH((out_chunks_bf16<false, args>), grid, PAIRS, *a, reached, s_out, n_chunks);
    return OK;
}
#endif
