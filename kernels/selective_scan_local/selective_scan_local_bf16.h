/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_SCAN_LOCAL_BF16_H
#define BATON_KERNELS_SELECTIVE_SCAN_LOCAL_BF16_H
/* selective_scan_local_bf16.h - n_chunks chunks in BF16, for selective_scan_local.cu, which walks the ranges. */
#include "kernels/selective_scan_local/selective_scan_local.h"
enum status selective_scan_local_fwd_bf16(struct ctx *c, const struct selective_scan_local *a, int64_t n_chunks);
enum status selective_scan_local_bwd_bf16(struct ctx *c, const struct selective_scan_local *a, int64_t n_chunks);
int64_t selective_scan_local_work_bf16(const struct selective_scan_local *a, int64_t n_chunks);
#endif
