/* SPDX-License-Identifier: Apache-2.0 */
/* A warp has a token.  Values are compared as integers of the same order, so that the largest and of equals the first
 * is one maximum of 64 bits.  Moves the logits once forward, twice backward. */
#include "kernels/route/route.h"
#include "kernels/choices.cuh"
#include "kernels/scores.cuh"

#define SUM_LEAST 1e-20 /* beside a sum of scores that may all underflow */
enum { ROOM = 48 << 10, TAKEN = 0 };

/* Ascending with v, never TAKEN; a NaN lies below all. */
static __device__ unsigned key_of(float v) {
    const unsigned u = __float_as_uint(v + 0.0f); /* one zero */
    if (v != v) return 1u;
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Position of the largest key, the first of equals; the same in every lane. */
static __device__ int largest(const unsigned *key, int64_t n) {
    unsigned long long best = 0;
    for (int64_t i = threadIdx.x; i < n; i += WARP)
        best = max(best, (unsigned long long)key[i] << 32 | (0xffffffffu - (unsigned)i));
    for (int half = WARP / 2; half > 0; half /= 2) best = max(best, __shfl_xor_sync(0xffffffffu, best, half));
    return (int)(0xffffffffu - (unsigned)best);
}
static __device__ void take(unsigned *key, int i) {
    __syncwarp();
    if (threadIdx.x == 0) key[i] = TAKEN;
    __syncwarp();
}

static __device__ float two_largest(const float *v, int64_t n) {
    float first = v[0], second = 0.0f;
    for (int64_t i = 1; i < n; i++) {
        const float x = v[i];
        if (x > first) second = first, first = x;
        else if (i == 1 || x > second) second = x;
    }
    return first + second;
}

/* Values outside the best groups become 0. */
static __device__ void limit_groups(const struct route &a, float *v, unsigned *key, int64_t E) {
    const int64_t size = E / a.groups;
    for (int64_t g = threadIdx.x; g < a.groups; g += WARP) key[g] = key_of(two_largest(v + g * size, size));
    __syncwarp();
    for (int64_t i = 0; i < a.top_groups; i++) take(key, largest(key, a.groups));
    for (int64_t e = threadIdx.x; e < E; e += WARP)
        if (key[e / size] != TAKEN) v[e] = 0.0f;
    __syncwarp();
}

static __device__ void choose(const struct route &a, int64_t t, float *v, unsigned *key) {
    const int64_t E = a.logits.shape[1], k = a.ids.shape[1];
    const float *l = row(a.logits, t);
    const float *bias = (const float *)a.bias.data;
    const struct scorer s = scorer_of(l, E, a.scores == ROUTE_SOFTMAX);
    int32_t *ids = (int32_t *)a.ids.data + t * k;
    float *w = row(a.w, t);
    double sum = SUM_LEAST;
    for (int64_t e = threadIdx.x; e < E; e += WARP) v[e] = score(s, l[e]) + (bias ? bias[e] : 0.0f);
    __syncwarp();
    if (a.groups > 1) limit_groups(a, v, key, E);
    for (int64_t e = threadIdx.x; e < E; e += WARP) key[e] = key_of(v[e]);
    __syncwarp();
    for (int64_t i = 0; i < k; i++) {
        const int e = largest(key, E);
        take(key, e);
        sum += (double)score(s, l[e]);
        if (threadIdx.x == 0) ids[i] = e;
    }
    __syncwarp();
    const double by = a.renormalise ? a.scale / sum : a.scale;
    for (int64_t i = threadIdx.x; i < k; i += WARP) w[i] = (float)(by * (double)score(s, l[ids[i]]));
    __syncwarp();
}

/* Warps of a block, each with two numbers an expert in shared memory. */
static inline int64_t warps_of(int64_t E) { return most(1, least(WARPS, ROOM / (8 * E))); }

__global__ static void choose_rows(const struct route a) {
    __shared__ float room[ROOM / sizeof(float)];
    const int64_t E = a.logits.shape[1];
    float *v = room + threadIdx.y * 2 * E;
    for (int64_t t = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; t < a.logits.shape[0];
         t += (int64_t)gridDim.x * blockDim.y)
        choose(a, t, v, (unsigned *)(v + E));
}

/* ds first: route_ref.c.  Every lane has the sums over the k chosen. */
__global__ static void back_rows(const struct route a) {
    const int64_t E = a.dlogits.shape[1], k = a.ids.shape[1];
    const bool softmax = a.scores == ROUTE_SOFTMAX;
    FOR_WARPS(t, a.dlogits.shape[0]) {
        const int32_t *ids = (const int32_t *)a.ids.data + t * k;
        const float *l = row(a.logits, t);
        float *dl = row(a.dlogits, t);
        const float *dw = row(a.dw, t);
        const struct scorer s = scorer_of(l, E, softmax);
        const double first = a.renormalise ? (double)dw[0] : 0.0;
        double sum = 0.0, inner = 0.0, all = 0.0;
        for (int64_t i = threadIdx.x; i < k; i += WARP) {
            const double p = (double)score(s, l[ids[i]]);
            sum += p;
            inner += p * ((double)dw[i] - first);
        }
        sum = a.renormalise ? warp_sum(sum) + SUM_LEAST : 1.0;
        inner = a.renormalise ? (warp_sum(inner) - SUM_LEAST * first) / sum : 0.0;
        for (int64_t i = threadIdx.x; i < k; i += WARP)
            all += (double)score(s, l[ids[i]]) * (a.scale / sum * ((double)dw[i] - first - inner));
        all = softmax ? warp_sum(all) : 0.0;
        for (int64_t e = threadIdx.x; e < E; e += WARP) dl[e] = softmax ? -(float)((double)score(s, l[e]) * all) : 0.0f;
        __syncwarp();
        for (int64_t i = threadIdx.x; i < k; i += WARP) {
            const double p = (double)score(s, l[ids[i]]), ds = a.scale / sum * ((double)dw[i] - first - inner);
            dl[ids[i]] = softmax ? (float)(p * ds - p * all) : (float)(p * (1.0 - p) * ds);
        }
    }
}

__global__ static void add_counts(const struct choices x, double *count, double *load) {
    FOR_CELLS(unused, e, 1, x.E) {
        double all = 0.0;
        for (int64_t g = 0, i = 0; g < x.stretches; g++) {
            int64_t n = 0;
            const int64_t end = i + ceil_div(stretch_begin(x, g + 1) - stretch_begin(x, g), x.chunk);
            for (; i < end; i++) n += x.counts[i * x.E + e];
            if (count) count[g * x.E + e] = (double)n;
            all += (double)n;
        }
        if (load) load[e] += all;
    }
}

static enum status check_options(const struct route *a, int64_t E, int64_t k) {
    CHECK_THAT(route, (unsigned)a->scores <= ROUTE_SIGMOID, "the scores %d are none of " ROUTE_SCORES, (int)a->scores);
    CHECK_THAT(route, E >= 1 && E <= ROUTE_EXPERTS_MAX, "%" PRId64 " experts, 1 to %d are expected", E,
               ROUTE_EXPERTS_MAX);
    CHECK_THAT(route, k >= 1 && k <= E, "%" PRId64 " of %" PRId64 " experts are to be chosen", k, E);
    CHECK_THAT(route, a->groups >= 1 && E % a->groups == 0 && a->top_groups >= 1 && a->top_groups <= a->groups,
               "%" PRId64 " of %" PRId64 " groups of %" PRId64 " experts", a->top_groups, a->groups, E);
    return OK;
}

static enum status check_count(const struct ctx *c, const struct route *a, int64_t E) {
    const int64_t G = a->count.shape[0], R = a->range.shape[0] - 1;
    CHECK_OPTIONAL(route, load, F64, E);
    if (!tensor_has(a->count)) return OK;
    CHECK_SHAPE(route, count, F64, G, E);
    CHECK_SHAPE(route, range, I64, R + 1);
    CHECK_THAT(route, G >= 1 && R % G == 0, "%" PRId64 " ranges do not make %" PRId64 " sequences of as many each", R,
               G);
    return OK;
}

static struct choices counted(const struct route *a) {
    struct tensor range = a->range;
    if (!tensor_has(a->count)) range.data = NULL;
    return choices_of(a->ids, range, tensor_has(a->count) ? a->count.shape[0] : 1, a->logits.shape[1]);
}

static enum status count(struct ctx *c, const struct route *a) {
    struct choices x = counted(a);
    void *mem;
    TRY(arena_take(c->work, choices_bytes(x), &mem));
    x.counts = (int *)mem;
    TRY(choices_run(c, &x));
    LAUNCH_CELLS(add_counts, 1, x.E, x, (double *)a->count.data, (double *)a->load.data);
    return OK;
}

extern "C" enum status route_fwd_cuda(struct ctx *c, const struct route *a) {
    const int64_t T = a->logits.shape[0], E = a->logits.shape[1], k = a->ids.shape[1];
    CHECK_SHAPE(route, logits, WIDE, T, E);
    CHECK_SHAPE(route, ids, I32, T, k);
    CHECK_SHAPE(route, w, WIDE, T, k);
    CHECK_OPTIONAL(route, bias, WIDE, E);
    CHECK_THAT(route, tensor_packed(a->ids), "ids must be packed");
    TRY(check_options(a, E, k));
    TRY(check_count(c, a, E));
    const int64_t warps = warps_of(E);
    const dim3 grid((unsigned)least(ceil_div(T, warps), 1 << 20)), block(WARP, (unsigned)warps);
    LAUNCH(choose_rows, grid, block, *a);
    if (!tensor_has(a->count) && !tensor_has(a->load)) return OK;
    const int64_t mark = arena_mark(c->work);
    const enum status st = count(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" enum status route_bwd_cuda(struct ctx *c, const struct route *a) {
    const int64_t T = a->logits.shape[0], E = a->logits.shape[1], k = a->ids.shape[1];
    CHECK_SHAPE(route, logits, WIDE, T, E);
    CHECK_SHAPE(route, ids, I32, T, k);
    CHECK_SHAPE(route, dw, WIDE, T, k);
    CHECK_SHAPE(route, dlogits, WIDE, T, E);
    CHECK_THAT(route, tensor_packed(a->ids), "ids must be packed");
    TRY(check_options(a, E, k));
    LAUNCH_WARPS(back_rows, T, *a);
    return OK;
}

extern "C" int64_t route_work_cuda(const struct ctx *, const struct route *a) { return choices_bytes(counted(a)); }
