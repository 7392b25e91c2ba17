/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_EMULATOR_CUDA_RUNTIME_H
#define BATON_TESTS_EMULATOR_CUDA_RUNTIME_H
/* cuda_runtime.h - the part of CUDA that kernels/ uses, on the CPU: stands in the include path before the toolkit's, so
 * that every .cu compiles as C++ and runs where there is no GPU.
 *
 * A block's threads are fibers of one thread; each runs until it waits for the others of its block or warp, and they
 * take turns in a changing order.  Shared memory holds NaN when a block begins, and what cp.async copies is NaN until
 * its wait: so a missing barrier, wait or write shows as a wrong number.  Streams run at once; memory of the device is
 * memory of the host. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BATON_EMULATED

#ifdef __cplusplus
extern "C" {
#endif

typedef int cudaError_t;
typedef void *cudaStream_t, *cudaEvent_t;
enum {
    cudaSuccess,
    cudaErrorMemoryAllocation = 2,
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaMemcpyDefault = 4,
    cudaStreamNonBlocking = 1
};
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError(void);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, int kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, cudaStream_t stream);
cudaError_t cudaMemset(void *p, int byte, size_t bytes);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);

/* ---- what kernels are made of ---- */

struct emulated_dim3 {
    unsigned x, y, z;
};
/* f(arg) once for every thread of every block. */
void emulate(struct emulated_dim3 grid, struct emulated_dim3 block, void (*f)(void *), void *arg);
void emulated_barrier(void);
/* Every lane gives n bytes, at most 32, and gets all 32 lanes' in rows of 32 bytes. */
const char (*emulated_exchange(const void *mine, size_t n))[32];
int emulated_lane(void);
/* A copy that is under way until its group is waited for. */
void emulated_copy(void *to, const void *from, size_t n);
void emulated_commit(void);
void emulated_wait(int n_open);
extern struct emulated_dim3 emulated_threadIdx, emulated_blockIdx, emulated_blockDim, emulated_gridDim;
extern unsigned char *emulated_shared; /* dynamic shared memory of the block */
#ifdef __cplusplus
}
#include "tests/emulator/device.h"
#endif
#endif
