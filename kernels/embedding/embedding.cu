/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/embedding/embedding.h"
#include "kernels/packs.cuh"

#define COLUMNS      128 /* threads of backward: one a column            */
#define CLASSES      64  /* vocabulary rows of a block: those v mod CLASSES */
#define CLASSES_BF16 512 /* likewise, of a warp */

/* A bad id cannot fail here without waiting for the device: its row becomes NaN, which the step report shows. */
template <typename real, int n> __global__ static void pick_cells(const struct embedding a) {
    FOR_PACKS(t, i, a.y.shape[0], a.y.shape[1], n) {
        const int64_t id = ((const int32_t *)a.ids.data)[t], at = id - a.first, V = a.w.shape[0];
        const bool bad = id < 0 || id >= (a.vocab > 0 ? a.vocab : V);
        float w[n];
        for (int k = 0; k < n; k++) w[k] = bad ? nanf("") : 0.0f;
        if (!bad && at >= 0 && at < V) get<n>(w, row_of<real>(a.w, at) + i);
        put<n>(row_of<real>(a.y, t) + i, w);
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
            const int64_t id = ids[k] - a.first;
            if (id < 0 || id % CLASSES != blockIdx.y || id >= V || i >= a.dy.shape[1]) continue;
            row(a.dw, id)[i] += row(a.dy, t0 + k)[i];
        }
    }
}

/* BF16: a warp owns n columns a lane of the vocabulary rows of one class and walks all tokens; a vote tells which of 32
 * are of its class, and those are added in ascending t.  Reads dy once (2 T D bytes), moves 8 D bytes of dw a token at
 * most, and reads the ids D / (32 n) times CLASSES_BF16. */
template <int n> __global__ static void sum_class_bf16(const struct embedding a) {
    const int64_t T = a.dy.shape[0], V = a.dw.shape[0], D = a.dy.shape[1];
    const int64_t i = ((int64_t)blockIdx.x * WARP + threadIdx.x) * n, of = (int64_t)blockIdx.y * WARPS + threadIdx.y;
    for (int64_t t0 = 0; t0 < T; t0 += WARP) {
        const int64_t t = t0 + threadIdx.x;
        const int32_t mine = t < T ? (int32_t)(((const int32_t *)a.ids.data)[t] - a.first) : -1;
        const bool wanted = mine >= 0 && mine < V && mine % CLASSES_BF16 == of;
        for (unsigned left = __ballot_sync(0xffffffffu, wanted); left; left &= left - 1) {
            const int k = __ffs((int)left) - 1;
            const int32_t id = __shfl_sync(0xffffffffu, mine, k);
            if (i >= D) continue;
            float dy[n], dw[n];
            get<n>(dy, row_of<bf16_bits>(a.dy, t0 + k) + i);
            get<n>(dw, row(a.dw, id) + i);
            for (int e = 0; e < n; e++) dw[e] += dy[e];
            put<n>(row(a.dw, id) + i, dw);
        }
    }
}

extern "C" enum status embedding_fwd_cuda(struct ctx *c, const struct embedding *a) {
    const int64_t T = a->y.shape[0], D = a->y.shape[1], V = a->w.shape[0];
    CHECK_SHAPE(embedding, y, REAL, T, D);
    CHECK_SHAPE(embedding, ids, I32, T);
    CHECK_SHAPE(embedding, w, REAL, V, D);
    LAUNCH_PACKS(pick_cells, REAL, packs_fit(a->w) && packs_fit(a->y), T, D, *a);
    return OK;
}

extern "C" enum status embedding_bwd_cuda(struct ctx *c, const struct embedding *a) {
    const int64_t T = a->dy.shape[0], D = a->dy.shape[1], V = a->dw.shape[0];
    CHECK_SHAPE(embedding, dy, REAL, T, D);
    CHECK_SHAPE(embedding, ids, I32, T);
    CHECK_SHAPE(embedding, dw, WIDE, V, D);
    const bool fit = packs_fit(a->dy) && packs_fit(a->dw) && D % PACK == 0;
    const unsigned classes = CLASSES_BF16 / WARPS;
    if (REAL == F32) LAUNCH(sum_class, dim3((unsigned)ceil_div(D, COLUMNS), CLASSES), COLUMNS, *a);
    else if (fit)
        LAUNCH(sum_class_bf16<PACK>, dim3((unsigned)ceil_div(D, WARP * PACK), classes), dim3(WARP, WARPS), *a);
    else LAUNCH(sum_class_bf16<1>, dim3((unsigned)ceil_div(D, WARP), classes), dim3(WARP, WARPS), *a);
    return OK;
}
NO_WORK(embedding)
