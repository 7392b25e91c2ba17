/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_LOCAL_H
#define BATON_KERNELS_SSD_LOCAL_H
/* ssd_local.h - first half of the chunked SSD scan (the second is ssd.h): all that does not depend on the state that
 * enters a range, so that its summary can travel while local work goes on.
 *
 *   forward    dts_t = clamp(softplus(dt_t + dt_bias), dt_min, dt_max)     a_t = -exp(A_log) dts_t
 *              cum_t = a summed from the chunk's first token to t, restarted at a document's start
 *              states[c] = sum_{t in chunk c, of the chunk's last document} exp(cum_end - cum_t) dts_t x_t B_t^T
 *              range_state[r], range_decay[r]: the state at the end of range r if it began with zero, and the factor
 *              that the entering state keeps (0 if a document starts in the range): S_out = decay S_in + state
 *   backward   dstates[c] = what chunk c's own outputs ask of its entering state, and range_dstate[r] = what range r's
 *              outputs ask of the entering state if nothing is asked of its leaving state:
 *              dS_in = range_decay dS_out + range_dstate.  Reads C, dy, cum
 *   chunks     chunk c of range r covers Q tokens from the range's start; the last may be shorter.  c may be more than
 *              the ranges make: the rest is left alone
 *   shapes     T tokens, H heads, P head width, N state, G groups (H % G == 0), R ranges, c chunks in all
 *   between    states and dstates go to ssd of the same table and to nobody else: in bf16 they may hold what
 *              longer segments make of a zero state (ssd_walk.cuh), by a rule of shapes that both halves follow
 *   types      range, pos I64; x, B, C, dt, dy, states, dstates `real`; the rest wide; sums of a in F64
 *   errors     ERR_ARG: shapes or types disagree; in bf16 a shape without a kernel, with those there are
 *   source     Dao and Gu 2024, arXiv:2405.21060; softplus(v) = v above 20 */
#include "base/ctx.h"
struct ssd_local {
    int64_t heads, head_width, state, groups, chunk;
    double dt_min, dt_max;                  /* limits of softplus(dt + dt_bias); 0 and infinity: none  */
    struct tensor range, pos;               /* (R + 1) (T) in                                          */
    struct tensor x, dt, B, C;              /* (T, H P) (T, H) (T, G N) (T, G N) in                    */
    struct tensor A_log, dt_bias;           /* (H) (H) in                                              */
    struct tensor dts, cum;                 /* (T, H) (T, H) out                                       */
    struct tensor states;                   /* (c, H, P, N) out                                        */
    struct tensor range_decay, range_state; /* (R, H) (R, H, P, N) out                                 */
    struct tensor dy;                       /* (T, H P) in of backward                                 */
    struct tensor dstates, range_dstate;    /* (c, H, P, N) (R, H, P, N) out of backward               */
};
#endif
