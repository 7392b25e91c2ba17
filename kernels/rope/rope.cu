/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/rope/rope.h"
#include "kernels/packs.cuh"

#define TABLE 1024 /* sines of a block: those of some tokens' pairs */

/* What turns a pair, the same for all tokens: 2^(slope i + shift) half turns a token.  A half turn is the unit of
 * angles, so that what is left of one after whole turns is exact in F64 and small. */
struct turning {
    double slope, shift;
    float direction;
    int rows; /* tokens of a block */
};

/* The block's threads share pairs among them, each with its own for all tokens. */
static __device__ void fill_table(float *cosine, float *sine, const int64_t *pos, const struct turning &r,
                                  int64_t first, int width, int rows) {
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    const int lanes = min(width, threads), step = threads / lanes;
    for (int i = thread % lanes; i < width && thread / lanes < step; i += lanes) {
        const double speed = exp2(r.slope * (double)(first + i) + r.shift);
        for (int t = thread / lanes; t < rows; t += step) {
            const double turned = (double)pos[t] * speed;
            sincospif((float)(turned - 2.0 * rint(0.5 * turned)), &sine[t * width + i], &cosine[t * width + i]);
        }
    }
}

/* A block turns all heads of some tokens: first their cosines and sines, then n pairs a thread at a time.  Moves 8
 * bytes an element that turns in F32, 4 in BF16. */
template <typename real, int n>
__global__ __launch_bounds__(THREADS) static void turn_tiles(const struct rope a, const struct tensor x,
                                                             const struct turning r) {
    alignas(16) __shared__ float cosine[TABLE], sine[TABLE];
    const int64_t half = a.rot / 2, P = x.shape[1] / a.heads, t0 = (int64_t)blockIdx.x * r.rows;
    const int64_t first = (int64_t)blockIdx.y * TABLE;
    const int width = (int)least(TABLE, half - first), here = (int)least(r.rows, x.shape[0] - t0), H = (int)a.heads;
    fill_table(cosine, sine, (const int64_t *)a.pos.data + t0, r, first, width, here);
    __syncthreads();
    for (int e = threadIdx.y; e < here * H; e += blockDim.y) {
        const int t = e / H, h = e % H;
        real *at = row_of<real>(x, t0 + t) + h * P + first;
        for (int i = threadIdx.x * n; i < width; i += blockDim.x * n) {
            float x0[n], x1[n], y0[n], y1[n], c[n], s[n];
            get<n>(x0, at + i), get<n>(x1, at + half + i);
            get<n>(c, cosine + t * width + i), get<n>(s, sine + t * width + i);
            for (int k = 0; k < n; k++) {
                y0[k] = x0[k] * c[k] - r.direction * x1[k] * s[k];
                y1[k] = x1[k] * c[k] + r.direction * x0[k] * s[k];
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
    const struct turning r = {-2.0 / (double)a->rot * log2(a->theta), -log2(3.14159265358979323846), direction,
                              (int)rows};
    LAUNCH((turn_tiles<real, n>), grid, dim3(across, THREADS / across), *a, x, r);
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
