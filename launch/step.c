/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "kernels/clip/clip.h"
#include "kernels/nudge/nudge.h"
#include "kernels/ops.h"
#include "kernels/space.h"
#include "launch/schedule.h"
#include "launch/trainer.h"
#include "parallel/quiet.h"
#include "profiling/prof.h"

/* FLOP/s of one H100 or H200 (SXM), dense, by its data sheet: the GPUs that the BF16 kernels are made for. */
#define PEAK_BF16 989.4e12

enum status train_load(struct trainer *t, int64_t step) {
    const int64_t S = t->run.spec.tokens, n = t->config->train.sequences_per_step;
    for (int64_t i = 0; i < n; i++)
        TRY(stream_read(t->train, step * n + i, t->ids + i * S, t->targets + i * S, t->pos + i * S));
    int64_t valid = 0;
    for (int64_t i = 0; i < n * S; i++) valid += t->targets[i] >= 0;
    t->run.scale = valid > 0 ? 1.0 / (double)valid : 0.0;
    int64_t later[MTP_DEPTHS_MAX];
    runner_later_count(&t->run, t->targets, t->pos, n * S, later);
    runner_later_scales(&t->run, later);
    return OK;
}

/* My i-th micro-batch: those of a step go round the data axis. */
static void select_micro(struct trainer *t, int64_t i) {
    if (!t->ids) return; /* on paper all are alike */
    const int64_t micro = i * t->config->mesh.data + mesh_index(&t->team.mesh, MESH_DATA);
    const int64_t T = t->run.spec.n_sequences * t->run.spec.tokens;
    memcpy(t->run.ids, t->ids + micro * T, (size_t)T * sizeof *t->ids);
    memcpy(t->run.targets, t->targets + micro * T, (size_t)T * sizeof *t->targets);
    memcpy(t->run.pos, t->pos + micro * T, (size_t)T * sizeof *t->pos);
}

/* What changes from step to step and the host knows; the rest of the knobs is decided where the sums are, on every rank
 * alike: a norm or a loss that is not finite skips the update. */
static enum status decide(struct trainer *t, const struct step_report *r) {
    const struct optimizer_config *o = &t->config->optimizer;
    struct runner *run = &t->run;
    struct runner_numbers *numbers = &run->numbers;
    const double n = (double)r->step;
    numbers->knobs_host[KNOB_LR] = r->lr;
    numbers->knobs_host[KNOB_CLIP] = 1.0;
    numbers->knobs_host[KNOB_FIX1] = 1.0 / (1.0 - pow(o->beta1, n));
    numbers->knobs_host[KNOB_FIX2] = 1.0 / (1.0 - pow(o->beta2, n));
    numbers->knobs_host[KNOB_SKIP] = 0.0;
    TRY(space_send(&run->ctx, numbers->knobs.data, numbers->knobs_host, N_KNOBS * 8));
    TRY(sharding_squares(&run->shards, &run->step, numbers->squares));
    return run->ctx.ops->clip_fwd(&run->ctx, &(struct clip){.squares = numbers->squares,
                                                            .total = run->sum,
                                                            .scale = run->out.scale,
                                                            .knobs = numbers->knobs,
                                                            .report = numbers->report,
                                                            .limit = o->clip_norm});
}

/* The selection bias of a router follows the load of its layer. */
static enum status update_state(struct trainer *t, const struct param *p, const struct sharding_piece *mine) {
    struct ctx *c = &t->run.ctx;
    if (p->rate == 0.0) return OK;
    struct tensor load = tensor_1d(tensor_rows(t->run.load, p->layer, 1).data, F64, p->shape[0]);
    load.space = c->space;
    const struct nudge a = {
        .rate = p->rate, .begin = mine->begin, .load = load, .knobs = t->run.numbers.knobs, .b = mine->w};
    return c->ops->nudge_fwd(c, &a);
}

/* My part of every parameter. */
static enum status update(struct trainer *t) {
    const struct optimizer_config *o = &t->config->optimizer;
    struct ctx *c = &t->run.ctx;
    ASSERT(!seams_mesh_is_quiet(&t->run.mesh)); /* what quiet seams make is for the clock alone */
    for (int i = 0; i < t->run.model.params.n; i++) {
        const struct param *p = &t->run.model.params.list[i];
        const struct sharding_piece *mine = &t->run.shards.piece[i];
        if (mine->n == 0) continue;
        if (p->kind == PARAM_STATE) {
            TRY(update_state(t, p, mine));
            continue;
        }
        const struct adamw a = {.w = mine->w,
                                .m = mine->m,
                                .v = mine->v,
                                .g = mine->g,
                                .out = mine->out,
                                .knobs = t->run.numbers.knobs,
                                .beta1 = o->beta1,
                                .beta2 = o->beta2,
                                .eps = o->eps,
                                .decay = p->decay ? o->weight_decay : 0.0,
                                .lr_scale = p->lr_scale};
        TRY(c->ops->adamw_fwd(c, &a));
    }
    return OK;
}

enum status train_agree_stop(struct trainer *t) {
    int64_t asked = __atomic_load_n(t->stop, __ATOMIC_RELAXED) != 0;
    if (t->team.world.size > 1) TRY(team_most(&t->team, &asked));
    FAIL_UNLESS(!asked, ERR_STOPPED, "a signal asked to stop");
    return OK;
}

/* The one place where a step waits for its GPU. */
static enum status hear(struct trainer *t, struct step_report *r) {
    struct runner *run = &t->run;
    const double *said = run->numbers.report_host;
    if (t->team.device && rank_size(t->team.rank) > 1) TRY(comm_wait_stream(t->team.rank, run->ctx.stream));
    TRY(space_fetch(&run->ctx, run->numbers.report_host, run->numbers.report.data, N_REPORT * 8));
    r->grad_norm = said[REPORT_NORM];
    r->loss = said[REPORT_LOSS];
    r->skipped = said[REPORT_SKIP] != 0.0;
    r->bad_param = (int)said[REPORT_BAD];
    if (run->act.n_depths == 0) return OK;
    TRY(runner_read_later(run));
    r->later = true;
    r->mtp_loss = runner_later_loss(run);
    return OK;
}

enum status train_passes(struct trainer *t, struct step_report *r, bool with_update) {
    struct runner *run = &t->run;
    TRY(runner_zero_total(run));
    TRY(runner_load_begin(run));
    TRY(sharding_step_begin(&run->shards, &run->step));
    for (int64_t i = 0; i < t->n_micro; i++) {
        TRY(train_agree_stop(t));
        select_micro(t, i);
        TRY(runner_pass(run, true));
    }
    TRY(runner_sum_total(run));
    TRY(runner_load_end(run));
    TRY(decide(t, r));
    if (with_update) TRY(update(t));
    TRY(sharding_publish(&run->shards));
    return hear(t, r);
}

static enum status step(struct trainer *t, struct step_report *r) {
    struct runner *run = &t->run;
    const double begin = prof_seconds();
    const int64_t allocations = mem_stats().n_calls;
    *r = (struct step_report){.step = t->step + 1, .mfu = NAN};
    rank_phase(t->team.rank, "step", r->step);
    r->lr = schedule_lr(&t->config->optimizer, t->config->train.steps, r->step);
    TRY(train_load(t, t->step));
    TRY(train_passes(t, r, true));
    TRY(runner_load_hear(run));
    r->aux_loss = runner_load_aux(run);
    r->expert_load = runner_load_most(run);
    r->dropped = runner_load_dropped(run);
    r->drops = !isnan(r->dropped);
    r->experts = tensor_has(run->load);
    t->step = r->step;
    ASSERT(mem_stats().n_calls == allocations); /* all memory is planned and taken before the first step */

    const double seconds = prof_seconds() - begin;
    const int64_t tokens = t->config->train.sequences_per_step * run->spec.tokens;
    r->tokens = t->step * tokens;
    r->step_ms = 1e3 * seconds;
    r->tokens_per_s = (double)tokens / seconds;
    r->flops_per_s = t->flops * r->tokens_per_s;
    if (run->ctx.real == BF16) r->mfu = r->flops_per_s / (PEAK_BF16 * (double)rank_size(t->team.rank));
    r->bytes_peak = runner_bytes_peak(run);
    return OK;
}

enum status train_step(struct trainer *t, struct step_report *r) {
    prof_begin(PROF_STEP, "step");
    const enum status st = step(t, r);
    prof_end();
    return st;
}

/* Sequences [at, at + per_pass) of n; those past the end count nothing. */
static enum status load_validation(struct trainer *t, int64_t at, int64_t n, int64_t *valid) {
    struct runner *run = &t->run;
    const int64_t S = run->spec.tokens;
    for (int64_t i = 0; i < run->spec.n_sequences; i++) {
        const int64_t row = i * S;
        TRY(stream_read(t->valid, (at + i) % n, run->ids + row, run->targets + row, run->pos + row));
        for (int64_t j = 0; j < S; j++) {
            if (at + i >= n) run->targets[row + j] = -1;
            *valid += run->targets[row + j] >= 0;
        }
    }
    return OK;
}

enum status train_validate(struct trainer *t, double *loss) {
    struct runner *run = &t->run;
    const int64_t per_pass = run->spec.n_sequences, data = t->config->mesh.data;
    const int64_t me = mesh_index(&t->team.mesh, MESH_DATA);
    int64_t n = t->config->train.valid_sequences, valid = 0;
    if (n > stream_sequences(t->valid)) n = stream_sequences(t->valid);
    TRY(runner_zero_total(run));
    for (int64_t at = 0; at < n; at += data * per_pass) {
        TRY(train_agree_stop(t));
        /* Every rank counts all targets, and loads its own pass last.  All pass alike, for weights may be exchanged. */
        for (int64_t i = 1; i <= data; i++) TRY(load_validation(t, at + (me + i) % data * per_pass, n, &valid));
        TRY(runner_pass(run, false));
    }
    TRY(runner_sum_total(run));
    TRY(runner_read_total(run));
    *loss = valid > 0 ? run->total / (double)valid : NAN;
    return OK;
}
