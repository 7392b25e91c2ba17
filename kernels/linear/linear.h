/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_LINEAR_H
#define BATON_KERNELS_LINEAR_H
/* linear.h - matrix product with a weight stored (out, in).
 *
 *   forward    y = x w^T (+ b)               (y += when add)
 *   backward   dx = dy w  (+= when dx_add)   dw += dy^T x     db += sum_t dy
 *   shapes     T rows, I inputs, O outputs; x, y, dx, dy may have a pitch; w, dw too
 *   types      b and the gradients dw, db wide; the rest `real`.  BF16: sums in F32; a bias is rounded with y before
 *              the product is added
 *   wide       y and dy are wide too, for a result that must not be rounded, such as a router's logits: factors of BF16
 *              make F32.  Back in BF16: dw from dy as a sum of two BF16, which leaves 2^-16 of it; dx from the first of
 *              the two alone, dy rounded, for dx is rounded itself
 *   errors     ERR_ARG: shapes or types disagree
 *   absent     b, db: no bias.  dx, dw: that gradient is not wanted
 *   GPU        F32: FMA; BF16: cuBLASLt (gemm_cuda.h)
 *   CPU        OpenBLAS on one thread, over a grid of tiles fixed by the shape: bits do not depend on the pool */
#include <stdbool.h>
#include "base/ctx.h"
struct linear {
    struct tensor x, w, b, y;     /* (T, I) (O, I) (O) in;  (T, O) out            */
    struct tensor dy, dx, dw, db; /* (T, O) in;  (T, I) out;  (O, I) (O) +=       */
    bool add, dx_add, wide;
};
#endif
