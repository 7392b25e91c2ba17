/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_EMBEDDING_H
#define BATON_KERNELS_EMBEDDING_H
/* embedding.h - rows of a table picked by token.
 *
 *   forward    y_t = w[ids_t]                backward   dw[ids_t] += dy_t, in ascending t for each row
 *   shapes     T tokens, V vocabulary, D channels
 *   types      ids I32; dw wide; the rest `real`
 *   errors     ERR_ARG: shapes or types disagree.  ERR_DATA: an id outside [0, V), named with its position */
#include "base/ctx.h"
struct embedding {
    struct tensor ids;    /* (T)                                          */
    struct tensor w, y;   /* (V, D) in;  (T, D) out                       */
    struct tensor dy, dw; /* (T, D) in;  (V, D) +=                       */
};
#endif
