/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/rope/rope.h"
#include "kernels/device.cuh"

/* A thread owns one pair of channels of one token, in all heads: its sines are made once. */
__global__ static void turn_cells(const struct rope a, const struct tensor x, double direction) {
    const int64_t half = a.rot / 2, P = x.shape[1] / a.heads;
    FOR_CELLS(t, i, x.shape[0], half) {
        const double angle = (double)long_at(a.pos, t) * pow(a.theta, -2.0 * (double)i / (double)a.rot);
        const float cosine = (float)cos(angle), sine = (float)(direction * sin(angle));
        float *at = row(x, t) + i;
        for (int64_t h = 0; h < a.heads; h++, at += P) {
            const float x0 = at[0], x1 = at[half];
            at[0] = x0 * cosine - x1 * sine;
            at[half] = x1 * cosine + x0 * sine;
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
    TRY(check_shape(c, "rope", name, x, F32, 2, dims));
    LAUNCH_CELLS(turn_cells, T, a->rot / 2, *a, x, direction);
    return OK;
}

extern "C" enum status rope_fwd_cuda(struct ctx *c, const struct rope *a) { return turn(c, a, "x", a->x, 1.0); }
extern "C" enum status rope_bwd_cuda(struct ctx *c, const struct rope *a) { return turn(c, a, "dx", a->dx, -1.0); }
NO_WORK(rope)
