/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/head/head.h"
#include <inttypes.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/gemm.h"
#include "kernels/real_math.h"
#include "kernels/rows.h"
#include "kernels/sums.h"

struct head_job {
    const struct head *a;
    struct rows cut;
    real scale; /* of dlogits: 1 / valid targets, times logit_scale */
};

static real largest(const real *x, int64_t n) {
    real lane[LANES];
    int64_t i = 0;
    for (int j = 0; j < LANES; j++) lane[j] = x[0];
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i < n; i++) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (int j = 1; j < LANES; j++) lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
    return lane[0];
}

static double log_sum_exp(const real *restrict x, int64_t n) {
    enum { PIECE = 512 };
    real e[PIECE];
    const real top = largest(x, n);
    double sum = 0.0;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t m = least(PIECE, n - at);
        for (int64_t i = 0; i < m; i++) e[i] = real_exp(x[at + i] - top);
        sum += sum_plain(e, m);
    }
    return (double)top + log(sum);
}

/* Whether a target's logit is here. */
static bool mine(const struct head *a, int64_t target) {
    return target >= a->first && target < a->first + a->logits.shape[1];
}

static void loss_rows(void *arg, int64_t item, int worker) {
    const struct head_job *j = arg;
    const int32_t *targets = j->a->targets.data;
    (void)worker;
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++) {
        const real *logits = row(j->a->logits, t);
        *row(j->a->lse, t) = (real)log_sum_exp(logits, j->a->logits.shape[1]);
        *row(j->a->picked, t) = 0;
        if (mine(j->a, targets[t])) *row(j->a->picked, t) = logits[targets[t] - j->a->first];
    }
}

static enum status check_inputs(struct ctx *c, const struct head *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1], V = a->w.shape[0];
    CHECK_THAT(head, V > 0, "the vocabulary of w is empty");
    CHECK_SHAPE(head, x, REAL, T, D);
    CHECK_SHAPE(head, w, REAL, V, D);
    CHECK_SHAPE(head, targets, I32, T);
    CHECK_SHAPE(head, logits, REAL, T, V);
    CHECK_SHAPE(head, lse, WIDE, T);
    const int32_t *targets = a->targets.data;
    const int64_t vocab = a->vocab > 0 ? a->vocab : V;
    for (int64_t t = 0; t < T; t++)
        FAIL_UNLESS(targets[t] >= -1 && targets[t] < vocab, ERR_DATA,
                    "head: targets[%" PRId64 "] = %" PRId32 " is neither -1 (absent) nor in the vocabulary [0, %" PRId64
                    "): these tokens were made with another tokenizer",
                    t, targets[t], vocab);
    return OK;
}

enum status REF(head_fwd)(struct ctx *c, const struct head *a) {
    const int64_t T = a->x.shape[0], V = a->w.shape[0];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(head, picked, WIDE, T);
    REF(matmul)(c, false, true, (real)a->logit_scale, a->x, a->w, 0, a->logits);
    struct head_job j = {.a = a, .cut = rows_cut(T, V)};
    pool_run(c->pool, j.cut.items, loss_rows, &j);
    return OK;
}

static void gradient_rows(void *arg, int64_t item, int worker) {
    const struct head_job *j = arg;
    const int32_t *targets = j->a->targets.data;
    const int64_t V = j->a->logits.shape[1];
    (void)worker;
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++) {
        real *l = row(j->a->logits, t);
        const real lse = *row(j->a->lse, t);
        if (targets[t] < 0) {
            memset(l, 0, (size_t)V * sizeof(real));
            continue;
        }
        for (int64_t v = 0; v < V; v++) l[v] = j->scale * real_exp(l[v] - lse);
        if (mine(j->a, targets[t])) l[targets[t] - j->a->first] -= j->scale;
    }
}

enum status REF(head_bwd)(struct ctx *c, const struct head *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1], V = a->w.shape[0];
    TRY(check_inputs(c, a));
    CHECK_SHAPE(head, scale, F64, 1);
    CHECK_OPTIONAL(head, dx, REAL, T, D);
    CHECK_OPTIONAL(head, dw, WIDE, V, D);
    struct head_job j = {
        .a = a, .cut = rows_cut(T, V), .scale = (real)(*(const double *)a->scale.data * a->logit_scale)};
    pool_run(c->pool, j.cut.items, gradient_rows, &j);
    if (tensor_has(a->dx)) REF(matmul)(c, false, false, 1, a->logits, a->w, 0, a->dx);
    if (tensor_has(a->dw)) REF(matmul)(c, true, false, 1, a->logits, a->x, 1, a->dw);
    return OK;
}
NO_WORK(head)
