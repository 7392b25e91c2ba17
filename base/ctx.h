/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_CTX_H
#define BATON_BASE_CTX_H
/* ctx.h - one rank's compute: the first argument of all that computes. */
#include <stdint.h>
#include "base/arena.h"
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ops;    /* kernels/ops.h */
struct pool;   /* base/pool.h   */
struct exact;  /* kernels/exact.h */
struct device; /* kernels/device.h */
struct traced; /* kernels/traced.h */
struct paper;  /* kernels/paper.h */
struct plain;  /* kernels/plain.h */

struct ctx {
    const struct ops *ops; /* ops_ref, ops_ref64 or ops_cuda                                          */
    struct pool *pool;     /* host threads; NULL: the caller alone                                    */
    struct arena *work;    /* workspace of ops: taken and released inside one call                    */
    void *stream;          /* cudaStream_t of the compute stream; NULL on the CPU                     */
    struct device *device; /* a GPU's library handles; NULL on the CPU                                */
    enum dtype real;       /* type of activations: F32 or F64 on the CPU, F32 or BF16 on a GPU        */
    enum space space;
    struct exact *exact;   /* NULL, or exact mode: segments and trees          */
    struct traced *traced; /* NULL, or where the time of ops is kept           */
    struct plain *plain;   /* NULL, or what takes the place of missing BF16 kernels */
    struct paper *paper;   /* NULL, or a plan: ops do nothing, memory is addresses alone */
    uint64_t seed;
};

#ifdef __cplusplus
}
#endif
#endif
