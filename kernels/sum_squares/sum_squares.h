/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SUM_SQUARES_H
#define BATON_KERNELS_SUM_SQUARES_H
/* sum_squares.h - sum of squares in an order fixed by the length alone.
 *
 *   out += the squares of x summed in F64: inside blocks of 4,096 elements in 16 lanes (element i to lane i mod 16,
 *          ascending; then lanes j and j + 8, and so on by 4, 2, 1), the blocks' sums in a binary tree (pairs of
 *          neighbours, level by level, an odd one passes up)
 *   sums       if present, receives the blocks' sums instead of out
 *   shapes     n elements;  types x wide, out (1) and sums (n / 4096, rounded up) F64.  A value that is not finite
 *              makes out not finite
 *   errors     ERR_ARG: shapes or types disagree */
#include "base/ctx.h"
#define SUM_SQUARES_BLOCK 4096
struct sum_squares {
    struct tensor x, out, sums; /* (n) in;  (1) +=;  (blocks) out, or absent */
};
#endif
