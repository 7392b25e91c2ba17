/* SPDX-License-Identifier: Apache-2.0 */
/* The forward of ssd.h in BF16: what enters chunks, by segments (shapes of ssd_walks: ssd_join.cuh) or by the walk over
 * chunks, then outputs of all chunks at once, ssd_outputs.cuh.
 *
 * Bytes per token of 128 heads of P 64, 8 groups of N 128, Q 128: x and y 33 KB, states 16 KB, B and C 4 KB, 12 ns at
 * 4.3 TB/s; where what enters a segment reaches all of its chunks, their states once more, 33 KB, 8 ns.  Flops (N + Q /
 * 2) 2 P = 24,576 a token and head, and 2 N Q a token and group.  Measured on an H200 at 65,536 tokens, decays as in
 * tests/ssd_speed_cuda.c: what enters segments 0.03 ms, what enters chunks 0.09, outputs 1.10 (floor 0.80), and since
 * their last round is cut finer and time steps take less, both halves together 0.05 less: 29.9 ns a token. */
#include "kernels/ssd/ssd_outputs.cuh"

enum status ssd_shape_bf16(const struct ssd *a) {
    const int64_t H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    CHECK_THAT(ssd, H > 0 && G > 0 && H % G == 0 && ssd_has_shape(P, N, a->chunk),
               "heads %" PRId64 ", groups %" PRId64 ", head_width %" PRId64 ", state %" PRId64 ", chunk %" PRId64
               ": in bf16 expected groups dividing heads, " SSD_SHAPES,
               H, G, P, N, a->chunk);
    return OK;
}

enum status ssd_check_bf16(struct ctx *c, const struct ssd *a) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, G = a->groups;
    const int64_t R = a->range.shape[0] - 1, n = a->states.shape[0];
    TRY(ssd_shape_bf16(a));
    CHECK_THAT(ssd, R >= 0, "range is empty: expected the rows where ranges begin");
    CHECK_SHAPE(ssd, range, I64, R + 1);
    CHECK_SHAPE(ssd, pos, I64, T);
    CHECK_SHAPE(ssd, x, BF16, T, H * P);
    CHECK_SHAPE(ssd, B, BF16, T, G * N);
    CHECK_SHAPE(ssd, C, BF16, T, G * N);
    CHECK_SHAPE(ssd, dt, BF16, T, H);
    CHECK_SHAPE(ssd, A_log, F32, H);
    CHECK_SHAPE(ssd, dt_bias, F32, H);
    CHECK_SHAPE(ssd, D, F32, H);
    CHECK_SHAPE(ssd, dts, F32, T, H);
    CHECK_SHAPE(ssd, cum, F32, T, H);
    CHECK_SHAPE(ssd, states, BF16, n, H, P, N);
    return OK;
}

static enum status check(struct ctx *c, const struct ssd *a) {
    const int64_t T = a->pos.shape[0], H = a->heads, P = a->head_width, N = a->state, R = a->range.shape[0] - 1;
    TRY(ssd_check_bf16(c, a));
    CHECK_SHAPE(ssd, s_in, F32, R, H, P, N);
    CHECK_SHAPE(ssd, y, BF16, T, H * P);
    CHECK_OPTIONAL(ssd, s_out, F32, R, H, P, N);
    CHECK_THAT(ssd, rows_pair(a->y), "rows of y must begin at multiples of 4 bytes");
    return OK;
}

static enum status states_and_outputs(struct ctx *c, const struct ssd *a, int64_t n) {
    if (ssd_walks(a->heads, a->groups, a->head_width)) {
        TRY((states_enter<false>(c, walk_of(a, a->x, a->B), a->states, a->s_in, a->s_out)));
    } else {
        void *decays;
        TRY(arena_take(c->work, decays_bytes(n, a->heads), &decays));
        LAUNCH_CELLS(chunk_decays, n, a->heads, a->range, a->pos, a->cum, a->chunk, n, (float *)decays);
        LAUNCH_CELLS((walk_chunks<true, false>), (a->range.shape[0] - 1) * a->heads, SSD_P * a->state / 8, a->range,
                     a->chunk, a->states, (float *)decays, a->s_in, a->s_out);
    }
    SSD_FOR_SHAPE(a->state, a->chunk, outputs, c, a, n);
    return OK;
}

enum status ssd_fwd_bf16(struct ctx *c, const struct ssd *a) {
    TRY(check(c, a));
    const int64_t n = spans_max(a->pos.shape[0], a->range.shape[0] - 1, a->chunk), mark = arena_mark(c->work);
    const enum status st = states_and_outputs(c, a, least(n, a->states.shape[0]));
    arena_release(c->work, mark);
    return st;
}
