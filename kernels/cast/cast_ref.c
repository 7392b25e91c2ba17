/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cast/cast.h"
#include <string.h>
#include "kernels/check.h"
#include "kernels/rows.h"

struct cast_job {
    const struct cast *a;
    struct blocks cut;
};

static void cast_block(void *arg, int64_t item, int worker) {
    const struct cast_job *j = arg;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t t = b.row; t < b.row_end; t++)
        memcpy(row(j->a->y, t) + b.col, row(j->a->x, t) + b.col, (size_t)b.cols * sizeof(real));
}

enum status REF(cast_fwd)(struct ctx *c, const struct cast *a) {
    const int64_t T = a->x.shape[0], C = a->x.shape[1];
    CHECK_SHAPE(cast, x, REAL, T, C);
    CHECK_SHAPE(cast, y, WIDE, T, C);
    struct cast_job j = {.a = a, .cut = blocks_cut(T, C)};
    pool_run(c->pool, j.cut.items, cast_block, &j);
    return OK;
}
NO_BACKWARD(cast)
NO_WORK(cast)
