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
    const int64_t threads = spec->threads > 0 ? spec->threads : pool_cores();
    if (spec->weights_of) {
        r->ctx.pool = spec->weights_of->ctx.pool;
        return OK;
    }
    TRY(pool_init(&r->pool, (int)threads));
    r->ctx.pool = r->pool;
    return OK;
}

static int64_t params_bytes(const struct params *ps) {
    int64_t sum = 0;
    for (int i = 0; i < ps->n; i++) sum += arena_round(tensor_bytes(ps->list[i].w));
    return sum;
}

static int64_t batch_bytes(const struct runner_spec *s) {
    const int64_t T = s->n_sequences * s->tokens, R = s->n_sequences;
    return arena_round(T * 4) * 2 + arena_round(T * 8) + arena_round((R + 1) * 8) + arena_round(R * 16);
}

static void plan_ledger(struct runner *r) {
    const struct runner_spec *s = &r->spec;
    const int64_t T = s->n_sequences * s->tokens, real = dtype_bytes(r->ctx.real), w = params_bytes(&r->model.params);
    struct ledger *l = &r->ledger;
    ledger_add(l, "parameters", s->weights_of ? 0 : w);
    ledger_add(l, "gradients", s->training || s->gradients ? w : 0);
    ledger_add(l, "optimizer moments", s->training ? 2 * w : 0);
    ledger_add(l, "activations", r->act.bytes);
    ledger_add(l, "scratch of layers", r->act.scratch_bytes);
    ledger_add(l, "losses of tokens", arena_round(T * real));
    ledger_add(l, "logits kept whole", s->logits ? arena_round(T * r->model.config->vocab * real) : 0);
    ledger_add(l, "tokens of a micro-batch", batch_bytes(s));
    ledger_add(l, "workspace of ops", r->act.work_bytes);
}

static enum status place_all(struct runner *r, size_t member) {
    for (int i = 0; i < r->model.params.n; i++) {
        struct tensor *t = (struct tensor *)((char *)&r->model.params.list[i] + member);
        TRY(arena_take(&r->memory, tensor_bytes(*t), &t->data));
        memset(t->data, 0, (size_t)arena_round(tensor_bytes(*t)));
    }
    return OK;
}

static enum status place_params(struct runner *r) {
    const struct runner *from = r->spec.weights_of;
    if (from)
        for (int i = 0; i < r->model.params.n; i++) r->model.params.list[i].w = from->model.params.list[i].w;
    else TRY(place_all(r, offsetof(struct param, w)));
    if (r->spec.training || r->spec.gradients) {
        char *begin = r->memory.base + r->memory.used;
        TRY(place_all(r, offsetof(struct param, g)));
        const int64_t bytes = r->memory.base + r->memory.used - begin;
        r->grads = tensor_1d(begin, r->ctx.real, bytes / dtype_bytes(r->ctx.real));
    }
    if (r->spec.training) {
        TRY(place_all(r, offsetof(struct param, m)));
        TRY(place_all(r, offsetof(struct param, v)));
    }
    return OK;
}

static enum status place_batch(struct runner *r) {
    const int64_t R = r->spec.n_sequences, S = r->spec.tokens, T = R * S, V = r->model.config->vocab;
    void *mem[7] = {0};
    const int64_t bytes[5] = {T * 4, T * 4, T * 8, (R + 1) * 8, R * 16};
    for (int i = 0; i < 5; i++) TRY(arena_take(&r->memory, bytes[i], &mem[i]));
    TRY(arena_take(&r->memory, T * dtype_bytes(r->ctx.real), &mem[5]));
    if (r->spec.logits) TRY(arena_take(&r->memory, T * V * dtype_bytes(r->ctx.real), &mem[6]));
    r->ids = mem[0], r->targets = mem[1], r->pos = mem[2], r->range = mem[3], r->keys = mem[4];
    for (int64_t i = 0; i <= R; i++) r->range[i] = i * S;
    for (int64_t i = 0; i < R; i++) r->keys[2 * i] = i * S, r->keys[2 * i + 1] = (i + 1) * S;
    r->batch = (struct batch){.ids = tensor_1d(r->ids, I32, T),
                              .targets = tensor_1d(r->targets, I32, T),
                              .shard = {.n_tokens = T,
                                        .n_ranges = R,
                                        .range = tensor_1d(r->range, I64, R + 1),
                                        .pos = tensor_1d(r->pos, I64, T),
                                        .keys = tensor_2d(r->keys, I64, R, 2),
                                        .range_host = r->range}};
    r->out = (struct loss_out){.scale = tensor_1d(&r->scale, F64, 1),
                               .total = tensor_1d(&r->total, F64, 1),
                               .per_token = tensor_1d(mem[5], r->ctx.real, T)};
    if (r->spec.logits) r->out.logits = tensor_2d(mem[6], r->ctx.real, T, V);
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
    arena_seal(&r->memory);
    return OK;
}

enum status runner_init(struct runner *r, const struct model_config *c, const struct runner_spec *spec, bool dry) {
    enum status st = OK;
    *r = (struct runner){.spec = *spec};
    TRY_OUT(make_ctx(r));
    TRY_OUT(model_init(&r->model, c));
    TRY_OUT(activations_plan(&r->act, &r->model, &r->ctx,
                             &(struct plan_size){.n_tokens = spec->n_sequences * spec->tokens,
                                                 .n_ranges = spec->n_sequences,
                                                 .tile = spec->tile,
                                                 .forward_only = !spec->training && !spec->gradients}));
    plan_ledger(r);
    if (!dry) TRY_OUT(allocate(r));
out:
    if (st != OK) runner_term(r);
    return st;
}

void runner_term(struct runner *r) {
    seams_cache_term(r->cache);
    activations_term(&r->act);
    model_term(&r->model);
    arena_term(&r->memory);
    arena_term(&r->work);
    pool_term(r->pool);
    *r = (struct runner){0};
}

void runner_init_params(struct runner *r, uint64_t seed) {
    for (int i = 0; i < r->model.params.n; i++)
        param_init(&r->model.params.list[i], seed, r->model.config->init_std, r->model.n_layers);
}

enum status runner_pass(struct runner *r, bool backward) {
    ASSERT(!backward || r->spec.training || r->spec.gradients);
    r->step.forward_only = !backward;
    TRY(model_forward(&r->step, &r->model, &r->act, &r->batch, &r->out));
    return backward ? model_backward(&r->step, &r->model, &r->act, &r->batch) : OK;
}

void runner_plain_targets(struct runner *r) {
    const int64_t S = r->spec.tokens, T = r->batch.shard.n_tokens;
    for (int64_t t = 0; t < T; t++) {
        r->pos[t] = t % S;
        r->targets[t] = r->pos[t] + 1 < S ? r->ids[t + 1] : -1;
    }
    const int64_t valid = T - r->spec.n_sequences;
    r->scale = valid > 0 ? 1.0 / (double)valid : 0.0;
}

enum status runner_token(struct runner *r, int32_t token, int64_t pos) {
    ASSERT(r->cache && r->batch.shard.n_tokens == 1 && r->spec.logits);
    if (pos == 0) seams_cache_clear(r->cache);
    r->ids[0] = token;
    r->targets[0] = -1;
    r->pos[0] = pos;
    return runner_pass(r, false);
}
