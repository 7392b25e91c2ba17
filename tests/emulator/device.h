/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_EMULATOR_DEVICE_H
#define BATON_TESTS_EMULATOR_DEVICE_H
/* device.h - the words of CUDA C, for C++ on the CPU: included by cuda_runtime.h. */
#ifdef __cplusplus
#include <tuple>
#include <type_traits>
#include "tests/emulator/cuda_runtime.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n)  alignas(n)
#define threadIdx     emulated_threadIdx
#define blockIdx      emulated_blockIdx
#define blockDim      emulated_blockDim
#define gridDim       emulated_gridDim
#define __syncthreads emulated_barrier

struct dim3 : emulated_dim3 {
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : emulated_dim3{a, b, c} {}
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }
static inline uint2 make_uint2(unsigned a, unsigned b) { return {a, b}; }
static inline int4 make_int4(int a, int b, int c, int d) { return {a, b, c, d}; }
static inline float2 make_float2(float a, float b) { return {a, b}; }
static inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }

static inline float __uint_as_float(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline uint32_t __float_as_uint(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

#define __expf expf
template <typename T> static inline T min(T a, T b) { return a < b ? a : b; }
template <typename T> static inline T max(T a, T b) { return a > b ? a : b; }
static inline void sincospif(float x, float *sine, float *cosine) {
    *sine = (float)sin(M_PI * (double)x);
    *cosine = (float)cos(M_PI * (double)x);
}
static inline float normcdff(float x) { return 0.5f * erfcf(-0.70710678f * x); }

template <typename T> static inline T emulated_from(const char (*lanes)[32], int lane) {
    T x;
    memcpy(&x, lanes[lane], sizeof x);
    return x;
}
template <typename T> static inline T __shfl_sync(unsigned, T x, int lane) {
    return emulated_from<T>(emulated_exchange(&x, sizeof x), lane & 31);
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T x, int mask) {
    return emulated_from<T>(emulated_exchange(&x, sizeof x), (emulated_lane() ^ mask) & 31);
}
template <typename T> static inline T __shfl_up_sync(unsigned, T x, int by, int width = 32) {
    const int lane = emulated_lane();
    return emulated_from<T>(emulated_exchange(&x, sizeof x), lane % width >= by ? lane - by : lane);
}
template <typename T> static inline T __shfl_down_sync(unsigned, T x, int by, int width = 32) {
    const int lane = emulated_lane();
    return emulated_from<T>(emulated_exchange(&x, sizeof x), lane % width + by < width ? lane + by : lane);
}
static inline unsigned __ballot_sync(unsigned, bool x) {
    const char(*lanes)[32] = emulated_exchange(&x, sizeof x);
    unsigned all = 0;
    for (int i = 0; i < 32; i++) all |= (unsigned)emulated_from<bool>(lanes, i) << i;
    return all;
}
template <typename T> static inline unsigned __match_any_sync(unsigned, T x) {
    const char(*lanes)[32] = emulated_exchange(&x, sizeof x);
    unsigned same = 0;
    for (int i = 0; i < 32; i++) same |= (unsigned)(emulated_from<T>(lanes, i) == x) << i;
    return same;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int atomicAdd(int *p, int x) { /* blocks and threads take turns */
    *p += x;
    return *p - x;
}
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline void __syncwarp(unsigned = 0) { emulated_exchange("", 1); }

/* What kernel<<<grid, block, bytes, stream>>>(...) says: arguments are what they are now. */
template <typename T> struct emulated_same { typedef T type; };
template <typename F> static void emulated_call(void *f) { (*(F *)f)(); }
template <typename... P>
static void emulated_launch(const char *name, dim3 grid, dim3 block, size_t bytes, cudaStream_t stream,
                            void (*kernel)(P...), typename emulated_same<P>::type... arguments) {
    static_assert((std::is_trivially_copyable<P>::value && ...), "arguments of a kernel are bytes");
    const struct emulated_kernel k = {name, grid, block, bytes};
    const std::tuple<P...> all(arguments...);
    auto thread = [kernel, all] { std::apply(kernel, all); };
    auto launch = [k, thread]() mutable { emulate(&k, emulated_call<decltype(thread)>, &thread); };
    emulated_enqueue(stream, emulated_call<decltype(launch)>, &launch, sizeof launch);
}
#define START(kernel, grid, block, bytes, stream, ...)                                                                 \
    emulated_launch(#kernel, (grid), (block), (bytes), (stream), kernel, __VA_ARGS__)
template <typename F> static inline cudaError_t cudaFuncSetAttribute(F, int, int bytes) { return bytes > 227 * 1024; }
#define DYNAMIC_SHARED(name) unsigned char *name = emulated_shared

/* ---- the tensor core, as mma.cuh says ---- */

static inline uint32_t emulated_bf16(float x) {
    const uint32_t u = __float_as_uint(x);
    return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}
static inline uint32_t pack(float low, float high) { return emulated_bf16(low) | emulated_bf16(high) << 16; }
static inline void store_whole(void *to, uint4 v) { *(uint4 *)to = v; }
static inline void store_whole(void *to, uint2 v) { *(uint2 *)to = v; }
static inline float exp2_fast(float x) { return exp2f(x); }
static inline float reciprocal_fast(float x) { return 1.0f / x; }

static inline void emulated_matrices(uint32_t r[4], const void *row, bool trans) {
    const char(*rows)[32] = emulated_exchange(&row, sizeof row);
    const int lane = emulated_lane();
    for (int i = 0; i < 4; i++) {
        uint32_t e[2];
        for (int k = 0; k < 2; k++) {
            const int from = trans ? lane % 4 * 2 + k : lane / 4, col = trans ? lane / 4 : lane % 4 * 2 + k;
            e[k] = emulated_from<const uint16_t *>(rows, 8 * i + from)[col];
        }
        r[i] = e[0] | e[1] << 16;
    }
}
static inline void ldmatrix(uint32_t r[4], const void *row) { emulated_matrices(r, row, false); }
static inline void ldmatrix_t(uint32_t r[4], const void *row) { emulated_matrices(r, row, true); }

static inline void stmatrix(const uint32_t r[4], void *row) {
    const char(*rows)[32] = emulated_exchange(&row, sizeof row);
    const int lane = emulated_lane();
    for (int i = 0; i < 4; i++) emulated_from<uint32_t *>(rows, 8 * i + lane / 4)[lane % 4] = r[i];
    __syncwarp();
}

static inline void mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    struct operands {
        uint32_t a[4], b[2];
    };
    const operands own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const char(*lanes)[32] = emulated_exchange(&own, sizeof own);
    for (int i = 0; i < 4; i++) {
        const int m = emulated_lane() / 4 + i / 2 * 8, n = emulated_lane() % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            const uint32_t x = emulated_from<operands>(lanes, m % 8 * 4 + k % 8 / 2).a[m / 8 + k / 8 * 2];
            const uint32_t y = emulated_from<operands>(lanes, n * 4 + k % 8 / 2).b[k / 8];
            d[i] +=
                __uint_as_float(k % 2 ? x & 0xffff0000u : x << 16) * __uint_as_float(k % 2 ? y & 0xffff0000u : y << 16);
        }
    }
}

static inline void cp_async16(void *to, const void *from) { emulated_copy(to, from, 16); }
static inline void cp_async16_or_zero(void *to, const void *from, bool copy) {
    alignas(16) static const char zeros[16] = {0};
    emulated_copy(to, copy ? from : zeros, 16);
}
static inline void cp_async4(void *to, const void *from) { emulated_copy(to, from, 4); }
static inline void cp_commit() { emulated_commit(); }
template <int n> static inline void cp_wait() { emulated_wait(n); }

/* ---- turns.cuh ---- */

static inline void turn_await(const unsigned *turn, unsigned n) {
    if (*turn != n) emulated_stop("a block waits for a turn that does not come");
}
static inline bool turn_came(const unsigned *turn, unsigned n) { return *turn == n; }
static inline void turn_pass(unsigned *turn, unsigned n, bool mine) {
    if (mine) *turn = n;
}
static inline void sum_store(float4 *p, float4 x) { *p = x; }
static inline void sum_add(float4 *p, float4 x) { *p = {p->x + x.x, p->y + x.y, p->z + x.z, p->w + x.w}; }

#include "tests/emulator/wgmma.h"
#include "tests/emulator/bulk.h"
#endif
#endif
