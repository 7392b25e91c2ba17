/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_CUH
#define BATON_KERNELS_SELECTIVE_CUH
/* selective.cuh - what both halves of the selective scan share on the device. */
#include "kernels/affine/affine.h"
#include "kernels/mma.cuh"
#include "kernels/ranges.cuh"

#define LOG2_E 1.4426950408889634f

static inline __device__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
static inline __device__ float vector_at(const struct tensor &t, int64_t i) { return ((const float *)t.data)[i]; }

/* exp(A time): what is left of a state after a chunk. */
static inline __device__ float keep_after(float A, float time) {
    return time < (float)AFFINE_FOREVER ? exp2_fast(A * LOG2_E * time) : 0.0f;
}

/* A log2(e), so that exp2 of its product with a time step is the decay; 0 where there is no such state, which then
 * stays zero. */
static inline __device__ float rate_at(const struct tensor &A_log, int64_t d, int64_t n) {
    return d < A_log.shape[0] && n < A_log.shape[1] ? -expf(row(A_log, d)[n]) * LOG2_E : 0.0f;
}

/* STATES states of one channel to a thread, all of them where N is not larger; the rest in further rounds. */
enum { STATES = 16, CHANNELS = 128, ROWS = 16 };

/* BF16 has kernels of up to 16 states and of chunks whose states backward can keep in shared memory. */
#define SELECTIVE_BF16                                                                                                 \
    "state %" PRId64 ", chunk %" PRId64 " in bf16: expected at most 16 and 256; train.precision: f32 takes any"
static inline bool selective_bf16_has(int64_t state, int64_t chunk) { return state <= STATES && chunk <= 256; }

/* Columns [n0, n0 + STATES) of ROWS rows from t on, zeros past the end of either; the whole block calls. */
static inline __device__ void rows_fetch(float (*to)[STATES], const struct tensor &from, int64_t t, int64_t end,
                                         int64_t n0) {
    for (int i = threadIdx.x; i < ROWS * STATES; i += CHANNELS) {
        const int64_t at = t + i / STATES, n = n0 + i % STATES;
        to[i / STATES][i % STATES] = at < end && n < from.shape[1] ? row(from, at)[n] : 0.0f;
    }
}
static inline __device__ void state_fetch(float *to, const struct tensor &from, int64_t i, int64_t d, int64_t n0) {
    const int64_t N = from.shape[3];
    for (int s = 0; s < STATES; s++) to[s] = d < from.shape[1] && n0 + s < N ? row(from, i)[d * N + n0 + s] : 0.0f;
}
static inline __device__ void state_store(const struct tensor &to, int64_t i, int64_t d, int64_t n0,
                                          const float *from) {
    const int64_t N = to.shape[3];
    for (int s = 0; s < STATES; s++)
        if (d < to.shape[1] && n0 + s < N) row(to, i)[d * N + n0 + s] = from[s];
}

/* The chunks of a range in order, or `up` from the last, for element e of a state whose rate is A: now = exp(A time)
 * now
 * + own.  replace: own becomes what stood before it.  sum: of the chunks' times.  What a step needs is asked for AHEAD
 * steps before: loads cannot pass the stores by themselves. */
enum { AHEAD = 8 };
struct ahead {
    float own[AHEAD], time[AHEAD];
};
static inline __device__ void ahead_fetch(struct ahead *a, const float *own, const float *time, int64_t step,
                                          int64_t step_time, int64_t left) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        if (i < left) a->own[i] = own[i * step], a->time[i] = time[i * step_time];
}
template <bool up, bool replace>
static __device__ float chunks_walk(const struct tensor &states, const struct tensor &times, int64_t first, int64_t n,
                                    int64_t d, int64_t e, float A, float now, double *sum) {
    const int64_t step = up ? -states.pitch : states.pitch, step_time = up ? -times.pitch : times.pitch;
    float *own = &row(states, up ? first + n - 1 : first)[e];
    const float *time = &row(times, up ? first + n - 1 : first)[d];
    struct ahead next;
    *sum = 0.0;
    ahead_fetch(&next, own, time, step, step_time, n);
    for (int64_t j = 0; j < n; j += AHEAD) {
        const struct ahead a = next;
        ahead_fetch(&next, own + AHEAD * step, time + AHEAD * step_time, step, step_time, n - j - AHEAD);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (j + i >= n) continue;
            if (replace) own[i * step] = now;
            now = fmaf(keep_after(A, a.time[i]), now, a.own[i]);
            *sum += (double)a.time[i];
        }
        own += AHEAD * step;
        time += AHEAD * step_time;
    }
    return now;
}
/* Sums over the lanes that differ in the bits of `bits`, each step halving what a lane holds: lane l ends with the part
 * of v that its bits, highest first, choose. */
template <int count, int mask, int last> static __device__ void halve(float *v) {
    const bool upper = threadIdx.x & mask;
#pragma unroll
    for (int i = 0; i < count / 2; i++) {
        const float give = upper ? v[i] : v[i + count / 2], stay = upper ? v[i + count / 2] : v[i];
        v[i] = stay + __shfl_xor_sync(0xffffffffu, give, mask);
    }
    if constexpr (mask > last) halve<count / 2, mask / 2, last>(v);
}

static inline dim3 selective_grid(int64_t n_chunks, int64_t D, int64_t groups) {
    return dim3((unsigned)ceil_div(D, CHANNELS), (unsigned)least(n_chunks, 32768), (unsigned)groups);
}
#endif
