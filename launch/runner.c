/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/runner.h"
#include <stdio.h>
#include "base/pool.h"
#include "kernels/ops.h"
#include "kernels/space.h"
#include "profiling/prof.h"

static enum status make_ctx(struct runner *r) {
    const struct runner_spec *spec = &r->spec;
    const bool wide = spec->precision == PRECISION_F64;
    const struct device_choice where = {.cuda = spec->device || spec->plan_cuda};
    if (!spec->paper) TRY(device_check_precision(&where, spec->precision));
    r->ctx =
        (struct ctx){.ops = wide ? &ops_ref64 : &ops_ref, .work = &r->work, .real = wide ? F64 : F32, .space = HOST};
    if (where.cuda) {
        r->ctx.ops = wide ? r->ctx.ops : &ops_cuda; /* wide: on paper alone */
        r->ctx.device = spec->device;
        r->ctx.stream = spec->device ? device_stream(spec->device) : NULL;
        r->ctx.real = spec->precision == PRECISION_BF16 ? BF16 : r->ctx.real;
        r->ctx.space = DEVICE;
    }
    if (spec->plain && r->ctx.real == BF16) {
        plain_init(&r->plain, r->ctx.ops);
        r->ctx.plain = &r->plain;
        r->ctx.ops = &r->plain.table;
    }
    if (spec->paper) {
        paper_init(&r->paper, r->ctx.ops);
        r->ctx.ops = &r->paper.table;
        r->ctx.paper = &r->paper;
    }
    if (spec->device && spec->traced) {
        TRY(traced_init(&r->traced, r->ctx.ops));
        r->ctx.traced = &r->traced;
        r->ctx.ops = &r->traced.table;
    }
    const int64_t cores = pool_cores(), ranks = spec->team ? rank_size(spec->team->rank) : 1;
    const int64_t threads = spec->threads > 0 ? spec->threads : cores > ranks ? cores / ranks : 1;
    if (spec->weights_of) {
        r->ctx.pool = spec->weights_of->ctx.pool;
        return OK;
    }
    TRY(pool_init(&r->pool, (int)threads));
    r->ctx.pool = r->pool;
    return OK;
}

static int64_t my_tokens(const struct runner *r) { return r->map.tokens[r->seq_index]; }
static int64_t my_ranges(const struct runner *r) { return shard_map_ranges(&r->map, r->seq_index); }

static void plan_ledger(struct runner *r) {
    const struct sharding_bytes shards = sharding_bytes(&r->shards);
    const struct seams_mesh_bytes mesh = runner_mesh_bytes(r);
    struct ledger *l = &r->ledger;
    ledger_add(l, "parameters", shards.weights);
    ledger_add(l, "masters of parameters", shards.masters);
    ledger_add(l, "gradients", shards.gradients);
    ledger_add(l, "sums of gradients", shards.sums);
    ledger_add(l, "optimizer moments", shards.moments);
    ledger_add(l, "activations: layer inputs", r->act.by_keep[KEEP_INPUT]);
    ledger_add(l, "activations: outputs of products", r->act.by_keep[KEEP_GEMM]);
    ledger_add(l, "activations: cheap ones", r->act.by_keep[KEEP_CHEAP]);
    ledger_add(l, "activations: boundaries", r->act.by_keep[KEEP_BOUNDARY]);
    ledger_add(l, "activations: leaving and coming", r->act.away.window_bytes);
    ledger_add(runner_apart(r) ? &r->beside : l, "activations: in the host's memory", r->act.away.store_bytes);
    ledger_add(l, "activations: shared by layers", r->act.shared_bytes);
    ledger_add(l, "scratch of layers", r->act.scratch_bytes);
    runner_plan_batch(r);
    if (!runner_apart(r)) ledger_add(l, "tokens of a step", r->spec.step_bytes);
    ledger_add(l, "exchanges between ranks", mesh.ops + (runner_apart(r) ? 0 : mesh.host));
    if (runner_apart(r)) r->host_bytes += mesh.host + runner_load_bytes(r);
    if (runner_apart(r)) ledger_add(&r->beside, "tokens and numbers", r->host_bytes);
    ledger_add(l, "gradients on their way", shards.exchanges);
    ledger_add(l, "loads of experts", runner_load_bytes(r));
    ledger_add(l, "workspace of ops", r->act.work_bytes);
}

static enum status place_params(struct runner *r) {
    const struct runner *from = r->spec.weights_of;
    for (int i = 0; from && i < r->model.params.n; i++) r->model.params.list[i].w = from->model.params.list[i].w;
    TRY(sharding_place(&r->shards, &r->memory));
    r->grads = r->shards.grads;
    return OK;
}

static enum status take_memory(struct runner *r) {
    const int64_t store = r->act.away.store_bytes, work = r->act.work_bytes;
    const int64_t beside = runner_apart(r) ? 0 : r->spec.step_bytes + store;
    const int64_t all = ledger_total(&r->ledger) - beside;
    TRY(space_arena_init(&r->ctx, &r->memory, "the run's memory", all - work));
    TRY(space_arena_init(&r->ctx, &r->work, "workspace of ops", work));
    TRY(space_store_init(&r->ctx, &r->store, "activations in the host's memory", store));
    return runner_apart(r) ? space_host_init(&r->ctx, &r->host, "the host's side of the run", r->host_bytes) : OK;
}

static enum status allocate(struct runner *r) {
    TRY(runner_check_memory(r));
    TRY(take_memory(r));
    TRY(place_params(r));
    TRY(activations_place(&r->act, &r->ctx, &r->memory, &r->store));
    TRY(runner_place_batch(r));
    TRY(runner_place_numbers(r));
    if (r->spec.cache_tokens > 0)
        TRY(seams_cache_init(&r->cache, r->model.n_layers, r->spec.cache_tokens, r->ctx.space));
    r->step = (struct step){.ctx = &r->ctx,
                            .seams = r->cache ? &seams_cached : &seams_local,
                            .seams_state = r->cache,
                            .params = &r->model.params};
    if (r->spec.team) TRY(runner_mesh_seams(r));
    TRY(runner_load_place(r));
    if (r->ctx.traced) {
        r->step.traced = r->step.seams;
        r->step.seams = &seams_traced;
    }
    arena_seal(&r->memory);
    return OK;
}

enum status runner_plan_activations(struct runner *r, const struct keep_spec *keep, struct activations *out) {
    const struct runner_spec *s = &r->spec;
    const int64_t R = my_ranges(r);
    void *mem = NULL;
    TRY(mem_take(2 * (R + 1) * 8, &mem));
    int64_t *range = mem, *range_own = range + R + 1;
    for (int64_t i = 0; i < R; i++) range[i] = shard_map_range(&r->map, r->seq_index, i)->row;
    range[R] = my_tokens(r);
    runner_own_ranges(r, range_own);
    if (s->exact) r->exact.range = range, r->exact.range_own = range_own;
    const struct plan_size size = {.n_tokens = my_tokens(r),
                                   .n_own = range_own[R],
                                   .n_ranges = R,
                                   .range = range,
                                   .wide = r->wide.n_ranks > 0 ? &r->wide : NULL,
                                   .guests = r->guests.n_ranks > 1 ? &r->guests : NULL,
                                   .tile = s->exact ? r->map.spec.grid : s->tile,
                                   .forward_only = !s->training && !s->gradients,
                                   .policy = keep->policy,
                                   .keep_every = keep->every,
                                   .offload = keep->offload};
    const enum status st = activations_plan(out, &r->model, &r->ctx, &size);
    mem_free(range);
    return st;
}

static enum status plan(struct runner *r) {
    const struct runner_spec *s = &r->spec;
    if (s->exact) {
        exact_init(&r->exact, r->ctx.ops, NULL, my_ranges(r));
        r->ctx.exact = &r->exact;
        r->ctx.ops = &r->exact.table;
    }
    const struct keep_spec keep = {.policy = s->policy, .every = s->keep_every, .offload = s->offload};
    return runner_plan_activations(r, &keep, &r->act);
}

/* Once a run: a plan on paper has its own place for it, and runners of one model's weights say the same. */
static enum status tell_plain(const struct runner *r) {
    struct text text = {0};
    if (r->spec.paper || r->spec.weights_of || (r->spec.team && !r->spec.team->leader)) return OK;
    const enum status st = plain_print(r->plain.note, r->plain.n_notes, &text);
    if (st == OK && text.n > 0) fputs(text.s, stderr);
    text_term(&text);
    return st;
}

enum status runner_init(struct runner *r, const struct model_config *c, const struct runner_spec *spec, bool dry) {
    enum status st = OK;
    *r = (struct runner){.spec = *spec};
    TRY_OUT(make_ctx(r));
    const struct split split = runner_split(r);
    TRY_OUT(model_init(&r->model, c, &split));
    TRY_OUT(runner_mesh_shape(r));
    TRY_OUT(plan(r));
    TRY_OUT(runner_mesh_shards(r));
    TRY_OUT(runner_mesh_experts(r));
    plan_ledger(r);
    TRY_OUT(tell_plain(r));
    r->planned_s = prof_seconds();
    if (!dry) TRY_OUT(allocate(r));
out:
    if (st != OK) runner_term(r);
    return st;
}

void runner_term(struct runner *r) {
    comm_term(&r->expert);
    comm_term(&r->counts);
    sharding_term(&r->shards);                      /* before the wait: it ends what other ranks no longer answer */
    if (r->ctx.device) (void)space_settle(&r->ctx); /* what is enqueued reads memory that goes now */
    seams_cache_term(r->cache);
    activations_term(&r->act);
    shard_map_term(&r->map);
    model_term(&r->model);
    space_arena_term(&r->ctx, &r->memory);
    space_arena_term(&r->ctx, &r->work);
    space_host_term(&r->ctx, &r->host);
    space_store_term(&r->ctx, &r->store);
    traced_term(&r->traced);
    pool_term(r->pool);
    *r = (struct runner){0};
}

/* ---- parameters ---- */

/* Elements that one thread draws; pieces on the host at a time, twice: some are drawn while those before them leave. */
enum { DRAW_PIECE = 1 << 14, DRAW_PIECES = 256, DRAW_ROOM = DRAW_PIECE * DRAW_PIECES };
struct drawing {
    struct param_draw draw;
    int64_t first, n;
    enum dtype type;
    char *out;
    char *rounded; /* the same in BF16, where weights are; else NULL */
};

static void draw_piece(void *arg, int64_t item, int worker) {
    const struct drawing *d = arg;
    const int64_t at = item * DRAW_PIECE, n = d->n - at < DRAW_PIECE ? d->n - at : DRAW_PIECE;
    char *const out = d->out + at * dtype_bytes(d->type);
    (void)worker;
    param_draw(&d->draw, d->first + at, n, d->type, out);
    if (d->rounded) space_round((const float *)(const void *)out, n, d->rounded + at * dtype_bytes(BF16));
}

static enum status draw_param(struct runner *r, int i, uint64_t seed, struct drawing rooms[2]) {
    int64_t first = 0, n = 0;
    const struct param_draw draw = {.param = &r->model.params.list[i],
                                    .seed = seed,
                                    .std = r->model.config->init_std,
                                    .n_layers = r->model.n_layers};
    sharding_kept(&r->shards, i, &first, &n);
    for (int64_t at = 0, turn = 0; at < n; at += DRAW_ROOM, turn ^= 1) {
        struct drawing *d = &rooms[turn];
        d->draw = draw;
        d->first = first + at;
        d->n = n - at < DRAW_ROOM ? n - at : DRAW_ROOM;
        pool_run(r->ctx.pool, (d->n + DRAW_PIECE - 1) / DRAW_PIECE, draw_piece, d);
        TRY(space_reach(&r->ctx)); /* the other room is free */
        TRY(sharding_store(&r->shards, i, d->first, d->n, d->out, d->rounded));
        TRY(space_mark(&r->ctx));
    }
    return space_reach(&r->ctx);
}

static enum status draw_rooms(struct runner *r, struct arena *memory, struct drawing rooms[2]) {
    const enum dtype type = dtype_wide(r->ctx.real);
    const int64_t wide = DRAW_ROOM * dtype_bytes(type),
                  rounded = r->ctx.real == BF16 ? DRAW_ROOM * dtype_bytes(BF16) : 0;
    TRY(space_host_init(&r->ctx, memory, "weights on their way", 2 * (wide + rounded)));
    for (int k = 0; k < 2; k++) {
        void *out = NULL, *beside = NULL;
        TRY(arena_take(memory, wide, &out));
        if (rounded) TRY(arena_take(memory, rounded, &beside));
        rooms[k] = (struct drawing){.type = type, .out = out, .rounded = beside};
    }
    return OK;
}

enum status runner_init_params(struct runner *r, uint64_t seed) {
    struct arena memory = {0};
    struct drawing rooms[2];
    enum status st = draw_rooms(r, &memory, rooms);
    for (int i = 0; st == OK && i < r->model.params.n; i++) st = draw_param(r, i, seed, rooms);
    if (r->ctx.device) (void)space_settle(&r->ctx); /* also after a failure: copies read what goes now */
    space_host_term(&r->ctx, &memory);
    return st;
}

static enum status store(void *arg, int param, int64_t first, int64_t n, const void *numbers) {
    struct runner *r = arg;
    const enum status st = sharding_store(&r->shards, param, first, n, numbers, NULL);
    const enum status settled = space_settle(&r->ctx); /* also after a failure: a copy may read the numbers */
    return st != OK ? st : settled;
}

struct param_sink runner_sink(struct runner *r) {
    return (struct param_sink){.type = dtype_wide(r->ctx.real), .store = store, .arg = r};
}

/* ---- passes ---- */

enum status runner_pass(struct runner *r, bool backward) {
    ASSERT(!backward || r->spec.training || r->spec.gradients);
    TRY(runner_send_batch(r));
    if (r->spec.team) seams_mesh_pass(&r->mesh);
    r->step.forward_only = !backward;
    if (backward) TRY(sharding_pass_begin(&r->shards, &r->step));
    TRY(r->spec.exact ? runner_exact_forward(r) : model_forward(&r->step, &r->model, &r->act, &r->batch, &r->out));
    if (!backward) return OK;
    TRY(sharding_pass_turns(&r->shards, &r->step));
    TRY(model_backward(&r->step, &r->model, &r->act, &r->batch));
    return sharding_pass_end(&r->shards, &r->step);
}

void runner_plain_targets(struct runner *r) {
    const int64_t S = r->spec.tokens, n = r->spec.n_sequences * S;
    for (int64_t t = 0; t < n; t++) {
        r->pos[t] = t % S;
        r->targets[t] = r->pos[t] + 1 < S ? r->ids[t + 1] : -1;
    }
    const int64_t valid = n - r->spec.n_sequences;
    r->scale = valid > 0 ? 1.0 / (double)valid : 0.0;
    int64_t later[MTP_DEPTHS_MAX];
    runner_later_count(r, r->targets, r->pos, n, later);
    runner_later_scales(r, later);
}

enum status runner_token(struct runner *r, int32_t token, int64_t pos) {
    ASSERT(r->cache && r->spec.tokens == 1 && r->spec.logits);
    if (pos == 0) TRY(seams_cache_clear(r->cache, &r->ctx));
    r->ids[0] = token;
    r->targets[0] = -1;
    r->pos[0] = pos;
    return runner_pass(r, false);
}
