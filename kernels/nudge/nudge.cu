/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/nudge/nudge.h"
#include "kernels/adamw/adamw.h"
#include "kernels/device.cuh"

__global__ static void nudge_experts(const struct nudge a) {
    const int64_t E = a.load.shape[0], n = a.b.shape[0];
    const double *load = (const double *)a.load.data;
    double sum = 0.0;
    if (((const double *)a.knobs.data)[KNOB_SKIP] != 0.0) return;
    for (int64_t e = threadIdx.x; e < E; e += WARP) sum += load[e]; /* integers: no rounding below 2^53 */
    sum = warp_sum(sum);
    for (int64_t i = threadIdx.x; i < n; i += WARP) {
        const double over = load[a.begin + i] * (double)E - sum;
        ((float *)a.b.data)[i] += (float)(over < 0.0 ? a.rate : over > 0.0 ? -a.rate : 0.0);
    }
}

extern "C" enum status nudge_fwd_cuda(struct ctx *c, const struct nudge *a) {
    const int64_t E = a->load.shape[0], n = a->b.shape[0];
    CHECK_SHAPE(nudge, load, F64, E);
    CHECK_SHAPE(nudge, knobs, F64, N_KNOBS);
    CHECK_SHAPE(nudge, b, WIDE, n);
    CHECK_THAT(nudge, a->begin >= 0 && a->begin + n <= E, "b has the experts %" PRId64 " to %" PRId64 " of %" PRId64,
               a->begin, a->begin + n, E);
    LAUNCH(nudge_experts, dim3(1), WARP, *a);
    return OK;
}
NO_BACKWARD(nudge)
NO_WORK(nudge)
