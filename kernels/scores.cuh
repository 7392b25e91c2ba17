/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SCORES_CUH
#define BATON_KERNELS_SCORES_CUH
/* scores.cuh - scores.h on the device: a warp has a token, a lane every 32nd expert. */
#include "kernels/device.cuh"

/* What makes a score of a logit: the same bits wherever it is asked for. */
struct scorer {
    bool softmax;
    float top, by;
};
static __device__ struct scorer scorer_of(const float *l, int64_t n, bool softmax) {
    struct scorer s = {softmax, 0.0f, 1.0f};
    if (!softmax) return s;
    double sum = 0.0;
    s.top = -INFINITY;
    for (int64_t e = threadIdx.x; e < n; e += WARP) s.top = fmaxf(s.top, l[e]);
    s.top = warp_most(s.top);
    for (int64_t e = threadIdx.x; e < n; e += WARP) sum += (double)expf(l[e] - s.top);
    s.by = (float)(1.0 / warp_sum(sum));
    return s;
}
static inline __device__ float score(const struct scorer &s, float l) {
    return s.softmax ? expf(l - s.top) * s.by : sigmoid(l);
}
#endif
