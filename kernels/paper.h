/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_PAPER_H
#define BATON_KERNELS_PAPER_H
/* paper.h - ops on paper: a table before another one whose passes do nothing, so that a step can be rehearsed without
 * its memory or its GPU.  What space.h moves stays where it is, too.  Workspace is what the other table says; of what
 * it refuses, nothing, and the first reason is kept. */
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct paper {
    struct ops table; /* what ctx->ops points to, with ctx->paper = this one */
    const struct ops *base;
    char refused[400]; /* why the other table would refuse to run, the first time; empty: it would not */
};
void paper_init(struct paper *p, const struct ops *base);
/* Linear and head run all the same, for who lists their products (gemm_cuda_list); these are not computed, but their
 * other kernels run, on whatever lies in memory. */
void paper_keep_products(struct paper *p);

#ifdef __cplusplus
}
#endif
#endif
