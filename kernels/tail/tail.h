/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_TAIL_H
#define BATON_KERNELS_TAIL_H
/* tail.h - the last k rows of every range, packed: what a `last(k)` carry hands to the next range.
 *
 *   forward    tail[r][i] = x row (range_{r+1} - k + i) where that row is in range r, else 0
 *   backward   the same rows of dx += dtail
 *   shapes     T tokens, C channels, R ranges
 *   types      range I64; the rest `real`
 *   errors     ERR_ARG: shapes or types disagree */
#include "base/ctx.h"
struct tail {
    struct tensor range;     /* (R + 1) in                      */
    struct tensor x, tail;   /* (T, C) in;  (R, k, C) out       */
    struct tensor dtail, dx; /* (R, k, C) in;  (T, C) +=        */
};
#endif
