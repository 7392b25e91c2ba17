/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>
#include "kernels/clip/clip.h"
#include "kernels/fill/fill.h"
#include "kernels/ops.h"
#include "kernels/space.h"
#include "launch/runner.h"
#include "model/param_parts.h"

bool runner_apart(const struct runner *r) { return r->ctx.space == DEVICE; }
struct arena *runner_host(struct runner *r) {
    return runner_apart(r) ? &r->host : &r->memory;
}

static int64_t my_tokens(const struct runner *r) { return r->map.tokens[r->seq_index]; }
static int64_t my_ranges(const struct runner *r) { return shard_map_ranges(&r->map, r->seq_index); }

/* Prediction heads that a pass runs. */
static int64_t depths(const struct runner *r) { return r->act.n_depths; }

static void part_bytes(const struct runner *r, int64_t bytes[N_BATCH_PARTS]) {
    const int64_t B = r->spec.n_sequences, all = B * r->spec.tokens, T = my_tokens(r), R = my_ranges(r);
    const bool wide = r->wide.n_ranks > 0, apart = runner_apart(r);
    const int64_t parts[N_BATCH_PARTS] = {
        [WHOLE_IDS] = 4 * all,
        [WHOLE_TARGETS] = 4 * all,
        [WHOLE_POS] = 8 * all,
        [OWN_ROWS] = r->spec.exact ? 8 * (R + 1) : 0,
        [ROW_IDS] = 4 * T,
        [ROW_TARGETS] = 4 * T,
        [ROW_POS] = 8 * T,
        [ROW_MTP_IDS] = 4 * T * depths(r),
        [ROW_MTP_TARGETS] = 4 * T * depths(r),
        [ROW_RANGE] = 8 * (R + 1),
        [ROW_KEYS] = 16 * R,
        [WIDE_RANGE] = wide ? 8 * (B + 1) : 0,
        [WIDE_KEYS] = wide ? 16 * B : 0,
        [WIDE_POS] = wide && apart ? 8 * all : 0,
        [OWN_RANGE] = r->spec.exact && apart ? 16 * R : 0,
        [SCALE] = apart ? 8 * (1 + depths(r)) : 0,
    };
    memcpy(bytes, parts, sizeof parts);
}

static int64_t sum_from(const int64_t bytes[N_BATCH_PARTS], int first) {
    int64_t sum = 0;
    for (int i = first; i < N_BATCH_PARTS; i++) sum += arena_round(bytes[i]);
    return sum;
}

/* Sum of losses and that of a pass, where the host's own do not serve; of training: sums of squares, knobs, report. */
static int64_t numbers_bytes(const struct runner *r) {
    const int64_t totals = runner_apart(r) ? 2 * arena_round(8) + arena_round(8 * depths(r)) : 0;
    if (!r->spec.training) return totals;
    return totals + arena_round(params_parts(&r->model.params) * 8) + arena_round(N_KNOBS * 8) +
           arena_round(N_REPORT * 8);
}

void runner_plan_batch(struct runner *r) {
    int64_t bytes[N_BATCH_PARTS];
    const int64_t T = my_tokens(r), real = dtype_bytes(r->ctx.real), wide = dtype_bytes(dtype_wide(r->ctx.real));
    part_bytes(r, bytes);
    r->image.bytes = sum_from(bytes, ROW_IDS);
    struct ledger *l = &r->ledger;
    ledger_add(l, "losses of tokens", arena_round(T * wide));
    ledger_add(l, "logits kept whole",
               r->spec.logits ? arena_round(T * r->model.params.list[r->model.head].shape[0] * real) : 0);
    ledger_add(l, "tokens of a micro-batch", runner_apart(r) ? r->image.bytes : sum_from(bytes, WHOLE_IDS));
    ledger_add(l, "numbers of a step", numbers_bytes(r));
    if (!runner_apart(r)) return;
    r->host_bytes += sum_from(bytes, WHOLE_IDS);
    if (r->spec.training) r->host_bytes += arena_round(N_KNOBS * 8) + arena_round(N_REPORT * 8);
}

static void fill_ranges(struct runner *r) {
    int64_t *range = (int64_t *)(void *)r->image.host[ROW_RANGE], *keys = (int64_t *)(void *)r->image.host[ROW_KEYS];
    int64_t *own = (int64_t *)(void *)r->image.host[OWN_RANGE];
    const int64_t R = my_ranges(r);
    for (int64_t i = 0; i < R; i++) {
        const struct token_range *t = shard_map_range(&r->map, r->seq_index, i);
        range[i] = keys[2 * i] = t->row;
        keys[2 * i + 1] = t->row + (t->end - t->begin);
        if (r->spec.exact && runner_apart(r)) own[2 * i] = 0, own[2 * i + 1] = t->end - t->begin;
    }
    range[R] = my_tokens(r);
    r->exact.range = range;
    if (!r->spec.exact) return;
    r->exact.range_own = (int64_t *)(void *)r->image.host[OWN_ROWS];
    runner_own_ranges(r, (int64_t *)(void *)r->image.host[OWN_ROWS]);
}

/* Whole sequences, one range each, for attention over all tokens. */
static void fill_wide(struct runner *r) {
    const int64_t B = r->spec.n_sequences, S = r->spec.tokens;
    int64_t *range = (int64_t *)(void *)r->image.host[WIDE_RANGE], *keys = (int64_t *)(void *)r->image.host[WIDE_KEYS];
    for (int64_t b = 0; b < B; b++) {
        range[b] = keys[2 * b] = b * S;
        keys[2 * b + 1] = (b + 1) * S;
    }
    range[B] = B * S;
}

static enum status place_image(struct runner *r) {
    int64_t bytes[N_BATCH_PARTS];
    void *mem = NULL;
    struct runner_image *m = &r->image;
    part_bytes(r, bytes);
    for (int i = 0; i < N_BATCH_PARTS; i++) {
        TRY(arena_take(runner_host(r), bytes[i], &mem));
        m->host[i] = m->ops[i] = mem;
    }
    if (!runner_apart(r)) return OK;
    TRY(arena_take(&r->memory, m->bytes, &mem));
    for (int i = ROW_IDS; i < N_BATCH_PARTS; i++) m->ops[i] = (char *)mem + (m->host[i] - m->host[ROW_IDS]);
    return OK;
}

static struct tensor part(const struct runner *r, enum batch_part i, enum dtype type, int64_t rows, int64_t cols) {
    struct tensor t = tensor_2d(r->image.ops[i], type, rows, cols);
    t.space = r->ctx.space;
    return t;
}

static void bind_batch(struct runner *r) {
    const int64_t B = r->spec.n_sequences, R = my_ranges(r), T = my_tokens(r);
    r->ids = (int32_t *)(void *)r->image.host[WHOLE_IDS];
    r->targets = (int32_t *)(void *)r->image.host[WHOLE_TARGETS];
    r->pos = (int64_t *)(void *)r->image.host[WHOLE_POS];
    r->batch = (struct batch){.ids = part(r, ROW_IDS, I32, T, 1),
                              .targets = part(r, ROW_TARGETS, I32, T, 1),
                              .shard = {.n_tokens = T,
                                        .n_ranges = R,
                                        .range = part(r, ROW_RANGE, I64, R + 1, 1),
                                        .pos = part(r, ROW_POS, I64, T, 1),
                                        .keys = part(r, ROW_KEYS, I64, R, 2)},
                              .mtp_ids = part(r, ROW_MTP_IDS, I32, depths(r), T),
                              .mtp_targets = part(r, ROW_MTP_TARGETS, I32, depths(r), T)};
    if (r->spec.exact && runner_apart(r)) r->exact.own = part(r, OWN_RANGE, I64, R, 2);
    if (r->guests.n_ranks > 1) r->batch.shard.guests = &r->guests;
    if (r->wide.n_ranks == 0) return;
    r->wide.range = part(r, WIDE_RANGE, I64, B + 1, 1);
    r->wide.pos = part(r, runner_apart(r) ? WIDE_POS : WHOLE_POS, I64, B * r->spec.tokens, 1);
    if (r->wide.swap) r->wide.keys = part(r, WIDE_KEYS, I64, B, 2); /* keys gathered: the seam says what is seen */
    r->batch.shard.wide = &r->wide;
}

enum status runner_place_batch(struct runner *r) {
    const int64_t T = my_tokens(r), V = r->model.params.list[r->model.head].shape[0];
    const enum dtype wide = dtype_wide(r->ctx.real);
    void *losses = NULL, *logits = NULL;
    TRY(place_image(r));
    TRY(arena_take(&r->memory, T * dtype_bytes(wide), &losses));
    if (r->spec.logits) TRY(arena_take(&r->memory, T * V * dtype_bytes(r->ctx.real), &logits));
    bind_batch(r);
    fill_ranges(r);
    if (r->wide.n_ranks > 0) fill_wide(r);
    r->out.per_token = tensor_1d(losses, wide, T);
    if (r->spec.logits) r->out.logits = tensor_2d(logits, r->ctx.real, T, V);
    r->out.per_token.space = r->out.logits.space = r->ctx.space;
    return OK;
}

static enum status place_number(struct runner *r, int64_t n, double *host, struct tensor *out) {
    void *mem = host;
    if (!mem) TRY(arena_take(&r->memory, n * 8, &mem));
    *out = tensor_1d(mem, F64, n);
    out->space = r->ctx.space;
    return OK;
}

static enum status host_side(struct runner *r, struct tensor t, double **out) {
    void *mem = t.data;
    if (runner_apart(r)) TRY(arena_take(&r->host, tensor_bytes(t), &mem));
    *out = mem;
    return OK;
}

enum status runner_place_numbers(struct runner *r) {
    const bool apart = runner_apart(r);
    struct runner_numbers *n = &r->numbers;
    struct tensor pass;
    TRY(place_number(r, 1, apart ? NULL : &r->total, &r->sum));
    TRY(place_number(r, 1, apart ? NULL : &r->pass_total, &pass));
    r->out.total = r->spec.exact ? pass : r->sum;
    TRY(place_number(r, depths(r), apart ? NULL : r->mtp_total, &r->out.mtp_total));
    r->out.scale = tensor_1d(apart ? (void *)r->image.ops[SCALE] : (void *)&r->scale, F64, 1);
    r->out.mtp_scale = tensor_1d(apart ? (void *)(r->image.ops[SCALE] + 8) : (void *)r->mtp_scale, F64, depths(r));
    r->out.scale.space = r->out.mtp_scale.space = r->ctx.space;
    if (!r->spec.training) return OK;
    TRY(place_number(r, params_parts(&r->model.params), NULL, &n->squares));
    TRY(place_number(r, N_KNOBS, NULL, &n->knobs));
    TRY(place_number(r, N_REPORT, NULL, &n->report));
    TRY(host_side(r, n->knobs, &n->knobs_host));
    return host_side(r, n->report, &n->report_host);
}

/* ---- prediction heads ---- */

/* Is the token `depth` behind t one of the same document and sequence? */
static bool has_later(const int64_t *pos, int64_t S, int64_t t, int depth) {
    return t % S + depth < S && pos[t + depth] == pos[t] + depth;
}

int32_t runner_later_target(const int32_t *targets, const int64_t *pos, int64_t S, int64_t t, int depth) {
    return has_later(pos, S, t, depth) ? targets[t + depth] : -1;
}

void runner_later_count(const struct runner *r, const int32_t *targets, const int64_t *pos, int64_t n, int64_t *valid) {
    for (int j = 0; j < depths(r); j++) {
        valid[j] = 0;
        for (int64_t t = 0; t < n; t++) valid[j] += runner_later_target(targets, pos, r->spec.tokens, t, j + 1) >= 0;
    }
}

void runner_later_scales(struct runner *r, const int64_t *valid) {
    for (int j = 0; j < depths(r); j++) {
        r->mtp_mean[j] = valid[j] > 0 ? 1.0 / (double)valid[j] : 0.0;
        r->mtp_scale[j] = r->mtp_mean[j] * r->model.config->mtp.weight / (double)depths(r);
    }
}

enum status runner_read_later(struct runner *r) {
    return space_fetch(&r->ctx, r->mtp_total, r->out.mtp_total.data, 8 * depths(r));
}

double runner_later_loss(const struct runner *r) {
    double sum = 0.0;
    for (int j = 0; j < depths(r); j++) sum += r->mtp_total[j] * r->mtp_mean[j] / (double)depths(r);
    return depths(r) > 0 ? sum : NAN;
}

/* Row j of what the heads are given, of the tokens of one range. */
static void select_later(struct runner *r, const struct token_range *range, int j) {
    const int64_t T = my_tokens(r), S = r->spec.tokens, from = range->sequence * S + range->begin;
    int32_t *ids = (int32_t *)(void *)r->image.host[ROW_MTP_IDS] + j * T + range->row;
    int32_t *targets = (int32_t *)(void *)r->image.host[ROW_MTP_TARGETS] + j * T + range->row;
    for (int64_t i = 0; i < range->end - range->begin; i++) {
        ids[i] = has_later(r->pos, S, from + i, j + 1) ? r->ids[from + i + j + 1] : 0;
        targets[i] = runner_later_target(r->targets, r->pos, S, from + i, j + 1);
    }
}

static void select_rows(struct runner *r) {
    int32_t *ids = (int32_t *)(void *)r->image.host[ROW_IDS], *targets = (int32_t *)(void *)r->image.host[ROW_TARGETS];
    int64_t *pos = (int64_t *)(void *)r->image.host[ROW_POS];
    for (int64_t i = 0; i < my_ranges(r); i++) {
        const struct token_range *t = shard_map_range(&r->map, r->seq_index, i);
        const int64_t from = t->sequence * r->spec.tokens + t->begin;
        const size_t n = (size_t)(t->end - t->begin);
        memcpy(ids + t->row, r->ids + from, n * sizeof *ids);
        memcpy(targets + t->row, r->targets + from, n * sizeof *targets);
        memcpy(pos + t->row, r->pos + from, n * sizeof *pos);
        for (int j = 0; j < depths(r); j++) select_later(r, t, j);
    }
}

/* Each sequence is one document, whose attention is whole here. */
static void find_plain(struct runner *r) {
    const int64_t B = r->spec.n_sequences, S = r->spec.tokens;
    bool plain = true;
    for (int64_t i = 0; i < B * S && plain; i++) plain = r->pos[i] == i % S;
    r->batch.shard.plain = plain && r->wide.n_ranks == 0 && my_ranges(r) == B;
    r->wide.plain = plain && r->wide.swap;
}

/* The image of the pass before has been read by then; so the host is one pass ahead of a GPU at most. */
enum status runner_send_batch(struct runner *r) {
    const size_t all = (size_t)(r->spec.n_sequences * r->spec.tokens);
    TRY(space_reach(&r->ctx));
    select_rows(r);
    find_plain(r);
    if (!runner_apart(r)) return OK;
    memcpy(r->image.host[SCALE], &r->scale, sizeof r->scale);
    memcpy(r->image.host[SCALE] + sizeof r->scale, r->mtp_scale, (size_t)depths(r) * sizeof *r->mtp_scale);
    if (r->wide.n_ranks > 0) memcpy(r->image.host[WIDE_POS], r->pos, all * sizeof *r->pos);
    TRY(space_send(&r->ctx, r->image.ops[ROW_IDS], r->image.host[ROW_IDS], r->image.bytes));
    return space_mark(&r->ctx);
}

enum status runner_zero_total(struct runner *r) {
    if (depths(r) > 0) TRY(r->ctx.ops->fill_fwd(&r->ctx, &(struct fill){.x = r->out.mtp_total, .value = 0.0}));
    return r->ctx.ops->fill_fwd(&r->ctx, &(struct fill){.x = r->sum, .value = 0.0});
}

enum status runner_read_total(struct runner *r) { return space_fetch(&r->ctx, &r->total, r->sum.data, 8); }
