/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/rmsnorm/rmsnorm.h"
#include <math.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/partials.h"
#include "kernels/sums.h"

struct rmsnorm_job {
    const struct rmsnorm *a;
    struct rows cut;
    int64_t D;
    double *lines; /* partial sums of dw; NULL: no weight */
};

static void forward_rows(void *arg, int64_t item, int worker) {
    const struct rmsnorm_job *j = arg;
    const real *restrict w = j->a->w.data;
    (void)worker;
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++) {
        const real *restrict x = row(j->a->x, t);
        real *restrict y = row(j->a->y, t);
        const real r = (real)(1.0 / sqrt(sum_products(x, x, j->D) / (double)j->D + j->a->eps));
        if (w)
            for (int64_t d = 0; d < j->D; d++) y[d] = x[d] * r * w[d];
        else
            for (int64_t d = 0; d < j->D; d++) y[d] = x[d] * r;
        *row(j->a->r, t) = r;
    }
}

enum status REF(rmsnorm_fwd)(struct ctx *c, const struct rmsnorm *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1];
    CHECK_SHAPE(rmsnorm, x, REAL, T, D);
    CHECK_OPTIONAL(rmsnorm, w, WIDE, D);
    CHECK_SHAPE(rmsnorm, y, REAL, T, D);
    CHECK_SHAPE(rmsnorm, r, WIDE, T);
    struct rmsnorm_job j = {.a = a, .cut = rows_cut(T, D), .D = D};
    pool_run(c->pool, j.cut.items, forward_rows, &j);
    return OK;
}

/* With n = x r, dr/dx = -r^3 x / D gives  dx_i = sum_j g_j dn_j/dx_i = r g_i - x_i r^3 mean(g x) = r (g_i - x_i pull).
 * Always inlined: each constant `add` has a loop of its own that vectorises. */
static inline void weighted_row(const real *restrict x, const real *restrict w, const real *restrict dy,
                                real *restrict dx, double *restrict line, real r, real pull, int64_t D, bool add) {
    for (int64_t d = 0; d < D; d++) {
        const real v = r * (dy[d] * w[d] - x[d] * pull);
        dx[d] = add ? dx[d] + v : v;
        line[d] += (double)(dy[d] * x[d] * r);
    }
}
static inline void plain_row(const real *restrict x, const real *restrict dy, real *restrict dx, real r, real pull,
                             int64_t D, bool add) {
    for (int64_t d = 0; d < D; d++) {
        const real v = r * (dy[d] - x[d] * pull);
        dx[d] = add ? dx[d] + v : v;
    }
}

static void backward_rows(void *arg, int64_t item, int worker) {
    const struct rmsnorm_job *j = arg;
    const struct rmsnorm *a = j->a;
    const int64_t D = j->D;
    const real *w = a->w.data;
    double *line = w ? j->lines + item * D : NULL;
    (void)worker;
    if (w) memset(line, 0, (size_t)D * sizeof(double));
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++) {
        const real *x = row(a->x, t), *dy = row(a->dy, t), r = *row(a->r, t);
        const double gx = w ? sum_triples(dy, w, x, D) : sum_products(dy, x, D);
        const real pull = (real)(gx / (double)D * (double)r * (double)r);
        if (w && a->dx_add) weighted_row(x, w, dy, row(a->dx, t), line, r, pull, D, true);
        else if (w) weighted_row(x, w, dy, row(a->dx, t), line, r, pull, D, false);
        else plain_row(x, dy, row(a->dx, t), r, pull, D, a->dx_add);
    }
}

enum status REF(rmsnorm_bwd)(struct ctx *c, const struct rmsnorm *a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1];
    enum status st = OK;
    CHECK_SHAPE(rmsnorm, x, REAL, T, D);
    CHECK_OPTIONAL(rmsnorm, w, WIDE, D);
    CHECK_SHAPE(rmsnorm, r, WIDE, T);
    CHECK_SHAPE(rmsnorm, dy, REAL, T, D);
    CHECK_SHAPE(rmsnorm, dx, REAL, T, D);
    CHECK_OPTIONAL(rmsnorm, dw, WIDE, D);
    CHECK_THAT(rmsnorm, tensor_has(a->w) || !tensor_has(a->dw), "dw is wanted, and there is no weight w");
    struct rmsnorm_job j = {.a = a, .cut = rows_cut_partials(T, D), .D = D};
    void *lines = NULL;
    const int64_t mark = arena_mark(c->work);
    if (tensor_has(a->w)) TRY_OUT(arena_take(c->work, partials_bytes(j.cut, D), &lines));
    j.lines = lines;
    pool_run(c->pool, j.cut.items, backward_rows, &j);
    if (tensor_has(a->dw)) REF(partials_add)(c, lines, j.cut.items, D, a->dw.data);
out:
    arena_release(c->work, mark);
    return st;
}

int64_t REF(rmsnorm_work)(const struct ctx *c, const struct rmsnorm *a) {
    (void)c;
    return partials_bytes(rows_cut_partials(a->x.shape[0], a->x.shape[1]), a->w.shape[0]);
}
