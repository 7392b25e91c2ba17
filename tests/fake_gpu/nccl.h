/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_FAKE_GPU_NCCL_H
#define BATON_TESTS_FAKE_GPU_NCCL_H
/* nccl.h - as much of NCCL's interface as dist/ uses; fake_nccl.c executes it. */
#include "tests/fake_gpu/cuda_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NCCL_VERSION_CODE 22809
enum fake_result {
    ncclSuccess = 0,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclRemoteError = 6,
    ncclInProgress = 7,
};
struct fake_comm;
struct fake_id {
    char internal[128];
};
struct fake_config {
    int blocking;
};
enum fake_type { ncclInt8 };
#define ncclResult_t   enum fake_result
#define ncclComm_t     struct fake_comm *
#define ncclUniqueId   struct fake_id
#define ncclConfig_t   struct fake_config
#define ncclDataType_t enum fake_type
#define NCCL_CONFIG_INITIALIZER                                                                                        \
    { 1 }

ncclResult_t ncclGetVersion(int *version);
ncclResult_t ncclGetUniqueId(ncclUniqueId *id);
ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n, ncclUniqueId id, int rank, ncclConfig_t *config);
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *e);
ncclResult_t ncclCommAbort(ncclComm_t c);
ncclResult_t ncclCommDestroy(ncclComm_t c);
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);
ncclResult_t ncclSend(const void *p, size_t n, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s);
ncclResult_t ncclRecv(void *p, size_t n, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s);
const char *ncclGetErrorString(ncclResult_t e);
const char *ncclGetLastError(ncclComm_t c);

#ifdef __cplusplus
}
#endif
#endif
