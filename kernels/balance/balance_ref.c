/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/balance/balance.h"
#include <math.h>
#include "kernels/check.h"
#include "kernels/partials.h"
#include "kernels/scores.h"
#include "kernels/sums.h"

#define SUM_LEAST 1e-20

struct balance_job {
    const struct balance *a;
    struct rows cut;
    int64_t E, G;
    double *lines; /* a sum an item */
};

/* q of one token and, of it, what backward needs. */
struct shares {
    real s[ROUTE_EXPERTS_MAX];
    double sum;        /* of sigmoids; softmax: 1 */
    double lse, inner; /* inner: aux E sum_e f_e q_e */
};

static double logsumexp(const real *l, int64_t n) {
    double top = (double)l[0], sum = 0.0;
    for (int64_t i = 1; i < n; i++) top = (double)l[i] > top ? (double)l[i] : top;
    for (int64_t i = 0; i < n; i++) sum += exp((double)l[i] - top);
    return top + log(sum);
}

/* aux E / all choices of the sequence: what one of them adds to a share's price. */
static double price(const struct balance_job *j, const double *load) {
    double all = 0.0;
    for (int64_t e = 0; e < j->E; e++) all += load[e];
    return all > 0.0 ? j->a->aux * (double)j->E / all : 0.0;
}

static void share(const struct balance_job *j, struct shares *q, const real *l, const double *load, double by) {
    REF(scores)(q->s, l, j->E, j->a->scores == ROUTE_SOFTMAX);
    q->sum = j->a->scores == ROUTE_SOFTMAX ? 1.0 : sum_plain(q->s, j->E) + SUM_LEAST;
    q->lse = j->a->z != 0.0 ? logsumexp(l, j->E) : 0.0;
    q->inner = 0.0;
    for (int64_t e = 0; e < j->E; e++) q->inner += load[e] * (double)q->s[e];
    q->inner *= by / q->sum;
}

/* Tokens of an item that are of sequence g. */
static struct stretch both(const struct balance_job *j, int64_t item, int64_t g) {
    const struct stretch t = sequence_rows(j->a->range, j->G, g);
    return (struct stretch){most(t.begin, rows_begin(j->cut, item)), least(t.end, rows_end(j->cut, item))};
}

static void sum_item(void *arg, int64_t item, int worker) {
    const struct balance_job *j = arg;
    struct shares q;
    double sum = 0.0;
    (void)worker;
    for (int64_t g = 0; g < j->G; g++) {
        const double *load = (const double *)j->a->load.data + g * j->E, by = price(j, load);
        const struct stretch rows = both(j, item, g);
        for (int64_t t = rows.begin; t < rows.end; t++) {
            share(j, &q, row(j->a->logits, t), load, by);
            sum += q.inner + j->a->z * q.lse * q.lse;
        }
    }
    j->lines[item] = sum;
}

/* Of the shares' term by l_e: softmax  q_e (p_e - inner), sigmoid  (1 - s_e) q_e (p_e - inner), p_e = by load_e. */
static void back(const struct balance_job *j, const struct shares *q, const real *l, const double *load, double by,
                 real *dl) {
    for (int64_t e = 0; e < j->E; e++) {
        const double s = (double)q->s[e], slope = s / q->sum * (by * load[e] - q->inner);
        dl[e] += (real)(j->a->scores == ROUTE_SOFTMAX ? slope : slope * (1.0 - s));
    }
    if (j->a->z == 0.0) return;
    for (int64_t e = 0; e < j->E; e++) dl[e] += (real)(2.0 * j->a->z * q->lse * exp((double)l[e] - q->lse));
}

static void back_item(void *arg, int64_t item, int worker) {
    const struct balance_job *j = arg;
    struct shares q;
    (void)worker;
    for (int64_t g = 0; g < j->G; g++) {
        const double *load = (const double *)j->a->load.data + g * j->E, by = price(j, load);
        const struct stretch rows = both(j, item, g);
        for (int64_t t = rows.begin; t < rows.end; t++) {
            const real *l = row(j->a->logits, t);
            share(j, &q, l, load, by);
            back(j, &q, l, load, by, row(j->a->dlogits, t));
        }
    }
}

static enum status check(const struct ctx *c, const struct balance *a) {
    const int64_t T = a->logits.shape[0], E = a->logits.shape[1];
    CHECK_THAT(balance, (unsigned)a->scores <= ROUTE_SIGMOID, "the scores %d are none of " ROUTE_SCORES,
               (int)a->scores);
    CHECK_THAT(balance, E >= 1 && E <= ROUTE_EXPERTS_MAX, "%lld experts, 1 to %d are expected", (long long)E,
               ROUTE_EXPERTS_MAX);
    CHECK_SHAPE(balance, logits, REAL, T, E);
    CHECK_SHAPE(balance, load, F64, a->load.shape[0], E);
    return REF(sequences_check)(c, "balance", a->range, a->load.shape[0], T);
}

static struct balance_job job_of(const struct balance *a) {
    const int64_t E = a->logits.shape[1];
    return (struct balance_job){
        .a = a, .cut = rows_cut_partials(a->logits.shape[0], 8 * E), .E = E, .G = a->load.shape[0]};
}

enum status REF(balance_fwd)(struct ctx *c, const struct balance *a) {
    struct balance_job j = job_of(a);
    enum status st = OK;
    void *lines = NULL;
    TRY(check(c, a));
    CHECK_SHAPE(balance, loss, F64, 1);
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(arena_take(c->work, partials_bytes(j.cut, 1), &lines));
    j.lines = lines;
    pool_run(c->pool, j.cut.items, sum_item, &j);
    for (int64_t i = 0; i < j.cut.items; i++) *(double *)a->loss.data += j.lines[i];
out:
    arena_release(c->work, mark);
    return st;
}

enum status REF(balance_bwd)(struct ctx *c, const struct balance *a) {
    struct balance_job j = job_of(a);
    TRY(check(c, a));
    CHECK_SHAPE(balance, dlogits, REAL, a->logits.shape[0], a->logits.shape[1]);
    pool_run(c->pool, j.cut.items, back_item, &j);
    return OK;
}

int64_t REF(balance_work)(const struct ctx *c, const struct balance *a) {
    (void)c;
    return partials_bytes(job_of(a).cut, 1);
}
