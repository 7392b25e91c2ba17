/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_MMA_CUH
#define BATON_KERNELS_MMA_CUH
/* mma.cuh - products of BF16 tiles on the tensor cores: mma.sync m16n8k16, sums in F32, and tiles in shared memory.
 *
 * Registers, lane l, g = l / 4, c = 2 (l % 4):   (PTX ISA, "Matrix Fragments for mma.m16n8k16")
 *   A (16 x 16)  a[0] (g, c..c+1)   a[1] (g + 8, c..)   a[2] (g, c + 8..)   a[3] (g + 8, c + 8..)
 *   B (16 x 8)   b[0] (c..c+1, g)   b[1] (c + 8.., g)
 *   D (16 x 8)   d[0..1] (g, c..c+1)   d[2..3] (g + 8, c..c+1): two D side by side, rounded, are an A
 * A tile is rows of L BF16 in shared memory, L a multiple of 64; the 16-byte pieces of a row are permuted by the row's
 * number, so that eight rows at one column lie in eight different banks. */
#include "kernels/device.cuh"

#ifndef BATON_EMULATED /* tests/emulator/device.h has these */
static inline __device__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* Lane l gives the address of row l % 8 of matrix l / 8; register i receives matrix i. */
static inline __device__ void ldmatrix(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
static inline __device__ void ldmatrix_t(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
/* The way back: matrix i from register i. */
static inline __device__ void stmatrix(const uint32_t r[4], void *row) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
static inline __device__ void mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 16 and 4 bytes from global to shared memory, under way until cp_wait. */
static inline __device__ void cp_async16(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
/* 16 bytes, or zeros. */
static inline __device__ void cp_async16_or_zero(void *to, const void *from, bool copy) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(copy ? 16 : 0)
                 : "memory");
}
static inline __device__ void cp_async4(void *to, const void *from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
static inline __device__ void cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* All but the n youngest groups have arrived, of this thread's own copies: a barrier follows. */
template <int n> static inline __device__ void cp_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

/* Two floats, rounded to nearest even, the first in the lower half. */
static inline __device__ uint32_t pack(float low, float high) {
    uint32_t u;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
    return u;
}
static inline __device__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static inline __device__ float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/* 16 and 8 bytes to global memory in one access, which the compiler, left to itself, at times cuts into four or two. */
static inline __device__ void store_whole(void *to, uint4 v) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}
static inline __device__ void store_whole(void *to, uint2 v) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(v.x), "r"(v.y) : "memory");
}
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

typedef uint16_t bf16_bits;
static inline __device__ float low_half(uint32_t u) { return __uint_as_float(u << 16); }
static inline __device__ float high_half(uint32_t u) { return __uint_as_float(u & 0xffff0000u); }
static inline __device__ float bf16_float(bf16_bits b) { return __uint_as_float((uint32_t)b << 16); }

/* The 16-byte piece of a tile that holds (row, col); of its columns, col % 8. */
template <int L> static inline __device__ bf16_bits *tile_piece(bf16_bits *tile_at, int row, int col) {
    static_assert(L % 64 == 0, "eight pieces in a row");
    return tile_at + row * L + (((col >> 3) ^ (row & 7)) << 3);
}
/* Columns col and col + 1, col even. */
template <int L> static inline __device__ uint32_t tile_pair(const bf16_bits *at, int row, int col) {
    return *(const uint32_t *)(tile_piece<L>((bf16_bits *)at, row, col) + (col & 7));
}

/* Fragments of tiles.  *_rows: the operand's rows (A) or columns (B) are the tile's rows, its terms side by side in
 * memory; *_cols: the other way round.  B fragments come in pairs: b[0..1] of columns n0, b[2..3] of n0 + 8. */
template <int L> static inline __device__ void a_rows(uint32_t a[4], const bf16_bits *at, int m0, int k0) {
    const int l = threadIdx.x % WARP;
    ldmatrix(a, tile_piece<L>((bf16_bits *)at, m0 + (l & 15), k0 + ((l >> 4) << 3)));
}
template <int L> static inline __device__ void a_cols(uint32_t a[4], const bf16_bits *at, int m0, int k0) {
    const int l = threadIdx.x % WARP;
    ldmatrix_t(a, tile_piece<L>((bf16_bits *)at, k0 + (l & 7) + ((l >> 4) << 3), m0 + (((l >> 3) & 1) << 3)));
}
template <int L> static inline __device__ void b_rows(uint32_t b[4], const bf16_bits *at, int n0, int k0) {
    const int l = threadIdx.x % WARP;
    ldmatrix(b, tile_piece<L>((bf16_bits *)at, n0 + (l & 7) + ((l >> 4) << 3), k0 + (((l >> 3) & 1) << 3)));
}
template <int L> static inline __device__ void b_cols(uint32_t b[4], const bf16_bits *at, int n0, int k0) {
    const int l = threadIdx.x % WARP;
    ldmatrix_t(b, tile_piece<L>((bf16_bits *)at, k0 + (l & 15), n0 + ((l >> 4) << 3)));
}

/* Rows of L columns on their way into a tile of `rows` rows; those from n on become zero.  `whole`: rows begin at
 * multiples of 16 bytes. */
template <int L>
static __device__ void tile_fetch(bf16_bits *to, const bf16_bits *from, int64_t pitch, int rows, int n, bool whole) {
    constexpr int pieces = L / 8;
    for (int i = threadIdx.x; i < rows * pieces; i += blockDim.x) {
        const int r = i / pieces, col = i % pieces * 8;
        bf16_bits *piece = tile_piece<L>(to, r, col);
        if (r >= n) *(uint4 *)piece = make_uint4(0, 0, 0, 0);
        else if (whole) cp_async16(piece, from + r * pitch + col);
        else
            for (int e = 0; e < 8; e++) piece[e] = from[r * pitch + col + e];
    }
}
#endif
