/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/sum_squares/sum_squares.h"
#include "kernels/check.h"
#include "kernels/rows.h"
#include "kernels/sums.h"

struct sum_job {
    const real *x;
    int64_t n;
    struct rows cut; /* rows are blocks */
    double *sums;
};

static void sum_blocks(void *arg, int64_t item, int worker) {
    const struct sum_job *j = arg;
    (void)worker;
    for (int64_t b = rows_begin(j->cut, item); b < rows_end(j->cut, item); b++) {
        const real *x = j->x + b * SUM_SQUARES_BLOCK;
        j->sums[b] = sum_products(x, x, least(SUM_SQUARES_BLOCK, j->n - b * SUM_SQUARES_BLOCK));
    }
}

static void squares_of(struct ctx *c, const real *x, int64_t n, double *sums) {
    struct sum_job j = {
        .x = x, .n = n, .cut = rows_cut(ceil_div(n, SUM_SQUARES_BLOCK), SUM_SQUARES_BLOCK), .sums = sums};
    pool_run(c->pool, j.cut.items, sum_blocks, &j);
}

int64_t REF(sum_squares_work)(const struct ctx *c, const struct sum_squares *a) {
    (void)c;
    return arena_round(ceil_div(a->x.shape[0], SUM_SQUARES_BLOCK) * (int64_t)sizeof(double));
}

enum status REF(sum_squares_fwd)(struct ctx *c, const struct sum_squares *a) {
    const int64_t n = a->x.shape[0], n_blocks = ceil_div(n, SUM_SQUARES_BLOCK);
    enum status st = OK;
    void *sums = NULL;
    CHECK_SHAPE(sum_squares, x, WIDE, n);
    if (tensor_has(a->sums)) {
        CHECK_SHAPE(sum_squares, sums, F64, n_blocks);
        squares_of(c, a->x.data, n, a->sums.data);
        return OK;
    }
    CHECK_SHAPE(sum_squares, out, F64, 1);
    if (n == 0) return OK;
    const int64_t mark = arena_mark(c->work);
    TRY_OUT(arena_take(c->work, n_blocks * (int64_t)sizeof(double), &sums));
    double *sum = sums;
    squares_of(c, a->x.data, n, sum);
    for (int64_t left = n_blocks; left > 1; left = ceil_div(left, 2))
        for (int64_t i = 0; i < left; i += 2) sum[i / 2] = i + 1 < left ? sum[i] + sum[i + 1] : sum[i];
    *(double *)a->out.data += sum[0];
out:
    arena_release(c->work, mark);
    return st;
}
NO_BACKWARD(sum_squares)
