/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/rope/rope.h"
#include "kernels/packs.cuh"

/* A thread owns n pairs of channels of one token, in all heads: their sines are made once.  Moves 8 bytes an element
 * that turns in F32, 4 in BF16. */
template <typename real, int n>
__global__ static void turn_cells(const struct rope a, const struct tensor x, double direction) {
    const int64_t half = a.rot / 2, P = x.shape[1] / a.heads;
    FOR_PACKS(t, i, x.shape[0], half, n) {
        float cosine[n], sine[n];
        for (int k = 0; k < n; k++) {
            const double angle = (double)long_at(a.pos, t) * pow(a.theta, -2.0 * (double)(i + k) / (double)a.rot);
            cosine[k] = (float)cos(angle), sine[k] = (float)(direction * sin(angle));
        }
        real *at = row_of<real>(x, t) + i;
        for (int64_t h = 0; h < a.heads; h++, at += P) {
            float x0[n], x1[n], y0[n], y1[n];
            get<n>(x0, at), get<n>(x1, at + half);
            for (int k = 0; k < n; k++) {
                y0[k] = x0[k] * cosine[k] - x1[k] * sine[k];
                y1[k] = x1[k] * cosine[k] + x0[k] * sine[k];
            }
            put<n>(at, y0), put<n>(at + half, y1);
        }
    }
}

static enum status turn(struct ctx *c, const struct rope *a, const char *name, struct tensor x, double direction) {
    const int64_t T = x.shape[0], channels = x.shape[1], dims[] = {T, channels};
    CHECK_THAT(rope, a->heads > 0 && channels % a->heads == 0,
               "%s has %" PRId64 " channels: expected a multiple of heads, %" PRId64, name, channels, a->heads);
    CHECK_THAT(rope, a->rot >= 0 && a->rot % 2 == 0 && a->rot <= channels / a->heads,
               "rot is %" PRId64 ": expected an even number up to the head's width, %" PRId64, a->rot,
               channels / a->heads);
    CHECK_THAT(rope, a->theta > 0, "theta is %g: expected more than 0", a->theta);
    CHECK_SHAPE(rope, pos, I64, T);
    TRY(check_shape(c, "rope", name, x, REAL, 2, dims));
    const bool fit = packs_fit(x) && (channels / a->heads) % PACK == 0; /* every head's two halves too */
    LAUNCH_PACKS(turn_cells, REAL, fit, T, a->rot / 2, *a, x, direction);
    return OK;
}

extern "C" enum status rope_fwd_cuda(struct ctx *c, const struct rope *a) { return turn(c, a, "x", a->x, 1.0); }
extern "C" enum status rope_bwd_cuda(struct ctx *c, const struct rope *a) { return turn(c, a, "dx", a->dx, -1.0); }
NO_WORK(rope)
