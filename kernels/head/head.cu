/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/head/head.h"
#include "kernels/gemm_cuda.h"
#include "kernels/matmul.cuh"
#include "kernels/packs.cuh"

__device__ static int64_t vocab_of(const struct head &a) { return a.vocab > 0 ? a.vocab : a.logits.shape[1]; }
/* The column of a target's logit; -1: it is absent, or another rank's. */
__device__ static int64_t own_column(const struct head &a, int64_t target) {
    return target >= a.first && target < a.first + a.logits.shape[1] ? target - a.first : -1;
}

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
        const int64_t mine = own_column(a, target);
        *row(a.picked, t) = target >= vocab_of(a) ? nanf("") : mine < 0 ? 0.0f : x[mine];
    }
}

/* BF16, in one pass over the logits (2 T V bytes): a thread keeps its largest and its sum of exp(x - largest). */
template <int n> __global__ __launch_bounds__(THREADS) static void loss_rows_bf16(const struct head a) {
    __shared__ double room[WARPS];
    const int64_t V = a.logits.shape[1];
    for (int64_t t = blockIdx.x; t < a.logits.shape[0]; t += gridDim.x) {
        const bf16_bits *at = row_of<bf16_bits>(a.logits, t);
        float top = -INFINITY, sum = 0.0f;
        for (int64_t v = (int64_t)threadIdx.x * n; v < V; v += THREADS * n) {
            float x[n];
            get<n>(x, at + v);
            float here = x[0];
            for (int k = 1; k < n; k++) here = fmaxf(here, x[k]);
            if (here > top) sum *= __expf(top - here), top = here;
            for (int k = 0; k < n; k++) sum += __expf(x[k] - top);
        }
        const float most_of_all = block_most(top, room);
        const double share = top == -INFINITY ? 0.0 : (double)sum * (double)expf(top - most_of_all);
        const double total = block_sum(share, room);
        if (threadIdx.x > 0) continue;
        const int32_t target = ((const int32_t *)a.targets.data)[t];
        *row(a.lse, t) = (float)((double)most_of_all + log(total));
        const int64_t mine = own_column(a, target);
        *row(a.picked, t) = target >= vocab_of(a) ? nanf("") : mine < 0 ? 0.0f : bf16_float(at[mine]);
    }
}

/* Moves 8 T V bytes in F32, 4 T V in BF16. */
template <typename real, int n> __global__ static void gradient_cells(const struct head a) {
    const float scale = (float)(*(const double *)a.scale.data * a.logit_scale);
    FOR_PACKS(t, v, a.logits.shape[0], a.logits.shape[1], n) {
        const int32_t target = ((const int32_t *)a.targets.data)[t];
        const int64_t mine = own_column(a, target);
        const float lse = *row(a.lse, t);
        float l[n];
        get<n>(l, row_of<real>(a.logits, t) + v);
        for (int k = 0; k < n; k++) {
            const float share = scale * expf(l[k] - lse);
            l[k] = target < 0 ? 0.0f : target >= vocab_of(a) ? nanf("") : v + k == mine ? share - scale : share;
        }
        put<n>(row_of<real>(a.logits, t) + v, l);
    }
}

static enum status product(struct ctx *c, bool trans_a, bool trans_b, double alpha, struct tensor A, struct tensor B,
                           float beta, struct tensor C) {
    if (REAL == F32) return matmul(c, trans_a, trans_b, (float)alpha, A, B, beta, C, NULL);
    return gemm_cuda(c, trans_a, trans_b, (float)alpha, A, B, beta, C);
}

static enum status check_inputs(struct ctx *c, const struct head *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1], V = a->w.shape[0];
    CHECK_THAT(head, V > 0, "the vocabulary of w is empty");
    CHECK_SHAPE(head, x, REAL, T, D);
    CHECK_SHAPE(head, w, REAL, V, D);
    CHECK_SHAPE(head, targets, I32, T);
    CHECK_SHAPE(head, logits, REAL, T, V);
    CHECK_SHAPE(head, lse, WIDE, T);
    return OK;
}

extern "C" enum status head_fwd_cuda(struct ctx *c, const struct head *a) {
    const int64_t T = a->x.shape[0];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(head, picked, WIDE, T);
    TRY(product(c, false, true, a->logit_scale, a->x, a->w, 0.0f, a->logits));
    const dim3 grid((unsigned)least(T, 1 << 20));
    if (REAL == F32) LAUNCH(loss_rows, grid, THREADS, *a);
    else if (packs_fit(a->logits) && a->w.shape[0] % PACK == 0) LAUNCH(loss_rows_bf16<PACK>, grid, THREADS, *a);
    else LAUNCH(loss_rows_bf16<1>, grid, THREADS, *a);
    return OK;
}

extern "C" enum status head_bwd_cuda(struct ctx *c, const struct head *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1], V = a->w.shape[0];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(head, scale, F64, 1);
    CHECK_OPTIONAL(head, dx, REAL, T, D);
    CHECK_OPTIONAL(head, dw, WIDE, V, D);
    LAUNCH_PACKS(gradient_cells, REAL, packs_fit(a->logits), T, V, *a);
    if (tensor_has(a->dx)) TRY(product(c, false, false, 1.0, a->logits, a->w, 0.0f, a->dx));
    if (tensor_has(a->dw)) TRY(product(c, true, false, 1.0, a->logits, a->x, 1.0f, a->dw));
    return OK;
}
NO_WORK(head)
