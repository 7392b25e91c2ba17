/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ADAMW_H
#define BATON_KERNELS_ADAMW_H
/* adamw.h - one update of one parameter block.
 *
 *   g' = g clip    m = b1 m + (1 - b1) g'    v = b2 v + (1 - b2) g'^2
 *   w -= lr lr_scale (m fix1 / (sqrt(v fix2) + eps) + decay w)           nothing at all when skip is not 0
 *   knobs      what changes from step to step, in one small buffer of the op's space, F64 (N_KNOBS)
 *   out        w, rounded to `real`: the weight that products read, written in the same pass
 *   shapes     n elements;  types w, m, v, g wide, out `real`
 *   errors     ERR_ARG: shapes or types disagree
 *   absent     out: not wanted
 *   source     Loshchilov and Hutter 2019, arXiv:1711.05101 */
#include "base/ctx.h"
enum knob { KNOB_LR, KNOB_CLIP, KNOB_FIX1, KNOB_FIX2, KNOB_SKIP, N_KNOBS }; /* FIX1 = 1/(1 - b1^step), FIX2 likewise */
struct adamw {
    struct tensor w, m, v, g; /* (n) in and out;  g in */
    struct tensor knobs;      /* (N_KNOBS) F64 in      */
    struct tensor out;        /* (n) out               */
    double beta1, beta2, eps, decay, lr_scale;
};
#endif
