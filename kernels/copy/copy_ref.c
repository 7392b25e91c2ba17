/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/copy/copy.h"
#include <string.h>
#include "kernels/check.h"
#include "kernels/rows.h"

struct copy_job {
    const struct copy *a;
    struct blocks cut;
};

static void copy_block(void *arg, int64_t item, int worker) {
    const struct copy_job *j = arg;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t t = b.row; t < b.row_end; t++)
        memcpy(row(j->a->y, t) + b.col, row(j->a->x, t) + b.col, (size_t)b.cols * sizeof(real));
}

enum status REF(copy_fwd)(struct ctx *c, const struct copy *a) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1];
    CHECK_SHAPE(copy, x, REAL, T, C);
    CHECK_SHAPE(copy, y, REAL, T, C);
    struct copy_job j = {.a = a, .cut = blocks_cut(T, C)};
    pool_run(c->pool, j.cut.items, copy_block, &j);
    return OK;
}
NO_BACKWARD(copy)
NO_WORK(copy)
