/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear.h"
#include <string.h>
#include "kernels/check.h"
#include "kernels/gemm.h"
#include "kernels/partials.h"

struct bias_job {
    const struct linear *a;
    struct rows cut;
    double *lines;
};

/* The bias first: the product is then added to it. */
static void bias_rows(void *arg, int64_t item, int worker) {
    const struct bias_job *j = arg;
    const int64_t O = j->a->y.shape[1];
    const real *b = j->a->b.data;
    (void)worker;
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++) {
        real *y = row(j->a->y, t);
        if (j->a->add)
            for (int64_t o = 0; o < O; o++) y[o] += b[o];
        else memcpy(y, b, (size_t)O * sizeof(real));
    }
}

enum status REF(linear_fwd)(struct ctx *c, const struct linear *a) {
    const int64_t T = a->x.shape[0], I = a->x.shape[1], O = a->w.shape[0];
    CHECK_SHAPE(linear, x, REAL, T, I);
    CHECK_SHAPE(linear, w, REAL, O, I);
    CHECK_OPTIONAL(linear, b, WIDE, O);
    CHECK_SHAPE(linear, y, REAL, T, O);
    if (tensor_has(a->b)) {
        struct bias_job j = {.a = a, .cut = rows_cut(T, O)};
        pool_run(c->pool, j.cut.items, bias_rows, &j);
    }
    REF(matmul)(c, false, true, 1, a->x, a->w, a->add || tensor_has(a->b) ? 1 : 0, a->y);
    return OK;
}

static void bias_line(void *arg, int64_t item, int worker) {
    const struct bias_job *j = arg;
    const int64_t O = j->a->dy.shape[1];
    double *restrict line = j->lines + item * O;
    (void)worker;
    memset(line, 0, (size_t)O * sizeof(double));
    for (int64_t t = rows_begin(j->cut, item); t < rows_end(j->cut, item); t++) {
        const real *restrict dy = row(j->a->dy, t);
        for (int64_t o = 0; o < O; o++) line[o] += (double)dy[o];
    }
}

static enum status sum_bias(struct ctx *c, const struct linear *a) {
    const int64_t T = a->dy.shape[0], O = a->dy.shape[1];
    struct bias_job j = {.a = a, .cut = rows_cut_partials(T, O)};
    void *lines = NULL;
    enum status st = OK;
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(arena_take(c->work, partials_bytes(j.cut, O), &lines));
    j.lines = lines;
    pool_run(c->pool, j.cut.items, bias_line, &j);
    REF(partials_add)(c, j.lines, j.cut.items, O, a->db.data);
out:
    arena_release(c->work, mark);
    return st;
}

enum status REF(linear_bwd)(struct ctx *c, const struct linear *a) {
    const int64_t T = a->dy.shape[0], O = a->dy.shape[1];
    const int64_t I = tensor_has(a->dx) ? a->w.shape[1] : a->x.shape[1];
    CHECK_SHAPE(linear, dy, REAL, T, O);
    if (tensor_has(a->dx)) {
        CHECK_SHAPE(linear, w, REAL, O, I);
        CHECK_SHAPE(linear, dx, REAL, T, I);
        REF(matmul)(c, false, false, 1, a->dy, a->w, a->dx_add ? 1 : 0, a->dx);
    }
    if (tensor_has(a->dw)) {
        CHECK_SHAPE(linear, x, REAL, T, I);
        CHECK_SHAPE(linear, dw, WIDE, O, I);
        REF(matmul)(c, true, false, 1, a->dy, a->x, 1, a->dw);
    }
    if (!tensor_has(a->db)) return OK;
    CHECK_SHAPE(linear, db, WIDE, O);
    return sum_bias(c, a);
}

int64_t REF(linear_work)(const struct ctx *c, const struct linear *a) {
    (void)c;
    const int64_t O = a->db.shape[0];
    return partials_bytes(rows_cut_partials(a->x.shape[0], O), O);
}
