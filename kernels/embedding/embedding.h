/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_EMBEDDING_H
#define BATON_KERNELS_EMBEDDING_H
/* embedding.h - rows of a table picked by token.
 *
 *   forward    y_t = w[ids_t]                backward   dw[ids_t] += dy_t, in ascending t for each row
 *   shapes     T tokens, V rows of the table, D channels
 *   shards     vocab > 0: w has rows [first, first + V) of a vocabulary of `vocab`; an id of other rows gives y_t = 0
 *              and no gradient
 *   types      ids I32; dw wide; the rest `real`
 *   errors     ERR_ARG: shapes or types disagree.  ERR_DATA: an id outside the vocabulary, named with its
 *              position */
#include "base/ctx.h"
struct embedding {
    struct tensor ids;    /* (T)                                          */
    struct tensor w, y;   /* (V, D) in;  (T, D) out                       */
    struct tensor dy, dw; /* (T, D) in;  (V, D) +=                       */
    int64_t first, vocab; /* 0, 0: w is the whole vocabulary             */
};
#endif
