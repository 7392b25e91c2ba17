/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_SCAN_BF16_H
#define BATON_KERNELS_SELECTIVE_SCAN_BF16_H
/* selective_scan_bf16.h - n_chunks chunks in BF16, for selective_scan.cu, which walks the ranges. */
#include "kernels/selective_scan/selective_scan.h"
struct reached;
enum status selective_scan_fwd_bf16(struct ctx *c, const struct selective_scan *a, const struct reached *reached,
                                    int64_t n_chunks);
enum status selective_scan_bwd_bf16(struct ctx *c, const struct selective_scan *a, int64_t n_chunks);
int64_t selective_scan_work_bf16(const struct selective_scan *a, int64_t n_chunks);
#endif
