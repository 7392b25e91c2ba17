/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GEMM_CUDA_H
#define BATON_KERNELS_GEMM_CUDA_H
/* gemm_cuda.h - products of BF16 matrices on a GPU: the one door to cuBLASLt.  Row-major, with a row pitch.
 *
 * Sums are F32.  A shape's first use asks the library for algorithms and takes the first; gemm_cuda_measure chooses by
 * time among them, on one rank; gemm_cuda_export and _import carry the choices to others and to a later run, so that
 * all compute the same bits.  Only algorithms whose sums have a fixed order are taken: no split of k, or one whose
 * parts are added in F32 from the workspace.  Pinned (exact mode): the first without a split, whatever was measured. */
#include <stdbool.h>
#include "base/ctx.h"
#include "kernels/gemm_plans.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GEMM_WORKSPACE (32 << 20) /* bytes of the device, owned by the handle */

/* Called by device_open and device_close; close accepts a device without a handle. */
enum status gemm_cuda_open(struct device *d);
void gemm_cuda_close(struct device *d);
/* C (m, n) = alpha op(A) (m, k) op(B) (k, n) + beta C on ctx's stream; A and B BF16, C BF16 or F32.  With beta = 0, C
 * is not read.  Sizes come from the tensors, which agree (the ops check).  Waits for nothing. */
enum status gemm_cuda(struct ctx *c, bool trans_a, bool trans_b, float alpha, struct tensor A, struct tensor B,
                      float beta, struct tensor C);
/* From now on the first algorithm without a split of k; forgets all choices. */
void gemm_cuda_pin(struct device *d);
/* From now on shapes are noted and nothing is computed; off again with false. */
void gemm_cuda_list(struct device *d, bool on);
/* Times the algorithms of every shape used so far and not yet measured, on a part of a large product, in `scratch`
 * (device memory whose content is lost), keeps the fastest; a shape whose matrices do not fit keeps what it has, as
 * measured.  Waits for the device. */
enum status gemm_cuda_measure(struct device *d, void *scratch, int64_t bytes);
enum status gemm_cuda_export(struct device *d, char **text); /* released with mem_free */
/* ERR_MISSING: from another version of the library or another GPU; ERR_DATA: damaged. */
enum status gemm_cuda_import(struct device *d, const char *text);

#ifdef __cplusplus
}
#endif
#endif
