/* SPDX-License-Identifier: Apache-2.0 */
/* labels: gpu1 */
/* timeout: 300 */
/* How long the selective scan takes in BF16 on a GPU, both halves, forward and forward + backward: medians, one line a
 * shape.
 *   selective_speed_cuda [T ...]     default 8192 and 65536
 * A round is three runs behind each other, from the first launch to the end of the last kernel. */
#include <stdio.h>
#include <stdlib.h>
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/selective_scan_local/selective_scan_local.h"
#include "profiling/prof.h"
#include "tests/device_speed.h"

enum { ROUNDS = 7, EACH = 3 };

struct scan {
    struct arena memory, work;
    struct ctx c;
    struct selective_scan_local local;
    struct selective_scan scan;
    int64_t T, D, N, Q;
};

static struct tensor take(struct scan *s, enum dtype type, int64_t rows, int64_t a, int64_t b, int64_t c) {
    void *mem = NULL;
    const int64_t shape[4] = {rows, a, b, c};
    struct tensor t = tensor_4d(NULL, type, shape);
    MUST(arena_take(&s->memory, tensor_bytes(t), &mem));
    t.data = mem;
    t.space = DEVICE;
    if (type != I64) fill(t, -1.7, 1.7);
    return t;
}
static struct tensor rows(struct scan *s, int64_t width) { return take(s, BF16, s->T, width, 1, 1); }
static struct tensor states(struct scan *s, int64_t n) { return take(s, F32, n, s->D, 1, s->N); }

static void place_positions(struct scan *s) {
    void *host = NULL;
    const int64_t edges[2] = {0, s->T};
    MUST(mem_take(8 * s->T, &host));
    for (int64_t t = 0; t < s->T; t++) ((int64_t *)host)[t] = t;
    s->scan.pos = take(s, I64, s->T, 1, 1, 1);
    s->scan.range = take(s, I64, 2, 1, 1, 1);
    MUST(device_copy(s->scan.pos.data, host, 8 * s->T));
    MUST(device_copy(s->scan.range.data, edges, sizeof edges));
    mem_free(host);
}

static void take_tensors(struct scan *s) {
    struct selective_scan *a = &s->scan;
    const int64_t D = s->D, N = s->N, chunks = (s->T + s->Q - 1) / s->Q;
    a->state = N, a->chunk = s->Q;
    place_positions(s);
    a->x = rows(s, D), a->z = rows(s, D), a->dt = rows(s, D), a->out = rows(s, D), a->dout = rows(s, D);
    a->dx = rows(s, D), a->dz = rows(s, D), a->ddt = rows(s, D);
    a->B = rows(s, N), a->C = rows(s, N), a->dB = rows(s, N), a->dC = rows(s, N);
    a->A_log = take(s, F32, D, N, 1, 1), a->dA_log = take(s, F32, D, N, 1, 1);
    a->dt_bias = take(s, F32, D, 1, 1, 1), a->ddt_bias = take(s, F32, D, 1, 1, 1);
    a->D = take(s, F32, D, 1, 1, 1), a->dD = take(s, F32, D, 1, 1, 1);
    a->states = states(s, chunks), a->dstates = states(s, chunks), a->chunk_time = take(s, F32, chunks, D, 1, 1);
    a->s_in = states(s, 1), a->s_out = states(s, 1), a->ds_out = states(s, 1), a->ds_in = states(s, 1);
    fill(a->A_log, 0.0, 2.8);
    fill(a->dt_bias, -5.0, -2.0);
}

static void open_scan(struct scan *s, struct device *d, int64_t T, int64_t D, int64_t N, int64_t Q) {
    *s = (struct scan){.T = T, .D = D, .N = N, .Q = Q};
    MUST(device_arena_init(&s->memory, "the scan",
                           16 * T * (D + N) + 8 * (T / Q + 4) * D * (N + 1) + 8 * T + (64 << 20)));
    take_tensors(s);
    const struct selective_scan *a = &s->scan;
    s->local = (struct selective_scan_local){.state = N,
                                             .chunk = Q,
                                             .range = a->range,
                                             .pos = a->pos,
                                             .x = a->x,
                                             .dt = a->dt,
                                             .B = a->B,
                                             .A_log = a->A_log,
                                             .dt_bias = a->dt_bias,
                                             .D = a->D,
                                             .out = a->out,
                                             .states = a->states,
                                             .chunk_time = a->chunk_time,
                                             .z = a->z,
                                             .dout = a->dout,
                                             .C = a->C,
                                             .dstates = a->dstates,
                                             .range_time = take(s, F32, 1, D, 1, 1),
                                             .range_state = states(s, 1),
                                             .range_dstate = states(s, 1)};
    s->c = (struct ctx){
        .ops = &ops_cuda, .work = &s->work, .real = BF16, .space = DEVICE, .device = d, .stream = device_stream(d)};
    const int64_t first = ops_cuda.selective_scan_local_work(&s->c, &s->local);
    const int64_t second = ops_cuda.selective_scan_work(&s->c, a);
    MUST(device_arena_init(&s->work, "workspace", first > second ? first : second));
}

static void run(struct scan *s, bool backward) {
    MUST(ops_cuda.selective_scan_local_fwd(&s->c, &s->local));
    MUST(ops_cuda.selective_scan_fwd(&s->c, &s->scan));
    if (!backward) return;
    MUST(ops_cuda.selective_scan_local_bwd(&s->c, &s->local));
    MUST(ops_cuda.selective_scan_bwd(&s->c, &s->scan));
}

static double median_ms(struct scan *s, bool backward) {
    double ms[ROUNDS];
    run(s, backward);
    MUST(device_wait());
    for (int i = 0; i < ROUNDS; i++) {
        const double begin = prof_seconds();
        for (int k = 0; k < EACH; k++) run(s, backward);
        MUST(device_wait());
        ms[i] = 1e3 * (prof_seconds() - begin) / EACH;
    }
    qsort(ms, ROUNDS, sizeof *ms, by_size);
    return ms[ROUNDS / 2];
}

static void time_shape(struct device *d, int64_t T, int64_t Q) {
    static struct scan s;
    open_scan(&s, d, T, 8192, 16, Q);
    for (int i = 0; i < 2; i++) {
        const double ms = median_ms(&s, i == 1);
        printf("ours selective scan %s T%lld D8192 N16 Q%lld: %.4f ms %.1f ns/token\n",
               i ? "forward + backward" : "forward", (long long)T, (long long)Q, ms, 1e6 * ms / (double)T);
    }
    fflush(stdout);
    device_arena_term(&s.memory);
    device_arena_term(&s.work);
}

int main(int argc, char **argv) {
    static const int64_t usual[] = {8192, 65536}, chunks[] = {64, 128};
    struct device *d = NULL;
    if (device_count() == 0) SKIP("no GPU here");
    MUST(device_open(&d, 0));
    for (int i = 0; i < (argc > 1 ? argc - 1 : 2); i++)
        for (int k = 0; k < 2; k++) time_shape(d, argc > 1 ? atoll(argv[i + 1]) : usual[i], chunks[k]);
    device_close(d);
    return check_end();
}
