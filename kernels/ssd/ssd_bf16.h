/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_SSD_BF16_H
#define BATON_KERNELS_SSD_SSD_BF16_H
/* ssd_bf16.h - the passes of ssd.h on tensor cores, for ssd.cu; the forward is in ssd_bf16.cu, the backward in
 * ssd_bf16_bwd.cu. */
#include "kernels/ssd/ssd.h"
enum status ssd_fwd_bf16(struct ctx *c, const struct ssd *a);
enum status ssd_bwd_bf16(struct ctx *c, const struct ssd *a);
/* What both passes read. */
enum status ssd_check_bf16(struct ctx *c, const struct ssd *a);
/* ERR_ARG: sizes without a kernel. */
enum status ssd_shape_bf16(const struct ssd *a);
int64_t ssd_work_bf16(const struct ssd *a);
#endif
