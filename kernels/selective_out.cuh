/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_OUT_CUH
#define BATON_KERNELS_SELECTIVE_OUT_CUH
/* selective_out.cuh - forward of both halves of the selective scan: out of chunks whose entering states are known, and
 * what an entering state of many chunks adds to theirs.  args: either half's. */
#include "kernels/selective.cuh"

/* Chunks and strips of CHANNELS whose states have changed, so that their out is to be made again; mark NULL: all. */
struct reached {
    uint8_t *mark; /* (c, strips) */
    int64_t strips;
};
static inline __device__ void reached_mark(const struct reached &to, int64_t chunk, int64_t d) {
    to.mark[chunk * to.strips + d / CHANNELS] = 1; /* by several threads, the same */
}
static inline int64_t reached_bytes(int64_t D, int64_t n_chunks) {
    return arena_round(n_chunks * ceil_div(D, CHANNELS));
}
__global__ static void reached_clear(const struct reached to, int64_t n_chunks) {
    FOR_CELLS(c, i, n_chunks, to.strips) to.mark[c * to.strips + i] = 0;
}
/* Out of ctx->work, which the caller has marked. */
static inline enum status reached_open(struct reached *to, struct ctx *c, int64_t D, int64_t n_chunks) {
    void *at;
    TRY(arena_take(c->work, n_chunks * ceil_div(D, CHANNELS), &at));
    *to = (struct reached){(uint8_t *)at, ceil_div(D, CHANNELS)};
    LAUNCH_CELLS(reached_clear, n_chunks, to->strips, *to, n_chunks);
    return OK;
}

/* What `left`, element e of the state that enters the first of n chunks, adds to those that enter them: until it is
 * below half a last bit of the sum, where a walk of the tokens would lose it too. */
static inline __device__ void chunks_reach(const struct tensor &states, const struct tensor &times, int64_t first,
                                           int64_t n, int64_t d, int64_t e, float A, float left,
                                           const struct reached &reached) {
    for (int64_t i = first; i < first + n; i++) {
        float *at = &row(states, i)[e];
        const float sum = *at + left;
        if (sum == *at) return;
        *at = sum;
        reached_mark(reached, i, d);
        left *= keep_after(A, row(times, i)[d]);
    }
}

/* ---- F32: a thread owns a channel of a chunk with up to 16 states in registers, and y is its own sum ---- */

/* States [n0, n0 + STATES) of one chunk; out holds y until the last of them is in. */
template <typename args>
static __device__ void out_states(const args &a, const struct device_span &k, int64_t chunk, int64_t d, int64_t n0,
                                  float (*B)[STATES], float (*C)[STATES], const struct tensor &s_out) {
    const bool live = d < a.A_log.shape[0], last = n0 + STATES >= a.state;
    float A[STATES], h[STATES];
    for (int s = 0; s < STATES; s++) A[s] = rate_at(a.A_log, d, n0 + s);
    state_fetch(h, a.states, chunk, d, n0);
    for (int64_t t0 = k.begin; t0 < k.end; t0 += ROWS) {
        __syncthreads();
        rows_fetch(B, a.B, t0, k.end, n0);
        rows_fetch(C, a.C, t0, k.end, n0);
        __syncthreads();
        for (int64_t t = t0; live && t < least(k.end, t0 + ROWS); t++) {
            const float x = row(a.x, t)[d], dts = softplus(row(a.dt, t)[d] + vector_at(a.dt_bias, d)), dtx = dts * x;
            float y = n0 == 0 ? vector_at(a.D, d) * x : row(a.out, t)[d];
            if (long_at(a.pos, t) == 0)
                for (int s = 0; s < STATES; s++) h[s] = 0.0f;
#pragma unroll
            for (int s = 0; s < STATES; s++) {
                h[s] = fmaf(exp2_fast(dts * A[s]), h[s], dtx * B[t - t0][s]);
                y = fmaf(C[t - t0][s], h[s], y);
            }
            row(a.out, t)[d] = last ? y * silu(row(a.z, t)[d]) : y;
        }
    }
    if (s_out.data && k.end == long_at(a.range, k.range + 1)) state_store(s_out, k.range, d, n0, h);
}

template <typename args>
__global__ static void __launch_bounds__(CHANNELS)
    out_chunks(const args a, const struct reached reached, const struct tensor s_out, int64_t n_chunks) {
    __shared__ float B[ROWS][STATES], C[ROWS][STATES];
    const int64_t d = (int64_t)blockIdx.x * CHANNELS + threadIdx.x;
    struct device_span k;
    for (int64_t chunk = blockIdx.y; chunk < n_chunks; chunk += gridDim.y) {
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        if (reached.mark && !reached.mark[chunk * reached.strips + blockIdx.x]) continue;
        for (int64_t n0 = 0; n0 < a.state; n0 += STATES) out_states(a, k, chunk, d, n0, B, C, s_out);
    }
}
#endif
