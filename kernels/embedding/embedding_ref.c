/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/embedding/embedding.h"
#include <inttypes.h>
#include <string.h>
#include "kernels/check.h"
#include "kernels/rows.h"

struct embedding_job {
    const struct embedding *a;
    const int32_t *ids;
    struct blocks cut;
};

static void pick_block(void *arg, int64_t item, int worker) {
    const struct embedding_job *j = arg;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t t = b.row; t < b.row_end; t++) {
        const int64_t id = j->ids[t] - j->a->first;
        real *y = row(j->a->y, t) + b.col;
        if (id >= 0 && id < j->a->w.shape[0]) memcpy(y, row(j->a->w, id) + b.col, (size_t)b.cols * sizeof(real));
        else memset(y, 0, (size_t)b.cols * sizeof(real));
    }
}

/* An item owns a strip of columns and walks all tokens, so a row's sum is in ascending t. */
static void sum_strip(void *arg, int64_t item, int worker) {
    const struct embedding_job *j = arg;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t t = 0; t < j->a->dy.shape[0]; t++) {
        const int64_t id = j->ids[t] - j->a->first;
        if (id < 0 || id >= j->a->dw.shape[0]) continue;
        const real *restrict dy = row(j->a->dy, t) + b.col;
        real *restrict dw = row(j->a->dw, id) + b.col;
        for (int64_t i = 0; i < b.cols; i++) dw[i] += dy[i];
    }
}

static enum status check_ids(const struct embedding *a, int64_t V) {
    const int32_t *ids = a->ids.data;
    if (a->vocab > 0) V = a->vocab;
    for (int64_t t = 0; t < a->ids.shape[0]; t++)
        FAIL_UNLESS(ids[t] >= 0 && ids[t] < V, ERR_DATA,
                    "embedding: ids[%" PRId64 "] = %" PRId32 " lies outside the vocabulary [0, %" PRId64
                    "): these tokens were made with another tokenizer",
                    t, ids[t], V);
    return OK;
}

enum status REF(embedding_fwd)(struct ctx *c, const struct embedding *a) {
    const int64_t T = a->y.shape[0], D = a->y.shape[1], V = a->w.shape[0];
    CHECK_SHAPE(embedding, y, REAL, T, D);
    CHECK_SHAPE(embedding, ids, I32, T);
    CHECK_SHAPE(embedding, w, REAL, V, D);
    TRY(check_ids(a, V));
    struct embedding_job j = {.a = a, .ids = a->ids.data, .cut = blocks_cut(T, D)};
    pool_run(c->pool, j.cut.items, pick_block, &j);
    return OK;
}

enum status REF(embedding_bwd)(struct ctx *c, const struct embedding *a) {
    const int64_t T = a->dy.shape[0], D = a->dy.shape[1], V = a->dw.shape[0];
    CHECK_SHAPE(embedding, dy, REAL, T, D);
    CHECK_SHAPE(embedding, ids, I32, T);
    CHECK_SHAPE(embedding, dw, WIDE, V, D);
    TRY(check_ids(a, V));
    struct embedding_job j = {.a = a, .ids = a->ids.data, .cut = strips_cut(D)};
    pool_run(c->pool, j.cut.items, sum_strip, &j);
    return OK;
}
NO_WORK(embedding)
