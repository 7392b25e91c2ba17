/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_EMULATOR_CUDA_RUNTIME_H
#define BATON_TESTS_EMULATOR_CUDA_RUNTIME_H
/* cuda_runtime.h - the part of CUDA that kernels/ uses, on the CPU: stands in the include path before the toolkit's, so
 * that every .cu compiles as C++ and runs where there is no GPU.
 *
 * A block's threads are fibers of one thread; each runs until it waits for the others of its block or warp, and they
 * take turns in a changing order.  Shared memory holds NaN when a block begins, and what cp.async copies is NaN until
 * its wait: so a missing barrier, wait or write shows as a wrong number.  Products of wgmma are under way until their
 * wait (wgmma.h); streams run late, and in an order that dice give (streams.cpp), as far as events allow: so does a
 * missing wait between them.  EMULATED_DICE=n: other dice.
 *
 * Memory of the device is closed to everybody but kernels and copies: code of the host that reads or writes it ends
 * with SIGSEGV, and so does a kernel that touches what lies behind an allocation (after a piece of 16 bytes).  Pinned
 * memory of the host that changes before a copy out of it was waited for fails an assertion. */
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
    cudaErrorInsufficientDriver = 35,
    cudaEventDisableTiming = 2,
    cudaEventBlockingSync = 1,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaErrorNotReady = 600,
    cudaErrorPeerAccessAlreadyEnabled = 704,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4,
    cudaHostRegisterDefault = 0,
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
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceGetPCIBusId(char *out, int room, int device);
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer);
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaMallocHost(void **out, size_t bytes);
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags); /* touched by copies alone from here on */
cudaError_t cudaHostUnregister(void *p);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemGetInfo(size_t *unused, size_t *total);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int device);
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
};
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);

/* ---- what kernels are made of ---- */

struct emulated_dim3 {
    unsigned x, y, z;
};
struct emulated_kernel {
    const char *name;
    struct emulated_dim3 grid, block;
    size_t shared; /* bytes of dynamic shared memory */
};
/* f(arg) once for every thread of every block; called by what is enqueued. */
void emulate(const struct emulated_kernel *k, void (*f)(void *), void *arg);
/* A stream will call run with a copy of the bytes; memory of the device is open then. */
void emulated_enqueue(cudaStream_t stream, void (*run)(void *), const void *arg, size_t bytes);
void emulated_barrier(void);
void emulated_pause(const void *number);      /* others' turn, until the 8 bytes change */
void emulated_barrier_of(int id, unsigned n); /* of n threads, id < 16 */
void emulated_arrive(int id, unsigned n);     /* at it, without waiting for the others */
/* Every lane gives n bytes, at most 32, and gets all 32 lanes' in rows of 32 bytes. */
const char (*emulated_exchange(const void *mine, size_t n))[32];
int emulated_lane(void);
/* A copy that is under way until its group is waited for. */
void emulated_copy(void *to, const void *from, size_t n);
void emulated_commit(void);
void emulated_wait(int n_open);
void emulated_stop(const char *why);
extern struct emulated_dim3 emulated_threadIdx, emulated_blockIdx, emulated_blockDim, emulated_gridDim;
extern unsigned char *emulated_shared; /* dynamic shared memory of the block */
#ifdef __cplusplus
}
#include "tests/emulator/device.h"
#endif
#endif
