/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <threads.h>
#include "base/arena.h"
#include "base/field.h"
#include "base/file.h"
#include "base/json.h"
#include "base/pool.h"
#include "kernels/cases.h"
#include "kernels/gemm.h"
#include "kernels/linear/linear.h"
#include "launch/bench_device.h"
#include "launch/command.h"
#include "launch/device.h"
#include "profiling/bench.h"

/* What one run of the command holds. */
struct bench {
    struct pool *pool;
    struct bench_copy copy;
    json_t *rows; /* of --json */
};

/* One row of one op, in one pass. */
struct bench_row {
    struct trial trial;
    struct ctx ctx;
    struct arena work;
    enum pass pass;
};

static enum status prepare_row(void *arg) {
    struct bench_row *r = arg;
    return trial_hook(&r->trial, &r->ctx, r->pass);
}

static enum status run_row(void *arg) {
    struct bench_row *r = arg;
    return r->trial.op->run(&r->ctx, r->pass, r->trial.args);
}

/* The products of a linear row by OpenBLAS and its own threads, as many as our pool has. */
static enum status run_library(void *arg) {
    struct bench_row *r = arg;
    const struct linear *a = r->trial.args;
    const int64_t T = a->x.shape[0], I = a->x.shape[1], O = a->w.shape[0];
    gemm_library_threads_ref(pool_size(r->ctx.pool));
    if (r->pass == FORWARD) {
        gemm_ref(false, true, T, O, I, 1, a->x.data, a->x.pitch, a->w.data, a->w.pitch, 0, a->y.data, a->y.pitch);
    } else {
        gemm_ref(false, false, T, I, O, 1, a->dy.data, a->dy.pitch, a->w.data, a->w.pitch, 0, a->dx.data, a->dx.pitch);
        gemm_ref(true, false, O, I, T, 1, a->dy.data, a->dy.pitch, a->x.data, a->x.pitch, 1, a->dw.data, a->dw.pitch);
    }
    gemm_library_threads_ref(1);
    return OK;
}

/* OpenBLAS's threads spin for some 30 ms after their work and would take a core from ours: wait until they sleep, then
 * run once to be as warm as the library is. */
static enum status begin_after_library(void *arg) {
    const struct timespec pause = {.tv_nsec = 100000000};
    thrd_sleep(&pause, NULL);
    return run_row(arg);
}

static enum status report(struct bench *b, const struct bench_row *r, const struct bench_result *m, bool library) {
    const struct trial *t = &r->trial;
    const double bytes = trial_bytes(t, r->pass), flops = t->flops[r->pass];
    const char *pass = r->pass == FORWARD ? "forward" : "backward";
    const double copy_rate = 2.0 * (double)b->copy.bytes / m->yardstick_best_s;
    const double share = library ? m->yardstick_best_s / m->run_best_s : bytes / m->run_best_s / copy_rate;
    printf("%-12s %-8s %-40s %9.3f ms %8.2f GB/s", t->op->name, pass, t->why, 1e3 * m->run_s, 1e-9 * bytes / m->run_s);
    if (flops > 0.0) printf(" %8.1f GFLOP/s", 1e-9 * flops / m->run_s);
    if (library) printf("  %4.0f %% of OpenBLAS", 100.0 * share);
    else if (flops == 0.0) printf("  %4.0f %% of copy at %.1f GB/s", 100.0 * share, 1e-9 * copy_rate);
    putchar('\n');
    fflush(stdout);
    json_t *o = json_pack("{ss, ss, ss, si, si, sf, sf, sf, sf, ss, sf}", "op", t->op->name, "pass", pass, "case",
                          t->why, "threads", pool_size(b->pool), "calls", m->n_calls, "ms", 1e3 * m->run_s, "best_ms",
                          1e3 * m->run_best_s, "gb_per_s", 1e-9 * bytes / m->run_s, "gflop_per_s",
                          1e-9 * flops / m->run_s, "yardstick", library ? "OpenBLAS" : "copy", "share", share);
    FAIL_UNLESS(o && json_array_append_new(b->rows, o) == 0, ERR_OOM, "no memory for the results of the benchmark");
    return OK;
}

static enum status bench_pass(struct bench *b, struct bench_row *r) {
    const bool library = !strcmp(r->trial.op->name, "linear");
    const struct bench_subject ours = {.prepare = prepare_row, .run = run_row, .arg = r};
    const struct bench_subject copy = {.run = bench_copy_run, .arg = &b->copy};
    const struct bench_subject ours_after = {.begin = begin_after_library, .run = run_row, .arg = r};
    const struct bench_subject openblas = {.begin = run_library, .run = run_library, .arg = r};
    struct bench_result m;
    TRY(library ? bench_compare(&ours_after, &openblas, &m) : bench_compare(&ours, &copy, &m));
    return report(b, r, &m, library);
}

static enum status bench_one_row(struct bench *b, const struct case_op *op, int row) {
    enum status st = OK;
    if (case_large(op, row)) return OK;
    struct bench_row r = {.ctx = {.ops = &ops_ref, .pool = b->pool, .real = F32, .space = HOST}};
    TRY_OUT(trial_open(&r.trial, op, row, F32));
    if (r.trial.bf16_only) goto out;
    trial_fill(&r.trial);
    TRY_OUT(arena_init(&r.work, "workspace of a benchmark", op->work(&r.ctx, r.trial.args)));
    r.ctx.work = &r.work;
    TRY_OUT(bench_pass(b, &r));
    r.pass = BACKWARD;
    if (op->flags & BWD) TRY_OUT(bench_pass(b, &r));
out:
    arena_term(&r.work);
    trial_close(&r.trial);
    return st;
}

static bool wanted(const struct command_line *l, const char *name) {
    for (int i = 0; i < l->n_words; i++)
        if (!strcmp(l->words[i], name)) return true;
    return l->n_words == 0;
}

static enum status check_names(const struct command_line *l) {
    FAIL_UNLESS(l->n_overrides == 0, ERR_CONFIG, "%s: bench reads no configuration", l->overrides[0]);
    for (int i = 0; i < l->n_words; i++) {
        bool found = false;
        for (int k = 0; k < n_case_ops; k++) found |= !strcmp(case_ops[k].name, l->words[i]);
        for (int k = 0; k < n_case_ops && !found; k++)
            if (text_distance(case_ops[k].name, l->words[i]) <= 2)
                FAIL(ERR_CONFIG, "no op '%s'; did you mean '%s'?", l->words[i], case_ops[k].name);
        FAIL_UNLESS(found, ERR_CONFIG, "no op '%s'; kernels/ops.def lists them", l->words[i]);
    }
    return OK;
}

static enum status write_json(const struct bench *b, const char *path) {
    char *text = json_dumps(b->rows, JSON_INDENT(1));
    FAIL_UNLESS(text, ERR_OOM, "no memory for the results of the benchmark");
    const enum status st = file_replace(path, text, (int64_t)strlen(text));
    mem_free(text);
    return st == OK ? OK : status_pass(st, __FILE__, __LINE__);
}

static enum status bench_ops(const struct command_line *l, const char *json) {
    enum status st = OK;
    struct bench b = {.rows = json_array()};
    TRY_OUT(b.rows ? OK : status_fail(ERR_OOM, __FILE__, __LINE__, "no memory for the results of the benchmark"));
    TRY_OUT(pool_init(&b.pool, pool_cores()));
    TRY_OUT(bench_copy_init(&b.copy, b.pool));
    printf("F32 on the cpu, %d threads; medians; shares compare the best calls; a copy counts every byte twice\n",
           pool_size(b.pool));
    for (int i = 0; i < n_case_ops; i++)
        for (int row = 0; wanted(l, case_ops[i].name) && row < case_ops[i].n_bench; row++)
            TRY_OUT(bench_one_row(&b, &case_ops[i], case_ops[i].n_cases + row));
    if (json) TRY_OUT(write_json(&b, json));
out:
    bench_copy_term(&b.copy);
    pool_term(b.pool);
    json_decref(b.rows);
    return st;
}

static enum status bench_there(const struct command_line *l, enum dtype type, const char *json) {
    enum status st = OK;
    struct bench b = {.rows = json_array()};
    struct bench_device there = {0};
    struct device_facts f;
    TRY_OUT(b.rows ? OK : status_fail(ERR_OOM, __FILE__, __LINE__, "no memory for the results of the benchmark"));
    TRY_OUT(bench_device_open(&there, type, b.rows));
    TRY_OUT(device_facts(0, &f));
    printf("%s on %s; medians by the device's events; a copy counts every byte twice\n", dtype_name(type), f.name);
    for (int i = 0; i < n_case_ops; i++)
        for (int row = 0; wanted(l, case_ops[i].name) && row < case_ops[i].n_bench; row++)
            TRY_OUT(bench_device_row(&there, &case_ops[i], case_ops[i].n_cases + row));
    bench_device_tell(&there);
    if (json) TRY_OUT(write_json(&b, json));
out:
    bench_device_close(&there);
    json_decref(b.rows);
    return st;
}

/* Of --precision, on a GPU. */
static enum status real_of(const char *precision, enum dtype *type) {
    *type = F32;
    if (!precision || !strcmp(precision, "f32")) return OK;
    FAIL_UNLESS(!strcmp(precision, "bf16"), ERR_CONFIG, "--precision %s: wants f32 or bf16", precision);
    *type = BF16;
    return OK;
}

static enum status run_bench(int argc, char **argv) {
    const char *device = NULL, *json = NULL, *precision = NULL;
    const struct option_row rows[] = {
        {"--device", &device, NULL}, {"--json", &json, NULL}, {"--precision", &precision, NULL}};
    struct device_choice where;
    struct command_line l;
    enum dtype type = F32;
    enum status st = OK;
    TRY(command_parse(argc, argv, rows, 3, &l));
    TRY_OUT(check_names(&l));
    TRY_OUT(device_choose(device, &where));
    TRY_OUT(real_of(precision, &type));
    if (!where.cuda && type == BF16) FAIL_OUT(ERR_CONFIG, "--precision bf16: on the cpu ops are of f32");
    TRY_OUT(device_print(&where));
    TRY_OUT(where.cuda ? bench_there(&l, type, json) : bench_ops(&l, json));
out:
    command_line_term(&l);
    return st;
}

const struct command command_bench = {
    .name = "bench",
    .usage = "bench [OP ...] [--device cpu|cuda] [--precision f32|bf16] [--json FILE]",
    .help = "Times ops on training-like shapes (rows of kernels/<op>/<op>_cases.h), all of them unless named.\n"
            "Each is held against a yardstick of the same run: a copy of memory over the same threads for what\n"
            "moves bytes, OpenBLAS with its own threads for linear.  On a GPU its events give the times, and a copy of "
            "its\n"
            "memory is the yardstick; clocks and power while a row ran stand behind it, where NVML tells them.\n\n"
            "  --device cpu|cuda      where the ops run (default: cuda where there is a GPU, else cpu)\n"
            "  --precision f32|bf16   of the activations, on a GPU (default f32)\n"
            "  --json FILE            the results as a list of objects\n",
    .run = run_bench,
};
