/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_LOCAL_BF16_H
#define BATON_KERNELS_SSD_LOCAL_BF16_H
/* ssd_local_bf16.h - the passes of ssd_local.h on tensor cores, for ssd_local.cu. */
#include "kernels/ssd_local/ssd_local.h"
enum status ssd_local_fwd_bf16(struct ctx *c, const struct ssd_local *a);
enum status ssd_local_bwd_bf16(struct ctx *c, const struct ssd_local *a);
/* ERR_ARG: sizes without a kernel. */
enum status ssd_local_shape_bf16(const struct ssd_local *a);
int64_t ssd_local_work_bf16(const struct ssd_local *a);
#endif
