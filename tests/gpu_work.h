/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_GPU_WORK_H
#define BATON_TESTS_GPU_WORK_H
/* gpu_work.h - what comm_device.c computes: on a GPU gpu_work.cu, without one fake_gpu/fake_cuda.c. */
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* to[i] += from[i]; arg is the stream: comm_device.add. */
enum status gpu_add(void *arg, enum dtype t, void *to, const void *from, int64_t n);
void gpu_spin(void *stream, int64_t microseconds); /* one thread that does nothing for a while */

#ifdef __cplusplus
}
#endif
#endif
