/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_DEVICE_INSIDE_H
#define BATON_KERNELS_DEVICE_INSIDE_H
/* device_inside.h - what lies behind struct device; for the files of kernels/ that call a GPU library. */
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct device {
    int index;
    void *stream;    /* cudaStream_t, where ops are enqueued                      */
    void *mark;      /* cudaEvent_t of device_mark                                */
    void *gemm;      /* products through cuBLASLt                                 */
    void *attention; /* attention through cuDNN                                   */
};

#ifdef __cplusplus
}
#endif
#endif
