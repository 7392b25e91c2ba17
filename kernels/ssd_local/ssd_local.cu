/* SPDX-License-Identifier: Apache-2.0 */
/* A block of threads owns one (chunk, head): threads own elements of its state, one after another, and read the
 * chunk's rows, which stay in the cache.  Then threads own an element of the state of a (range, head) and walk the
 * range's chunks. */
#include "kernels/ssd_local/ssd_local.h"
#include "kernels/ssd_chunk.cuh"
#include "kernels/ssd_local/ssd_local_bf16.h"

#define ROWS 32 /* rows whose terms are summed in F32; those sums in F64 */

/* dts and cum of one head over one chunk: a thread each. */
__global__ static void time_steps(const struct ssd_local a, int64_t n_chunks) {
    struct device_span k;
    FOR_CELLS(chunk, h, n_chunks, a.heads) {
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) continue;
        const double A = -exp((double)((const float *)a.A_log.data)[h]);
        const double bias = (double)((const float *)a.dt_bias.data)[h];
        double sum = 0.0;
        for (int64_t t = k.begin; t < k.end; t++) {
            const float dts = (float)ssd_dt((double)row(a.dt, t)[h] + bias, a.dt_min, a.dt_max);
            sum = A * (double)dts + (long_at(a.pos, t) == 0 ? 0.0 : sum);
            row(a.dts, t)[h] = dts;
            row(a.cum, t)[h] = (float)sum;
        }
    }
}

/* out[p][n] = sum over rows [begin, end) of weight_t X_t[p] Y_t[n].  Forward: the decay to the chunk's end times dts,
 * over its last document; backward: the decay from its start, over the entering document. */
template <bool forward>
static __device__ void sum_outer(const struct ssd_local &a, const struct device_span &k, int64_t begin, int64_t end,
                                 int64_t h, float *out) {
    __shared__ float weight[ROWS];
    const int64_t P = a.head_width, N = a.state, g = h / (a.heads / a.groups);
    const struct tensor &X = forward ? a.x : a.dy, &Y = forward ? a.B : a.C;
    for (int64_t e0 = 0; e0 < P * N; e0 += THREADS) {
        const int64_t e = e0 + threadIdx.x, p = e / N, n = e % N;
        double total = 0.0;
        for (int64_t t0 = begin; t0 < end; t0 += ROWS) {
            const int rows = (int)least(ROWS, end - t0);
            __syncthreads();
            if (threadIdx.x < rows) {
                const int64_t t = t0 + threadIdx.x;
                const float cum = row(a.cum, t)[h];
                weight[threadIdx.x] = forward ? (float)exp((double)(row(a.cum, k.end - 1)[h] - cum)) * row(a.dts, t)[h]
                                              : (float)exp((double)cum);
            }
            __syncthreads();
            float sum = 0.0f;
            for (int i = 0; i < rows && e < P * N; i++)
                sum = fmaf(weight[i] * row(X, t0 + i)[h * P + p], row(Y, t0 + i)[g * N + n], sum);
            total += (double)sum;
        }
        if (e < P * N) out[e] = (float)total;
    }
}

__global__ static void forward_chunks(const struct ssd_local a, int64_t n_chunks) {
    struct device_span k;
    for (int64_t item = blockIdx.x; item < n_chunks * a.heads; item += gridDim.x) {
        const int64_t chunk = item / a.heads, h = item % a.heads;
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        sum_outer<true>(a, k, k.last, k.end, h, state_of(a.states, chunk, h));
    }
}

__global__ static void backward_chunks(const struct ssd_local a, int64_t n_chunks) {
    struct device_span k;
    for (int64_t item = blockIdx.x; item < n_chunks * a.heads; item += gridDim.x) {
        const int64_t chunk = item / a.heads, h = item % a.heads;
        if (!span_find(a.range, a.pos, a.chunk, chunk, &k)) return;
        int64_t end = k.begin; /* rows up to here continue the document that enters; few chunks have a start */
        while (end < k.end && long_at(a.pos, end) > end - k.begin) end = k.through ? k.end : end + 1;
        sum_outer<false>(a, k, k.begin, end, h, state_of(a.dstates, chunk, h));
    }
}

/* The state at the end of a range that began with zero, and what it keeps of the state that entered. */
__global__ static void forward_ranges(const struct ssd_local a) {
    const int64_t PN = a.head_width * a.state, R = a.range.shape[0] - 1;
    FOR_CELLS(item, e, R * a.heads, PN) {
        const int64_t r = item / a.heads, h = item % a.heads, first = spans_before(a.range, r, a.chunk);
        const int64_t begin = long_at(a.range, r), end = long_at(a.range, r + 1);
        float sum = 0.0f;
        double keep = 1.0;
        for (int64_t t = begin, chunk = first; t < end; t += a.chunk, chunk++) {
            const float decay = ssd_chunk_decay(span_at(a.pos, r, t, least(end, t + a.chunk)), a.cum, h);
            sum = decay * sum + state_of(a.states, chunk, h)[e];
            keep *= (double)decay;
        }
        state_of(a.range_state, r, h)[e] = sum;
        if (e == 0) row(a.range_decay, r)[h] = (float)keep;
    }
}

__global__ static void backward_ranges(const struct ssd_local a) {
    const int64_t PN = a.head_width * a.state, R = a.range.shape[0] - 1;
    FOR_CELLS(item, e, R * a.heads, PN) {
        const int64_t r = item / a.heads, h = item % a.heads, first = spans_before(a.range, r, a.chunk);
        const int64_t begin = long_at(a.range, r), end = long_at(a.range, r + 1);
        float sum = 0.0f;
        for (int64_t i = ceil_div(end - begin, a.chunk) - 1; i >= 0; i--) {
            const int64_t t = begin + i * a.chunk;
            const float decay = ssd_chunk_decay(span_at(a.pos, r, t, least(end, t + a.chunk)), a.cum, h);
            sum = decay * sum + state_of(a.dstates, first + i, h)[e];
        }
        state_of(a.range_dstate, r, h)[e] = sum;
    }
}

static enum status check(struct ctx *c, const struct ssd_local *a, bool backward) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    const int64_t R = a->range.shape[0] - 1, n = (backward ? a->dstates : a->states).shape[0];
    CHECK_THAT(ssd_local, H > 0 && P > 0 && N > 0 && G > 0 && H % G == 0 && a->chunk > 0,
               "heads %" PRId64 ", head_width %" PRId64 ", state %" PRId64 ", groups %" PRId64 ", chunk %" PRId64
               ": expected all above 0, and groups dividing heads",
               H, P, N, G, a->chunk);
    CHECK_THAT(ssd_local, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(ssd_local, range, I64, R + 1);
    CHECK_SHAPE(ssd_local, pos, I64, T);
    CHECK_SHAPE(ssd_local, cum, F32, T, H);
    if (backward) {
        CHECK_SHAPE(ssd_local, C, F32, T, G * N);
        CHECK_SHAPE(ssd_local, dy, F32, T, H * P);
        CHECK_SHAPE(ssd_local, dstates, F32, n, H, P, N);
        CHECK_SHAPE(ssd_local, range_dstate, F32, R, H, P, N);
    } else {
        CHECK_SHAPE(ssd_local, x, F32, T, H * P);
        CHECK_SHAPE(ssd_local, dt, F32, T, H);
        CHECK_SHAPE(ssd_local, B, F32, T, G * N);
        CHECK_SHAPE(ssd_local, A_log, F32, H);
        CHECK_SHAPE(ssd_local, dt_bias, F32, H);
        CHECK_SHAPE(ssd_local, dts, F32, T, H);
        CHECK_SHAPE(ssd_local, states, F32, n, H, P, N);
        CHECK_SHAPE(ssd_local, range_decay, F32, R, H);
        CHECK_SHAPE(ssd_local, range_state, F32, R, H, P, N);
    }
    return OK;
}

/* Chunks that the ranges can make and the tensor has room for. */
static int64_t chunks_of(const struct ssd_local *a, struct tensor states) {
    return least(states.shape[0], spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->chunk));
}
static dim3 grid_of(int64_t items) { return dim3((unsigned)least(items, 1 << 20)); }

extern "C" enum status ssd_local_fwd_cuda(struct ctx *c, const struct ssd_local *a) {
    if (c->real == BF16) return ssd_local_fwd_bf16(c, a);
    TRY(check(c, a, false));
    const int64_t n = chunks_of(a, a->states), H = a->heads;
    LAUNCH_CELLS(time_steps, n, H, *a, n);
    LAUNCH(forward_chunks, grid_of(n * H), THREADS, *a, n);
    LAUNCH_CELLS(forward_ranges, (a->range.shape[0] - 1) * H, a->head_width * a->state, *a);
    return OK;
}

extern "C" enum status ssd_local_bwd_cuda(struct ctx *c, const struct ssd_local *a) {
    if (c->real == BF16) return ssd_local_bwd_bf16(c, a);
    TRY(check(c, a, true));
    const int64_t n = chunks_of(a, a->dstates), H = a->heads;
    LAUNCH(backward_chunks, grid_of(n * H), THREADS, *a, n);
    LAUNCH_CELLS(backward_ranges, (a->range.shape[0] - 1) * H, a->head_width * a->state, *a);
    return OK;
}
extern "C" int64_t ssd_local_work_cuda(const struct ctx *c, const struct ssd_local *a) {
    if (c->real == BF16) return ssd_local_shape_bf16(a) == OK ? ssd_local_work_bf16(a) : -1;
    return 0;
}
