/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_CHUNK_CUH
#define BATON_KERNELS_SSD_CHUNK_CUH
/* ssd_chunk.cuh - ssd_chunk.h on the device. */
#include "kernels/ranges.cuh"

/* clamp(softplus(v)), v = dt + bias, and its derivative. */
static inline __device__ double ssd_dt(double v, double smallest, double largest) {
    const double s = v > 20 ? v : log1p(exp(v));
    return s < smallest ? smallest : s > largest ? largest : s;
}
static inline __device__ double ssd_dt_slope(double v, double smallest, double largest) {
    const double s = v > 20 ? v : log1p(exp(v));
    if (s < smallest || s > largest) return 0;
    return v > 20 ? 1 : 1 / (1 + exp(-v));
}

/* The same in F32, for BF16 inputs: 1e-7 of the value, or of 1. */
static inline __device__ float ssd_dt_fast(float v, double smallest, double largest) {
    const float s = v > 20.0f ? v : log1pf(expf(v)), low = (float)smallest, high = (float)largest;
    return s < low ? low : s > high ? high : s;
}
static inline __device__ float ssd_dt_slope_fast(float v, double smallest, double largest) {
    const float s = v > 20.0f ? v : log1pf(expf(v));
    if (s < (float)smallest || s > (float)largest) return 0.0f;
    return v > 20.0f ? 1.0f : 1.0f / (1.0f + expf(-v));
}

/* The factor that a state keeps through a chunk: 0 where a document starts in it. */
static inline __device__ float ssd_chunk_decay(const struct device_span &k, const struct tensor &cum, int64_t head) {
    return k.through ? (float)exp((double)row(cum, k.end - 1)[head]) : 0.0f;
}

static inline __device__ float *state_of(const struct tensor &states, int64_t chunk, int64_t head) {
    return row(states, chunk) + head * states.shape[2] * states.shape[3];
}

/* exp of a sum of decays, which rounding may leave above 0. */
static inline __device__ float ssd_exp(float sum) { return expf(fminf(sum, 0.0f)); }
#endif
