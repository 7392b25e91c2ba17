/* SPDX-License-Identifier: Apache-2.0 */
/* labels: gpu1 */
/* timeout: 60 */
/* Our error on the tensors of a peer, beside what they would be in F64: profiling/peers/ssd.py and attention.py leave a
 * folder with both.
 *   peers_cuda ssd|attention FOLDER     FOLDER/sizes, FOLDER/NAME: inputs and results, packed, little endian
 * Without arguments there is nothing to compare. */
#include <stdio.h>
#include "base/file.h"
#include "kernels/attention/attention.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/space.h"
#include "kernels/ssd/ssd.h"
#include "kernels/ssd_local/ssd_local.h"
#include "tests/check.h"

static struct ctx gpu = {.ops = &ops_cuda, .real = BF16, .space = DEVICE};
static struct arena memory, work;
static const char *folder;

static struct tensor take(enum dtype type, int64_t a, int64_t b, int64_t c, int64_t d) {
    void *mem = NULL;
    struct tensor t = tensor_4d(NULL, type, (int64_t[]){a, b, c, d});
    MUST(arena_take(&memory, tensor_bytes(t), &mem));
    MUST(device_fill(mem, 0, tensor_bytes(t)));
    t.data = mem;
    t.space = DEVICE;
    return t;
}

static void *read_file(const char *name, int64_t bytes) {
    char path[PATH_BYTES];
    void *mem = NULL;
    MUST(path_print(path, "%s/%s", folder, name));
    FILE *f = fopen(path, "rb");
    CHECK(f, "%s cannot be opened", path);
    MUST(mem_take(bytes, &mem));
    const int64_t n = f ? (int64_t)fread(mem, 1, (size_t)bytes, f) : 0;
    CHECK(n == bytes && f && fgetc(f) == EOF, "%s: %lld bytes, expected %lld", path, (long long)n, (long long)bytes);
    if (f) fclose(f);
    return mem;
}

static struct tensor given(const char *name, enum dtype type, int64_t rows, int64_t cols) {
    const struct tensor t = take(type, rows, cols, 1, 1);
    void *host = read_file(name, tensor_bytes(t));
    MUST(device_copy(t.data, host, tensor_bytes(t)));
    mem_free(host);
    return t;
}

static struct tensor flat(struct tensor t) {
    struct tensor v = tensor_1d(t.data, t.dtype, tensor_count(t));
    v.space = DEVICE;
    return v;
}

static void tell(const char *name, struct tensor t) {
    const int64_t n = tensor_count(t);
    void *mem = NULL;
    double apart = 0.0, size = 0.0, *want = read_file(name, 8 * n);
    MUST(mem_take(8 * n, &mem));
    const double *got = mem;
    MUST(space_numbers(&gpu, t, mem));
    for (int64_t i = 0; i < n; i++) {
        apart += (got[i] - want[i]) * (got[i] - want[i]);
        size += want[i] * want[i];
    }
    CHECK(size > 0.0 && apart < 1e-2 * size, "%s: apart by %.3g of it", name, sqrt(apart / size));
    printf(" %s %.2e", name, sqrt(apart / size));
    mem_free(mem);
    mem_free(want);
}

static void sizes(int n, int64_t *out) {
    char path[PATH_BYTES];
    MUST(path_print(path, "%s/sizes", folder));
    FILE *f = fopen(path, "r");
    for (int i = 0; i < n; i++) {
        long long v = 0;
        CHECK(f && fscanf(f, "%lld", &v) == 1 && v > 0, "%s: number %d of %d", path, i, n);
        out[i] = v;
    }
    if (f) fclose(f);
}

static struct tensor positions(int64_t T) {
    const struct tensor t = take(I64, T, 1, 1, 1);
    void *host = NULL;
    MUST(mem_take(8 * T, &host));
    for (int64_t i = 0; i < T; i++) ((int64_t *)host)[i] = i;
    MUST(device_copy(t.data, host, 8 * T));
    mem_free(host);
    return flat(t);
}

static struct tensor pair(int64_t a, int64_t b, int64_t rows) {
    struct tensor t = take(I64, rows, 2 / rows, 1, 1);
    MUST(device_copy(t.data, (int64_t[]){a, b}, 16));
    return rows == 1 ? t : flat(t);
}

/* One call with the workspace it asks for. */
#define RUN(op, args)                                                                                                  \
    do {                                                                                                               \
        MUST(device_arena_init(&work, "workspace", ops_cuda.op##_work(&gpu, args)));                                   \
        MUST(ops_cuda.op(&gpu, args));                                                                                 \
        MUST(device_wait());                                                                                           \
        device_arena_term(&work);                                                                                      \
    } while (0)
#define ssd_fwd_work       ssd_work
#define ssd_bwd_work       ssd_work
#define ssd_local_fwd_work ssd_local_work
#define ssd_local_bwd_work ssd_local_work
#define attention_fwd_work attention_work
#define attention_bwd_work attention_work

static void ssd(void) {
    int64_t k[6];
    sizes(6, k);
    const int64_t T = k[0], H = k[1], P = k[2], N = k[3], G = k[4], Q = k[5], c = (T + Q - 1) / Q;
    struct ssd a = {.heads = H, .head_width = P, .state = N, .groups = G, .chunk = Q, .dt_max = INFINITY};
    a.range = pair(0, T, 2), a.pos = positions(T);
    a.x = given("x", BF16, T, H * P), a.dt = given("dt", BF16, T, H), a.B = given("B", BF16, T, G * N);
    a.C = given("C", BF16, T, G * N), a.dy = given("dy", BF16, T, H * P), a.A_log = flat(given("A_log", F32, H, 1));
    a.dt_bias = flat(given("dt_bias", F32, H, 1)), a.D = flat(given("D", F32, H, 1));
    a.dts = take(F32, T, H, 1, 1), a.cum = take(F32, T, H, 1, 1), a.y = take(BF16, T, H * P, 1, 1);
    a.states = take(BF16, c, H, P, N), a.dstates = take(BF16, c, H, P, N), a.s_in = take(F32, 1, H, P, N);
    a.dx = take(BF16, T, H * P, 1, 1), a.ddt = take(BF16, T, H, 1, 1), a.dB = take(BF16, T, G * N, 1, 1);
    a.dC = take(BF16, T, G * N, 1, 1), a.dA_log = flat(take(F32, H, 1, 1, 1)), a.dD = flat(take(F32, H, 1, 1, 1));
    a.ddt_bias = flat(take(F32, H, 1, 1, 1));
    struct ssd_local l = {.heads = H, .head_width = P, .state = N, .groups = G, .chunk = Q, .dt_max = INFINITY};
    l.range = a.range, l.pos = a.pos, l.x = a.x, l.dt = a.dt, l.B = a.B, l.C = a.C, l.A_log = a.A_log;
    l.dt_bias = a.dt_bias, l.dts = a.dts, l.cum = a.cum, l.states = a.states, l.dy = a.dy, l.dstates = a.dstates;
    l.range_decay = take(F32, 1, H, 1, 1), l.range_state = take(F32, 1, H, P, N);
    l.range_dstate = take(F32, 1, H, P, N);
    RUN(ssd_local_fwd, &l);
    RUN(ssd_fwd, &a);
    RUN(ssd_local_bwd, &l);
    RUN(ssd_bwd, &a);
    printf("ours ssd error, T %lld H%lld P%lld N%lld G%lld Q%lld:", (long long)T, (long long)H, (long long)P,
           (long long)N, (long long)G, (long long)Q);
    tell("y", a.y), tell("dx", a.dx), tell("ddt", a.ddt), tell("dB", a.dB), tell("dC", a.dC);
    tell("dA_log", a.dA_log), tell("dD", a.dD), tell("ddt_bias", a.ddt_bias);
}

static void attention(void) {
    int64_t k[4];
    sizes(4, k);
    const int64_t T = k[0], H = k[1], J = k[2], P = k[3];
    struct attention a = {.heads = H, .key_heads = J, .head_width = P, .scale = 1.0 / sqrt((double)P), .plain = true};
    a.range = pair(0, T, 2), a.keys = pair(0, T, 1), a.pos = positions(T);
    a.q = given("q", BF16, T, H * P), a.k = given("k", BF16, T, J * P), a.v = given("v", BF16, T, J * P);
    a.dout = given("dout", BF16, T, H * P), a.o = take(BF16, T, H * P, 1, 1), a.lse = take(F32, T, H, 1, 1);
    a.dq = take(BF16, T, H * P, 1, 1), a.dk = take(BF16, T, J * P, 1, 1), a.dv = take(BF16, T, J * P, 1, 1);
    RUN(attention_fwd, &a);
    RUN(attention_bwd, &a);
    printf("ours attention error, T %lld H%lld J%lld P%lld:", (long long)T, (long long)H, (long long)J, (long long)P);
    tell("o", a.o), tell("dq", a.dq), tell("dk", a.dk), tell("dv", a.dv);
}

int main(int argc, char **argv) {
    struct device *d = NULL;
    if (argc != 3) SKIP("wants ssd or attention, and the folder that the peer's script has made");
    if (device_count() == 0) SKIP("no GPU here");
    folder = argv[2];
    MUST(device_open(&d, 0));
    MUST(device_arena_init(&memory, "the peer's tensors", INT64_C(1) << 30));
    gpu.device = d, gpu.stream = device_stream(d), gpu.work = &work;
    if (!strcmp(argv[1], "ssd")) ssd();
    else attention();
    printf("\n");
    device_arena_term(&memory);
    device_close(d);
    return check_end();
}
