/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GATED_NORM_H
#define BATON_KERNELS_GATED_NORM_H
/* gated_norm.h - the grouped, gated RMSNorm behind a Mamba-2 scan.
 *
 *   gate first   u = y silu(z)         out = w u / sqrt(mean_group(u^2) + eps)
 *   norm first   out = w silu(z) y / sqrt(mean_group(y^2) + eps)
 *   backward     gate first, per group, r = 1/sqrt(.), h = u r:  du = r (w do - h mean_group(h w do)),
 *                dy = du silu(z), dz = du y silu'(z), dw += sum_t do h;  norm first: derived in gated_norm_ref.c
 *   halves       where groups lie on several ranks, GATED_SUMS gives the sums over this rank's channels, square_tg of
 *                u^2 (norm first: y^2) in forward and pull_tg of u w do (norm first: y w silu(z) do) in backward, and
 *                GATED_REST reads the sums of all ranks, whose groups have `group_all` channels
 *   shapes       T rows, C channels, groups of `group` channels, C % group == 0; y, z, out and gradients may have
 *                a pitch
 *   types        w, r, dw wide; the rest `real`; sums as in rmsnorm.h
 *   errors       ERR_ARG: shapes or types disagree, group does not divide C
 *   source       Dao and Gu 2024, arXiv:2405.21060 (the norm of its section 7.1) */
#include <stdbool.h>
#include "base/ctx.h"
enum gated_half { GATED_WHOLE, GATED_SUMS, GATED_REST };
struct gated_norm {
    struct tensor y, z, w, out;     /* (T, C) (T, C) (C) in;  (T, C) out          */
    struct tensor r;                /* (T, C / group) kept by forward             */
    struct tensor dout, dy, dz, dw; /* (T, C) in;  (T, C) (T, C) out;  (C) +=     */
    int64_t group;
    double eps;
    bool norm_first;
    enum gated_half half;
    int64_t group_all;
    struct tensor square, pull; /* (T, C / group) F64 of the halves               */
};
#endif
