/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ATTENTION_ATTENTION_BF16_H
#define BATON_KERNELS_ATTENTION_ATTENTION_BF16_H
/* attention_bf16.h - attention.h in BF16 on the tensor cores by our own kernels: everything that the contract allows,
 * of heads whose width is a multiple of 8 up to 256.  Called by attention.cu, which has checked types and shapes.
 *
 *   flops      forward 4 H P per visible (query, key); backward 10, of which scores and weights are made twice (14), so
 *              that every dq, dk and dv has one owner.  At 990 TFLOP/s dense, T 32,768, H 32, P 128, one document:
 *              8.8 TFLOP and 8.9 ms forward, 22 TFLOP and 22 ms backward at the least
 *   bytes      once o, lse, gradients; q once a tile of 128 queries; k and v once for every 128 queries that see them,
 *              mostly from L2; backward q and do once for every 128 keys
 *   workspace  12 bytes a query; backward also 8 bytes a (query, head), 8 bytes for 128 keys */
#include "kernels/attention/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ERR_ARG: a width that these kernels do not have. */
enum status attention_shape_bf16(const struct attention *a);
/* ERR_ARG: a width, pitch or address that these kernels do not have. */
enum status attention_bf16_check(const struct attention *a, bool backward);
enum status attention_fwd_bf16(struct ctx *c, const struct attention *a);
enum status attention_bwd_bf16(struct ctx *c, const struct attention *a);
int64_t attention_work_bf16(const struct attention *a);

#ifdef __cplusplus
}
#endif
#endif
