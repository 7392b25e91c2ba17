/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/limit/limit.h"
#include "kernels/device.cuh"

/* A thread has one expert of one range and reads all ids of the range: those of a warp come with one load.  Every
 * THREADS experts read 4 T k bytes; together they write as many. */
__global__ static void limit_experts(const struct limit a) {
    const int64_t k = a.ids.shape[1], E = a.count.shape[1], r = blockIdx.y;
    const int64_t e = blockIdx.x * (int64_t)THREADS + threadIdx.x, at = r * E + e;
    const int *ids = (const int *)a.ids.data;
    int *taken = (int *)a.taken.data;
    if (e >= E) return;
    const float room = taken ? (float)a.capacity - ((const float *)a.entering.data)[at] : 0.0f;
    int64_t n = 0;
    for (int64_t i = long_at(a.range, r) * k; i < long_at(a.range, r + 1) * k; i++) {
        if (ids[i] != e) continue;
        if (taken) taken[i] = (float)n < room ? (int)e : (int)E;
        n++;
    }
    ((float *)a.count.data)[at] = (float)n;
}

/* One warp: integers, whose sum does not depend on the order. */
__global__ static void count_dropped(const struct limit a) {
    const int64_t all = a.count.shape[0] * a.count.shape[1];
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < all; i += WARP) {
        const float n = ((const float *)a.count.data)[i], in = ((const float *)a.entering.data)[i];
        const float over = in + n - (float)a.capacity;
        sum += over <= 0.0f ? 0.0 : over < n ? over : n;
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) *(double *)a.dropped.data += sum;
}

extern "C" enum status limit_fwd_cuda(struct ctx *c, const struct limit *a) {
    const int64_t T = a->ids.shape[0], k = a->ids.shape[1], R = a->count.shape[0], E = a->count.shape[1];
    CHECK_SHAPE(limit, ids, I32, T, k);
    CHECK_SHAPE(limit, range, I64, R + 1);
    CHECK_SHAPE(limit, count, WIDE, R, E);
    CHECK_OPTIONAL(limit, taken, I32, T, k);
    CHECK_OPTIONAL(limit, dropped, F64, 1);
    if (tensor_has(a->taken)) CHECK_SHAPE(limit, entering, WIDE, R, E);
    CHECK_THAT(limit, a->capacity >= 1 && a->capacity <= LIMIT_MOST, "capacity %" PRId64 " lies outside [1, 2^24]",
               a->capacity);
    LAUNCH(limit_experts, dim3((unsigned)ceil_div(E, THREADS), (unsigned)R), THREADS, *a);
    if (tensor_has(a->taken) && tensor_has(a->dropped)) LAUNCH(count_dropped, dim3(1), WARP, *a);
    return OK;
}
NO_BACKWARD(limit)
NO_WORK(limit)
