/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ATTENTION_H
#define BATON_KERNELS_ATTENTION_H
/* attention.h - causal softmax attention with grouped keys, documents, a sliding window, and keys that begin before
 * the queries' range.
 *
 *   forward    range r has queries [range_r, range_{r+1}) and keys [keys_r0, keys_r1), at least as many; its last query
 *              sits at its last key.  A query at key index i of its range sees the keys j with
 *              max(0, i - pos, i - window + 1) <= j <= i:  o = softmax(scale q k^T) v,   lse = log sum exp
 *   backward   dq, dk, dv from do, o, lse; dk and dv rows that no range names become 0, those that two ranges name sum
 *   shapes     T queries, U keys, H query heads, J key heads (H % J == 0; head h reads key head h / (H / J)), P width
 *   plain      a promise that allows faster kernels: ranges are T / R tokens long, each is one document from its start,
 *              and range r sees the rows of k with the numbers of its own (U is T)
 *   types      range, pos, keys I64; lse wide; the rest `real`
 *   errors     ERR_ARG: shapes or types disagree, a range has fewer keys than queries, a promise that is not kept
 *   bf16       k and v are read in tiles of 128 rows: rows beside a range's keys must be finite, though unseen
 *   source     Vaswani et al. 2017; streamed softmax: Milakov and Gimelshein 2018, arXiv:1805.02867 */
#include "base/ctx.h"
struct attention {
    int64_t heads, key_heads, head_width;
    int64_t window; /* keys a query sees at most, itself included; 0: all */
    double scale;
    bool plain;
    struct tensor range, pos, keys; /* (R + 1) (T) (R, 2) in                              */
    struct tensor q, k, v;          /* (T, H P) (U, J P) (U, J P) in                      */
    struct tensor o, lse;           /* (T, H P) (T, H) out, kept                          */
    struct tensor dout, dq, dk, dv; /* (T, H P) in;  (T, H P) (U, J P) (U, J P) out       */
};
#endif
