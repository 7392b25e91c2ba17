/* SPDX-License-Identifier: Apache-2.0 */
/* labels: gpu1 */
/* timeout: 300 */
/* How long the scan takes in BF16 on a GPU, both halves, forward and forward + backward: medians, one line a shape.
 *   ssd_speed_cuda [--shape=H,P,N,G] [T ...]     default: six shapes, 8192 and 65536
 * A round is three runs behind each other, of short sequences more, so that it has the tokens of three of 65,536, from
 * the first launch to the end of the last kernel. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/ssd/ssd.h"
#include "kernels/ssd_local/ssd_local.h"
#include "profiling/prof.h"
#include "tests/device_speed.h"

enum { ROUNDS = 7, EACH = 3, TOKENS = EACH * 65536 };

struct shape {
    int64_t H, P, N, G, Q;
};
struct scan {
    struct arena memory, work;
    struct ctx c;
    struct ssd_local local;
    struct ssd ssd;
    int64_t T;
};

static struct tensor take(struct scan *s, enum dtype type, int64_t a, int64_t b, int64_t c, int64_t d) {
    void *mem = NULL;
    const int64_t shape[4] = {a, b, c, d};
    struct tensor t = tensor_4d(NULL, type, shape);
    MUST(arena_take(&s->memory, tensor_bytes(t), &mem));
    t.data = mem;
    t.space = DEVICE;
    fill(t, -1.7, 1.7);
    return t;
}

static void place_positions(struct scan *s) {
    void *host = NULL;
    const int64_t edges[2] = {0, s->T};
    MUST(mem_take(8 * s->T, &host));
    for (int64_t t = 0; t < s->T; t++) ((int64_t *)host)[t] = t;
    s->ssd.pos = take(s, I64, s->T, 1, 1, 1);
    s->ssd.range = take(s, I64, 2, 1, 1, 1);
    MUST(device_copy(s->ssd.pos.data, host, 8 * s->T));
    MUST(device_copy(s->ssd.range.data, edges, sizeof edges));
    mem_free(host);
}

static void open_scan(struct scan *s, struct device *d, int64_t T, struct shape k) {
    const int64_t chunks = (T + k.Q - 1) / k.Q, HP = k.H * k.P, GN = k.G * k.N;
    *s = (struct scan){.T = T};
    MUST(device_arena_init(&s->memory, "the scan", 16 * T * (HP + GN + 8 * k.H) + 6 * chunks * HP * k.N + (256 << 20)));
    struct ssd *a = &s->ssd;
    struct ssd_local *l = &s->local;
    a->heads = l->heads = k.H, a->head_width = l->head_width = k.P, a->state = l->state = k.N;
    a->groups = l->groups = k.G, a->chunk = l->chunk = k.Q;
    a->dt_max = l->dt_max = INFINITY;
    place_positions(s);
    a->x = take(s, BF16, T, HP, 1, 1), a->dy = take(s, BF16, T, HP, 1, 1), a->y = take(s, BF16, T, HP, 1, 1);
    a->dx = take(s, BF16, T, HP, 1, 1), a->dt = take(s, BF16, T, k.H, 1, 1), a->ddt = take(s, BF16, T, k.H, 1, 1);
    a->B = take(s, BF16, T, GN, 1, 1), a->C = take(s, BF16, T, GN, 1, 1), a->dB = take(s, BF16, T, GN, 1, 1);
    a->dC = take(s, BF16, T, GN, 1, 1), a->A_log = take(s, F32, k.H, 1, 1, 1), a->D = take(s, F32, k.H, 1, 1, 1);
    a->dt_bias = take(s, F32, k.H, 1, 1, 1), a->dA_log = take(s, F32, k.H, 1, 1, 1), a->dD = take(s, F32, k.H, 1, 1, 1);
    a->ddt_bias = take(s, F32, k.H, 1, 1, 1), a->dts = take(s, F32, T, k.H, 1, 1), a->cum = take(s, F32, T, k.H, 1, 1);
    a->states = take(s, BF16, chunks, k.H, k.P, k.N), a->dstates = take(s, BF16, chunks, k.H, k.P, k.N);
    a->s_in = take(s, F32, 1, k.H, k.P, k.N), a->s_out = take(s, F32, 1, k.H, k.P, k.N);
    a->ds_out = take(s, F32, 1, k.H, k.P, k.N), a->ds_in = take(s, F32, 1, k.H, k.P, k.N);
    fill(a->A_log, -1.0, 2.0);
    fill(a->dt_bias, -5.0, 0.0);
    l->range = a->range, l->pos = a->pos, l->x = a->x, l->dt = a->dt, l->B = a->B, l->C = a->C, l->A_log = a->A_log;
    l->dt_bias = a->dt_bias, l->dts = a->dts, l->cum = a->cum, l->states = a->states, l->dy = a->dy;
    l->dstates = a->dstates, l->range_decay = take(s, F32, 1, k.H, 1, 1);
    l->range_state = take(s, F32, 1, k.H, k.P, k.N), l->range_dstate = take(s, F32, 1, k.H, k.P, k.N);
    s->c = (struct ctx){
        .ops = &ops_cuda, .work = &s->work, .real = BF16, .space = DEVICE, .device = d, .stream = device_stream(d)};
    const int64_t first = ops_cuda.ssd_local_work(&s->c, l), second = ops_cuda.ssd_work(&s->c, a);
    MUST(device_arena_init(&s->work, "workspace", first > second ? first : second));
}

static void run(struct scan *s, bool backward) {
    MUST(ops_cuda.ssd_local_fwd(&s->c, &s->local));
    MUST(ops_cuda.ssd_fwd(&s->c, &s->ssd));
    if (!backward) return;
    MUST(ops_cuda.ssd_local_bwd(&s->c, &s->local));
    MUST(ops_cuda.ssd_bwd(&s->c, &s->ssd));
}

static double median_ms(struct scan *s, bool backward) {
    double ms[ROUNDS];
    const int each = s->T * EACH < TOKENS ? (int)(TOKENS / s->T) : EACH;
    run(s, backward);
    MUST(device_wait());
    for (int i = 0; i < ROUNDS; i++) {
        const double begin = prof_seconds();
        for (int k = 0; k < each; k++) run(s, backward);
        MUST(device_wait());
        ms[i] = 1e3 * (prof_seconds() - begin) / each;
    }
    qsort(ms, ROUNDS, sizeof *ms, by_size);
    return ms[ROUNDS / 2];
}

static void time_shape(struct device *d, int64_t T, struct shape k) {
    static struct scan s;
    open_scan(&s, d, T, k);
    const double ms[2] = {median_ms(&s, false), median_ms(&s, true)};
    for (int i = 0; i < 2; i++)
        printf("ours ssd %s T%lld H%d P%d N%d G%d Q%d: %.4f ms %.1f ns/token\n", i ? "forward + backward" : "forward",
               (long long)T, (int)k.H, (int)k.P, (int)k.N, (int)k.G, (int)k.Q, ms[i], 1e6 * ms[i] / (double)T);
    fflush(stdout);
    device_arena_term(&s.memory);
    device_arena_term(&s.work);
}

static void usage(const char *wrong) {
    fprintf(stderr, "%s: expected [--shape=H,P,N,G] [T ...], all above 0\n", wrong);
    exit(2);
}
/* --shape=H,P,N,G, the first argument where it is given: the only shape then. */
static bool only_shape(int argc, char **argv, struct shape *k) {
    long long H, P, N, G;
    if (argc < 2 || strncmp(argv[1], "--shape=", 8) != 0) return false;
    if (sscanf(argv[1], "--shape=%lld,%lld,%lld,%lld", &H, &P, &N, &G) != 4 || H < 1 || P < 1 || N < 1 || G < 1)
        usage(argv[1]);
    *k = (struct shape){H, P, N, G, 128};
    return true;
}

int main(int argc, char **argv) {
    struct shape shapes[] = {{128, 64, 128, 8, 128}, {128, 64, 128, 1, 128}, {128, 64, 256, 8, 128},
                             {24, 64, 128, 1, 128},  {64, 128, 128, 8, 128}, {24, 128, 256, 1, 128}};
    static const int64_t usual[] = {8192, 65536};
    const int first = 1 + only_shape(argc, argv, shapes), given = argc - first;
    const int n_shapes = first > 1 ? 1 : (int)(sizeof shapes / sizeof *shapes);
    struct device *d = NULL;
    for (int i = first; i < argc; i++)
        if (atoll(argv[i]) < 1) usage(argv[i]);
    if (device_count() == 0) SKIP("no GPU here");
    MUST(device_open(&d, 0));
    for (int i = 0; i < (given > 0 ? given : 2); i++)
        for (int k = 0; k < n_shapes; k++) time_shape(d, given > 0 ? atoll(argv[first + i]) : usual[i], shapes[k]);
    device_close(d);
    return check_end();
}
