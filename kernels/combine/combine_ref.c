/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/combine/combine.h"
#include <inttypes.h>
#include "kernels/check.h"
#include "kernels/rows.h"
#include "kernels/sums.h"

enum { STRIP = 256 };

struct combine_job {
    const struct combine *a;
    struct blocks cut;
    int64_t k;
};

static const int64_t *rows_of(const struct combine_job *j, int64_t t) {
    return (const int64_t *)j->a->row.data + t * j->k;
}

static void gather_strip(const struct combine_job *j, int64_t t, int64_t col, int64_t n) {
    const struct combine *a = j->a;
    const int64_t *at = rows_of(j, t);
    double sum[STRIP] = {0};
    real *restrict y = row(a->y, t) + col;
    for (int64_t i = 0; i < j->k; i++) {
        const real *restrict x = row(a->x, at[i]) + col;
        const double w = tensor_has(a->w) ? (double)row(a->w, t)[i] : 1.0;
        for (int64_t d = 0; d < n; d++) sum[d] += w * (double)x[d];
    }
    if (a->add)
        for (int64_t d = 0; d < n; d++) y[d] = (real)((double)y[d] + sum[d]);
    else
        for (int64_t d = 0; d < n; d++) y[d] = (real)sum[d];
}

static void gather_block(void *arg, int64_t item, int worker) {
    const struct combine_job *j = arg;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t t = b.row; t < b.row_end; t++)
        for (int64_t at = 0; at < b.cols; at += STRIP) gather_strip(j, t, b.col + at, least(STRIP, b.cols - at));
}

static void spread_block(void *arg, int64_t item, int worker) {
    const struct combine_job *j = arg;
    const struct combine *a = j->a;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t t = b.row; t < b.row_end; t++) {
        const real *restrict dy = row(a->dy, t) + b.col;
        for (int64_t i = 0; i < j->k; i++) {
            real *restrict dx = row(a->dx, rows_of(j, t)[i]) + b.col;
            const real w = tensor_has(a->w) ? row(a->w, t)[i] : 1;
            for (int64_t d = 0; d < b.cols; d++) dx[d] = w * dy[d];
        }
    }
}

/* Whole rows: the sum over channels has one order. */
static void weights_block(void *arg, int64_t item, int worker) {
    const struct combine_job *j = arg;
    const struct combine *a = j->a;
    const struct rows cut = rows_cut(a->dy.shape[0], a->dy.shape[1] * j->k);
    (void)worker;
    for (int64_t t = rows_begin(cut, item); t < rows_end(cut, item); t++)
        for (int64_t i = 0; i < j->k; i++)
            row(a->dw, t)[i] = (real)sum_products(row(a->x, rows_of(j, t)[i]), row(a->dy, t), a->dy.shape[1]);
}

static enum status check_rows(const struct combine *a, int64_t N) {
    const int64_t *at = a->row.data;
    for (int64_t i = 0; i < tensor_count(a->row); i++)
        FAIL_UNLESS(at[i] >= 0 && at[i] < N, ERR_DATA,
                    "combine: row[%" PRId64 "] = %" PRId64 " lies outside the %" PRId64 " rows", i, at[i], N);
    return OK;
}

enum status REF(combine_fwd)(struct ctx *c, const struct combine *a) {
    const int64_t T = a->y.shape[0], D = a->y.shape[1], k = a->row.shape[1];
    CHECK_SHAPE(combine, y, REAL, T, D);
    CHECK_SHAPE(combine, row, I64, T, k);
    CHECK_THAT(combine, tensor_packed(a->row), "row must be packed");
    CHECK_SHAPE(combine, x, REAL, T * k, D);
    CHECK_OPTIONAL(combine, w, REAL, T, k);
    TRY(check_rows(a, T * k));
    struct combine_job j = {.a = a, .cut = blocks_cut(T, D), .k = k};
    pool_run(c->pool, j.cut.items, gather_block, &j);
    return OK;
}

enum status REF(combine_bwd)(struct ctx *c, const struct combine *a) {
    const int64_t T = a->dy.shape[0], D = a->dy.shape[1], k = a->row.shape[1];
    CHECK_SHAPE(combine, dy, REAL, T, D);
    CHECK_SHAPE(combine, row, I64, T, k);
    CHECK_THAT(combine, tensor_packed(a->row), "row must be packed");
    CHECK_SHAPE(combine, dx, REAL, T * k, D);
    CHECK_OPTIONAL(combine, w, REAL, T, k);
    TRY(check_rows(a, T * k));
    struct combine_job j = {.a = a, .cut = blocks_cut(T, D), .k = k};
    pool_run(c->pool, j.cut.items, spread_block, &j);
    if (!tensor_has(a->dw)) return OK;
    CHECK_SHAPE(combine, x, REAL, T * k, D);
    CHECK_SHAPE(combine, dw, REAL, T, k);
    pool_run(c->pool, rows_cut(T, D * k).items, weights_block, &j);
    return OK;
}
NO_WORK(combine)
