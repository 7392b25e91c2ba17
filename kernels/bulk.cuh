/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_BULK_CUH
#define BATON_KERNELS_BULK_CUH
/* bulk.cuh - boxes of a matrix of BF16 copied to shared memory by the tensor memory accelerator of sm_90a, and the
 * barriers in shared memory that say when they are there; the way back, of plain bytes, which may be added to what is
 * there.   (PTX ISA, "cp.async.bulk", "cp.reduce.async.bulk", "cp.async.bulk.tensor", "mbarrier")
 *
 * A box is 64 columns of up to 256 rows and becomes a panel of wgmma.cuh; what lies outside the tensor becomes zeros.
 * A barrier's phase ends when `count` threads have arrived and all bytes that were announced are there; phases have the
 * parities 0, 1, 0, ...: bulk_wait(b, 0) returns when the first has ended, or at once in the third.
 *
 * What goes back is under way from bulk_put or bulk_add to the wait of the same thread for its batch.  Threads that
 * wrote the source have said shared_fence and arrived somewhere before. */
#include "kernels/mma.cuh"

#ifndef BATON_EMULATED /* tests/emulator/bulk.h has these */
#include <cuda.h>
typedef CUtensorMap tensor_map;

static inline __device__ void bulk_barrier_init(uint64_t *b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
/* Behind the inits, by their thread; a barrier of the block follows. */
static inline __device__ void bulk_barriers_see() {
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}
static inline __device__ void bulk_arrive(uint64_t *b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
/* Arrives, and announces bytes. */
static inline __device__ void bulk_expect(uint64_t *b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
                 : "memory");
}
static inline __device__ void bulk_wait(uint64_t *b, int parity) {
    asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra ended;\n"
                 "bra again;\nended:\n}\n" ::"r"(shared_address(b)),
                 "r"(parity)
                 : "memory");
}
/* The box whose first column, row and matrix these are. */
static inline __device__ void bulk_fetch(void *to, const tensor_map *map, int column, int row, int matrix,
                                         uint64_t *b) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, "
                 "%4}], [%5];" ::"r"(shared_address(to)),
                 "l"(map), "r"(column), "r"(row), "r"(matrix), "r"(shared_address(b))
                 : "memory");
}
/* Bytes side by side, a multiple of 16. */
static inline __device__ void bulk_copy(void *to, const void *from, int bytes, uint64_t *b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(b))
                 : "memory");
}
/* To global memory, where others' turn was waited for (turns.cuh) before bulk_turn: F32, each rounded as + does. */
static inline __device__ void bulk_turn() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
static inline __device__ void bulk_put(float *to, const float *from, int bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
                 "r"(bytes)
                 : "memory");
}
static inline __device__ void bulk_add(float *to, const float *from, int bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
                 "r"(shared_address(from)), "r"(bytes)
                 : "memory");
}
static inline __device__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/* Of all batches: their sources are read; they are there, so that a turn may be passed on. */
static inline __device__ void bulk_taken() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
static inline __device__ void bulk_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
/* Bytes of global memory, multiples of 16, into the L2 cache. */
static inline __device__ void bulk_prefetch(const void *at, int bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(bytes) : "memory");
}
typedef CUresult tensor_map_encode(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                   const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
static inline tensor_map_encode *tensor_map_encoder() {
    void *f = NULL;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t e =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
    return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? (tensor_map_encode *)f : NULL;
}

/* `matrices` matrices of rows x cols, rows `pitch` and matrices `apart` elements apart (multiples of 8), in boxes of
 * 64 x box_rows. */
static inline enum status tensor_map_apart(tensor_map *map, const void *at, int64_t cols, int64_t rows,
                                           int64_t matrices, int64_t pitch, int64_t apart, int box_rows) {
    static tensor_map_encode *const encode = tensor_map_encoder();
    const cuuint64_t dims[] = {(cuuint64_t)cols, (cuuint64_t)rows, (cuuint64_t)matrices};
    const cuuint64_t strides[] = {(cuuint64_t)pitch * 2, (cuuint64_t)apart * 2};
    const cuuint32_t box[] = {64, (cuuint32_t)box_rows, 1}, steps[] = {1, 1, 1};
    FAIL_UNLESS(encode, ERR_CUDA, "the driver has no cuTensorMapEncodeTiled; a driver for CUDA 12 or later is needed");
    const CUresult e = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)at, dims, strides, box, steps,
                              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    FAIL_UNLESS(e == CUDA_SUCCESS, ERR_CUDA, "the driver refuses a matrix of %" PRId64 " x %" PRId64 ": error %d", rows,
                cols, (int)e);
    return OK;
}
/* The matrices behind each other. */
static inline enum status tensor_map_make(tensor_map *map, const void *at, int64_t cols, int64_t rows, int64_t matrices,
                                          int64_t pitch, int box_rows) {
    return tensor_map_apart(map, at, cols, rows, matrices, pitch, pitch * rows, box_rows);
}
#endif

/* The arrival of a warp: of one lane for all of it.  racecheck does not follow that: for it each lane arrives. */
#ifdef BATON_RACECHECK
constexpr int WARP_ARRIVALS = WARP;
#else
constexpr int WARP_ARRIVALS = 1;
#endif
static inline __device__ void bulk_warp_arrive(uint64_t *b) {
    __syncwarp();
    if (threadIdx.x % WARP < WARP_ARRIVALS) bulk_arrive(b);
}
#endif
