/* SPDX-License-Identifier: Apache-2.0 */
/* labels: gpu1 */
/* timeout: 240 */
/* Above 2^31 elements: the last rows of a tensor must come out as they do alone, bit for bit.  All other rows hold one
 * value, the last ones random numbers; outputs hold NaN before.  Needs some 30 GB on the GPU. */
#include "base/rng.h"
#include "kernels/activation/activation.h"
#include "kernels/add/add.h"
#include "kernels/conv1d/conv1d.h"
#include "kernels/copy/copy.h"
#include "kernels/device.h"
#include "kernels/fill/fill.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/ssd/ssd.h"
#include "kernels/ssd_local/ssd_local.h"
#include "kernels/sum_squares/sum_squares.h"
#include "tests/check.h"

#define LAST 128 /* rows at the end; a chunk of the scan */

static struct ctx ctx = {.ops = &ops_cuda, .real = F32, .space = DEVICE};

static struct tensor on_device(enum dtype type, int64_t rows, int64_t cols) {
    void *p = NULL;
    const enum status st = device_take(rows * cols * dtype_bytes(type), &p);
    if (st == ERR_OOM) SKIP("%s", status_text());
    MUST(st);
    struct tensor t = tensor_2d(p, type, rows, cols);
    t.space = DEVICE;
    MUST(device_fill(p, 0xff, tensor_bytes(t)));
    return t;
}

static struct tensor as_1d(struct tensor t) {
    struct tensor v = tensor_1d(t.data, t.dtype, t.shape[0] * t.shape[1]);
    v.space = DEVICE;
    return v;
}

static struct tensor last_rows(struct tensor t, int64_t n) { return tensor_rows(t, t.shape[0] - n, n); }

/* All rows `value`, then the last n of them random. */
static void set(struct tensor t, double value, int64_t n, const char *name) {
    void *host = NULL;
    const struct tensor end = last_rows(t, n);
    MUST(ctx.ops->fill_fwd(&ctx, &(struct fill){.x = t, .value = value}));
    MUST(mem_take(tensor_bytes(end), &host));
    for (int64_t i = 0; i < tensor_count(end); i++)
        ((float *)host)[i] = (float)rng_normal(1, rng_stream(name), (uint64_t)i);
    MUST(device_copy(end.data, host, tensor_bytes(end)));
    mem_free(host);
}

static struct tensor random_values(int64_t rows, int64_t cols, const char *name) {
    const struct tensor t = on_device(F32, rows, cols);
    set(t, 0.0, rows, name);
    return t;
}

static struct tensor integers(const int64_t *values, int64_t n) {
    struct tensor t = on_device(I64, n, 1);
    MUST(device_copy(t.data, values, tensor_bytes(t)));
    return as_1d(t);
}

/* The last rows of `whole` are those of `alone`, and they are numbers. */
static void compare(const char *op, struct tensor whole, struct tensor alone) {
    void *a = NULL, *b = NULL;
    const int64_t bytes = tensor_bytes(alone), n = tensor_count(alone);
    MUST(device_wait());
    MUST(mem_take(bytes, &a));
    MUST(mem_take(bytes, &b));
    MUST(device_copy(a, last_rows(whole, alone.shape[0]).data, bytes));
    MUST(device_copy(b, alone.data, bytes));
    for (int64_t i = 0; i < n; i++) {
        const float x = ((float *)a)[i], y = ((float *)b)[i];
        if (x == y) continue;
        CHECK(x == y, "%s: element %lld of the last rows is %g, alone %g", op, (long long)i, (double)x, (double)y);
        break;
    }
    mem_free(a);
    mem_free(b);
}

/* ---- ops of one row each ---- */

static void rows(struct tensor x, struct tensor y) {
    const struct tensor end = last_rows(x, LAST), alone = on_device(F32, LAST, x.shape[1]);
    const struct tensor r = on_device(F32, x.shape[0], 1);
    MUST(ctx.ops->copy_fwd(&ctx, &(struct copy){.x = x, .y = y}));
    MUST(ctx.ops->copy_fwd(&ctx, &(struct copy){.x = end, .y = alone}));
    compare("copy", y, alone);
    MUST(ctx.ops->add_fwd(&ctx, &(struct add){.x = x, .y = y, .out = y, .scale = 0.5}));
    MUST(ctx.ops->add_fwd(&ctx, &(struct add){.x = end, .y = alone, .out = alone, .scale = 0.5}));
    compare("add", y, alone);
    MUST(ctx.ops->activation_fwd(&ctx, &(struct activation){.kind = ACT_GELU, .h = x, .y = y}));
    MUST(ctx.ops->activation_fwd(&ctx, &(struct activation){.kind = ACT_GELU, .h = end, .y = alone}));
    compare("activation", y, alone);
    struct rmsnorm norm = {.x = x, .y = y, .r = as_1d(r), .eps = 1e-5};
    MUST(ctx.ops->rmsnorm_fwd(&ctx, &norm));
    norm.x = end, norm.y = alone, norm.r = as_1d(last_rows(r, LAST));
    MUST(ctx.ops->rmsnorm_fwd(&ctx, &norm));
    compare("rmsnorm", y, alone);
    device_free(r.data);
    device_free(alone.data);
}

static void linear(struct tensor x, struct tensor y) {
    const struct tensor narrow = tensor_cols(x, 0, 8), alone = on_device(F32, LAST, y.shape[1]);
    const struct tensor w = random_values(y.shape[1], 8, "w");
    MUST(ctx.ops->linear_fwd(&ctx, &(struct linear){.x = narrow, .w = w, .y = y}));
    MUST(ctx.ops->linear_fwd(&ctx, &(struct linear){.x = last_rows(narrow, LAST), .w = w, .y = alone}));
    compare("linear", y, alone);
    device_free(w.data);
    device_free(alone.data);
}

/* ---- ops over ranges: a document starts at the last rows ---- */

/* pos of T tokens; the second document starts LAST rows before the end. */
static struct tensor positions(int64_t T) {
    void *pos = NULL;
    MUST(mem_take(T * (int64_t)sizeof(int64_t), &pos));
    for (int64_t t = 0; t < T; t++) ((int64_t *)pos)[t] = t < T - LAST ? t : t - (T - LAST);
    const struct tensor out = integers(pos, T);
    mem_free(pos);
    return out;
}

static void conv1d(struct tensor x, struct tensor y) {
    const int64_t T = x.shape[0], C = x.shape[1];
    const struct tensor alone = on_device(F32, LAST, C), w = random_values(C, 4, "w"),
                        none = random_values(3, C, "none");
    struct tensor before = tensor_4d(none.data, F32, (int64_t[]){1, 3, C, 1});
    before.space = DEVICE;
    struct conv1d a = {.range = integers((int64_t[]){0, T}, 2), .pos = positions(T), .silu = true};
    a.x = x, a.y = y, a.w = w, a.before = before;
    MUST(ctx.ops->conv1d_fwd(&ctx, &a));
    a.range = integers((int64_t[]){0, LAST}, 2), a.pos = tensor_rows(a.pos, T - LAST, LAST);
    a.x = last_rows(x, LAST), a.y = alone;
    MUST(ctx.ops->conv1d_fwd(&ctx, &a));
    compare("conv1d", y, alone);
    device_free(w.data);
    device_free(alone.data);
}

static struct tensor states(int64_t n, int64_t H, int64_t P, int64_t N) {
    struct tensor t = on_device(F32, n, H * P * N);
    t = tensor_4d(t.data, F32, (int64_t[]){n, H, P, N});
    t.space = DEVICE;
    MUST(ctx.ops->fill_fwd(&ctx, &(struct fill){.x = t, .value = 0.0}));
    return t;
}

/* Both halves of the scan on arguments that share their tensors. */
static void scan(struct ssd_local *l, struct ssd *a) {
    MUST(ctx.ops->ssd_local_fwd(&ctx, l));
    a->heads = l->heads, a->head_width = l->head_width, a->state = l->state, a->groups = l->groups, a->chunk = l->chunk;
    a->dt_max = l->dt_max, a->range = l->range, a->pos = l->pos, a->x = l->x, a->dt = l->dt, a->B = l->B, a->C = l->C;
    a->A_log = l->A_log, a->dt_bias = l->dt_bias, a->D = l->dt_bias, a->dts = l->dts, a->cum = l->cum;
    a->states = l->states, a->s_in = l->range_state;
    MUST(ctx.ops->ssd_fwd(&ctx, a));
}

static void ssd(struct tensor x, struct tensor y) {
    const int64_t T = x.shape[0], H = 32, P = x.shape[1] / H, N = 4;
    const struct tensor alone = on_device(F32, LAST, x.shape[1]), small = on_device(F32, T, H);
    struct ssd_local l = {.heads = H, .head_width = P, .state = N, .groups = 1, .chunk = LAST, .dt_max = INFINITY};
    struct ssd a = {.y = y};
    set(small, 0.5, LAST, "dt");
    l.range = integers((int64_t[]){0, T}, 2), l.pos = positions(T);
    l.x = x, l.dt = small, l.B = tensor_cols(x, 0, N), l.C = tensor_cols(x, N, N);
    l.A_log = as_1d(random_values(H, 1, "A")), l.dt_bias = as_1d(random_values(H, 1, "bias"));
    l.dts = on_device(F32, T, H), l.cum = on_device(F32, T, H), l.states = states(T / LAST, H, P, N);
    l.range_decay = on_device(F32, 1, H), l.range_state = states(1, H, P, N);
    scan(&l, &a);
    l.range = integers((int64_t[]){0, LAST}, 2), l.pos = tensor_rows(l.pos, T - LAST, LAST);
    l.x = last_rows(x, LAST), l.dt = last_rows(small, LAST), l.B = last_rows(l.B, LAST), l.C = last_rows(l.C, LAST);
    l.dts = on_device(F32, LAST, H), l.cum = on_device(F32, LAST, H), l.states = states(1, H, P, N);
    a.y = alone;
    scan(&l, &a);
    compare("ssd", y, alone);
    device_free(alone.data);
}

/* Every square is 1, and the sum is exact. */
static void sum_squares(struct tensor x) {
    struct sum_squares a = {.x = as_1d(x), .out = as_1d(on_device(F64, 1, 1))};
    struct arena work;
    double sum = 0.0;
    MUST(device_arena_init(&work, "workspace", ctx.ops->sum_squares_work(&ctx, &a)));
    MUST(device_fill(a.out.data, 0, 8));
    MUST(ctx.ops->fill_fwd(&ctx, &(struct fill){.x = x, .value = -1.0}));
    ctx.work = &work;
    MUST(ctx.ops->sum_squares_fwd(&ctx, &a));
    MUST(device_copy(&sum, a.out.data, 8));
    CHECK(sum == (double)tensor_count(x), "sum_squares of %lld ones is %.0f", (long long)tensor_count(x), sum);
    device_arena_term(&work);
}

int main(void) {
    if (device_count() == 0) SKIP("no GPU here, or built without CUDA");
    const int64_t T = (1 << 20) + LAST, C = 2048;
    const struct tensor x = on_device(F32, T, C), y = on_device(F32, T, C);
    set(x, 0.5, LAST, "x");
    rows(x, y);
    linear(x, y);
    MUST(device_fill(y.data, 0xff, tensor_bytes(y)));
    conv1d(x, y);
    MUST(device_fill(y.data, 0xff, tensor_bytes(y)));
    ssd(x, y);
    sum_squares(x);
    device_free(x.data);
    device_free(y.data);
    return check_end();
}
