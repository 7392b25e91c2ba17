/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_WGMMA_CUH
#define BATON_KERNELS_WGMMA_CUH
/* wgmma.cuh - products of BF16 tiles by a warpgroup, four warps side by side from a multiple of 128 threads: wgmma
 * m64n64k16 of sm_90a, sums in F32, B always and A as wished in shared memory.
 *
 * A panel is rows of 64 BF16 in shared memory, row r's 16-byte pieces permuted by r & 7 (tile_piece<64> of mma.cuh),
 * its first byte at a multiple of 1024: "128-byte swizzle" in PTX ISA, "Asynchronous warpgroup level matrix
 * operations". rows  the operand's M or N runs along the panel's rows, its terms (K) along 64 columns: panel_rows cols
 * the other way round: K runs along rows, M or N along the 64 columns: panel_cols Registers, warp w of the four, lane
 * l, g = 16 w + l / 4, c = 2 (l % 4): those of mma.cuh, row g and g + 8 of 64 A  a[0] (g, c..c+1)  a[1] (g + 8, c..)
 * a[2] (g, c + 8..)  a[3] (g + 8, c + 8..)    D  d[4 j + 0..1] (g, 8 j + c..) d[4 j + 2..3] (g + 8, 8 j + c..)
 *
 * Order: what threads wrote to shared memory (cp.async too) is seen after wgmma_see by each writer and a barrier; then
 * wgmma_begin, products, wgmma_commit.  Their registers, A's too, and their tiles are the hardware's until wgmma_wait.
 * The emulator gives registers NaN and reads tiles at the wait, so what is touched too early shows. */
#include "kernels/mma.cuh"

enum { WARPGROUP = 128, PANEL_COLS = 64 };

/* The thread's warp and warpgroup in its block, which the compiler then knows to be one for all of a warp. */
static inline __device__ int warp_of() { return __shfl_sync(0xffffffffu, (int)threadIdx.x / WARP, 0); }
static inline __device__ int warpgroup_of() { return __shfl_sync(0xffffffffu, (int)threadIdx.x / WARPGROUP, 0); }

/* Where K begins at column k (rows) or at row k (cols), M or N at row i (a multiple of 8); cols has its 64 columns. */
static inline __device__ uint64_t panel_rows(const bf16_bits *panel, int i, int k) {
    return (uint64_t)((shared_address(panel) + i * 128 + k * 2) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
static inline __device__ uint64_t panel_cols(const bf16_bits *panel, int k) {
    return (uint64_t)((shared_address(panel) + k * 128) >> 4) | 64ull << 16 | 64ull << 32 | 1ull << 62;
}

#ifndef BATON_EMULATED /* tests/emulator/wgmma.h has these */
static inline __device__ void wgmma_see() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
static inline __device__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
static inline __device__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* All but the n youngest groups have ended. */
template <int n> static inline __device__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}
/* Behind the wait for the products of d, before d is read. */
template <int n> static inline __device__ void wgmma_ended(float (&d)[n]) {
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+f"(d[i])::"memory");
}

#define WGMMA_8(d, i)                                                                                                  \
    "+f"((d)[i]), "+f"((d)[i + 1]), "+f"((d)[i + 2]), "+f"((d)[i + 3]), "+f"((d)[i + 4]), "+f"((d)[i + 5]),            \
        "+f"((d)[i + 6]), "+f"((d)[i + 7])
#define WGMMA_D                                                                                                        \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "  \
    "%24, %25, %26, %27, %28, %29, %30, %31}"

/* d = A B, or d += A B. */
template <bool a_cols, bool b_cols>
static inline __device__ void wgmma(float (&d)[32], uint64_t a, uint64_t b, bool add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WGMMA_D ", %32, %33, p, 1, 1, %35, %36;\n}\n"
                 : WGMMA_8(d, 0), WGMMA_8(d, 8), WGMMA_8(d, 16), WGMMA_8(d, 24)
                 : "l"(a), "l"(b), "r"((int)add), "n"((int)a_cols), "n"((int)b_cols));
}
template <bool b_cols>
static inline __device__ void wgmma(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WGMMA_D
                 ", {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
                 : WGMMA_8(d, 0), WGMMA_8(d, 8), WGMMA_8(d, 16), WGMMA_8(d, 24)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"((int)b_cols));
}

/* A barrier of n threads, a multiple of 32; 1 <= id < 16. */
static inline __device__ void barrier_of(int id, int n) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
}
#endif
#endif
