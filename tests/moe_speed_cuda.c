/* SPDX-License-Identifier: Apache-2.0 */
/* labels: gpu1 */
/* timeout: 300 */
/* How long a layer of experts takes in BF16 on a GPU, from the router's logits on: route, group, rows to their experts,
 * up, relu2, down, and back; forward, forward + backward and each product, medians of 7; the bits of two runs.
 *   moe_speed_cuda [T D WIDTH EXPERTS TOP_K]     default 32768 4096 1024 64 8
 * First with even logits, then with a bias that sends all tokens to the same experts. */
#include <stdio.h>
#include <stdlib.h>
#include "kernels/activation/activation.h"
#include "kernels/combine/combine.h"
#include "kernels/device.h"
#include "kernels/group/group.h"
#include "kernels/grouped_linear/grouped_linear.h"
#include "kernels/ops.h"
#include "kernels/route/route.h"
#include "profiling/prof.h"
#include "tests/device_speed.h"

enum { ROUNDS = 7 };
struct moe {
    struct arena memory, work;
    struct ctx c;
    int64_t T, D, F, E, k;
    struct route route;
    struct group group;
    struct combine spread, gather;
    struct grouped_linear up, down;
    struct activation act;
};

static struct tensor take(struct moe *m, enum dtype type, int64_t a, int64_t b, int64_t c) {
    void *mem = NULL;
    const int64_t shape[4] = {a, b, c, 1};
    struct tensor t = c > 1 ? tensor_4d(NULL, type, shape) : tensor_2d(NULL, type, a, b);
    MUST(arena_take(&m->memory, tensor_bytes(t), &mem));
    t.data = mem;
    t.space = DEVICE;
    return t;
}
static struct tensor filled(struct moe *m, enum dtype type, int64_t a, int64_t b, int64_t c, double size) {
    struct tensor t = take(m, type, a, b, c);
    fill(t, -size, size);
    return t;
}
static struct tensor zeros(struct moe *m, int64_t a, int64_t b, int64_t c) {
    struct tensor t = take(m, F32, a, b, c);
    MUST(device_fill(t.data, 0, tensor_bytes(t)));
    return t;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static void open_moe(struct moe *m, struct device *d) {
    const int64_t T = m->T, D = m->D, F = m->F, E = m->E, k = m->k, N = T * k;
    MUST(device_arena_init(&m->memory, "the layer",
                           2 * N * (4 * D + 4 * F + 8) + 12 * E * D * F + 8 * T * (D + E) + 16 * N + (64 << 20)));
    const struct tensor h = filled(m, BF16, T, D, 1, 1.7), dy = filled(m, BF16, T, D, 1, 1.7),
                        y = take(m, BF16, T, D, 1), dh = take(m, BF16, T, D, 1), X = take(m, BF16, N, D, 1),
                        Y = take(m, BF16, N, D, 1), DY = take(m, BF16, N, D, 1), DX = take(m, BF16, N, D, 1),
                        row = take(m, I64, T, k, 1), w = take(m, F32, T, k, 1), dw = take(m, F32, T, k, 1),
                        ids = take(m, I32, T, k, 1), offset = take(m, I64, 1, E + 1, 1),
                        hidden = take(m, BF16, N, F, 1), act = take(m, BF16, N, F, 1), dact = take(m, BF16, N, F, 1),
                        dhidden = take(m, BF16, N, F, 1);
    m->route = (struct route){.scores = ROUTE_SIGMOID, .groups = 1, .top_groups = 1, .renormalise = true, .scale = 1.0};
    m->route.logits = filled(m, F32, T, E, 1, 1.7), m->route.dlogits = take(m, F32, T, E, 1);
    m->route.bias = tensor_1d(zeros(m, 1, E, 1).data, F32, E), m->route.bias.space = DEVICE;
    m->route.ids = ids, m->route.w = w, m->route.dw = dw;
    m->group = (struct group){.ids = ids, .row = row, .offset = offset};
    m->spread = (struct combine){.row = row, .dy = h, .dx = X, .x = DX, .y = dh};
    m->gather = (struct combine){.row = row, .w = w, .x = Y, .y = y, .dy = dy, .dx = DY, .dw = dw};
    m->up = (struct grouped_linear){.x = X, .offset = offset, .y = hidden, .dy = dhidden, .dx = DX};
    m->up.w = filled(m, BF16, E, F, D, 0.03), m->up.dw = zeros(m, E, F, D);
    m->down = (struct grouped_linear){.x = act, .offset = offset, .y = Y, .dy = DY, .dx = dact};
    m->down.w = filled(m, BF16, E, D, F, 0.05), m->down.dw = zeros(m, E, D, F);
    m->act = (struct activation){.kind = ACT_RELU2, .h = hidden, .y = act, .dy = dact, .dh = dhidden};
    m->c = (struct ctx){
        .ops = &ops_cuda, .work = &m->work, .real = BF16, .space = DEVICE, .device = d, .stream = device_stream(d)};
    const int64_t route = ops_cuda.route_work(&m->c, &m->route), group = ops_cuda.group_work(&m->c, &m->group);
    MUST(device_arena_init(&m->work, "workspace", larger(larger(route, group), 256)));
}

static void forward(struct moe *m) {
    MUST(ops_cuda.route_fwd(&m->c, &m->route));
    MUST(ops_cuda.group_fwd(&m->c, &m->group));
    MUST(ops_cuda.combine_bwd(&m->c, &m->spread));
    MUST(ops_cuda.grouped_linear_fwd(&m->c, &m->up));
    MUST(ops_cuda.activation_fwd(&m->c, &m->act));
    MUST(ops_cuda.grouped_linear_fwd(&m->c, &m->down));
    MUST(ops_cuda.combine_fwd(&m->c, &m->gather));
}
static void both(struct moe *m) {
    forward(m);
    MUST(ops_cuda.combine_bwd(&m->c, &m->gather));
    MUST(ops_cuda.grouped_linear_bwd(&m->c, &m->down));
    MUST(ops_cuda.activation_bwd(&m->c, &m->act));
    MUST(ops_cuda.grouped_linear_bwd(&m->c, &m->up));
    MUST(ops_cuda.combine_fwd(&m->c, &m->spread));
    MUST(ops_cuda.route_bwd(&m->c, &m->route));
}

static void part(struct moe *m, const struct grouped_linear *of, int which) {
    struct grouped_linear a = *of;
    if (which == 0) {
        MUST(ops_cuda.grouped_linear_fwd(&m->c, &a));
        return;
    }
    if (which == 1) a.dw.data = NULL;
    else a.dx.data = NULL;
    MUST(ops_cuda.grouped_linear_bwd(&m->c, &a));
}
static void up_y(struct moe *m) { part(m, &m->up, 0); }
static void up_dx(struct moe *m) { part(m, &m->up, 1); }
static void up_dw(struct moe *m) { part(m, &m->up, 2); }
static void down_y(struct moe *m) { part(m, &m->down, 0); }
static void down_dx(struct moe *m) { part(m, &m->down, 1); }
static void down_dw(struct moe *m) { part(m, &m->down, 2); }
static void route(struct moe *m) { MUST(ops_cuda.route_fwd(&m->c, &m->route)); }
static void group(struct moe *m) { MUST(ops_cuda.group_fwd(&m->c, &m->group)); }
static void spread(struct moe *m) { MUST(ops_cuda.combine_bwd(&m->c, &m->spread)); }
static void gather(struct moe *m) { MUST(ops_cuda.combine_fwd(&m->c, &m->gather)); }
static void gather_back(struct moe *m) { MUST(ops_cuda.combine_bwd(&m->c, &m->gather)); }

static double median_ms(struct moe *m, void (*run)(struct moe *)) {
    double ms[ROUNDS];
    run(m);
    MUST(device_wait());
    for (int i = 0; i < ROUNDS; i++) {
        const double begin = prof_seconds();
        run(m);
        MUST(device_wait());
        ms[i] = 1e3 * (prof_seconds() - begin);
    }
    qsort(ms, ROUNDS, sizeof *ms, by_size);
    return ms[ROUNDS / 2];
}

static uint64_t bits_of(struct tensor t) {
    void *host = NULL;
    uint64_t sum = 14695981039346656037u;
    const int64_t n = tensor_bytes(t) / 8;
    MUST(mem_take(8 * n, &host));
    MUST(device_copy(host, t.data, 8 * n));
    for (int64_t i = 0; i < n; i++) sum = (sum ^ ((const uint64_t *)host)[i]) * 1099511628211u;
    mem_free(host);
    return sum;
}
static uint64_t bits_of_run(struct moe *m) {
    MUST(device_fill(m->up.dw.data, 0, tensor_bytes(m->up.dw)));
    MUST(device_fill(m->down.dw.data, 0, tensor_bytes(m->down.dw)));
    MUST(device_wait());
    both(m);
    MUST(device_wait());
    return bits_of(m->gather.y) ^ bits_of(m->spread.y) ^ bits_of(m->up.dw) ^ bits_of(m->down.dw) ^
           bits_of(m->route.dlogits);
}

static void time_layer(struct moe *m, const char *routing) {
    static const struct {
        const char *name;
        void (*run)(struct moe *);
        int products;
    } parts[] = {{"forward", forward, 2},
                 {"forward + backward", both, 6},
                 {"up y", up_y, 1},
                 {"up dx", up_dx, 1},
                 {"up dw", up_dw, 1},
                 {"down y", down_y, 1},
                 {"down dx", down_dx, 1},
                 {"down dw", down_dw, 1},
                 {"route", route, 0},
                 {"group", group, 0},
                 {"rows out", spread, 0},
                 {"rows home", gather, 0},
                 {"rows home, backward", gather_back, 0}};
    const double flops = 2.0 * (double)(m->T * m->k) * (double)(m->D * m->F);
    for (int i = 0; i < (int)(sizeof parts / sizeof *parts); i++) {
        const double ms = median_ms(m, parts[i].run);
        printf("ours experts, %s, %s: %.3f ms", routing, parts[i].name, ms);
        if (parts[i].products) printf(" %.0f TFLOP/s", 1e-9 * flops * parts[i].products / ms);
        printf("\n");
        fflush(stdout);
    }
    const uint64_t first = bits_of_run(m), second = bits_of_run(m);
    CHECK(first == second, "two runs of %s have other bits", routing);
}

int main(int argc, char **argv) {
    static struct moe m = {.T = 32768, .D = 4096, .F = 1024, .E = 64, .k = 8};
    struct device *d = NULL;
    if (argc == 6)
        m.T = atoll(argv[1]), m.D = atoll(argv[2]), m.F = atoll(argv[3]), m.E = atoll(argv[4]), m.k = atoll(argv[5]);
    if (device_count() == 0) SKIP("no GPU here");
    MUST(device_open(&d, 0));
    open_moe(&m, d);
    time_layer(&m, "even");
    fill(tensor_1d(m.route.bias.data, F32, m.k), 100.0, 200.0);
    time_layer(&m, "the same for all");
    device_arena_term(&m.memory);
    device_arena_term(&m.work);
    device_close(d);
    return check_end();
}
