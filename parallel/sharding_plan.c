/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include "kernels/space.h"
#include "kernels/sum_squares/sum_squares.h"
#include "model/param_parts.h"
#include "parallel/inside.h"
#include "parallel/sharding.h"

/* ---- where slices are cut ---- */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool sharding_has(const struct sharding *h, int param) {
    return h->of_experts == (h->spec.params->list[param].cut[SPLIT_EXPERT].parts > 1);
}

/* Elements of the block's row that a parameter takes. */
static int64_t room_of(const struct sharding *h, const struct param *p) {
    const int64_t align = ARENA_ALIGN / dtype_bytes(h->wide);
    return ceil_div(param_count(p), align) * align;
}

/* Elements between the cuts that a parameter allows inside: whole rows, and whole blocks of the gradient's norm. */
static int64_t unit_of(const struct param *p) {
    const int64_t row = param_count(p) / p->shape[0];
    int64_t a = SUM_SQUARES_BLOCK, b = row;
    while (b > 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return SUM_SQUARES_BLOCK / a * row;
}

/* The allowed cut of a part (begin, n elements) that is nearest to an element of it. */
static int64_t nearest_in(int64_t begin, int64_t n, int64_t unit, int64_t next, int64_t ideal) {
    const int64_t low = begin + (ideal - begin) / unit * unit;
    const int64_t high = low + unit < begin + n ? low + unit : next;
    if (low >= begin + n) return next;
    return ideal - low <= high - ideal ? low : high;
}

/* The allowed cut of a row that is nearest to an element of it. */
static int64_t nearest_cut(const struct sharding *h, const struct sharding_block *b, int64_t ideal) {
    for (int i = b->first; i < b->end; i++) {
        const struct param *p = &h->spec.params->list[i];
        const int64_t row = param_count(p) / p->shape[0], unit = unit_of(p);
        int64_t next = h->offset[i] + room_of(h, p);
        if (!sharding_has(h, i) || ideal >= next) continue;
        for (int k = param_parts(p) - 1; k >= 0; k--) {
            struct param_part part;
            param_part(p, k, &part);
            const int64_t begin = h->offset[i] + part.row_begin * row;
            if (ideal >= begin) return nearest_in(begin, part.rows * row, unit, next, ideal);
            next = begin;
        }
    }
    return b->n;
}

/* Where an element of a block's row stands in that of its weights, in bytes; cuts are never in the gaps of alignment.
 */
static int64_t weight_at(const struct sharding *h, const struct sharding_block *b, int64_t element) {
    for (int i = b->end - 1; i >= b->first && element < b->n; i--)
        if (sharding_has(h, i) && element >= h->offset[i])
            return h->w_at[i] + (element - h->offset[i]) * dtype_bytes(h->spec.params->list[i].w.dtype);
    return b->w_bytes;
}

static void lay_out_block(struct sharding *h, struct sharding_block *b) {
    for (int i = b->first; i < b->end; i++) {
        const struct param *p = &h->spec.params->list[i];
        if (!sharding_has(h, i)) continue;
        h->offset[i] = b->n;
        h->w_at[i] = b->w_bytes;
        b->n += room_of(h, p);
        b->w_bytes += arena_round(param_count(p) * dtype_bytes(p->w.dtype));
    }
    for (int k = 1; k < h->n_ranks; k++) b->at[k] = nearest_cut(h, b, b->n / h->n_ranks * k);
    b->at[h->n_ranks] = b->n;
    for (int k = 0; k <= h->n_ranks; k++) b->bytes_at[k] = weight_at(h, b, b->at[k]);
    b->begin = h->sliced ? b->at[h->index] : 0;
    b->mine = h->sliced ? b->at[h->index + 1] - b->begin : b->n;
}

static void lay_out_piece(struct sharding *h, const struct sharding_block *b, int i) {
    const int64_t begin = h->offset[i], end = begin + param_count(&h->spec.params->list[i]);
    const int64_t from = most(begin, b->begin), to = least(end, b->begin + b->mine);
    if (sharding_has(h, i) && from < to) h->piece[i] = (struct sharding_piece){.begin = from - begin, .n = to - from};
}

static void lay_out(struct sharding *h) {
    const struct params *ps = h->spec.params;
    for (int k = 0; k < h->n_blocks; k++) {
        struct sharding_block *b = &h->block[k];
        *b = (struct sharding_block){.first = h->spec.first[k], .end = h->spec.first[k + 1]};
        b->at = h->at + 2 * (int64_t)k * (h->n_ranks + 1);
        b->bytes_at = b->at + h->n_ranks + 1;
        lay_out_block(h, b);
        for (int i = b->first; i < b->end; i++) lay_out_piece(h, b, i);
    }
    ASSERT(h->block[h->n_blocks - 1].end == ps->n);
    for (int i = 0, at = 0; i < ps->n; i++)
        for (int k = 0; k < param_parts(&ps->list[i]); k++, at++) {
            struct param_part part;
            param_part(&ps->list[i], k, &part);
            const int64_t n = part.rows * (param_count(&ps->list[i]) / ps->list[i].shape[0]);
            h->sums_at[at + 1] = h->sums_at[at] + (sharding_has(h, i) ? ceil_div(n, SUM_SQUARES_BLOCK) : 0);
        }
}

/* ---- memory: one walk both counts and takes ---- */

struct placer {
    struct ctx *ctx;
    struct arena *arena; /* NULL: count alone */
    int64_t bytes;
};

static enum status put(struct placer *p, int64_t bytes, char **out) {
    void *mem = NULL;
    p->bytes += arena_round(bytes);
    if (!p->arena) return OK;
    TRY(arena_take(p->arena, bytes, &mem));
    *out = mem;
    return space_zero(p->ctx, mem, arena_round(bytes));
}

static int64_t unit_bytes(const struct sharding *h) { return dtype_bytes(h->wide); }
static struct sharding_block *ends_of(struct sharding *h) { return &h->block[h->n_blocks - 1]; }

static enum status put_slots(struct sharding *h, struct placer *p, char **slot, int n_slots, int64_t bytes) {
    for (int k = 0; k < n_slots && k < h->spec.n_layers; k++) TRY(put(p, bytes, &slot[k]));
    return OK;
}

static int64_t begin_of(const struct sharding *h, const struct sharding_block *b) {
    return h->sliced ? b->bytes_at[h->index] : 0;
}
static int64_t w_bytes_mine(const struct sharding *h, const struct sharding_block *b) {
    return h->sliced ? b->bytes_at[h->index + 1] - b->bytes_at[h->index] : b->w_bytes;
}

static enum status put_weights(struct sharding *h, struct placer *p) {
    int64_t largest = 0;
    if (h->spec.borrowed) return OK;
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++) {
        const bool part = h->ring_w && b != ends_of(h);
        TRY(put(p, part ? w_bytes_mine(h, b) : b->w_bytes, part ? &b->w_mine : &b->w));
        if (p->arena && !part) b->w_mine = b->w + begin_of(h, b);
        if (part) largest = most(largest, b->w_bytes);
    }
    return h->ring_w ? put_slots(h, p, h->slot_w, SLOTS_W, largest) : OK;
}

static enum status put_masters(struct sharding *h, struct placer *p) {
    for (struct sharding_block *b = h->block; h->masters && b <= ends_of(h); b++)
        TRY(put(p, b->mine * unit_bytes(h), &b->master));
    return OK;
}

static enum status put_gradients(struct sharding *h, struct placer *p) {
    if (!h->spec.gradients) return OK;
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++)
        if (!h->ring_g || b == ends_of(h)) TRY(put(p, b->n * unit_bytes(h), &b->g));
    int64_t largest = 0;
    for (int k = 0; k < h->spec.n_layers; k++) largest = most(largest, h->block[k].n);
    return h->ring_g ? put_slots(h, p, h->slot_g, SLOTS_G, largest * unit_bytes(h)) : OK;
}

/* Sums of micro-batches, unless the gradient itself is where they are; and the sums of squares. */
static enum status put_sums(struct sharding *h, struct placer *p) {
    const bool apart = h->fresh && (h->ring_g || h->spec.n_micro > 1 || h->spec.ends_twice);
    const int64_t n_parts = params_parts(h->spec.params);
    char *sums = NULL, *at = NULL, *roots = NULL;
    if (!h->spec.gradients) return OK;
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++) {
        if (apart) TRY(put(p, b->mine * unit_bytes(h), &b->sum));
        else if (p->arena) b->sum = b->g + b->begin * unit_bytes(h);
    }
    TRY(put(p, h->sums_at[n_parts] * (int64_t)sizeof(double), &sums));
    TRY(put(p, (n_parts + 1) * (int64_t)sizeof *h->sums_at, &at));
    if (h->of_experts) TRY(put(p, n_parts * (int64_t)sizeof(double), &roots));
    if (!p->arena) return OK;
    h->sums = tensor_1d(sums, F64, h->sums_at[n_parts]);
    h->sums_at_ops = tensor_1d(at, I64, n_parts + 1);
    h->roots = tensor_1d(roots, F64, n_parts);
    h->sums.space = h->sums_at_ops.space = h->roots.space = p->ctx->space;
    return space_copy(p->ctx, at, h->sums_at, (n_parts + 1) * (int64_t)sizeof *h->sums_at);
}

static enum status put_moments(struct sharding *h, struct placer *p) {
    if (!h->spec.moments) return OK;
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++) {
        TRY(put(p, b->mine * unit_bytes(h), &b->m));
        TRY(put(p, b->mine * unit_bytes(h), &b->v));
    }
    return OK;
}

static int64_t scratch_of(const struct sharding *h, const struct sharding_block *b) {
    return h->sliced ? reduce_scatter_scratch(&h->comm, h->wide, b->at) : all_reduce_scratch(&h->comm, h->wide, b->n);
}

/* The ends fly in the first place only. */
static enum status put_exchanges(struct sharding *h, struct placer *p) {
    int64_t layers = 0, copies = 0, sums = 0;
    const int64_t n_parts = params_parts(h->spec.params);
    if (!h->spec.gradients) return OK;
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++) copies = most(copies, sharding_copies(h, b));
    if (copies > 0) TRY(put(p, copies * unit_bytes(h), &h->copies));
    if (h->tensor.size > 1) sums = most(sums, all_reduce_scratch(&h->tensor, F64, n_parts));
    if (h->expert.size > 1) sums = most(sums, all_reduce_scratch(&h->expert, F64, n_parts));
    if (h->fresh) sums = most(sums, all_reduce_scratch(&h->comm, F64, h->sums_at[n_parts]));
    if (sums > 0) TRY(put(p, sums, &h->sum_scratch));
    if (!h->fresh) return OK;
    for (int k = 0; k < h->spec.n_layers; k++) layers = most(layers, scratch_of(h, &h->block[k]));
    for (int k = 0; k < FLIGHTS_G; k++)
        TRY(put(p, k == 0 ? most(layers, scratch_of(h, ends_of(h))) : layers, &h->scratch[k]));
    return OK;
}

static int64_t bytes_of(const struct sharding *h, enum status (*walk)(struct sharding *, struct placer *)) {
    struct placer p = {0};
    for (; h; h = h->experts) {
        struct sharding plan = *h; /* a walk that only counts changes nothing behind the pointers */
        const enum status st = walk(&plan, &p);
        ASSERT(st == OK);
    }
    return p.bytes;
}

struct sharding_bytes sharding_bytes(const struct sharding *h) {
    return (struct sharding_bytes){.weights = bytes_of(h, put_weights),
                                   .masters = bytes_of(h, put_masters),
                                   .gradients = bytes_of(h, put_gradients),
                                   .sums = bytes_of(h, put_sums),
                                   .moments = bytes_of(h, put_moments),
                                   .exchanges = bytes_of(h, put_exchanges)};
}

static struct tensor view(const struct sharding *h, enum dtype type, char *base, int64_t bytes, int64_t n) {
    struct tensor t = tensor_1d(base ? base + bytes : NULL, type, n);
    t.space = h->spec.ctx->space;
    return t;
}

static void bind_piece(struct sharding *h, const struct sharding_block *b, int i) {
    const struct param *param = &h->spec.params->list[i];
    struct sharding_piece *p = &h->piece[i];
    const int64_t element = h->offset[i] + p->begin, at = (element - b->begin) * unit_bytes(h);
    const int64_t w_at = weight_at(h, b, element) - begin_of(h, b);
    p->w = view(h, param->w.dtype, b->w_mine, w_at, p->n);
    p->m = view(h, h->wide, b->m, at, p->n);
    p->v = view(h, h->wide, b->v, at, p->n);
    p->g = view(h, h->wide, b->sum, at, p->n);
    if (!h->masters || !param->product) return;
    p->out = p->w;
    p->w = view(h, h->wide, b->master, at, p->n);
}

static void bind_all(struct sharding *h) {
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++) {
        if (b->w) sharding_bind_w(h, b);
        if (b->g) sharding_bind_g(h, b, b->g);
        for (int i = b->first; i < b->end; i++)
            if (h->piece[i].n > 0) bind_piece(h, b, i);
    }
}

/* One list tells of all pieces. */
static void list_experts(struct sharding *h) {
    for (int i = 0; i < h->spec.params->n; i++)
        if (sharding_has(h->experts, i)) h->piece[i] = h->experts->piece[i];
}

enum status sharding_place(struct sharding *h, struct arena *arena) {
    struct placer p = {.ctx = h->spec.ctx, .arena = arena};
    int64_t n = 0;
    TRY(put_weights(h, &p));
    TRY(put_masters(h, &p));
    TRY(put_gradients(h, &p));
    TRY(put_sums(h, &p));
    TRY(put_moments(h, &p));
    TRY(put_exchanges(h, &p));
    bind_all(h);
    for (int k = 0; k < h->n_blocks; k++) n += h->block[k].n;
    if (h->spec.gradients && !h->ring_g) h->grads = view(h, h->wide, h->block[0].g, 0, n);
    if (!h->experts) return OK;
    TRY(sharding_place(h->experts, arena));
    list_experts(h);
    return OK;
}

/* ---- start and end ---- */

static enum status take(int64_t n, int64_t size, void *out) {
    void *mem = NULL;
    TRY(mem_take(n * size, &mem));
    memcpy(out, &mem, sizeof mem);
    return OK;
}

static enum status take_lists(struct sharding *h) {
    const int64_t n = h->spec.params->n;
    TRY(take(h->n_blocks, sizeof *h->block, &h->block));
    TRY(take(n, sizeof *h->piece, &h->piece));
    TRY(take(2 * (int64_t)h->n_blocks * (h->n_ranks + 1), sizeof *h->at, &h->at));
    TRY(take(n, sizeof *h->offset, &h->offset));
    TRY(take(n, sizeof *h->w_at, &h->w_at));
    return take(params_parts(h->spec.params) + 1, sizeof *h->sums_at, &h->sums_at);
}

/* Of the ranks that slices are cut for; then of those whose squares and copies are added. */
static enum status open_comms(struct sharding *h) {
    const struct sharding_spec *spec = &h->spec;
    struct comm_limits limits = {.flights = h->n_blocks + FLIGHTS_G + 1, .device = spec->device};
    struct comm_limits sums = {.device = spec->device};
    for (int k = 0; k < h->n_blocks; k++)
        limits.bytes = most(limits.bytes, most(h->block[k].n, (h->n_ranks - 1) * h->block[k].mine) * unit_bytes(h));
    TRY(comm_init(&h->comm, spec->rank, spec->mesh, h->axis, &limits));
    h->open = true;
    if (mesh_size(spec->mesh, MESH_TENSOR) > 1) TRY(comm_init(&h->tensor, spec->rank, spec->mesh, MESH_TENSOR, &sums));
    if (h->of_experts) TRY(comm_init(&h->expert, spec->rank, spec->mesh, MESH_EXPERT, &sums));
    return OK;
}

static void choose(struct sharding *h) {
    const struct sharding_spec *spec = &h->spec;
    const enum sharding_stage stage = h->n_ranks > 1 ? spec->stage : SHARDING_NONE;
    h->wide = dtype_wide(spec->ctx->real);
    h->masters = spec->moments && h->wide != spec->ctx->real;
    h->fresh = h->n_ranks > 1 || spec->exact;
    h->sliced = stage != SHARDING_NONE;
    h->ring_g = stage == SHARDING_GRADIENTS || stage == SHARDING_PARAMETERS;
    h->ring_w = stage == SHARDING_PARAMETERS;
}

static enum status init_one(struct sharding *h, const struct sharding_spec *spec, bool of_experts) {
    *h = (struct sharding){.spec = *spec,
                           .of_experts = of_experts,
                           .axis = of_experts ? MESH_EXPERT_COPIES : MESH_TOKENS,
                           .n_ranks = 1,
                           .n_blocks = spec->n_layers + 1,
                           .last = -1};
    if (of_experts) h->spec.ends_twice = false;
    if (spec->rank) {
        h->n_ranks = mesh_size(spec->mesh, h->axis);
        h->index = mesh_index(spec->mesh, h->axis);
    }
    choose(h);
    TRY(take_lists(h));
    lay_out(h);
    return spec->rank ? open_comms(h) : OK;
}

static enum status init_experts(struct sharding *h, const struct sharding_spec *spec) {
    void *mem = NULL;
    bool any = false;
    for (int i = 0; i < spec->params->n; i++) any |= spec->params->list[i].cut[SPLIT_EXPERT].parts > 1;
    if (!any) return OK;
    ASSERT(spec->rank);
    TRY(mem_take((int64_t)sizeof *h->experts, &mem));
    h->experts = mem;
    TRY(init_one(h->experts, spec, true));
    list_experts(h);
    return OK;
}

enum status sharding_init(struct sharding *h, const struct sharding_spec *spec) {
    enum status st = init_one(h, spec, false);
    if (st == OK) st = init_experts(h, spec);
    if (st != OK) sharding_term(h);
    return st;
}

void sharding_term(struct sharding *h) {
    if (h->experts) sharding_term(h->experts);
    mem_free(h->experts);
    if (h->open) {
        comm_term(&h->comm);
        comm_term(&h->tensor);
        comm_term(&h->expert);
    }
    mem_free(h->block);
    mem_free(h->piece);
    mem_free(h->at);
    mem_free(h->offset);
    mem_free(h->w_at);
    mem_free(h->sums_at);
    *h = (struct sharding){0};
}
