/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/bench_device.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "kernels/ops.h"
#include "profiling/prof.h"

enum { ROUNDS_MIN = 11, ROUNDS_MAX = 101 };
#define SECONDS    0.3
#define COPY_BYTES ((int64_t)1 << 29)
#define HOOK_BYTES ((int64_t)256 << 20)

enum status bench_device_open(struct bench_device *b, enum dtype real, json_t *rows) {
    enum status st = OK;
    char bus[DEVICE_BUS];
    const char *why = NULL;
    *b = (struct bench_device){.rows = rows};
    TRY_OUT(device_open(&b->device, 0));
    TRY_OUT(device_timer_init(&b->timer));
    TRY_OUT(device_bus(b->device, bus));
    TRY_OUT(gauge_open(&b->gauge, bus, &why));
    if (!b->gauge) printf("no clocks and power: %s\n", why);
    TRY_OUT(device_take(COPY_BYTES, &b->from));
    TRY_OUT(device_take(COPY_BYTES, &b->to));
    TRY_OUT(device_fill(b->from, 0, COPY_BYTES));
    b->ctx = (struct ctx){
        .ops = &ops_cuda, .device = b->device, .stream = device_stream(b->device), .real = real, .space = DEVICE};
out:
    if (st != OK) bench_device_close(b);
    return st;
}

void bench_device_close(struct bench_device *b) {
    gauge_close(b->gauge);
    device_timer_term(&b->timer);
    device_free(b->from);
    device_free(b->to);
    device_close(b->device);
    *b = (struct bench_device){0};
}

/* ---- a row whose tensors lie on the device ---- */

struct device_row {
    struct trial trial;
    void *block[TRIAL_TENSORS];
    struct arena work, hook;
    enum pass pass;
};

static enum status move_tensor(struct case_tensor *x, void **block) {
    TRY(device_take(trial_block_bytes(x), block));
    TRY(device_copy(*block, x->block, trial_block_bytes(x)));
    x->at->data = (char *)*block + ((char *)x->at->data - x->block);
    x->at->space = DEVICE;
    if (x->twin) *x->twin = *x->at;
    return OK;
}

static void row_close(struct device_row *r) {
    for (int i = 0; i < TRIAL_TENSORS; i++) device_free(r->block[i]);
    device_arena_term(&r->work);
    device_arena_term(&r->hook);
    trial_close(&r->trial);
}

static bool left_out(const struct bench_device *b, const struct trial *t) {
    return b->ctx.real == BF16 ? t->no_bf16 : t->bf16_only;
}

static enum status row_open(struct device_row *r, struct bench_device *b, const struct case_op *op, int row) {
    struct trial *t = &r->trial;
    TRY(trial_open(t, op, row, b->ctx.real));
    if (left_out(b, t)) return OK;
    trial_fill(t);
    for (int i = 0; i < t->n_tensors; i++) TRY(move_tensor(&t->tensor[i], &r->block[i]));
    TRY(device_arena_init(&r->work, "workspace of a benchmark", op->work(&b->ctx, t->args)));
    if (!t->before[FORWARD] && !t->before[BACKWARD]) return OK;
    return device_arena_init(&r->hook, "workspace of a hook", HOOK_BYTES);
}

static enum status prepare(struct bench_device *b, struct device_row *r) {
    if (!r->trial.before[r->pass]) return OK;
    b->ctx.work = &r->hook;
    return r->trial.before[r->pass](&b->ctx, &r->trial);
}

static enum status time_op(struct bench_device *b, struct device_row *r, double *ms) {
    TRY(prepare(b, r));
    b->ctx.work = &r->work;
    TRY(device_timer_begin(b->device, &b->timer));
    TRY(r->trial.op->run(&b->ctx, r->pass, r->trial.args));
    TRY(device_timer_end(b->device, &b->timer));
    return device_timer_read(&b->timer, ms);
}

static enum status time_copy(struct bench_device *b, double *ms) {
    TRY(device_timer_begin(b->device, &b->timer));
    TRY(device_send(b->device, b->to, b->from, COPY_BYTES));
    TRY(device_timer_end(b->device, &b->timer));
    return device_timer_read(&b->timer, ms);
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_size);
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

static enum status put(json_t *o, const char *key, double x) {
    const int failed = json_object_set_new(o, key, isfinite(x) ? json_real(x) : json_null());
    FAIL_UNLESS(!failed, ERR_OOM, "no memory for the results of the benchmark");
    return OK;
}

/* Clocks and power of the row, behind its line and in its object. */
static enum status report_gauge(struct bench_device *b, json_t *o) {
    struct gauge_means m;
    if (!b->gauge) return OK;
    gauge_read(b->gauge, &m);
    if (isfinite(m.sm_mhz)) printf(" %5.0f MHz", m.sm_mhz);
    if (isfinite(m.watts)) printf(" %4.0f W", m.watts);
    TRY(put(o, "sm_mhz", m.sm_mhz));
    TRY(put(o, "sm_mhz_least", m.sm_mhz_least));
    TRY(put(o, "memory_mhz", m.memory_mhz));
    TRY(put(o, "power_w", m.watts));
    TRY(put(o, "celsius", m.celsius));
    FAIL_UNLESS(json_object_set_new(o, "limits", json_integer((json_int_t)m.limits)) == 0, ERR_OOM,
                "no memory for the results of the benchmark");
    return put(o, "limited", m.limited);
}

void bench_device_tell(struct bench_device *b) {
    struct gauge_means m;
    char text[GAUGE_TEXT];
    if (!b->gauge) return;
    gauge_all(b->gauge, &m);
    gauge_print(&m, text);
    printf("the GPU meanwhile: %s\n", text);
}

static enum status report(struct bench_device *b, const struct device_row *r, double ms, double copy_ms, int rounds) {
    const struct trial *t = &r->trial;
    const double bytes = trial_bytes(t, r->pass), flops = t->flops[r->pass];
    const char *pass = r->pass == FORWARD ? "forward" : "backward";
    const double gb_s = 1e-6 * bytes / ms, copy_gb_s = 2e-6 * (double)COPY_BYTES / copy_ms;
    printf("%-12s %-8s %-40s %9.4f ms %8.1f GB/s (%3.0f %% of copy)", t->op->name, pass, t->why, ms, gb_s,
           100.0 * gb_s / copy_gb_s);
    if (flops > 0.0) printf(" %8.2f TFLOP/s", 1e-9 * flops / ms);
    json_t *o = json_pack("{ss, ss, ss, ss, si, sf, sf, sf, sf}", "op", t->op->name, "pass", pass, "case", t->why,
                          "type", dtype_name(b->ctx.real), "rounds", rounds, "ms", ms, "gb_per_s", gb_s,
                          "copy_gb_per_s", copy_gb_s, "tflop_per_s", 1e-9 * flops / ms);
    FAIL_UNLESS(o && json_array_append_new(b->rows, o) == 0, ERR_OOM, "no memory for the results of the benchmark");
    TRY(report_gauge(b, o));
    putchar('\n');
    fflush(stdout);
    return OK;
}

/* Op and copy take turns, after a round that is not counted. */
static enum status bench_pass(struct bench_device *b, struct device_row *r) {
    double ms[ROUNDS_MAX], copy[ROUNDS_MAX], unused;
    const double begin = prof_seconds();
    int n = 0;
    TRY(time_copy(b, &unused));
    TRY(time_op(b, r, &unused));
    if (b->gauge) gauge_begin(b->gauge);
    for (; n < ROUNDS_MAX && (n < ROUNDS_MIN || prof_seconds() - begin < SECONDS); n++) {
        TRY(time_copy(b, &copy[n]));
        TRY(time_op(b, r, &ms[n]));
    }
    return report(b, r, median(ms, n), median(copy, n), n);
}

enum status bench_device_row(struct bench_device *b, const struct case_op *op, int row) {
    enum status st = OK;
    if (b->ctx.real != BF16 && case_large(op, row)) return OK;
    struct device_row r = {.pass = FORWARD};
    TRY_OUT(row_open(&r, b, op, row));
    if (left_out(b, &r.trial)) {
        printf("%-12s %-8s %-40s %s\n", op->name, "both", r.trial.why,
               b->ctx.real == BF16 ? "no BF16 kernel of this shape" : "measured in BF16 alone");
        goto out;
    }
    TRY_OUT(bench_pass(b, &r));
    r.pass = BACKWARD;
    if (op->flags & BWD) TRY_OUT(bench_pass(b, &r));
out:
    row_close(&r);
    return st;
}
