// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>
#include "tests/gpu_work.h"

template <typename real> __global__ static void add(real *to, const real *from, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        to[i] = to[i] + from[i];
}

__global__ static void spin(int64_t ns) {
    unsigned long long begun, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begun));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while ((int64_t)(now - begun) < ns);
}

extern "C" enum status gpu_add(void *arg, enum dtype t, void *to, const void *from, int64_t n) {
    const unsigned blocks = (unsigned)(n < 256 * 256 ? (n + 255) / 256 : 256);
    if (n == 0) return OK;
    if (t == F32) add<<<blocks, 256, 0, (cudaStream_t)arg>>>((float *)to, (const float *)from, n);
    else add<<<blocks, 256, 0, (cudaStream_t)arg>>>((double *)to, (const double *)from, n);
    const cudaError_t e = cudaGetLastError();
    FAIL_UNLESS(e == cudaSuccess, ERR_CUDA, "the kernel add does not start: %s", cudaGetErrorString(e));
    return OK;
}

extern "C" void gpu_spin(void *stream, int64_t microseconds) {
    spin<<<1, 1, 0, (cudaStream_t)stream>>>(microseconds * 1000);
}
