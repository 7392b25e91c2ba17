/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_WGMMA_CUH
#define BATON_KERNELS_WGMMA_CUH
/* wgmma.cuh - products of BF16 tiles by groups of four warps: wgmma m64nNk16, sums in F32, operands in shared memory.
 *
 * A panel is rows of 64 BF16 in shared memory, its 16-byte pieces permuted as tile_piece<64> does: what the hardware
 * calls a swizzle of 128 bytes.  It begins at a multiple of 1024 bytes; a tile wider than 64 is panels behind each
 * other.  An operand is read from panels in one of two ways:
 *   rows   rows of the product (A) or its columns (B) are the panel's rows, the 16 terms lie side by side
 *   cols   the 16 terms are the panel's rows; `lead` is the distance of one panel's 64 columns to the next
 * Warp w of the group holds rows 16 w.. of the sums as mma.cuh's D (16 x N), and of an A in registers as its A.
 * (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions")
 *
 * Products are under way from `wgmma_*` until wgmma_wait: until then neither the sums nor registers of A are touched,
 * nor is shared memory that they read written.  Shared memory written by threads or cp.async is seen by products after
 * shared_fence of the writer and a barrier. */
#include "kernels/mma.cuh"

#define GROUP 128 /* threads of a group of four warps */

/* The same for all lanes, and the compiler knows: products under way must not lie on a path that some may leave. */
static inline __device__ int same(int x) { return __shfl_sync(0xffffffffu, x, 0); }

#ifdef BATON_EMULATED            /* tests/emulator/wgmma.h has the rest */
typedef const bf16_bits *panels; /* where a tile begins */
static inline panels panels_of(const bf16_bits *tile) { return tile; }
static inline panels panels_here(const bf16_bits *tile) { return tile; }
static inline panels panels_on(panels p, int bytes) { return p + bytes / 2; }
static inline panels panels_anew(panels p) { return p; }
struct operand {
    const bf16_bits *at;
    int lead; /* BF16 from panel to panel */
};
static inline struct operand operand_at(panels p, int offset, int lead) { return {p + offset, lead}; }
#else
/* Where a tile begins, in units of 16 bytes of shared memory; the same for all lanes, so that places in it are made by
 * adding constants. */
typedef int panels;
static inline __device__ panels panels_of(const bf16_bits *tile) {
    return same((int)((shared_address(tile) & 0x3ffff) >> 4));
}
/* Without a word to the compiler: where the address is one for all lanes as it stands. */
static inline __device__ panels panels_here(const bf16_bits *tile) {
    return (int)((shared_address(tile) & 0x3ffff) >> 4);
}
static inline __device__ panels panels_on(panels p, int bytes) { return p + bytes / 16; }
/* In a loop: what is made of it is made anew, and takes no registers meanwhile. */
static inline __device__ panels panels_anew(panels p) {
    asm volatile("" : "+r"(p));
    return p;
}
struct operand {
    uint64_t bits;
};
static inline __device__ struct operand operand_at(panels p, int offset, int lead) {
    const uint32_t low = (uint32_t)(p + offset / 8) | (uint32_t)(lead / 8) << 16, high = 1024 / 16 | 1u << 30;
    return {(uint64_t)high << 32 | low};
}
#endif

/* 16 terms side by side, from column k on, of the rows from r on; the tile's panels have `rows` rows. */
static inline __device__ struct operand rows_at(panels p, int rows, int r, int k) {
    return operand_at(p, k / 64 * rows * 64 + r * 64 + k % 64, 0);
}
/* 16 terms below each other, from row k on, of the columns from n on. */
static inline __device__ struct operand cols_at(panels p, int rows, int k, int n) {
    return operand_at(p, n / 64 * rows * 64 + k * 64 + n % 64, rows * 64);
}

#ifndef BATON_EMULATED
/* Before the first product of a batch, of registers that others wrote. */
static inline __device__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
static inline __device__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* All but the n youngest batches are done. */
template <int n> static inline __device__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}
/* After a wait: the compiler keeps what reads these sums behind it. */
template <int n> static inline __device__ void wgmma_settled(float d[n][4]) {
#pragma unroll
    for (int j = 0; j < n; j++) asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])::"memory");
}
static inline __device__ void shared_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#define WGMMA_4(j)    "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define WGMMA_16(j)   WGMMA_4(j), WGMMA_4((j) + 1), WGMMA_4((j) + 2), WGMMA_4((j) + 3)
#define WGMMA_16_REGS "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_32_REGS WGMMA_16_REGS ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_64_REGS                                                                                                  \
    WGMMA_32_REGS ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                 \
                  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_128_REGS                                                                                                 \
    WGMMA_64_REGS ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                 \
                  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                   \
                  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "       \
                  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_SHARED(n, regs, a0, b0, add0, ta0, tb0, ...)                                                             \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, " add0 ", 0; wgmma.mma_async.sync.aligned.m64n" n                     \
                 "k16.f32.bf16.bf16 {" regs "}, " a0 ", " b0 ", p, 1, 1, " ta0 ", " tb0 "; }"                          \
                 : __VA_ARGS__                                                                                         \
                 : "l"(a.bits), "l"(b.bits), "r"((int)add), "n"((int)a_cols), "n"((int)b_cols))
#define WGMMA_REGISTERS(n, regs, r0, r1, r2, r3, b0, add0, tb0, ...)                                                   \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, " add0 ", 0; wgmma.mma_async.sync.aligned.m64n" n                     \
                 "k16.f32.bf16.bf16 {" regs "}, {" r0 ", " r1 ", " r2 ", " r3 "}, " b0 ", p, 1, 1, " tb0 "; }"         \
                 : __VA_ARGS__                                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits), "r"((int)add), "n"((int)b_cols))

/* d (64, N) = a b, or += where `add`; 16 terms. */
template <int N, bool a_cols, bool b_cols>
static inline __device__ void wgmma_shared(float d[N / 8][4], struct operand a, struct operand b, bool add) {
    static_assert(N == 32 || N == 64 || N == 128 || N == 256, "written for these");
    if constexpr (N == 32) WGMMA_SHARED("32", WGMMA_16_REGS, "%16", "%17", "%18", "%19", "%20", WGMMA_16(0));
    else if constexpr (N == 64)
        WGMMA_SHARED("64", WGMMA_32_REGS, "%32", "%33", "%34", "%35", "%36", WGMMA_16(0), WGMMA_16(4));
    else if constexpr (N == 128)
        WGMMA_SHARED("128", WGMMA_64_REGS, "%64", "%65", "%66", "%67", "%68", WGMMA_16(0), WGMMA_16(4), WGMMA_16(8),
                     WGMMA_16(12));
    else
        WGMMA_SHARED("256", WGMMA_128_REGS, "%128", "%129", "%130", "%131", "%132", WGMMA_16(0), WGMMA_16(4),
                     WGMMA_16(8), WGMMA_16(12), WGMMA_16(16), WGMMA_16(20), WGMMA_16(24), WGMMA_16(28));
}
/* The same with a in registers. */
template <int N, bool b_cols>
static inline __device__ void wgmma_registers(float d[N / 8][4], const uint32_t a[4], struct operand b,
                                              bool add = true) {
    static_assert(N == 64 || N == 128, "written for these");
    if constexpr (N == 64)
        WGMMA_REGISTERS("64", WGMMA_32_REGS, "%32", "%33", "%34", "%35", "%36", "%37", "%38", WGMMA_16(0), WGMMA_16(4));
    else
        WGMMA_REGISTERS("128", WGMMA_64_REGS, "%64", "%65", "%66", "%67", "%68", "%69", "%70", WGMMA_16(0), WGMMA_16(4),
                        WGMMA_16(8), WGMMA_16(12));
}
/* Registers of the threads of this group from here on: what one group gives up, others can have. */
template <int n> static inline __device__ void registers_up() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n> static inline __device__ void registers_down() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
/* A barrier of n threads of the block, whole warps; id < 16.  Those that only arrive do not wait.  0 is that of
 * __syncthreads, which all threads should meet in one place of the program: groups that part ways wait at this one. */
static inline __device__ void barrier_of(int id, int n) {
    asm volatile("barrier.cta.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
}
static inline __device__ void barrier_arrive(int id, int n) {
#ifdef BATON_RACECHECK /* which loses threads that wait elsewhere before the others have come */
    barrier_of(id, n);
#else
    asm volatile("barrier.cta.arrive %0, %1;" ::"r"(id), "r"(n) : "memory");
#endif
}
#define DYNAMIC_PANELS(name) extern __shared__ __align__(1024) unsigned char name[]
#endif

/* racecheck loses what barriers of a whole block put in order where part of it meets at one of its own in between: for
 * it all meet there. */
#ifdef BATON_RACECHECK
constexpr bool ALL_MEET = true;
#else
constexpr bool ALL_MEET = false;
#endif
#endif
