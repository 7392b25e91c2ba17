/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/token_loss/token_loss.h"
#include "kernels/device.cuh"

/* In F64, ascending. */
__device__ static float log_sum_exp(const struct token_loss &a, int64_t t) {
    double top = (double)row(a.parts, 0)[t], sum = 0.0;
    for (int64_t i = 1; i < a.parts.shape[0]; i++) top = fmax(top, (double)row(a.parts, i)[t]);
    for (int64_t i = 0; i < a.parts.shape[0]; i++) sum += exp((double)row(a.parts, i)[t] - top);
    return (float)(top + log(sum));
}

/* One block: its threads read, thread 0 adds in ascending order.  Some 10 ns a token, next to a head of milliseconds.
 */
__global__ static void sum_losses(const struct token_loss a) {
    __shared__ float piece[THREADS];
    float *lse = (float *)a.lse.data;
    const float *picked = (const float *)a.picked.data;
    const int32_t *targets = (const int32_t *)a.targets.data;
    const int64_t T = a.lse.shape[0];
    double sum = 0.0;
    for (int64_t t0 = 0; t0 < T; t0 += THREADS) {
        const int64_t t = t0 + threadIdx.x;
        if (t < T && a.parts.data) lse[t] = log_sum_exp(a, t);
        const float loss = t < T && targets[t] >= 0 ? lse[t] - picked[t] : 0.0f;
        if (t < T && a.loss.data) ((float *)a.loss.data)[t] = loss;
        __syncthreads();
        piece[threadIdx.x] = loss;
        __syncthreads();
        for (int i = 0; threadIdx.x == 0 && i < THREADS; i++) sum += (double)piece[i];
    }
    if (threadIdx.x == 0) *(double *)a.total.data += sum;
}

extern "C" enum status token_loss_fwd_cuda(struct ctx *c, const struct token_loss *a) {
    const int64_t T = a->lse.shape[0];
    CHECK_SHAPE(token_loss, lse, WIDE, T);
    CHECK_SHAPE(token_loss, picked, WIDE, T);
    CHECK_SHAPE(token_loss, targets, I32, T);
    CHECK_SHAPE(token_loss, total, F64, 1);
    CHECK_OPTIONAL(token_loss, loss, WIDE, T);
    if (a->parts.shape[0] > 0) CHECK_SHAPE(token_loss, parts, WIDE, a->parts.shape[0], T);
    LAUNCH(sum_losses, 1, THREADS, *a);
    return OK;
}
NO_BACKWARD(token_loss)
NO_WORK(token_loss)
