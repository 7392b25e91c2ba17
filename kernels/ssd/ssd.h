/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_H
#define BATON_KERNELS_SSD_H
/* ssd.h - second half of the chunked SSD scan (Mamba-2); the first is ssd_local.h, which makes dts, cum, states and
 * dstates.
 *
 *   recurrence S_t = exp(a_t) S_{t-1} + dts_t x_t B_t^T, S = 0 before a document's first token;  y_t = S_t C_t + D x_t
 *   forward    states[c], what ssd_local left there, becomes the state that enters chunk c,
 *              S_in first;
 *              y_t = sum_{s <= t, same document} exp(cum_t - cum_s) (C_t . B_s) dts_s x_s
 *                    + exp(cum_t) S_c C_t (tokens of the entering document) + D x_t
 *   backward   from dy and dS_out, every gradient; the chunk form of the derivation is in ssd_ref.c.  dA_log, ddt_bias,
 *              dD +=; dt's limits cut its gradient outside them.  Never the short form with y.dy - x.dx: it cancels
 *   shapes     T tokens, H heads, P head width, N state, G groups (H % G == 0), R ranges, c chunks
 *   types      range, pos I64; x, B, C, dt, y, states and their gradients `real`; the rest wide
 *   errors     ERR_ARG: shapes or types disagree; in bf16 a shape without a kernel, with those there are
 *   absent     s_out, ds_out, ds_in: not wanted, or zero
 *   source     Dao and Gu 2024, arXiv:2405.21060; the backward is derived in ssd_ref.c */
#include "base/ctx.h"
struct ssd {
    int64_t heads, head_width, state, groups, chunk;
    double dt_min, dt_max;
    struct tensor range, pos;             /* (R + 1) (T) in                                                  */
    struct tensor x, dt, B, C;            /* (T, H P) (T, H) (T, G N) (T, G N) in                            */
    struct tensor A_log, dt_bias, D;      /* (H) each, in                                                    */
    struct tensor dts, cum;               /* (T, H) each: from ssd_local                                     */
    struct tensor states;                 /* (c, H, P, N): own end states in, entering states out; kept      */
    struct tensor s_in, s_out;            /* (R, H, P, N) in;  (R, H, P, N) out                              */
    struct tensor y;                      /* (T, H P) out                                                    */
    struct tensor dy, ds_out, dstates;    /* (T, H P) (R, H, P, N) in;  (c, H, P, N) from ssd_local, destroyed */
    struct tensor dx, ddt, dB, dC, ds_in; /* (T, H P) (T, H) (T, G N) (T, G N) (R, H, P, N) out              */
    struct tensor dA_log, ddt_bias, dD;   /* (H) each, +=                                                    */
};
#endif
