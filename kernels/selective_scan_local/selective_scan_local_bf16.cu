/* SPDX-License-Identifier: Apache-2.0 */
/* Backward of the first half in BF16: a thread owns two channels of a chunk with 16 states each.
 *
 * Per token and channel: reads z, dt, dout, 6 bytes; 4 N / chunk more for the state; N + 4 special functions, 4 N
 * flops. At D 8,192, N 16, 1.755 GHz the special functions of an H200 need 44 ns a token, the bytes 12 ns of 4.8 TB/s;
 * three exponentials of sixteen on the FMA units leave 38 ns.  Measured, T 65,536 in chunks of 64: 70 ns at 1.49 GHz
 * under ncu, which is 59 at 1.755. */
#include "kernels/selective_scan_local/selective_scan_local_bf16.h"
#include "kernels/selective_bf16.cuh"

enum { BY_FMA = 3 };

struct tokens {
    uint32_t dt[STEP], x[STEP], z[STEP]; /* x: of dout */
};
struct columns {
    struct column dt, x, z;
};
static __device__ struct columns columns_open(const struct selective_scan_local &a, const struct tensor &x, int64_t t,
                                              int64_t d) {
    return (struct columns){column_open(a.dt, t, d), column_open(x, t, d), column_open(a.z, t, d)};
}

/* Rows [from, to) of the STEP at the columns' places, which then move `by` rows. */
template <bool whole>
static __device__ void tokens_fetch(struct tokens *k, struct columns *c, int from, int to, int by) {
#pragma unroll
    for (int i = 0; i < STEP; i++) {
        if (i < from || i >= to) continue;
        k->dt[i] = column_get<whole>(c->dt, i);
        k->x[i] = column_get<whole>(c->x, i);
        k->z[i] = column_get<whole>(c->z, i);
    }
    column_move(&c->dt, by);
    column_move(&c->x, by);
    column_move(&c->z, by);
}

static __device__ void pair_store(const struct tensor &to, int64_t chunk, const struct pair &p,
                                  const float h[2][STATES]) {
    const int64_t N = to.shape[3];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (p.d + i >= to.shape[1]) continue;
        float *at = row(to, chunk) + (p.d + i) * N;
        if (N == STATES && (uintptr_t)at % 16 == 0) {
#pragma unroll
            for (int s = 0; s < STATES; s += 4)
                *(float4 *)(at + s) = make_float4(h[i][s], h[i][s + 1], h[i][s + 2], h[i][s + 3]);
        } else {
#pragma unroll
            for (int s = 0; s < STATES; s++)
                if (s < N) at[s] = h[i][s];
        }
    }
}

/* g = exp(dts A) (g + dy C) */
static __device__ void token_backward(float dt, float dout, float z, float bias, const float *A, float *g,
                                      const float4 *C) {
    float e;
    const float dts = softplus_fast(dt + bias, &e), dy = dout * z * sigmoid_fast(z);
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        const float4 quad = C[q];
        const float b[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int s = 4 * q + k;
            g[s] = decay_of<BY_FMA>(s, dts * A[s]) * fmaf(dy, b[k], g[s]);
        }
    }
}

/* From the last token of the entering document down: tiles and steps are counted from its end. */
template <bool whole>
__global__ static void __launch_bounds__(PAIRS, 4)
    backward_chunks(const struct selective_scan_local a, int64_t n_chunks) {
    __shared__ float4 C[TILE_ROWS][QUADS];
    const struct pair p = pair_open(a.A_log, a.dt_bias);
    struct device_span k;
    struct tokens next = {};
    for (int64_t chunk = blockIdx.y; chunk < n_chunks; chunk += gridDim.y) {
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        int64_t end = k.begin;
        while (end < k.end && long_at(a.pos, end) > end - k.begin) end = k.through ? k.end : end + 1;
        float g[2][STATES] = {};
        const int n = (int)(end - k.begin);
        struct columns c = columns_open(a, a.dout, end - STEP, p.d);
        tokens_fetch<whole>(&next, &c, p.live ? STEP - n : STEP, STEP, -STEP);
        for (int t1 = n; t1 > 0; t1 -= TILE_ROWS) {
            const int t0 = t1 < TILE_ROWS ? 0 : t1 - TILE_ROWS;
            __syncthreads();
            tile_rows(C, a.C, k.begin + t0, k.begin + t1);
            __syncthreads();
            for (int t = t1 - STEP; p.live && t > t0 - STEP;
                 t -= STEP) { /* t may be below 0: rows that are not there */
                const struct tokens now = next;
                tokens_fetch<whole>(&next, &c, STEP - t, STEP, -STEP);
#pragma unroll
                for (int j = STEP - 1; j >= 0; j--) {
                    if (t + j < 0) continue;
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        token_backward(half_of(now.dt[j], i), half_of(now.x[j], i), half_of(now.z[j], i), p.bias[i],
                                       p.A[i], g[i], C[t + j - t0]);
                }
            }
        }
        pair_store(a.dstates, chunk, p, g);
    }
}

enum status selective_scan_local_bwd_bf16(struct ctx *c, const struct selective_scan_local *a, int64_t n_chunks) {
    const dim3 grid = pairs_grid(n_chunks, a->A_log.shape[0]);
    const bool whole = rows_in_pairs(a->z) && rows_in_pairs(a->dt) && rows_in_pairs(a->dout);
    if (whole) LAUNCH(backward_chunks<true>, grid, PAIRS, *a, n_chunks);
    else LAUNCH(backward_chunks<false>, grid, PAIRS, *a, n_chunks);
    return OK;
}
