/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/clip/clip.h"
#include "kernels/device.cuh"

/* One block: its threads read, thread 0 adds in ascending order; some hundred numbers, once a step. */
__global__ static void decide(const struct clip a) {
    __shared__ double piece[THREADS];
    const double *squares = (const double *)a.squares.data;
    const int64_t m = a.squares.shape[0];
    double sum = 0.0, bad = -1.0;
    for (int64_t base = 0; base < m; base += THREADS) {
        __syncthreads();
        piece[threadIdx.x] = base + threadIdx.x < m ? squares[base + threadIdx.x] : 0.0;
        __syncthreads();
        for (int i = 0; threadIdx.x == 0 && i < THREADS && base + i < m; i++) {
            sum += piece[i];
            if (!isfinite(piece[i]) && bad < 0.0) bad = (double)(base + i);
        }
    }
    if (threadIdx.x != 0) return;
    double *knobs = (double *)a.knobs.data, *report = (double *)a.report.data;
    const double norm = sqrt(sum), loss = *(const double *)a.total.data * *(const double *)a.scale.data;
    knobs[KNOB_SKIP] = isfinite(norm) && isfinite(loss) ? 0.0 : 1.0;
    knobs[KNOB_CLIP] = a.limit > 0.0 && norm > a.limit ? a.limit / norm : 1.0;
    report[REPORT_NORM] = norm;
    report[REPORT_LOSS] = loss;
    report[REPORT_SKIP] = knobs[KNOB_SKIP];
    report[REPORT_BAD] = bad;
}

extern "C" enum status clip_fwd_cuda(struct ctx *c, const struct clip *a) {
    const int64_t m = a->squares.shape[0];
    CHECK_SHAPE(clip, squares, F64, m);
    CHECK_SHAPE(clip, total, F64, 1);
    CHECK_SHAPE(clip, scale, F64, 1);
    CHECK_SHAPE(clip, knobs, F64, N_KNOBS);
    CHECK_SHAPE(clip, report, F64, N_REPORT);
    LAUNCH(decide, 1, THREADS, *a);
    return OK;
}
NO_BACKWARD(clip)
NO_WORK(clip)
