/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/route/route.h"
#include <inttypes.h>
#include "kernels/check.h"
#include "kernels/rows.h"
#include "kernels/scores.h"

#define SUM_LEAST 1e-20 /* beside a sum of scores that may all underflow */

struct route_job {
    const struct route *a;
    struct rows cut;
    int64_t E, k;
};

/* Position of the largest value that is not taken, the first of equals; a NaN is chosen last. */
static int64_t largest(const real *v, const bool *taken, int64_t n) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || v[i] > v[best])) best = i;
    return best;
}

static real two_largest(const real *v, int64_t n) {
    real first = v[0], second = 0;
    for (int64_t i = 1; i < n; i++) {
        const real x = v[i];
        if (x > first) second = first, first = x;
        else if (i == 1 || x > second) second = x;
    }
    return first + second;
}

/* Values outside the best groups become 0. */
static void limit_groups(real *v, int64_t E, int64_t groups, int64_t top_groups) {
    real score[ROUTE_EXPERTS_MAX];
    bool taken[ROUTE_EXPERTS_MAX] = {false};
    const int64_t size = E / groups;
    for (int64_t g = 0; g < groups; g++) score[g] = two_largest(v + g * size, size);
    for (int64_t i = 0; i < top_groups; i++) taken[largest(score, taken, groups)] = true;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t i = 0; !taken[g] && i < size; i++) v[g * size + i] = 0;
}

static void choose(const struct route_job *j, const real *l, int32_t *ids, real *w) {
    const struct route *a = j->a;
    const real *bias = a->bias.data;
    real s[ROUTE_EXPERTS_MAX], v[ROUTE_EXPERTS_MAX];
    bool taken[ROUTE_EXPERTS_MAX] = {false};
    double sum = SUM_LEAST;
    REF(scores)(s, l, j->E, a->scores == ROUTE_SOFTMAX);
    for (int64_t e = 0; e < j->E; e++) v[e] = s[e] + (tensor_has(a->bias) ? bias[e] : 0);
    if (a->groups > 1) limit_groups(v, j->E, a->groups, a->top_groups);
    for (int64_t i = 0; i < j->k; i++) {
        const int64_t e = largest(v, taken, j->E);
        taken[e] = true;
        ids[i] = (int32_t)e;
        sum += (double)s[e];
    }
    const double by = a->renormalise ? a->scale / sum : a->scale;
    for (int64_t i = 0; i < j->k; i++) w[i] = (real)(by * (double)s[ids[i]]);
}

static void choose_rows(void *arg, int64_t item, int worker) {
    const struct route_job *j = arg;
    (void)worker;
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++)
        choose(j, row(j->a->logits, t), (int32_t *)j->a->ids.data + t * j->k, row(j->a->w, t));
}

/* Into ds first: with by = scale / sum, ds_i = by (dw_i - <dw, w> / scale) where renormalised, by dw_i where not.  All
 * dw less the first one make the same differences, and none where one expert is chosen. */
static void back(const struct route_job *j, const real *l, const int32_t *ids, const real *dw, real *dl) {
    const struct route *a = j->a;
    real s[ROUTE_EXPERTS_MAX];
    const double first = a->renormalise ? (double)dw[0] : 0.0;
    double sum = SUM_LEAST, inner = -SUM_LEAST * first, all = 0.0;
    REF(scores)(s, l, j->E, a->scores == ROUTE_SOFTMAX);
    for (int64_t i = 0; i < j->k; i++) {
        sum += (double)s[ids[i]];
        inner += (double)s[ids[i]] * ((double)dw[i] - first);
    }
    if (!a->renormalise) sum = 1.0, inner = 0.0;
    for (int64_t e = 0; e < j->E; e++) dl[e] = 0;
    for (int64_t i = 0; i < j->k; i++) {
        const double ds = a->scale / sum * ((double)dw[i] - first - inner / sum), p = (double)s[ids[i]];
        dl[ids[i]] = (real)(a->scores == ROUTE_SOFTMAX ? p * ds : p * (1.0 - p) * ds);
        all += p * ds;
    }
    for (int64_t e = 0; a->scores == ROUTE_SOFTMAX && e < j->E; e++) dl[e] -= (real)((double)s[e] * all);
}

static void back_rows(void *arg, int64_t item, int worker) {
    const struct route_job *j = arg;
    (void)worker;
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++)
        back(j, row(j->a->logits, t), (const int32_t *)j->a->ids.data + t * j->k, row(j->a->dw, t),
             row(j->a->dlogits, t));
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

static enum status check_ids(const struct route *a, int64_t E) {
    const int32_t *ids = a->ids.data;
    for (int64_t i = 0; i < tensor_count(a->ids); i++)
        FAIL_UNLESS(ids[i] >= 0 && ids[i] < E, ERR_DATA,
                    "route: ids[%" PRId64 "] = %" PRId32 " lies outside the experts [0, %" PRId64 ")", i, ids[i], E);
    return OK;
}

static void count_rows(const struct route *a, int64_t begin, int64_t end, double *count) {
    const int32_t *ids = a->ids.data;
    const int64_t k = a->ids.shape[1];
    for (int64_t i = begin * k; i < end * k; i++) count[ids[i]] += 1.0;
}

static enum status check_count(const struct ctx *c, const struct route *a, int64_t T, int64_t E) {
    CHECK_OPTIONAL(route, load, F64, E);
    if (!tensor_has(a->count)) return OK;
    CHECK_SHAPE(route, count, F64, a->count.shape[0], E);
    return REF(sequences_check)(c, "route", a->range, a->count.shape[0], T);
}

enum status REF(route_fwd)(struct ctx *c, const struct route *a) {
    const int64_t T = a->logits.shape[0], E = a->logits.shape[1], k = a->ids.shape[1];
    CHECK_SHAPE(route, logits, REAL, T, E);
    CHECK_SHAPE(route, ids, I32, T, k);
    CHECK_SHAPE(route, w, REAL, T, k);
    CHECK_OPTIONAL(route, bias, REAL, E);
    TRY(check_options(a, E, k));
    TRY(check_count(c, a, T, E));
    struct route_job j = {.a = a, .cut = rows_cut(T, E * k), .E = E, .k = k};
    pool_run(c->pool, j.cut.items, choose_rows, &j);
    if (tensor_has(a->load)) count_rows(a, 0, T, a->load.data);
    if (!tensor_has(a->count)) return OK;
    double *count = a->count.data;
    for (int64_t i = 0; i < tensor_count(a->count); i++) count[i] = 0.0;
    for (int64_t g = 0; g < a->count.shape[0]; g++) {
        const struct stretch t = sequence_rows(a->range, a->count.shape[0], g);
        count_rows(a, t.begin, t.end, count + g * E);
    }
    return OK;
}

enum status REF(route_bwd)(struct ctx *c, const struct route *a) {
    const int64_t T = a->logits.shape[0], E = a->logits.shape[1], k = a->ids.shape[1];
    CHECK_SHAPE(route, logits, REAL, T, E);
    CHECK_SHAPE(route, ids, I32, T, k);
    CHECK_SHAPE(route, dw, REAL, T, k);
    CHECK_SHAPE(route, dlogits, REAL, T, E);
    TRY(check_options(a, E, k));
    TRY(check_ids(a, E));
    struct route_job j = {.a = a, .cut = rows_cut(T, E), .E = E, .k = k};
    pool_run(c->pool, j.cut.items, back_rows, &j);
    return OK;
}
NO_WORK(route)
