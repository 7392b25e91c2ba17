/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* Rotary positions against angles in long double, at positions up to a million; channels beyond rot untouched; backward
 * undoes forward; rows of one position turn alike wherever they lie. */
#include <inttypes.h>
#include "base/rng.h"
#include "tests/check.h"
#include "kernels/ops.h"
#include "kernels/rope/rope.h"

enum { T = 6, H = 3, P = 10, ROT = 6 };

static void against_long_double(struct ctx *ctx) {
    static int64_t pos[T] = {0, 1, 2, 5000, 1000000, 1};
    static double x[T * H * P], y[T * H * P];
    for (int i = 0; i < T * H * P; i++) x[i] = y[i] = rng_normal(1, 1, (uint64_t)(i % (H * P)));
    const struct rope a = {.pos = tensor_1d(pos, I64, T),
                           .x = tensor_2d(y, F64, T, H * P),
                           .dx = tensor_2d(y, F64, T, H * P),
                           .heads = H,
                           .rot = ROT,
                           .theta = 1e4};
    MUST(ctx->ops->rope_fwd(ctx, &a));
    for (int i = 0; i < T * H * P; i++) {
        const int t = i / (H * P), p = i % P, pair = p % (ROT / 2), first = i - p + pair;
        long double want = x[i];
        if (p < ROT) {
            const long double angle = (long double)pos[t] * powl(1e4L, -2.0L * pair / ROT);
            want = p < ROT / 2 ? x[first] * cosl(angle) - x[first + ROT / 2] * sinl(angle)
                               : x[first + ROT / 2] * cosl(angle) + x[first] * sinl(angle);
        }
        /* The angle is rounded once to F64: an error of its size times 2^-53, and the frequency's beside it. */
        const double bound = 1e-15 + 4e-16 * (double)pos[t];
        CHECK(fabs((double)(y[i] - want)) <= bound * 4, "position %" PRId64 ", channel %d: %.17g, expected %.17g",
              pos[t], p, y[i], (double)want);
    }
    for (int i = 0; i < H * P; i++)
        CHECK(y[H * P + i] == y[5 * H * P + i], "position 1 turns to %.17g in row 1 and to %.17g in row 5",
              y[H * P + i], y[5 * H * P + i]);
    MUST(ctx->ops->rope_bwd(ctx, &a));
    for (int i = 0; i < T * H * P; i++)
        CHECK(fabs(y[i] - x[i]) <= 1e-15 * 8, "element %d: %.17g after both passes, %.17g before", i, y[i], x[i]);
}

int main(void) {
    struct arena work;
    struct ctx ctx = {.ops = &ops_ref64, .work = &work, .real = F64, .space = HOST};
    MUST(arena_init(&work, "workspace", 1 << 16));
    against_long_double(&ctx);
    arena_term(&work);
    return check_end();
}
