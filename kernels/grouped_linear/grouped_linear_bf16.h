/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GROUPED_LINEAR_GROUPED_LINEAR_BF16_H
#define BATON_KERNELS_GROUPED_LINEAR_GROUPED_LINEAR_BF16_H
/* grouped_linear_bf16.h - grouped_linear.h in BF16 on the tensor cores, sums in F32.  Called by grouped_linear.cu,
 * which has checked types and shapes.
 *
 *   rows       begin at multiples of 16 bytes, I and O are multiples of 8; dw of one section: wide_fits
 *   flops      2 N I O a product; at 990 TFLOP/s dense, N 262,144, I 4,096, O 1,024: 2.2 TFLOP and 2.2 ms
 *   bytes      tiles of 128 x 256 read 768 bytes a term of K, most of them from L2; results once, dw twice in F32
 *   memory     none beside the tensors, whatever the routing */
#include "kernels/grouped_linear/grouped_linear.h"

#ifdef __cplusplus
extern "C" {
#endif

enum wide_kind { WIDE_Y, WIDE_DX, WIDE_DW };
bool wide_fits(const struct grouped_linear *a, enum wide_kind kind);
enum status grouped_linear_wide(struct ctx *c, const struct grouped_linear *a, enum wide_kind kind);

#ifdef __cplusplus
}
#endif
#endif
