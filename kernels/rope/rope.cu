/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/rope/rope.h"
#include "kernels/packs.cuh"

#define TABLE 1024 /* sines of a block: those of some tokens' pairs */

/* A block turns all heads of `rows` tokens: first their cosines and sines, then n pairs a thread at a time.  A half
 * turn is the unit of angles, so that what is left of one after whole turns is exact in F64 and small.  Moves 8 bytes
 * an element that turns in F32, 4 in BF16. */
template <typename real, int n>
__global__ __launch_bounds__(THREADS) static void turn_tiles(const struct rope a, const struct tensor x,
                                                             float direction, int rows) {
    __shared__ double speed[TABLE]; /* half turns a token */
    alignas(16) __shared__ float cosine[TABLE], sine[TABLE];
    const int64_t half = a.rot / 2, P = x.shape[1] / a.heads, t0 = (int64_t)blockIdx.x * rows;
    const int64_t first = (int64_t)blockIdx.y * TABLE;
    const int width = (int)least(TABLE, half - first), here = (int)least(rows, x.shape[0] - t0), H = (int)a.heads;
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    for (int i = thread; i < width; i += threads)
        speed[i] = pow(a.theta, -2.0 * (double)(first + i) / (double)a.rot) / 3.14159265358979323846;
    __syncthreads();
    for (int e = thread; e < here * width; e += threads) {
        const double turned = (double)long_at(a.pos, t0 + e / width) * speed[e % width];
        sincospif((float)(turned - 2.0 * rint(0.5 * turned)), &sine[e], &cosine[e]);
    }
    __syncthreads();
    for (int e = threadIdx.y; e < here * H; e += blockDim.y) {
        const int t = e / H, h = e % H;
        real *at = row_of<real>(x, t0 + t) + h * P + first;
        for (int i = threadIdx.x * n; i < width; i += blockDim.x * n) {
            float x0[n], x1[n], y0[n], y1[n], c[n], s[n];
            get<n>(x0, at + i), get<n>(x1, at + half + i);
            get<n>(c, cosine + t * width + i), get<n>(s, sine + t * width + i);
            for (int k = 0; k < n; k++) {
                y0[k] = x0[k] * c[k] - direction * x1[k] * s[k];
                y1[k] = x1[k] * c[k] + direction * x0[k] * s[k];
            }
            put<n>(at + i, y0), put<n>(at + half + i, y1);
        }
    }
}

template <typename real, int n>
static enum status launch(struct ctx *c, const struct rope *a, struct tensor x, float direction) {
    const int64_t half = a->rot / 2, rows = most(1, TABLE / half), packs = ceil_div(least(half, TABLE), n);
    const unsigned across = (unsigned)least(packs, THREADS);
    const dim3 grid((unsigned)ceil_div(x.shape[0], rows), (unsigned)ceil_div(half, TABLE));
    LAUNCH((turn_tiles<real, n>), grid, dim3(across, THREADS / across), *a, x, direction, (int)rows);
    return OK;
}

static enum status turn(struct ctx *c, const struct rope *a, const char *name, struct tensor x, float direction) {
    const int64_t T = x.shape[0], channels = x.shape[1], dims[] = {T, channels};
    CHECK_THAT(rope, a->heads > 0 && channels % a->heads == 0,
               "%s has %" PRId64 " channels: expected a multiple of heads, %" PRId64, name, channels, a->heads);
    CHECK_THAT(rope, a->rot >= 0 && a->rot % 2 == 0 && a->rot <= channels / a->heads,
               "rot is %" PRId64 ": expected an even number up to the head's width, %" PRId64, a->rot,
               channels / a->heads);
    CHECK_THAT(rope, a->theta > 0, "theta is %g: expected more than 0", a->theta);
    CHECK_SHAPE(rope, pos, I64, T);
    TRY(check_shape(c, "rope", name, x, REAL, 2, dims));
    if (a->rot == 0) return OK;
    const bool fit = packs_fit(x) && (channels / a->heads) % PACK == 0 && a->rot / 2 % PACK == 0; /* both halves too */
    if (REAL == F32) return launch<float, 1>(c, a, x, direction);
    return fit ? launch<bf16_bits, PACK>(c, a, x, direction) : launch<bf16_bits, 1>(c, a, x, direction);
}

extern "C" enum status rope_fwd_cuda(struct ctx *c, const struct rope *a) { return turn(c, a, "x", a->x, 1.0f); }
extern "C" enum status rope_bwd_cuda(struct ctx *c, const struct rope *a) { return turn(c, a, "dx", a->dx, -1.0f); }
NO_WORK(rope)
