/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/fill/fill.h"
#include "kernels/check.h"
#include "kernels/rows.h"

struct fill_job {
    struct tensor x;
    real value;
    struct blocks cut;
};

static void fill_block(void *arg, int64_t item, int worker) {
    const struct fill_job *j = arg;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t t = b.row; t < b.row_end; t++) {
        real *x = row(j->x, t) + b.col;
        for (int64_t i = 0; i < b.cols; i++) x[i] = j->value;
    }
}

/* F64 in the F32 build: totals and scales, a few numbers. */
static void fill_wide(struct tensor x, int64_t width, double value) {
    for (int64_t t = 0; t < x.shape[0]; t++)
        for (int64_t i = 0; i < width; i++) ((double *)x.data)[t * x.pitch + i] = value;
}

enum status REF(fill_fwd)(struct ctx *c, const struct fill *a) {
    const int64_t *dims = a->x.shape;
    CHECK_THAT(fill, a->x.dtype == REAL || a->x.dtype == F64, "x is %s, %s or F64 is expected", dtype_name(a->x.dtype),
               dtype_name(REAL));
    const bool deep = dims[2] * dims[3] != 1;
    TRY(check_shape(c, "fill", "x", a->x, a->x.dtype, deep ? 4 : 2, dims));
    const int64_t width = dims[1] * dims[2] * dims[3];
    if (a->x.dtype != REAL) {
        fill_wide(a->x, width, a->value);
        return OK;
    }
    struct fill_job j = {.x = a->x, .value = (real)a->value, .cut = blocks_cut(dims[0], width)};
    if (tensor_packed(a->x)) j.cut = blocks_cut(1, tensor_count(a->x)); /* a vector is one long row */
    pool_run(c->pool, j.cut.items, fill_block, &j);
    return OK;
}
NO_BACKWARD(fill)
NO_WORK(fill)
