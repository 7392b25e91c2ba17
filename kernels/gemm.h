/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_GEMM_H
#define BATON_KERNELS_GEMM_H
/* gemm.h - matrix products on the CPU: the one door to OpenBLAS.  Matrices are row-major with a row pitch.
 *
 * OpenBLAS runs on the calling thread alone, so a product may be called from any item of the pool, many at a time.
 * REF(matmul) cuts one product into tiles fixed by its shape and runs them over the pool, so that its bits depend on
 * neither the pool nor the pool's size. */
#include <stdbool.h>
#include "kernels/ref.h"

/* C (m, n) = alpha op(A) (m, k) op(B) (k, n) + beta C, op transposing where asked; with beta = 0, C is not read. */
void REF(gemm)(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, real alpha, const real *A, int64_t lda,
               const real *B, int64_t ldb, real beta, real *C, int64_t ldc);
/* The same over the pool; sizes and pitches come from the tensors, which agree (the ops check). */
void REF(matmul)(struct ctx *c, bool trans_a, bool trans_b, real alpha, struct tensor A, struct tensor B, real beta,
                 struct tensor C);
/* Threads of OpenBLAS itself: 1 from program start.  Only a benchmark's yardstick changes it, and sets it back. */
void REF(gemm_library_threads)(int n);
/* What computes: OpenBLAS, its version and the processor whose kernels it chose; other kernels round otherwise. */
const char *REF(gemm_library)(void);
#endif
