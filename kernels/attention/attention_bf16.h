/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ATTENTION_ATTENTION_BF16_H
#define BATON_KERNELS_ATTENTION_ATTENTION_BF16_H
/* attention_bf16.h - attention.h in BF16 on the tensor cores: everything that the contract allows, of heads whose width
 * is a multiple of 8 up to 256.  Called by attention.cu, which has checked types and shapes.  The forward of long
 * passes is cuDNN's where there is one (attention_dnn.h); all else are our own kernels.
 *
 *   flops      forward 4 H P per visible (query, key); backward 10, and 14 of heads wider than 128, which make scores
 *              and weights twice.  At 990 TFLOP/s dense, T 32,768, H 32, P 128, one document: 8.8 TFLOP and 8.9 ms
 *              forward, 22 TFLOP and 22 ms backward at the least
 *   bytes      once o, lse, gradients; q once a tile of 128 queries; k and v once for every 128 queries that see them,
 *              mostly from L2; backward q and do once for every 128 keys, and there, through L2, dq in F32 twice
 *   workspace  forward 1 MiB for cuDNN, 12 bytes a query; backward also 8 bytes a (query, head), 8 bytes for 128 keys,
 *              and unfinished dq, 4 bytes a number: of as many key heads at a time as 1 GiB holds, one at least; where
 *              blocks of keys are few, unfinished dk and dv too, of 512 blocks at most
 *   order      every dk and dv has one owner, or one a set of heads, ascending; dq is summed over blocks of keys,
 *              ascending */
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
