/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_DEVICE_CUH
#define BATON_KERNELS_DEVICE_CUH
/* device.cuh - what every <op>.cu starts with: launches, the cut of work, sums of fixed order.
 *
 * A launcher checks its tensors on the host and enqueues kernels on ctx->stream; it never waits, so what lies in
 * device memory (ids, ranges) is not looked at: their maker checks them on the host.  The arguments of an op go to its
 * kernels as they are, by value. */
#include <cuda_runtime.h>
#include <inttypes.h>
#include "kernels/check.h"
#include "kernels/ops.h"

#define THREADS 256
#define WARP    32
#define WARPS   (THREADS / WARP)

#ifndef BATON_EMULATED
#define START(kernel, grid, block, bytes, stream, ...) kernel<<<(grid), (block), (bytes), (stream)>>>(__VA_ARGS__)
#endif

/* Enqueues a kernel unless the grid is empty; `c` is in scope. */
#define LAUNCH(kernel, grid, block, ...)                                                                               \
    do {                                                                                                               \
        const dim3 grid_ = (grid);                                                                                     \
        if (grid_.x == 0 || grid_.y == 0 || grid_.z == 0) break;                                                       \
        START(kernel, grid_, (block), 0, (cudaStream_t)c->stream, __VA_ARGS__);                                        \
        const cudaError_t error_ = cudaGetLastError();                                                                 \
        FAIL_UNLESS(error_ == cudaSuccess, ERR_CUDA, "the kernel %s does not start: %s; run with --device cpu",        \
                    #kernel, cudaGetErrorString(error_));                                                              \
    } while (0)

/* A kernel with more shared memory than 48 KiB. */
#define LAUNCH_SHARED(kernel, grid, threads, bytes, ...)                                                               \
    do {                                                                                                               \
        const int64_t grid_ = (grid);                                                                                  \
        if (grid_ == 0) break;                                                                                         \
        FAIL_UNLESS(grid_ <= INT32_MAX, ERR_ARG, "%s: %" PRId64 " blocks are too many", #kernel, grid_);               \
        cudaError_t error_ = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes));  \
        if (error_ == cudaSuccess) {                                                                                   \
            START(kernel, (unsigned)grid_, (threads), (size_t)(bytes), (cudaStream_t)c->stream, __VA_ARGS__);          \
            error_ = cudaGetLastError();                                                                               \
        }                                                                                                              \
        FAIL_UNLESS(error_ == cudaSuccess, ERR_CUDA, "the kernel %s does not start: %s; run with --device cpu",        \
                    #kernel, cudaGetErrorString(error_));                                                              \
    } while (0)

/* An op that needs no workspace; an op that has no backward. */
#define NO_WORK(op)                                                                                                    \
    extern "C" int64_t op##_work_cuda(const struct ctx *, const struct op *) { return 0; }
#define NO_BACKWARD(op)                                                                                                \
    extern "C" enum status op##_bwd_cuda(struct ctx *, const struct op *) { FAIL(ERR_ARG, #op " has no backward"); }

/* Types of the call, `c` in scope: kernels/README.md says what is which. */
static inline enum dtype real_of(const struct ctx *c) {
    ASSERT(c->real == F32 || c->real == BF16); /* a run in another type on a GPU is refused before */
    return c->real;
}
#define REAL real_of(c)
#define WIDE dtype_wide(real_of(c))

static inline __host__ __device__ int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }
static inline __host__ __device__ int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline __host__ __device__ int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static inline __device__ float *row(const struct tensor &t, int64_t i) { return (float *)t.data + i * t.pitch; }
static inline __device__ int64_t long_at(const struct tensor &t, int64_t i) { return ((const int64_t *)t.data)[i]; }

/* ---- elementwise work on n rows of `width` elements: threads of a warp side by side along a row, or along
 * several short ones ---- */

static inline dim3 cells_block(int64_t width) {
    unsigned x = 1;
    while (x < THREADS && x < width) x *= 2;
    return dim3(x, THREADS / x);
}
static inline dim3 cells_grid(int64_t n, int64_t width) {
    const dim3 block = cells_block(width);
    return dim3((unsigned)least(ceil_div(width, block.x), 1 << 20), (unsigned)least(ceil_div(n, block.y), 1 << 15));
}
#define LAUNCH_CELLS(kernel, n, width, ...) LAUNCH(kernel, cells_grid((n), (width)), cells_block(width), __VA_ARGS__)
/* Loops that most threads enter once: unrolled, they would begin with a division of 64 bits. */
#define NO_UNROLL _Pragma("unroll 1")
#define FOR_CELLS(t, i, n, width)                                                                                      \
    NO_UNROLL for (int64_t t = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; t < (n);                                \
                   t += (int64_t)gridDim.y * blockDim.y)                                                               \
        NO_UNROLL for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (width);                        \
                       i += (int64_t)gridDim.x * blockDim.x)

/* ---- one warp per item: blocks of (WARP, WARPS) threads ---- */

#define LAUNCH_WARPS(kernel, n, ...)                                                                                   \
    LAUNCH(kernel, dim3((unsigned)least(ceil_div((n), WARPS), 1 << 20)), dim3(WARP, WARPS), __VA_ARGS__)
#define FOR_WARPS(item, n)                                                                                             \
    for (int64_t item = (int64_t)blockIdx.x * WARPS + threadIdx.y; item < (n); item += (int64_t)gridDim.x * WARPS)

/* Every lane gets the same bits. */
static inline __device__ double warp_sum(double x) {
    for (int half = WARP / 2; half > 0; half /= 2) x += __shfl_xor_sync(0xffffffffu, x, half);
    return x;
}
static inline __device__ float warp_most(float x) {
    for (int half = WARP / 2; half > 0; half /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, half));
    return x;
}
/* Over the THREADS threads of a one-dimensional block; `room` holds WARPS numbers of shared memory. */
static inline __device__ double block_sum(double x, double *room) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    double sum = 0.0;
    for (int i = 0; i < WARPS; i++) sum += room[i];
    return sum;
}
static inline __device__ float block_most(float x, double *room) {
    x = warp_most(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = (double)x;
    __syncthreads();
    double top = room[0];
    for (int i = 1; i < WARPS; i++) top = fmax(top, room[i]);
    return (float)top;
}

/* ---- sums over tokens, one number per channel, in two levels of fixed order: each part of the rows into a line of
 * F64 in ctx->work, then the lines, ascending ---- */

static inline __host__ __device__ int64_t part_rows(int64_t n) { return most(WARP, ceil_div(n, 512)); }
static inline __host__ __device__ int64_t part_count(int64_t n) { return ceil_div(n, part_rows(n)); }
static inline int64_t lines_bytes(int64_t n_rows, int64_t width) {
    return arena_round(part_count(n_rows) * width * (int64_t)sizeof(double));
}

/* value(a, t, i): what row t adds to channel i. */
template <typename args, float (*value)(const args &, int64_t, int64_t)>
__global__ static void lines_make(const args a, double *lines, int64_t n_rows, int64_t width) {
    const int64_t begin = blockIdx.y * part_rows(n_rows), end = least(n_rows, begin + part_rows(n_rows));
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < width; i += (int64_t)gridDim.x * blockDim.x) {
        double sum = 0.0;
        for (int64_t t = begin; t < end; t++) sum += (double)value(a, t, i);
        lines[blockIdx.y * width + i] = sum;
    }
}

__global__ static void lines_add(const double *lines, int64_t n_lines, int64_t width, float *sum) {
    FOR_CELLS(unused, i, 1, width) {
        double total = 0.0;
        for (int64_t l = 0; l < n_lines; l++) total += lines[l * width + i];
        sum[i] += (float)total;
    }
}

/* sum[i] += the values of all rows; `lines` has room for lines_bytes(n_rows, width). */
template <typename args, float (*value)(const args &, int64_t, int64_t)>
static enum status sum_rows(struct ctx *c, const args &a, double *lines, int64_t n_rows, int64_t width, float *sum) {
    if (n_rows == 0 || width == 0) return OK;
    const int64_t n = part_count(n_rows);
    const dim3 grid((unsigned)least(ceil_div(width, 128), 1 << 20), (unsigned)n);
    LAUNCH((lines_make<args, value>), grid, 128, a, lines, n_rows, width);
    LAUNCH_CELLS(lines_add, 1, width, lines, n, width, sum);
    return OK;
}

/* ---- the functions of real_math.h ---- */

static inline __device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
static inline __device__ float silu(float x) { return x / (1.0f + expf(-x)); }
static inline __device__ float dsilu(float x) {
    const float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
#endif
