/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/runner.h"
#include <string.h>
#include "base/pool.h"
#include "kernels/ops.h"

static enum status make_ctx(struct runner *r) {
    const struct runner_spec *spec = &r->spec;
    FAIL_UNLESS(spec->precision != PRECISION_BF16, ERR_CONFIG,
                "train.precision bf16 needs a GPU; on the cpu: f32 or f64");
    const bool wide = spec->precision == PRECISION_F64;
    r->ctx =
        (struct ctx){.ops = wide ? &ops_ref64 : &ops_ref, .work = &r->work, .real = wide ? F64 : F32, .space = HOST};
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

/* ids, targets, pos of whole sequences and of my rows; range; keys. */
enum { BATCH_PARTS = 8 };
static void batch_parts(const struct runner *r, int64_t bytes[BATCH_PARTS]) {
    const int64_t all = r->spec.n_sequences * r->spec.tokens, T = my_tokens(r), R = my_ranges(r);
    const int64_t parts[BATCH_PARTS] = {4 * all, 4 * all, 8 * all, 4 * T, 4 * T, 8 * T, 8 * (R + 1), 16 * R};
    memcpy(bytes, parts, sizeof parts);
}

static int64_t batch_bytes(const struct runner *r) {
    int64_t bytes[BATCH_PARTS], sum = 0;
    batch_parts(r, bytes);
    for (int i = 0; i < BATCH_PARTS; i++) sum += arena_round(bytes[i]);
    return sum;
}

static void plan_ledger(struct runner *r) {
    const struct runner_spec *s = &r->spec;
    const int64_t T = my_tokens(r), real = dtype_bytes(r->ctx.real);
    const struct sharding_bytes shards = sharding_bytes(&r->shards);
    struct ledger *l = &r->ledger;
    ledger_add(l, "parameters", shards.weights);
    ledger_add(l, "gradients", shards.gradients);
    ledger_add(l, "sums of gradients", shards.sums);
    ledger_add(l, "optimizer moments", shards.moments);
    ledger_add(l, "activations: layer inputs", r->act.by_keep[KEEP_INPUT]);
    ledger_add(l, "activations: outputs of products", r->act.by_keep[KEEP_GEMM]);
    ledger_add(l, "activations: cheap ones", r->act.by_keep[KEEP_CHEAP]);
    ledger_add(l, "activations: boundaries", r->act.by_keep[KEEP_BOUNDARY]);
    ledger_add(l, "activations: shared by layers", r->act.shared_bytes);
    ledger_add(l, "scratch of layers", r->act.scratch_bytes);
    ledger_add(l, "losses of tokens", arena_round(T * real));
    ledger_add(l, "logits kept whole", s->logits ? arena_round(T * r->model.config->vocab * real) : 0);
    ledger_add(l, "tokens of a micro-batch", batch_bytes(r));
    ledger_add(l, "exchanges between ranks", runner_mesh_bytes(r));
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

static void fill_ranges(struct runner *r, int64_t *range, int64_t *keys) {
    const int64_t R = my_ranges(r);
    for (int64_t i = 0; i < R; i++) {
        const struct token_range *t = shard_map_range(&r->map, r->seq_index, i);
        range[i] = t->row;
        keys[2 * i] = t->row;
        keys[2 * i + 1] = t->row + (t->end - t->begin);
    }
    range[R] = my_tokens(r);
}

static enum status place_batch(struct runner *r) {
    const int64_t R = my_ranges(r), T = my_tokens(r), V = r->model.config->vocab;
    void *mem[BATCH_PARTS], *losses = NULL, *logits = NULL;
    int64_t bytes[BATCH_PARTS];
    batch_parts(r, bytes);
    for (int i = 0; i < BATCH_PARTS; i++) TRY(arena_take(&r->memory, bytes[i], &mem[i]));
    TRY(arena_take(&r->memory, T * dtype_bytes(r->ctx.real), &losses));
    if (r->spec.logits) TRY(arena_take(&r->memory, T * V * dtype_bytes(r->ctx.real), &logits));
    r->exact.range = mem[6];
    r->ids = mem[0], r->targets = mem[1], r->pos = mem[2];
    fill_ranges(r, mem[6], mem[7]);
    r->batch = (struct batch){.ids = tensor_1d(mem[3], I32, T),
                              .targets = tensor_1d(mem[4], I32, T),
                              .shard = {.n_tokens = T,
                                        .n_ranges = R,
                                        .range = tensor_1d(mem[6], I64, R + 1),
                                        .pos = tensor_1d(mem[5], I64, T),
                                        .keys = tensor_2d(mem[7], I64, R, 2)}};
    r->out = (struct loss_out){.scale = tensor_1d(&r->scale, F64, 1),
                               .total = tensor_1d(&r->total, F64, 1),
                               .per_token = tensor_1d(losses, r->ctx.real, T)};
    if (r->spec.logits) r->out.logits = tensor_2d(logits, r->ctx.real, T, V);
    return OK;
}

static enum status allocate(struct runner *r) {
    TRY(ledger_check_host(&r->ledger));
    TRY(arena_init(&r->memory, "the run's memory", ledger_total(&r->ledger) - r->act.work_bytes));
    TRY(arena_init(&r->work, "workspace of ops", r->act.work_bytes));
    TRY(place_params(r));
    TRY(activations_place(&r->act, &r->memory));
    TRY(place_batch(r));
    if (r->spec.cache_tokens > 0) TRY(seams_cache_init(&r->cache, r->model.n_layers, r->spec.cache_tokens));
    r->step = (struct step){.ctx = &r->ctx,
                            .seams = r->cache ? &seams_cached : &seams_local,
                            .seams_state = r->cache,
                            .params = &r->model.params};
    if (r->spec.team) TRY(runner_mesh_seams(r));
    TRY(runner_load_place(r));
    arena_seal(&r->memory);
    return OK;
}

static enum status plan(struct runner *r) {
    const struct runner_spec *s = &r->spec;
    int64_t *range = NULL;
    void *mem = NULL;
    TRY(mem_take((my_ranges(r) + 1) * 8, &mem));
    range = mem;
    for (int64_t i = 0; i < my_ranges(r); i++) range[i] = shard_map_range(&r->map, r->seq_index, i)->row;
    range[my_ranges(r)] = my_tokens(r);
    int64_t tile = s->tile;
    if (s->exact) {
        tile = r->map.spec.grid;
        exact_init(&r->exact, r->ctx.ops, range, my_ranges(r));
        r->ctx.exact = &r->exact;
        r->ctx.ops = &r->exact.table;
    }
    const struct plan_size size = {.n_tokens = my_tokens(r),
                                   .n_ranges = my_ranges(r),
                                   .range = range,
                                   .wide = r->wide.n_ranks > 0 ? &r->wide : NULL,
                                   .tile = tile,
                                   .forward_only = !s->training && !s->gradients,
                                   .policy = s->policy,
                                   .keep_every = s->keep_every};
    const enum status st = activations_plan(&r->act, &r->model, &r->ctx, &size);
    mem_free(range);
    return st;
}

enum status runner_init(struct runner *r, const struct model_config *c, const struct runner_spec *spec, bool dry) {
    enum status st = OK;
    *r = (struct runner){.spec = *spec};
    TRY_OUT(make_ctx(r));
    TRY_OUT(model_init(&r->model, c));
    TRY_OUT(runner_mesh_shape(r));
    TRY_OUT(plan(r));
    TRY_OUT(runner_mesh_shards(r));
    plan_ledger(r);
    if (!dry) TRY_OUT(allocate(r));
out:
    if (st != OK) runner_term(r);
    return st;
}

void runner_term(struct runner *r) {
    sharding_term(&r->shards);
    seams_cache_term(r->cache);
    activations_term(&r->act);
    shard_map_term(&r->map);
    model_term(&r->model);
    arena_term(&r->memory);
    arena_term(&r->work);
    pool_term(r->pool);
    *r = (struct runner){0};
}

void runner_init_params(struct runner *r, uint64_t seed) {
    for (int b = 0; b < r->shards.n_blocks; b++) {
        sharding_write_begin(&r->shards, b);
        for (int i = r->shards.block[b].first; i < r->shards.block[b].end; i++)
            param_init(&r->model.params.list[i], seed, r->model.config->init_std, r->model.n_layers);
        sharding_write_end(&r->shards, b);
    }
}

static void select_rows(struct runner *r) {
    for (int64_t i = 0; i < my_ranges(r); i++) {
        const struct token_range *t = shard_map_range(&r->map, r->seq_index, i);
        const int64_t from = t->sequence * r->spec.tokens + t->begin;
        const size_t n = (size_t)(t->end - t->begin);
        memcpy((int32_t *)r->batch.ids.data + t->row, r->ids + from, n * sizeof *r->ids);
        memcpy((int32_t *)r->batch.targets.data + t->row, r->targets + from, n * sizeof *r->targets);
        memcpy((int64_t *)r->batch.shard.pos.data + t->row, r->pos + from, n * sizeof *r->pos);
    }
}

enum status runner_pass(struct runner *r, bool backward) {
    ASSERT(!backward || r->spec.training || r->spec.gradients);
    select_rows(r);
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
}

enum status runner_token(struct runner *r, int32_t token, int64_t pos) {
    ASSERT(r->cache && r->spec.tokens == 1 && r->spec.logits);
    if (pos == 0) seams_cache_clear(r->cache);
    r->ids[0] = token;
    r->targets[0] = -1;
    r->pos[0] = pos;
    return runner_pass(r, false);
}
