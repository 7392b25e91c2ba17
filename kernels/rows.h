/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ROWS_H
#define BATON_KERNELS_ROWS_H
/* rows.h - how an op cuts its rows into items for the pool: by the shape alone, never by the number of threads. */
#include "kernels/ref.h"

#define ROWS_GRAIN    16384 /* elements of an item at least: some 10 us                             */
#define ROWS_PARTIALS 64    /* items at most of a pass that keeps a partial sum per item in ctx->work */

/* n rows, each worth `width` elements of work, cut into `items` of `per` rows; the last may be shorter. */
struct rows {
    int64_t n, per, items;
};

static inline int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static inline struct rows rows_cut(int64_t n, int64_t width) {
    const int64_t per = most(1, ROWS_GRAIN / most(1, width));
    return (struct rows){.n = n, .per = per, .items = ceil_div(n, per)};
}
/* The same, with at most ROWS_PARTIALS items. */
static inline struct rows rows_cut_partials(int64_t n, int64_t width) {
    const int64_t per = most(rows_cut(n, width).per, ceil_div(n, ROWS_PARTIALS));
    return (struct rows){.n = n, .per = per, .items = ceil_div(n, per)};
}
static inline int64_t rows_begin(struct rows r, int64_t item) { return item * r.per; }
static inline int64_t rows_end(struct rows r, int64_t item) { return least(r.n, (item + 1) * r.per); }

/* Elementwise work on n rows of `width` elements, cut both ways: long rows in pieces, short rows several together. */
struct blocks {
    int64_t n, width, tall, wide, items;
};
struct block {
    int64_t row, row_end, col, cols;
};

static inline struct blocks blocks_cut(int64_t n, int64_t width) {
    const int64_t wide = most(1, least(width, ROWS_GRAIN)), tall = most(1, ROWS_GRAIN / wide);
    return (struct blocks){
        .n = n, .width = width, .tall = tall, .wide = wide, .items = ceil_div(n, tall) * ceil_div(width, wide)};
}
static inline struct block block_at(struct blocks b, int64_t item) {
    const int64_t across = ceil_div(b.width, b.wide);
    const int64_t i = item / across * b.tall, j = item % across * b.wide;
    return (struct block){.row = i, .row_end = least(b.n, i + b.tall), .col = j, .cols = least(b.wide, b.width - j)};
}
/* One block of all columns cut into strips of whole cache lines, for an item that walks all rows of its strip. */
static inline struct blocks strips_cut(int64_t width) {
    const int64_t wide = most(64, ceil_div(width, ROWS_PARTIALS));
    return (struct blocks){.n = 1, .width = width, .tall = 1, .wide = wide, .items = ceil_div(width, wide)};
}
#endif
