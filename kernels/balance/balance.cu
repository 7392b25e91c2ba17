/* SPDX-License-Identifier: Apache-2.0 */
/* A warp has a token; forward, STRIP of them, whose sum is a line.  Moves the logits once or twice, dlogits twice. */
#include "kernels/balance/balance.h"
#include "kernels/ranges.cuh"
#include "kernels/scores.cuh"

#define SUM_LEAST 1e-20
enum { STRIP = 16 };

/* Of one token: its shares are score / sum; by: what a choice of an expert adds to a share's price. */
struct shares {
    struct scorer s;
    double sum, lse, inner, by;
    const double *load;
};

static __device__ struct shares shares_of(const struct balance &a, const float *l, int64_t t) {
    const int64_t E = a.logits.shape[1], G = a.load.shape[0], g = range_of(a.range, t) / ((a.range.shape[0] - 1) / G);
    struct shares q = {scorer_of(l, E, a.scores == ROUTE_SOFTMAX), 1.0, 0.0, 0.0, 0.0, (double *)a.load.data + g * E};
    double all = 0.0, sum = 0.0, inner = 0.0;
    for (int64_t e = threadIdx.x; e < E; e += WARP) {
        const double s = (double)score(q.s, l[e]);
        all += q.load[e];
        sum += s;
        inner += q.load[e] * s;
    }
    all = warp_sum(all);
    sum = warp_sum(sum);
    q.by = all > 0.0 ? a.aux * (double)E / all : 0.0;
    if (a.scores == ROUTE_SIGMOID) q.sum = sum + SUM_LEAST;
    q.inner = warp_sum(inner) * q.by / q.sum;
    if (a.z == 0.0) return q;
    float top = -INFINITY;
    double exps = 0.0;
    for (int64_t e = threadIdx.x; e < E; e += WARP) top = fmaxf(top, l[e]);
    top = warp_most(top);
    for (int64_t e = threadIdx.x; e < E; e += WARP) exps += (double)expf(l[e] - top);
    q.lse = (double)top + log(warp_sum(exps));
    return q;
}

__global__ static void loss_lines(const struct balance a, double *lines) {
    const int64_t T = a.logits.shape[0];
    FOR_WARPS(item, ceil_div(T, STRIP)) {
        double sum = 0.0;
        for (int64_t t = item * STRIP; t < least(T, (item + 1) * STRIP); t++) {
            const struct shares q = shares_of(a, row(a.logits, t), t);
            sum += q.inner + a.z * q.lse * q.lse;
        }
        if (threadIdx.x == 0) lines[item] = sum;
    }
}

__global__ static void loss_sum(const double *lines, int64_t n, double *loss) {
    __shared__ double room[WARPS];
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += lines[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) *loss += sum;
}

/* Of the shares' term by l_e: balance_ref.c. */
__global__ static void back_rows(const struct balance a) {
    const int64_t E = a.logits.shape[1];
    FOR_WARPS(t, a.logits.shape[0]) {
        const float *l = row(a.logits, t);
        float *dl = row(a.dlogits, t);
        const struct shares q = shares_of(a, l, t);
        for (int64_t e = threadIdx.x; e < E; e += WARP) {
            const double s = (double)score(q.s, l[e]), slope = s / q.sum * (q.by * q.load[e] - q.inner);
            float d = (float)(a.scores == ROUTE_SOFTMAX ? slope : slope * (1.0 - s));
            if (a.z != 0.0) d += (float)(2.0 * a.z * q.lse * (double)expf((float)((double)l[e] - q.lse)));
            dl[e] += d;
        }
    }
}

static enum status check(const struct ctx *c, const struct balance *a) {
    const int64_t T = a->logits.shape[0], E = a->logits.shape[1], G = a->load.shape[0], R = a->range.shape[0] - 1;
    CHECK_THAT(balance, (unsigned)a->scores <= ROUTE_SIGMOID, "the scores %d are none of " ROUTE_SCORES,
               (int)a->scores);
    CHECK_THAT(balance, E >= 1 && E <= ROUTE_EXPERTS_MAX, "%" PRId64 " experts, 1 to %d are expected", E,
               ROUTE_EXPERTS_MAX);
    CHECK_SHAPE(balance, logits, WIDE, T, E);
    CHECK_SHAPE(balance, load, F64, G, E);
    CHECK_SHAPE(balance, range, I64, R + 1);
    CHECK_THAT(balance, G >= 1 && R % G == 0, "%" PRId64 " ranges do not make %" PRId64 " sequences of as many each", R,
               G);
    return OK;
}

static enum status forward(struct ctx *c, const struct balance *a) {
    const int64_t n = ceil_div(a->logits.shape[0], STRIP);
    void *lines;
    TRY(arena_take(c->work, arena_round(n * (int64_t)sizeof(double)), &lines));
    LAUNCH_WARPS(loss_lines, n, *a, (double *)lines);
    LAUNCH(loss_sum, dim3(1), THREADS, (const double *)lines, n, (double *)a->loss.data);
    return OK;
}

extern "C" enum status balance_fwd_cuda(struct ctx *c, const struct balance *a) {
    TRY(check(c, a));
    CHECK_SHAPE(balance, loss, F64, 1);
    const int64_t mark = arena_mark(c->work);
    const enum status st = forward(c, a);
    arena_release(c->work, mark);
    return st;
}

extern "C" enum status balance_bwd_cuda(struct ctx *c, const struct balance *a) {
    const int64_t T = a->logits.shape[0], E = a->logits.shape[1];
    TRY(check(c, a));
    CHECK_SHAPE(balance, dlogits, WIDE, T, E);
    LAUNCH_WARPS(back_rows, T, *a);
    return OK;
}

extern "C" int64_t balance_work_cuda(const struct ctx *, const struct balance *a) {
    return arena_round(ceil_div(a->logits.shape[0], STRIP) * (int64_t)sizeof(double));
}
