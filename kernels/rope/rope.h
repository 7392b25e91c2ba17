/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ROPE_H
#define BATON_KERNELS_ROPE_H
/* rope.h - rotary positions in place, "rotate half" layout.
 *
 *   forward    pairs (i, i + rot/2), i < rot/2, of each head turn by the angle pos_t theta^(-2i/rot); channels from
 *              rot on pass through
 *   backward   dx in place: the inverse rotation
 *   shapes     T tokens, H heads of width P, rot <= P and even; x, dx may have a pitch
 *   types      pos I64; x, dx `real`; angles F64
 *   errors     ERR_ARG: shapes or types disagree
 *   source     Su et al. 2021, arXiv:2104.09864; layout of Llama */
#include "base/ctx.h"
struct rope {
    struct tensor pos;   /* (T) in                          */
    struct tensor x, dx; /* (T, H P) in and out; each pass touches its own */
    int64_t heads, rot;
    double theta;
};
#endif
