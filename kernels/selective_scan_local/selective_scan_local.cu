/* SPDX-License-Identifier: Apache-2.0 */
/* A thread owns a channel of a chunk and walks its tokens with up to 16 states in registers: lanes are channels, so
 * that nothing is exchanged between threads, loads of x and dt are whole lines, and rows of B or C come out of shared
 * memory as broadcasts.  Then threads own a state of a range and walk its chunks.  Forward
 * walks the tokens once more, for out.
 *
 * Per token and channel, F32: forward reads 8 bytes, backward 12, and 4 N / chunk more for the states written; N
 * exponentials, 4 N flops.  At D 8,192, N 16 the exponentials need 35 ns a token of an H200's special-function units,
 * the bytes 14 and 20 ns of 4.8 TB/s. */
#include "kernels/selective_scan_local/selective_scan_local.h"
#include "kernels/selective_out.cuh"
#include "kernels/selective_scan_local/selective_scan_local_bf16.h"

/* Forward: h = exp(dts A) h + dts x B over the chunk's last document, and the sum of dts. */
__global__ static void __launch_bounds__(CHANNELS)
    forward_chunks(const struct selective_scan_local a, int64_t n_chunks) {
    __shared__ float B[ROWS][STATES];
    const int64_t D = a.A_log.shape[0], d = (int64_t)blockIdx.x * CHANNELS + threadIdx.x, n0 = blockIdx.z * STATES;
    const bool live = d < D;
    float A[STATES], h[STATES];
    struct device_span k;
    for (int s = 0; s < STATES; s++) A[s] = rate_at(a.A_log, d, n0 + s);
    for (int64_t chunk = blockIdx.y; chunk < n_chunks; chunk += gridDim.y) {
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        double time = 0.0;
        for (int s = 0; s < STATES; s++) h[s] = 0.0f;
        for (int64_t t0 = k.last; t0 < k.end; t0 += ROWS) {
            __syncthreads();
            rows_fetch(B, a.B, t0, k.end, n0);
            __syncthreads();
            for (int64_t t = t0; live && t < least(k.end, t0 + ROWS); t++) {
                const float dts = softplus(row(a.dt, t)[d] + vector_at(a.dt_bias, d)), dtx = dts * row(a.x, t)[d];
                time += (double)dts;
#pragma unroll
                for (int s = 0; s < STATES; s++) h[s] = fmaf(exp2_fast(dts * A[s]), h[s], dtx * B[t - t0][s]);
            }
        }
        state_store(a.states, chunk, d, n0, h);
        if (live && n0 == 0) row(a.chunk_time, chunk)[d] = k.through ? (float)time : (float)AFFINE_FOREVER;
    }
}

/* Backward: g = exp(dts A) (g + dy C), from the last token of the entering document down. */
__global__ static void __launch_bounds__(CHANNELS)
    backward_chunks(const struct selective_scan_local a, int64_t n_chunks) {
    __shared__ float C[ROWS][STATES];
    const int64_t D = a.A_log.shape[0], d = (int64_t)blockIdx.x * CHANNELS + threadIdx.x, n0 = blockIdx.z * STATES;
    const bool live = d < D;
    float A[STATES], g[STATES];
    struct device_span k;
    for (int s = 0; s < STATES; s++) A[s] = rate_at(a.A_log, d, n0 + s);
    for (int64_t chunk = blockIdx.y; chunk < n_chunks; chunk += gridDim.y) {
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        int64_t end = k.begin;
        while (end < k.end && long_at(a.pos, end) > end - k.begin) end = k.through ? k.end : end + 1;
        for (int s = 0; s < STATES; s++) g[s] = 0.0f;
        for (int64_t t0 = k.begin + (ceil_div(end - k.begin, ROWS) - 1) * ROWS; t0 >= k.begin; t0 -= ROWS) {
            __syncthreads();
            rows_fetch(C, a.C, t0, end, n0);
            __syncthreads();
            for (int64_t t = least(end, t0 + ROWS) - 1; live && t >= t0; t--) {
                const float dts = softplus(row(a.dt, t)[d] + vector_at(a.dt_bias, d));
                const float dy = row(a.dout, t)[d] * silu(row(a.z, t)[d]);
#pragma unroll
                for (int s = 0; s < STATES; s++) g[s] = exp2_fast(dts * A[s]) * fmaf(dy, C[t - t0][s], g[s]);
            }
        }
        state_store(a.dstates, chunk, d, n0, g);
    }
}

/* Forward: own end states become entering ones. */
template <bool forward> __global__ static void ranges(const struct selective_scan_local a) {
    const int64_t D = a.A_log.shape[0], N = a.state, R = a.range.shape[0] - 1;
    FOR_CELLS(r, e, R, D * N) {
        const int64_t d = e / N, first = spans_before(a.range, r, a.chunk);
        const int64_t n = ceil_div(long_at(a.range, r + 1) - long_at(a.range, r), a.chunk);
        const float A = -expf(row(a.A_log, d)[e % N]);
        double time;
        const float sum = chunks_walk<!forward, forward>(forward ? a.states : a.dstates, a.chunk_time, first, n, d, e,
                                                         A, 0.0f, &time);
        row(forward ? a.range_state : a.range_dstate, r)[e] = sum;
        if (forward && e % N == 0) row(a.range_time, r)[d] = (float)time;
    }
}

static bool has_kernel(const struct ctx *c, const struct selective_scan_local *a) {
    return REAL == F32 || selective_bf16_has(a->state, a->chunk);
}

static enum status check(struct ctx *c, const struct selective_scan_local *a, bool backward) {
    const int64_t T = a->pos.shape[0], D = a->A_log.shape[0], N = a->state, R = a->range.shape[0] - 1;
    const int64_t n = (backward ? a->dstates : a->states).shape[0];
    CHECK_THAT(selective_scan_local, N > 0 && a->chunk > 0, "state %" PRId64 ", chunk %" PRId64 ": expected above 0", N,
               a->chunk);
    CHECK_THAT(selective_scan_local, has_kernel(c, a), SELECTIVE_BF16, a->state, a->chunk);
    CHECK_THAT(selective_scan_local, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(selective_scan_local, range, I64, R + 1);
    CHECK_SHAPE(selective_scan_local, pos, I64, T);
    CHECK_SHAPE(selective_scan_local, dt, REAL, T, D);
    CHECK_SHAPE(selective_scan_local, A_log, WIDE, D, N);
    CHECK_SHAPE(selective_scan_local, dt_bias, WIDE, D);
    CHECK_SHAPE(selective_scan_local, chunk_time, WIDE, n, D);
    CHECK_SHAPE(selective_scan_local, z, REAL, T, D);
    CHECK_SHAPE(selective_scan_local, C, REAL, T, N);
    if (backward) {
        CHECK_SHAPE(selective_scan_local, dout, REAL, T, D);
        CHECK_SHAPE(selective_scan_local, dstates, WIDE, n, D, 1, N);
        CHECK_SHAPE(selective_scan_local, range_dstate, WIDE, R, D, 1, N);
    } else {
        CHECK_SHAPE(selective_scan_local, x, REAL, T, D);
        CHECK_SHAPE(selective_scan_local, B, REAL, T, N);
        CHECK_SHAPE(selective_scan_local, states, WIDE, n, D, 1, N);
        CHECK_SHAPE(selective_scan_local, D, WIDE, D);
        CHECK_SHAPE(selective_scan_local, out, REAL, T, D);
        CHECK_SHAPE(selective_scan_local, range_time, WIDE, R, D);
        CHECK_SHAPE(selective_scan_local, range_state, WIDE, R, D, 1, N);
    }
    return OK;
}

/* Chunks that the ranges can make and the tensor has room for. */
static int64_t chunks_of(const struct selective_scan_local *a, struct tensor states) {
    return least(states.shape[0], spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->chunk));
}

extern "C" enum status selective_scan_local_fwd_cuda(struct ctx *c, const struct selective_scan_local *a) {
    TRY(check(c, a, false));
    const int64_t n = chunks_of(a, a->states), D = a->A_log.shape[0], N = a->state;
    const struct reached all = {};
    const struct tensor none = {};
    if (REAL == BF16) return selective_scan_local_fwd_bf16(c, a, n);
    LAUNCH(forward_chunks, selective_grid(n, D, ceil_div(N, STATES)), CHANNELS, *a, n);
    LAUNCH_CELLS(ranges<true>, a->range.shape[0] - 1, D * N, *a);
    LAUNCH(out_chunks<struct selective_scan_local>, selective_grid(n, D, 1), CHANNELS, *a, all, none, n);
    return OK;
}

extern "C" enum status selective_scan_local_bwd_cuda(struct ctx *c, const struct selective_scan_local *a) {
    TRY(check(c, a, true));
    const int64_t n = chunks_of(a, a->dstates), D = a->A_log.shape[0], N = a->state;
    if (REAL == BF16) TRY(selective_scan_local_bwd_bf16(c, a, n));
    else LAUNCH(backward_chunks, selective_grid(n, D, ceil_div(N, STATES)), CHANNELS, *a, n);
    LAUNCH_CELLS(ranges<false>, a->range.shape[0] - 1, D * N, *a);
    return OK;
}
extern "C" int64_t selective_scan_local_work_cuda(const struct ctx *c, const struct selective_scan_local *a) {
    if (!has_kernel(c, a)) return -1;
    return REAL == BF16 ? selective_scan_local_work_bf16(a, chunks_of(a, a->states)) : 0;
}
