/* SPDX-License-Identifier: Apache-2.0 */
/* labels: gpu1 */
/* timeout: 400 */
/* Above 2^31 elements, in F32 and in BF16, forward and backward: the last 4,096 tokens of convolution, scan, embedding
 * and loss are those of the reference in F64, begun from the state that the kernel itself had before them.
 *   ops_huge_end_cuda [TOKENS [VOCABULARY]]   tokens before them, 2^20 unless said (a 64th for the
 *                                             loss), and words of the loss, 2^17
 * Needs some 45 GB on the GPU. */
#include <stdlib.h>
#include "base/pool.h"
#include "base/rng.h"
#include "kernels/conv1d/conv1d.h"
#include "kernels/device.h"
#include "kernels/embedding/embedding.h"
#include "kernels/head/head.h"
#include "kernels/ops.h"
#include "kernels/space.h"
#include "kernels/ssd/ssd.h"
#include "kernels/ssd_local/ssd_local.h"
#include "tests/check.h"

enum { LAST = 4096, TAKEN = 64, PERIOD = 1000003 }; /* a prime: no row repeats 2^31 elements later */

static struct ctx gpu = {.ops = &ops_cuda, .space = DEVICE}, cpu = {.ops = &ops_ref64, .real = F64};
static struct {
    void *device[TAKEN], *host[TAKEN];
    int n_device, n_host;
} taken;

static void give_all(void) {
    MUST(device_wait());
    while (taken.n_device > 0) device_free(taken.device[--taken.n_device]);
    while (taken.n_host > 0) mem_free(taken.host[--taken.n_host]);
}

static struct tensor on_host(enum dtype type, int64_t rows, int64_t cols) {
    void *p = NULL;
    MUST(mem_take(rows * cols * dtype_bytes(type), &p));
    taken.host[taken.n_host++] = p;
    return tensor_2d(p, type, rows, cols);
}

/* Not a number in every element. */
static struct tensor on_device(enum dtype type, int64_t rows, int64_t cols) {
    void *p = NULL;
    const enum status st = device_take(rows * cols * dtype_bytes(type), &p);
    if (st == ERR_OOM) SKIP("%s", status_text());
    MUST(st);
    taken.device[taken.n_device++] = p;
    struct tensor t = tensor_2d(p, type, rows, cols);
    t.space = DEVICE;
    MUST(device_fill(p, 0xff, tensor_bytes(t)));
    return t;
}

static struct tensor flat(struct tensor t) {
    struct tensor v = tensor_1d(t.data, t.dtype, t.shape[0] * t.shape[1]);
    v.space = t.space;
    return v;
}

static struct tensor shaped(struct tensor t, int64_t a, int64_t b, int64_t c, int64_t d) {
    struct tensor v = tensor_4d(t.data, t.dtype, (int64_t[]){a, b, c, d});
    v.space = t.space;
    return v;
}

static struct tensor last(struct tensor t) { return tensor_rows(t, t.shape[0] - LAST, LAST); }

/* Random numbers, normal times scale + middle, the same every PERIOD elements. */
static struct tensor random_on(enum dtype type, int64_t rows, int64_t cols, double scale, double middle) {
    static uint64_t stream = 1;
    static float numbers[PERIOD];
    const struct tensor t = on_device(type, rows, cols);
    const int64_t e = dtype_bytes(type), n = rows * cols, first = n < PERIOD ? n : PERIOD;
    stream++;
    for (int64_t i = 0; i < first; i++) numbers[i] = (float)(middle + scale * rng_normal(7, stream, (uint64_t)i));
    MUST(space_store(&gpu, flat(t), 0, first, numbers, NULL));
    MUST(space_settle(&gpu));
    for (int64_t done = first; done < n; done += done < n - done ? done : n - done)
        MUST(device_copy((char *)t.data + done * e, t.data, (done < n - done ? done : n - done) * e));
    return t;
}

static struct tensor zeros(enum dtype type, int64_t rows, int64_t cols) {
    const struct tensor t = on_device(type, rows, cols);
    MUST(device_fill(t.data, 0, tensor_bytes(t)));
    return t;
}

/* The rows in F64 on the host, or integers as they are. */
static struct tensor fetched(struct tensor t) {
    const bool real = t.dtype == F32 || t.dtype == BF16;
    const struct tensor out = on_host(real ? F64 : t.dtype, tensor_count(t), 1);
    if (real) MUST(space_numbers(&gpu, t, out.data));
    else MUST(space_fetch(&gpu, out.data, t.data, tensor_bytes(t)));
    return shaped(out, t.shape[0], t.shape[1], t.shape[2], t.shape[3]);
}

static struct tensor fetched_flat(struct tensor t) { return flat(fetched(t)); }

static struct tensor empty(int64_t rows, int64_t cols) {
    const struct tensor t = on_host(F64, rows, cols);
    memset(t.data, 0, (size_t)tensor_bytes(t));
    return t;
}

static struct tensor integers(enum dtype type, int64_t n, int64_t from) {
    const struct tensor host = on_host(type, n, 1), t = on_device(type, n, 1);
    for (int64_t i = 0; i < n; i++) ((int64_t *)host.data)[i] = from + i;
    MUST(device_copy(t.data, host.data, tensor_bytes(host)));
    return flat(t);
}

static struct tensor range_of(int64_t n) {
    const struct tensor t = on_device(I64, 2, 1);
    MUST(device_copy(t.data, (int64_t[]){0, n}, 16));
    return flat(t);
}

/* |t - want|2 / |want|2, n roundings to BF16 on the way (tests/trial_checks.h). */
static void compare(const char *what, struct tensor t, struct tensor want, double f32, double n) {
    const struct tensor got = fetched(t);
    const double *a = got.data, *b = want.data, bound = f32 + (gpu.real == BF16 ? sqrt(n) * 0x1p-9 : 0.0);
    double apart = 0.0, size = 0.0;
    for (int64_t i = 0; i < tensor_count(got); i++) {
        apart += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    const double off = sqrt(apart / size);
    CHECK(off <= bound && size > 0.0, "%s in %s: apart by %.3g of it, bound %.3g", what, dtype_name(gpu.real), off,
          bound);
    printf("%-24s %s %9.2e  bound %.2e\n", what, dtype_name(gpu.real), off, bound);
    fflush(stdout);
}

/* One call with the workspace it asks for. */
#define RUN(op, pass, args)                                                                                            \
    do {                                                                                                               \
        struct arena work_;                                                                                            \
        MUST(device_arena_init(&work_, "workspace", ops_cuda.op##_work(&gpu, args)));                                  \
        gpu.work = &work_;                                                                                             \
        MUST(ops_cuda.op##_##pass(&gpu, args));                                                                        \
        MUST(device_wait());                                                                                           \
        device_arena_term(&work_);                                                                                     \
    } while (0)
#define RUN_REFERENCE(op, pass, args)                                                                                  \
    do {                                                                                                               \
        struct arena work_;                                                                                            \
        MUST(arena_init(&work_, "workspace", ops_ref64.op##_work(&cpu, args)));                                        \
        cpu.work = &work_;                                                                                             \
        MUST(ops_ref64.op##_##pass(&cpu, args));                                                                       \
        arena_term(&work_);                                                                                            \
    } while (0)

static void conv1d(int64_t T) {
    const int64_t C = 2048, K = 4;
    const enum dtype real = gpu.real, wide = dtype_wide(real);
    struct conv1d a = {.range = range_of(T), .pos = integers(I64, T, 0), .silu = true};
    a.x = random_on(real, T, C, 1.0, 0.0), a.dy = random_on(real, T, C, 1.0, 0.0);
    a.y = on_device(real, T, C), a.dx = on_device(real, T, C);
    a.w = random_on(wide, C, K, 0.5, 0.0), a.b = flat(random_on(wide, C, 1, 0.5, 0.0));
    a.dw = zeros(wide, C, K), a.db = flat(zeros(wide, C, 1));
    a.before = shaped(zeros(real, K - 1, C), 1, K - 1, C, 1), a.dbefore = shaped(zeros(real, K - 1, C), 1, K - 1, C, 1);
    RUN(conv1d, fwd, &a);
    RUN(conv1d, bwd, &a);
    struct conv1d b = {.range = fetched_flat(range_of(LAST)), .pos = fetched_flat(last(a.pos)), .silu = true};
    b.x = fetched(last(a.x)), b.dy = fetched(last(a.dy)), b.w = fetched(a.w), b.b = fetched_flat(a.b);
    b.before = shaped(fetched(tensor_rows(a.x, T - LAST - K + 1, K - 1)), 1, K - 1, C, 1);
    b.y = empty(LAST, C), b.dx = empty(LAST, C), b.dw = empty(C, K), b.db = flat(empty(C, 1));
    b.dbefore = shaped(empty(K - 1, C), 1, K - 1, C, 1);
    RUN_REFERENCE(conv1d, fwd, &b);
    RUN_REFERENCE(conv1d, bwd, &b);
    compare("conv1d y", last(a.y), b.y, 1e-6, 1.0);
    compare("conv1d dx", last(a.dx), b.dx, 1e-6, 1.0);
    give_all();
}

/* The two halves of the scan, which share their tensors. */
struct scan {
    struct ssd_local l;
    struct ssd a;
};

static void scan_share(struct scan *s) {
    struct ssd_local *l = &s->l;
    struct ssd *a = &s->a;
    l->heads = a->heads = 32, l->head_width = a->head_width = 64, l->state = a->state = 64;
    l->groups = a->groups = 4, l->chunk = a->chunk = 128, l->dt_max = a->dt_max = INFINITY;
    l->range = a->range, l->pos = a->pos, l->x = a->x, l->dt = a->dt, l->B = a->B, l->C = a->C, l->A_log = a->A_log;
    l->dt_bias = a->dt_bias, l->dts = a->dts, l->cum = a->cum, l->states = a->states, l->dy = a->dy;
    l->dstates = a->dstates;
}

static void ssd(int64_t T) {
    const int64_t H = 32, P = 64, N = 64, G = 4, Q = 128, c = T / Q, n = LAST / Q;
    const enum dtype real = gpu.real, wide = dtype_wide(real);
    struct scan s = {.l = {0}}, r = {.l = {0}};
    struct ssd *a = &s.a, *b = &r.a;
    a->range = range_of(T), a->pos = integers(I64, T, 0);
    a->x = random_on(real, T, H * P, 1.0, 0.0), a->dt = random_on(real, T, H, 1.0, -4.0);
    a->B = random_on(real, T, G * N, 1.0, 0.0), a->C = random_on(real, T, G * N, 1.0, 0.0);
    a->A_log = flat(random_on(wide, H, 1, 1.0, 0.0)), a->dt_bias = flat(random_on(wide, H, 1, 0.5, 0.0));
    a->D = flat(random_on(wide, H, 1, 1.0, 0.0));
    a->dts = on_device(wide, T, H), a->cum = on_device(wide, T, H), a->y = on_device(real, T, H * P);
    a->states = shaped(on_device(real, c, H * P * N), c, H, P, N);
    a->dstates = shaped(on_device(real, c, H * P * N), c, H, P, N);
    a->s_in = shaped(zeros(wide, 1, H * P * N), 1, H, P, N);
    a->dy = random_on(real, T, H * P, 1.0, 0.0), a->dx = on_device(real, T, H * P), a->ddt = on_device(real, T, H);
    a->dB = on_device(real, T, G * N), a->dC = on_device(real, T, G * N);
    a->dA_log = flat(zeros(wide, H, 1)), a->ddt_bias = flat(zeros(wide, H, 1)), a->dD = flat(zeros(wide, H, 1));
    s.l.range_decay = on_device(wide, 1, H), s.l.range_state = shaped(on_device(wide, 1, H * P * N), 1, H, P, N);
    s.l.range_dstate = shaped(on_device(wide, 1, H * P * N), 1, H, P, N);
    scan_share(&s);
    RUN(ssd_local, fwd, &s.l);
    RUN(ssd, fwd, a);
    const struct tensor entering = fetched(tensor_rows(a->states, c - n, 1));
    RUN(ssd_local, bwd, &s.l);
    RUN(ssd, bwd, a);

    b->range = fetched_flat(range_of(LAST)), b->pos = fetched_flat(last(a->pos)), b->x = fetched(last(a->x));
    b->dt = fetched(last(a->dt)), b->B = fetched(last(a->B)), b->C = fetched(last(a->C)), b->dy = fetched(last(a->dy));
    b->A_log = fetched_flat(a->A_log), b->dt_bias = fetched_flat(a->dt_bias), b->D = fetched_flat(a->D);
    b->dts = empty(LAST, H), b->cum = empty(LAST, H), b->y = empty(LAST, H * P), b->dx = empty(LAST, H * P);
    b->ddt = empty(LAST, H), b->dB = empty(LAST, G * N), b->dC = empty(LAST, G * N);
    b->states = shaped(empty(n, H * P * N), n, H, P, N), b->dstates = shaped(empty(n, H * P * N), n, H, P, N);
    b->s_in = entering, r.l.range_decay = empty(1, H), r.l.range_state = shaped(empty(1, H * P * N), 1, H, P, N);
    r.l.range_dstate = shaped(empty(1, H * P * N), 1, H, P, N);
    b->dA_log = flat(empty(H, 1)), b->ddt_bias = flat(empty(H, 1)), b->dD = flat(empty(H, 1));
    scan_share(&r);
    RUN_REFERENCE(ssd_local, fwd, &r.l);
    RUN_REFERENCE(ssd, fwd, b);
    RUN_REFERENCE(ssd_local, bwd, &r.l);
    RUN_REFERENCE(ssd, bwd, b);
    compare("scan y", last(a->y), b->y, 6e-6, 4.0);
    compare("scan dx", last(a->dx), b->dx, 6e-6, 4.0);
    compare("scan ddt", last(a->ddt), b->ddt, 6e-6, 4.0);
    compare("scan dB", last(a->dB), b->dB, 6e-6, 4.0);
    compare("scan dC", last(a->dC), b->dC, 6e-6, 4.0);
    give_all();
}

/* The last tokens pick the last rows of the table, two of them each, and no other token does. */
static void embedding(int64_t T) {
    const int64_t V = T, D = 2048, below = V - LAST / 2;
    const enum dtype real = gpu.real;
    const struct tensor ids = on_host(I32, T, 1), shifted = on_host(I32, LAST, 1);
    for (int64_t t = 0; t < T; t++)
        ((int32_t *)ids.data)[t] = (int32_t)(t < T - LAST ? t * 7919 % below : below + (T - 1 - t) / 2);
    for (int64_t t = 0; t < LAST; t++)
        ((int32_t *)shifted.data)[t] = ((int32_t *)ids.data)[T - LAST + t] - (int32_t)below;
    struct embedding a = {.ids = flat(on_device(I32, T, 1)), .w = random_on(real, V, D, 1.0, 0.0)};
    MUST(device_copy(a.ids.data, ids.data, tensor_bytes(ids)));
    a.y = on_device(real, T, D), a.dy = random_on(real, T, D, 1.0, 0.0), a.dw = zeros(dtype_wide(real), V, D);
    RUN(embedding, fwd, &a);
    RUN(embedding, bwd, &a);
    struct embedding b = {.ids = flat(shifted), .w = fetched(tensor_rows(a.w, below, LAST / 2))};
    b.y = empty(LAST, D), b.dy = fetched(last(a.dy)), b.dw = empty(LAST / 2, D);
    RUN_REFERENCE(embedding, fwd, &b);
    RUN_REFERENCE(embedding, bwd, &b);
    compare("embedding y", last(a.y), b.y, 0.0, 0.0);
    const enum dtype was = gpu.real;
    gpu.real = F32; /* the gradient is wide: sums of two */
    compare("embedding dw", tensor_rows(a.dw, below, LAST / 2), b.dw, 1e-7, 0.0);
    gpu.real = was;
    give_all();
}

static void head(int64_t T, int64_t V) {
    const int64_t D = 64;
    const enum dtype real = gpu.real, wide = dtype_wide(real);
    const double scale = 1.0 / (double)T;
    const struct tensor targets = on_host(I32, T, 1);
    for (int64_t t = 0; t < T; t++) ((int32_t *)targets.data)[t] = (int32_t)(t % 5 == 3 ? -1 : t * 7919 % V);
    struct head a = {.x = random_on(real, T, D, 1.0, 0.0), .w = random_on(real, V, D, 0.1, 0.0), .logit_scale = 1.0};
    a.targets = flat(on_device(I32, T, 1)), a.scale = flat(on_device(F64, 1, 1));
    MUST(device_copy(a.targets.data, targets.data, tensor_bytes(targets)));
    MUST(device_copy(a.scale.data, &scale, 8));
    a.logits = on_device(real, T, V), a.lse = flat(on_device(wide, T, 1)), a.picked = flat(on_device(wide, T, 1));
    a.dx = on_device(real, T, D), a.dw = zeros(wide, V, D);
    RUN(head, fwd, &a);
    RUN(head, bwd, &a);
    struct head b = {.x = fetched(last(a.x)), .w = fetched(a.w), .targets = fetched_flat(last(a.targets))};
    b.logit_scale = 1.0, b.scale = flat(on_host(F64, 1, 1)), *(double *)b.scale.data = scale;
    b.logits = empty(LAST, V), b.lse = flat(empty(LAST, 1)), b.picked = flat(empty(LAST, 1)), b.dx = empty(LAST, D);
    RUN_REFERENCE(head, fwd, &b);
    RUN_REFERENCE(head, bwd, &b);
    compare("loss lse", last(a.lse), b.lse, 1e-6, 1.0);
    compare("loss picked", last(a.picked), b.picked, 1e-6, 1.0);
    compare("loss dlogits", last(a.logits), b.logits, 3e-6, 2.0);
    compare("loss dx", last(a.dx), b.dx, 3e-6, 2.0);
    give_all();
}

int main(int argc, char **argv) {
    const int64_t before = argc > 1 ? atoll(argv[1]) : 1 << 20, words = argc > 2 ? atoll(argv[2]) : 1 << 17;
    const enum dtype types[] = {F32, BF16};
    struct device *d = NULL;
    if (device_count() == 0) SKIP("no GPU here, or built without CUDA");
    MUST(device_open(&d, 0));
    MUST(pool_init(&cpu.pool, 8));
    gpu.device = d, gpu.stream = device_stream(d);
    for (int i = 0; i < 2; i++) {
        gpu.real = types[i];
        conv1d(before + LAST);
        ssd(before + LAST);
        embedding(before + LAST);
        head(before / 64 + LAST, words);
    }
    pool_term(cpu.pool);
    device_close(d);
    return check_end();
}
