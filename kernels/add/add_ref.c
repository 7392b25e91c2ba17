/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/add/add.h"
#include "kernels/check.h"
#include "kernels/rows.h"

struct add_job {
    const struct add *a;
    struct blocks cut;
};

static void add_block(void *arg, int64_t item, int worker) {
    const struct add_job *j = arg;
    const struct block b = block_at(j->cut, item);
    const real scale = (real)j->a->scale;
    (void)worker;
    for (int64_t t = b.row; t < b.row_end; t++) {
        const real *x = row(j->a->x, t) + b.col, *y = row(j->a->y, t) + b.col;
        real *out = row(j->a->out, t) + b.col;
#pragma GCC ivdep /* out may be x or y: the same element, never a neighbour */
        for (int64_t i = 0; i < b.cols; i++) out[i] = x[i] + scale * y[i];
    }
}

/* F64 in the F32 build: totals, and sums of squares over ranks. */
static void add_wide(const struct add *a) {
    for (int64_t t = 0; t < a->x.shape[0]; t++) {
        const double *x = (const double *)a->x.data + t * a->x.pitch, *y = (const double *)a->y.data + t * a->y.pitch;
        double *out = (double *)a->out.data + t * a->out.pitch;
        for (int64_t i = 0; i < a->x.shape[1]; i++) out[i] = x[i] + a->scale * y[i];
    }
}

enum status REF(add_fwd)(struct ctx *c, const struct add *a) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1];
    if (a->x.dtype == F64 && a->x.dtype != REAL) {
        CHECK_SHAPE(add, x, F64, T, C);
        CHECK_SHAPE(add, y, F64, T, C);
        CHECK_SHAPE(add, out, F64, T, C);
        add_wide(a);
        return OK;
    }
    CHECK_SHAPE(add, x, REAL, T, C);
    CHECK_SHAPE(add, y, REAL, T, C);
    CHECK_SHAPE(add, out, REAL, T, C);
    struct add_job j = {.a = a, .cut = blocks_cut(T, C)};
    pool_run(c->pool, j.cut.items, add_block, &j);
    return OK;
}
NO_BACKWARD(add)
NO_WORK(add)
