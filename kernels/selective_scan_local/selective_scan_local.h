/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_SCAN_LOCAL_H
#define BATON_KERNELS_SELECTIVE_SCAN_LOCAL_H
/* selective_scan_local.h - first half of the selective scan of Mamba-1 (the second is selective_scan.h): all that does
 * not depend on the state that enters a range, so that its summary can travel while local work goes on.
 *
 *   forward    everything as if the state that enters a range were zero, in the recurrence of selective_scan.h:
 *              out, and states[c], the state that enters chunk c;  A = -exp(A_log), dts_t = softplus(dt_t + dt_bias)
 *              chunk_time[c] = sum of dts over the chunk, or AFFINE_FOREVER (affine.h) if a document starts in it:
 *              element (d, n) of a state keeps exp(A_dn time_d) through it
 *              range_state[r], range_time[r]: what leaves a range: S_out = exp(A time) S_in + state
 *   backward   dstates[c] = what chunk c's own outputs ask of its entering state, and range_dstate[r] = what range r's
 *              outputs ask of the entering state if nothing is asked of its leaving state:
 *              dS_in = exp(A time) dS_out + range_dstate.  Reads z, dout, dt, C, chunk_time; A_log, dt_bias
 *   chunks     chunk c of range r covers `chunk` tokens from the range's start; the last may be shorter.  c may be more
 *              than the ranges make: the rest is left alone
 *   shapes     T tokens, D channels, N state of a channel, R ranges, c chunks in all; D heads of width 1 to a carry
 *   types      range, pos I64; x, dt, B, z, dout, C, out `real`; the rest wide; sums of dts in F64
 *   errors     ERR_ARG: shapes or types disagree
 *   source     Gu and Dao 2023, arXiv:2312.00752; softplus(v) = v above 20 */
#include "base/ctx.h"
struct selective_scan_local {
    int64_t state, chunk;                  /* N, tokens of a chunk                  */
    struct tensor range, pos;              /* (R + 1) (T) in                        */
    struct tensor x, dt, B;                /* (T, D) (T, D) (T, N) in               */
    struct tensor A_log, dt_bias, D;       /* (D, N) (D) (D) in                     */
    struct tensor states, chunk_time;      /* (c, D, 1, N) (c, D) out               */
    struct tensor range_time, range_state; /* (R, D) (R, D, 1, N) out               */
    struct tensor z, C, out;               /* (T, D) (T, N) in;  (T, D) out         */
    struct tensor dout;                    /* (T, D) in of backward                 */
    struct tensor dstates, range_dstate;   /* (c, D, 1, N) (R, D, 1, N) out of it   */
};
#endif
