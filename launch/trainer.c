/* SPDX-License-Identifier: Apache-2.0 */
#define _DEFAULT_SOURCE /* strsep */
#include "launch/trainer.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/device_queue.h"
#include "launch/exposed.h"
#include "model/param_parts.h"
#include "profiling/trace.h"

static enum status open_stream(struct stream **out, const struct config *c, const struct field_list *files,
                               bool shuffle) {
    const struct stream_spec spec = {.n_prefixes = files->n,
                                     .prefixes = files->text,
                                     .tokens_per_sequence = c->train.tokens_per_sequence,
                                     .vocab = c->model.vocab,
                                     .seed = (uint64_t)c->run.seed,
                                     .shuffle = shuffle};
    return stream_open(out, &spec);
}

static int64_t step_tokens(const struct config *c) {
    return c->train.sequences_per_step * c->train.tokens_per_sequence;
}

static int64_t step_bytes(const struct config *c) {
    return 2 * arena_round(4 * step_tokens(c)) + arena_round(8 * step_tokens(c));
}

static enum status place_tokens(struct trainer *t) {
    const int64_t n = step_tokens(t->config);
    void *mem[3] = {0};
    TRY(arena_init(&t->tokens, "the tokens of a step", step_bytes(t->config)));
    for (int i = 0; i < 3; i++) TRY(arena_take(&t->tokens, (i < 2 ? 4 : 8) * n, &mem[i]));
    t->ids = mem[0], t->targets = mem[1], t->pos = mem[2];
    return OK;
}

static int64_t n_micro(const struct config *c) {
    return c->train.sequences_per_step / (c->train.micro_batch * c->mesh.data);
}

struct runner_spec trainer_spec(const struct config *c, struct team *team) {
    return (struct runner_spec){.precision = c->train.precision,
                                .threads = c->train.threads,
                                .n_sequences = c->train.micro_batch,
                                .tokens = c->train.tokens_per_sequence,
                                .tile = c->train.head_tile,
                                .step_bytes = step_bytes(c),
                                .traced = c->run.profile > 0 || c->run.trace > 0,
                                .training = true,
                                .n_micro = n_micro(c),
                                .policy = (enum policy)c->train.keep,
                                .keep_every = c->train.keep_every,
                                .offload = c->train.offload,
                                .plain = c->kernels.plain == PLAIN_ALLOW,
                                .exact = c->numerics == NUMERICS_RANK_INVARIANT,
                                .team = team,
                                .device = team ? team->device : NULL,
                                .mesh = &c->mesh};
}

enum status trainer_team(struct team *team, const struct config *c, struct rank *rank,
                         const struct device_choice *device) {
    const struct runner_spec spec = trainer_spec(c, NULL);
    int transfers = 0;
    TRY(runner_transfers(&c->model, &spec, &transfers));
    return team_open(team, rank, &c->mesh, transfers, device);
}

enum status trainer_open(struct trainer *t, const struct config *c, struct rank *rank,
                         const struct device_choice *device, const int *stop) {
    enum status st = OK;
    *t = (struct trainer){.config = c, .run_dir = c->run.dir, .saved_step = -1};
    startup_begin(&t->startup);
    startup_mark(&t->startup, "start");
    t->stop = stop;
    t->n_micro = n_micro(c);
    TRY_OUT(trainer_team(&t->team, c, rank, device));
    startup_mark(&t->startup, "ranks and devices");
    TRY_OUT(open_stream(&t->train, c, &c->data.train, true));
    if (c->data.valid.n > 0) TRY_OUT(open_stream(&t->valid, c, &c->data.valid, false));
    TRY_OUT(place_tokens(t));
    startup_mark(&t->startup, "data");
    const struct runner_spec spec = trainer_spec(c, &t->team);
    TRY_OUT(runner_init(&t->run, &c->model, &spec, false));
    startup_mark_at(&t->startup, "plan", t->run.planned_s);
    startup_mark(&t->startup, "allocate");
    TRY_OUT(runner_init_params(&t->run, (uint64_t)c->run.seed));
    startup_mark(&t->startup, "weights");
    if (rank_size(rank) == 1) t->run.step.stop = stop; /* several ranks agree, between micro-batches */
    t->flops = model_flops_per_token(&t->run.model, c->train.tokens_per_sequence);
    TRY_OUT(trainer_list_state(t));
out:
    if (st != OK) trainer_close(t);
    return st;
}

enum status trainer_open_paper(struct trainer *t, const struct config *c, struct rank *rank) {
    static const int never;
    enum status st = OK;
    *t = (struct trainer){.config = c, .saved_step = -1, .stop = &never, .n_micro = n_micro(c)};
    TRY_OUT(trainer_team(&t->team, c, rank, NULL));
    struct runner_spec spec = trainer_spec(c, &t->team);
    spec.paper = spec.plan_cuda = true;
    spec.threads = 1;
    TRY_OUT(runner_init(&t->run, &c->model, &spec, false));
    memset(t->run.ids, 0, (size_t)(spec.n_sequences * spec.tokens) * sizeof *t->run.ids);
    runner_plain_targets(&t->run);
out:
    if (st != OK) trainer_close(t);
    return st;
}

void trainer_close(struct trainer *t) {
    team_leave(&t->team); /* first: after a failure other ranks may reach into this one's memory until then */
    gauge_close(t->gauge);
    report_close(t->report);
    stream_close(t->train);
    stream_close(t->valid);
    arena_term(&t->tokens);
    mem_free(t->state);
    mem_free(t->place);
    text_term(&t->identity_diff);
    runner_term(&t->run);
    team_close(&t->team);
    *t = (struct trainer){0};
}

static bool due(int64_t step, int64_t every, int64_t last) { return step == last || (every > 0 && step % every == 0); }

/* A save that fails costs nothing but itself: the older checkpoints stay and training goes on. */
static void save_or_warn(struct trainer *t) {
    if (trainer_save(t) == OK) return;
    if (t->report)
        report_warn(t->report, "step %" PRId64 " was not saved: %s; older checkpoints are untouched, training goes on",
                    t->step, status_text());
    status_clear();
}

/* Sequences are numbered as the stream counts them, from 0. */
static void note_skipped(struct trainer *t, const struct step_report *r) {
    const int64_t n = t->config->train.sequences_per_step;
    const struct params *ps = &t->run.model.params;
    report_note(t->report,
                "warning: step %" PRId64
                " skipped: loss %g, gradient norm %g, first bad gradient %s, sequences %" PRId64 " to %" PRId64
                "; nothing was changed",
                r->step, r->loss, r->grad_norm, r->bad_param < 0 ? "none" : params_part_of(ps, r->bad_param)->name,
                (r->step - 1) * n, r->step * n - 1);
}

static enum status tell_startup(struct trainer *t) {
    struct text text = {0};
    const enum status st = startup_print(&t->startup, &text);
    if (st == OK) report_note(t->report, "%s", text.s);
    text_term(&text);
    return st;
}

/* After the first step, when libraries have taken what they take. */
static enum status tell_memory(struct trainer *t) {
    struct text text = {0};
    const bool shared = !world_launcher(getenv) && rank_size(t->team.rank) > device_count();
    enum status st = shared ? OK : runner_print_memory(&t->run, &text); /* where ranks share it, it tells nothing */
    if (st == OK && text.n > 0) report_note(t->report, "%s", text.s);
    text_term(&text);
    t->told_memory = true;
    return st;
}

static enum status tell_times(struct trainer *t) {
    struct text text = {0};
    enum status st = traced_report(&t->run.traced, &text);
    if (st == OK && t->report) report_note(t->report, "device time of step %" PRId64 ":", t->step);
    char *rest = text.s;
    for (char *line; st == OK && t->report && (line = strsep(&rest, "\n"));)
        if (*line) report_note(t->report, "%s", line);
    text_term(&text);
    return st;
}

void trainer_moved(const struct trainer *t, struct comm_count out[N_COMM_USES]) {
    const struct sharding *h = &t->run.shards, *e = h->experts ? h->experts : h;
    const struct comm *const all[] = {
        &t->team.seq,   &t->team.tensor, &t->team.world, &t->team.tokens, &t->team.tokens_there,
        &t->run.expert, &t->run.counts,  &h->comm,       &h->tensor,      &e->comm,
        &e->tensor,     &e->expert};
    const size_t n = sizeof all / sizeof *all - (h->experts ? 0 : 3);
    memset(out, 0, N_COMM_USES * sizeof *out);
    for (size_t i = 0; i < n; i++)
        for (int use = 0; use < N_COMM_USES; use++) {
            out[use].messages += all[i]->count[use].messages;
            out[use].bytes_sent += all[i]->count[use].bytes_sent;
            out[use].bytes_received += all[i]->count[use].bytes_received;
        }
}

/* Steps are alike: of the second one, for the first agrees on more. */
static void tell_exchanges(const struct trainer *t, const struct comm_count before[N_COMM_USES]) {
    char line[400];
    struct comm_count after[N_COMM_USES];
    int n = 0;
    trainer_moved(t, after);
    for (int use = 0; use < N_COMM_USES; use++)
        n += snprintf(line + n, sizeof line - (size_t)n, "%s %s %" PRId64, use ? "," : "", comm_use_name(use),
                      after[use].bytes_received - before[use].bytes_received);
    report_note(t->report, "bytes that rank 0 received in step %" PRId64 ":%s", t->step, line);
}

/* The second half of a traced step; what other ranks of this process have not ended yet is missing. */
static enum status tell_trace(struct trainer *t) {
    char path[PATH_BYTES];
    struct trace_sums s;
    TRY(path_print(path, "%s/trace-%" PRId64 ".json", t->run_dir, t->step));
    TRY(trace_end(path, &s));
    report_note(t->report,
                "trace of step %" PRId64 ": %s, %" PRId64 " ranges, %" PRId64 " records of GPUs, %" PRId64 " lost",
                t->step, path, s.n_ranges, s.n_device, s.n_lost);
    if (s.gpu)
        report_note(t->report, "the busiest GPU works %.2f %% of %.1f ms, %.2f %% on exchanges alone",
                    100.0 * s.busy_ms / s.span_ms, s.span_ms, 100.0 * s.exchange_ms / s.span_ms);
    else if (t->run.ctx.device) report_note(t->report, "no kernels in it: the library of CUPTI is not found");
    return OK;
}

static enum status open_gauge(struct trainer *t) {
    char bus[DEVICE_BUS];
    const char *why = NULL;
    if (!t->report || !t->team.device) return OK;
    TRY(device_bus(t->team.device, bus));
    TRY(gauge_open(&t->gauge, bus, &why));
    if (!t->gauge) report_note(t->report, "clocks and power of the GPU are not logged: %s", why);
    return OK;
}

/* A step, and what the GPU of rank 0 had to give for it. */
static enum status gauged_step(struct trainer *t, struct step_report *r) {
    struct gauge_means m;
    if (!t->gauge) return train_step(t, r);
    gauge_begin(t->gauge);
    TRY(train_step(t, r));
    gauge_read(t->gauge, &m);
    r->gauged = true;
    r->power_w = m.watts;
    r->sm_mhz = m.sm_mhz;
    return OK;
}

static void tell_gauge(struct trainer *t) {
    struct gauge_means m;
    char text[GAUGE_TEXT];
    if (!t->gauge) return;
    gauge_all(t->gauge, &m);
    gauge_print(&m, text);
    report_note(t->report, "GPU of rank 0 over these steps: %s", text);
}

/* One step with what is due behind it.  ERR_STOPPED may come before the step has ended, or during its validation. */
static enum status one_step(struct trainer *t) {
    const struct config *c = t->config;
    struct step_report r;
    const int64_t profile = t->run.ctx.traced ? c->run.profile : 0;
    const bool record = profile > 0 && t->step >= 1 && (t->step - 1) % profile == 0; /* the first step warms up */
    if (record) traced_record(&t->run.traced);
    struct comm_count before[N_COMM_USES];
    const bool told = t->report && rank_size(t->team.rank) > 1 && t->step == 1;
    if (told) trainer_moved(t, before);
    const bool trace = t->report && t->step + 1 == c->run.trace;
    if (trace) TRY(trace_begin());
    const enum status stepped = gauged_step(t, &r);
    if (trace) TRY(tell_trace(t));
    TRY(stepped);
    if (t->report && !t->told_memory) startup_mark(&t->startup, "first step");
    if (told) tell_exchanges(t, before);
    if (record) TRY(tell_times(t));
    enum status st = OK;
    if (t->valid && due(t->step, c->train.valid_every, c->train.steps)) {
        st = train_validate(t, &r.valid_loss);
        r.validated = st == OK;
    }
    if (t->report) TRY(report_step(t->report, &r));
    if (t->report && !t->told_memory) {
        TRY(tell_startup(t));
        TRY(tell_memory(t));
    }
    if (r.skipped && t->report) note_skipped(t, &r);
    TRY(st);
    if (t->step < c->train.steps && due(t->step, c->checkpoint.every, -1)) save_or_warn(t);
    return OK;
}

/* Before the first step of this start. */
static enum status measure_exchanges(struct trainer *t) {
    struct exposed e;
    if (t->config->run.exposed == 0 || t->step >= t->config->train.steps) return OK;
    if (rank_size(t->team.rank) == 1) {
        if (t->report) report_note(t->report, "run.exposed: one rank exchanges nothing");
        return OK;
    }
    TRY(exposed_measure(t, (int)t->config->run.exposed, &e));
    startup_mark(&t->startup, "measuring exchanges");
    if (t->report) exposed_tell(t, &e);
    return OK;
}

enum status trainer_run(struct trainer *t) {
    enum status st = measure_exchanges(t);
    if (st == OK) st = open_gauge(t);
    while (st == OK && t->step < t->config->train.steps) st = one_step(t);
    tell_gauge(t);
    const bool alone = rank_size(t->team.rank) == 1; /* after a failure ranks meet no more */
    if (st != OK && st != ERR_STOPPED && !(st == ERR_DATA && alone)) return st;
    if (t->step > 0 && t->saved_step != t->step) TRY(trainer_save(t)); /* finished steps outlive bad data, too */
    TRY(sharding_settle(&t->run.shards));
    if (st != ERR_STOPPED || !t->report) return st;
    if (t->step > 0)
        report_note(t->report, "stopped by a signal; step %" PRId64 " is saved, the same command continues", t->step);
    else report_note(t->report, "stopped by a signal before the first step had ended: nothing to save");
    return st;
}
