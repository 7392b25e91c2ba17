/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_SCAN_H
#define BATON_KERNELS_SELECTIVE_SCAN_H
/* selective_scan.h - second half of the selective scan of Mamba-1, with its gate; the first half is
 * selective_scan_local.h, which makes states, chunk_time and dstates.
 *
 *   recurrence per channel d and state n, with dts_t = softplus(dt_t + dt_bias) and A = -exp(A_log):
 *              h_t = exp(dts_t A) h_{t-1} + dts_t B_t x_t, h = 0 before a document's first token
 *              y_t = sum_n C_t h_t + D x_t          out_t = y_t silu(z_t)
 *   forward    what s_in adds to states[c], the state that enters chunk c, and to out, up to where nothing of it is
 *              left; s_out
 *   backward   from dout and ds_out, every gradient, chunk by chunk with h computed again from the entering state; the
 *              derivation is in selective_scan_ref.c.  dB, dC sum over the channels;  dA_log, ddt_bias, dD +=
 *   shapes     T tokens, D channels, N state of a channel, R ranges, c chunks
 *   types      range, pos I64; x, z, dt, B, C, out and their gradients `real`; the rest wide
 *   errors     ERR_ARG: shapes or types disagree
 *   absent     s_out, ds_out, ds_in: not wanted, or zero
 *   source     Gu and Dao 2023, arXiv:2312.00752; the backward is derived in selective_scan_ref.c */
#include "base/ctx.h"
struct selective_scan {
    int64_t state, chunk;                     /* N, tokens of a chunk                                              */
    struct tensor range, pos;                 /* (R + 1) (T) in                                                    */
    struct tensor x, z, dt, B, C;             /* (T, D) (T, D) (T, D) (T, N) (T, N) in                             */
    struct tensor A_log, dt_bias, D;          /* (D, N) (D) (D) in                                                 */
    struct tensor states, chunk_time;         /* (c, D, 1, N) in, out, kept;  (c, D) in                            */
    struct tensor s_in, s_out;                /* (R, D, 1, N) in;  (R, D, 1, N) out                                */
    struct tensor out;                        /* (T, D) in, out                                                    */
    struct tensor dout, ds_out, dstates;      /* (T, D) (R, D, 1, N) in;  (c, D, 1, N) from local, destroyed       */
    struct tensor dx, dz, ddt, dB, dC, ds_in; /* (T, D) (T, D) (T, D) (T, N) (T, N) (R, D, 1, N) out               */
    struct tensor dA_log, ddt_bias, dD;       /* (D, N) (D) (D) +=                                                 */
};
#endif
