/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_CONV1D_H
#define BATON_KERNELS_CONV1D_H
/* conv1d.h - causal depthwise convolution over tokens, then SiLU where asked.
 *
 *   forward    u_t = b + sum_{j=0}^{K-1} w[:, K-1-j] x_{t-j},  the tap j counted only when pos_t >= j
 *              y = silu(u), or u
 *   backward   du = dy silu'(u), u computed again;  dx_{t-j} += w[:, K-1-j] du_t;  dw, db += ;  rows that lie before
 *              the range go to dbefore
 *   ranges     rows [range_r, range_{r+1}) are consecutive tokens of one sequence; the K-1 tokens before a range
 *              come as before[r], oldest first.  A document's start (pos 0) cuts the taps, so rows of before that
 *              belong to another document, or do not exist, may hold anything finite
 *   shapes     T tokens, C channels, K taps (1 <= K <= 16), R ranges
 *   types      range, pos I64; w, b, dw, db wide; the rest `real`
 *   errors     ERR_ARG: shapes or types disagree
 *   absent     b, db: no bias.  before, dbefore: allowed when K = 1 */
#include <stdbool.h>
#include "base/ctx.h"
struct conv1d {
    struct tensor range, pos;      /* (R + 1) (T) in                                     */
    struct tensor x, w, b, before; /* (T, C) (C, K) (C) (R, K-1, C) in                   */
    struct tensor y;               /* (T, C) out                                         */
    struct tensor dy, dx, dw, db;  /* (T, C) in;  (T, C) out;  (C, K) (C) +=             */
    struct tensor dbefore;         /* (R, K-1, C) out                                    */
    bool silu;
};
#endif
