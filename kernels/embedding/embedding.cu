/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/embedding/embedding.h"
#include "kernels/device.cuh"

#define COLUMNS 128 /* threads of backward: one a column            */
#define CLASSES 64  /* vocabulary rows of a block: those v mod CLASSES */

/* A bad id cannot fail here without waiting for the device: its row becomes NaN, which the step report shows. */
__global__ static void pick_cells(const struct embedding a) {
    FOR_CELLS(t, i, a.y.shape[0], a.y.shape[1]) {
        const int64_t id = ((const int32_t *)a.ids.data)[t];
        row(a.y, t)[i] = id >= 0 && id < a.w.shape[0] ? row(a.w, id)[i] : nanf("");
    }
}

/* A thread owns one column of the vocabulary rows of one class and walks all tokens, so a row's sum is in ascending
 * t.  Reads dy once and the ids once a block. */
__global__ static void sum_class(const struct embedding a) {
    __shared__ int32_t ids[COLUMNS];
    const int64_t i = (int64_t)blockIdx.x * COLUMNS + threadIdx.x, T = a.dy.shape[0], V = a.dw.shape[0];
    for (int64_t t0 = 0; t0 < T; t0 += COLUMNS) {
        const int n = (int)least(COLUMNS, T - t0);
        __syncthreads();
        if (threadIdx.x < n) ids[threadIdx.x] = ((const int32_t *)a.ids.data)[t0 + threadIdx.x];
        __syncthreads();
        for (int k = 0; k < n; k++) {
            const int64_t id = ids[k];
            if (id % CLASSES != blockIdx.y || id >= V || i >= a.dy.shape[1]) continue;
            row(a.dw, id)[i] += row(a.dy, t0 + k)[i];
        }
    }
}

extern "C" enum status embedding_fwd_cuda(struct ctx *c, const struct embedding *a) {
    const int64_t T = a->y.shape[0], D = a->y.shape[1], V = a->w.shape[0];
    CHECK_SHAPE(embedding, y, F32, T, D);
    CHECK_SHAPE(embedding, ids, I32, T);
    CHECK_SHAPE(embedding, w, F32, V, D);
    LAUNCH_CELLS(pick_cells, T, D, *a);
    return OK;
}

extern "C" enum status embedding_bwd_cuda(struct ctx *c, const struct embedding *a) {
    const int64_t T = a->dy.shape[0], D = a->dy.shape[1], V = a->dw.shape[0];
    CHECK_SHAPE(embedding, dy, F32, T, D);
    CHECK_SHAPE(embedding, ids, I32, T);
    CHECK_SHAPE(embedding, dw, F32, V, D);
    LAUNCH(sum_class, dim3((unsigned)ceil_div(D, COLUMNS), CLASSES), COLUMNS, *a);
    return OK;
}
NO_WORK(embedding)
