/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/head/head.h"
#include "kernels/matmul.cuh"

/* A block of threads owns a row of logits.  A bad target cannot fail here without waiting for the device: its loss and
 * gradient become NaN, which the step report shows. */
__global__ static void loss_rows(const struct head a) {
    __shared__ double room[WARPS];
    const int64_t V = a.logits.shape[1];
    for (int64_t t = blockIdx.x; t < a.logits.shape[0]; t += gridDim.x) {
        const float *x = row(a.logits, t);
        float most_here = x[0];
        for (int64_t v = threadIdx.x; v < V; v += THREADS) most_here = fmaxf(most_here, x[v]);
        const float top = block_most(most_here, room);
        double sum = 0.0;
        for (int64_t v = threadIdx.x; v < V; v += THREADS) sum += (double)expf(x[v] - top);
        sum = block_sum(sum, room);
        if (threadIdx.x > 0) continue;
        const int32_t target = ((const int32_t *)a.targets.data)[t];
        *row(a.lse, t) = (float)((double)top + log(sum));
        *row(a.picked, t) = target >= V ? nanf("") : target < 0 ? 0.0f : x[target];
    }
}

__global__ static void gradient_cells(const struct head a) {
    const float scale = (float)(*(const double *)a.scale.data * a.logit_scale);
    FOR_CELLS(t, v, a.logits.shape[0], a.logits.shape[1]) {
        const int32_t target = ((const int32_t *)a.targets.data)[t];
        float *l = row(a.logits, t) + v;
        const float share = scale * expf(*l - *row(a.lse, t));
        *l = target < 0 ? 0.0f : target >= a.logits.shape[1] ? nanf("") : v == target ? share - scale : share;
    }
}

static enum status check_inputs(struct ctx *c, const struct head *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1], V = a->w.shape[0];
    CHECK_THAT(head, V > 0, "the vocabulary of w is empty");
    CHECK_SHAPE(head, x, F32, T, D);
    CHECK_SHAPE(head, w, F32, V, D);
    CHECK_SHAPE(head, targets, I32, T);
    CHECK_SHAPE(head, logits, F32, T, V);
    CHECK_SHAPE(head, lse, F32, T);
    return OK;
}

extern "C" enum status head_fwd_cuda(struct ctx *c, const struct head *a) {
    const int64_t T = a->x.shape[0];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(head, picked, F32, T);
    TRY(matmul(c, false, true, (float)a->logit_scale, a->x, a->w, 0.0f, a->logits, NULL));
    LAUNCH(loss_rows, dim3((unsigned)least(T, 1 << 20)), THREADS, *a);
    return OK;
}

extern "C" enum status head_bwd_cuda(struct ctx *c, const struct head *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1], V = a->w.shape[0];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(head, scale, F64, 1);
    CHECK_OPTIONAL(head, dx, F32, T, D);
    CHECK_OPTIONAL(head, dw, F32, V, D);
    LAUNCH_CELLS(gradient_cells, T, V, *a);
    if (tensor_has(a->dx)) TRY(matmul(c, false, false, 1.0f, a->logits, a->w, 0.0f, a->dx, NULL));
    if (tensor_has(a->dw)) TRY(matmul(c, true, false, 1.0f, a->logits, a->x, 1.0f, a->dw, NULL));
    return OK;
}
NO_WORK(head)
