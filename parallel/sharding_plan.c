/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include "kernels/space.h"
#include "kernels/sum_squares/sum_squares.h"
#include "parallel/inside.h"
#include "parallel/sharding.h"

/* ---- where slices are cut ---- */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

/* The allowed cut of a row that is nearest to an element of it. */
static int64_t nearest_cut(const struct sharding *h, const struct sharding_block *b, int64_t ideal) {
    for (int i = b->first; i < b->end; i++) {
        const struct param *p = &h->spec.params->list[i];
        const int64_t begin = h->offset[i], next = i + 1 < b->end ? h->offset[i + 1] : b->n, unit = unit_of(p);
        if (ideal >= next) continue;
        const int64_t low = begin + (ideal - begin) / unit * unit;
        const int64_t high = low + unit < begin + param_count(p) ? low + unit : next;
        if (low >= begin + param_count(p)) return next;
        return ideal - low <= high - ideal ? low : high;
    }
    return b->n;
}

/* Where an element of a block's row stands in that of its weights, in bytes; cuts are never in the gaps of alignment.
 */
static int64_t weight_at(const struct sharding *h, const struct sharding_block *b, int64_t element) {
    for (int i = b->end - 1; i >= b->first && element < b->n; i--)
        if (element >= h->offset[i])
            return h->w_at[i] + (element - h->offset[i]) * dtype_bytes(h->spec.params->list[i].w.dtype);
    return b->w_bytes;
}

static void lay_out_block(struct sharding *h, struct sharding_block *b) {
    const int64_t align = ARENA_ALIGN / dtype_bytes(h->wide);
    for (int i = b->first; i < b->end; i++) {
        const struct param *p = &h->spec.params->list[i];
        h->offset[i] = b->n;
        h->w_at[i] = b->w_bytes;
        b->n += ceil_div(param_count(p), align) * align;
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
    if (from < to) h->piece[i] = (struct sharding_piece){.begin = from - begin, .n = to - from};
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
    for (int i = 0; i < ps->n; i++)
        h->sums_at[i + 1] = h->sums_at[i] + ceil_div(param_count(&ps->list[i]), SUM_SQUARES_BLOCK);
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
    const int64_t n_params = h->spec.params->n;
    char *sums = NULL, *at = NULL;
    if (!h->spec.gradients) return OK;
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++) {
        if (apart) TRY(put(p, b->mine * unit_bytes(h), &b->sum));
        else if (p->arena) b->sum = b->g + b->begin * unit_bytes(h);
    }
    TRY(put(p, h->sums_at[n_params] * (int64_t)sizeof(double), &sums));
    TRY(put(p, (n_params + 1) * (int64_t)sizeof *h->sums_at, &at));
    if (!p->arena) return OK;
    h->sums = tensor_1d(sums, F64, h->sums_at[n_params]);
    h->sums_at_ops = tensor_1d(at, I64, n_params + 1);
    h->sums.space = h->sums_at_ops.space = p->ctx->space;
    return space_copy(p->ctx, at, h->sums_at, (n_params + 1) * (int64_t)sizeof *h->sums_at);
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
    int64_t layers = 0;
    if (!h->spec.gradients || !h->fresh) return OK;
    for (int k = 0; k < h->spec.n_layers; k++) layers = most(layers, scratch_of(h, &h->block[k]));
    for (int k = 0; k < FLIGHTS_G; k++)
        TRY(put(p, k == 0 ? most(layers, scratch_of(h, ends_of(h))) : layers, &h->scratch[k]));
    return put(p, all_reduce_scratch(&h->comm, F64, h->sums_at[h->spec.params->n]), &h->sum_scratch);
}

static int64_t bytes_of(const struct sharding *h, enum status (*walk)(struct sharding *, struct placer *)) {
    struct sharding plan = *h; /* a walk that only counts changes nothing behind the pointers */
    struct placer p = {0};
    const enum status st = walk(&plan, &p);
    ASSERT(st == OK);
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
    return take(n + 1, sizeof *h->sums_at, &h->sums_at);
}

static enum status open_comm(struct sharding *h) {
    struct comm_limits limits = {.flights = h->n_blocks + FLIGHTS_G + 1, .device = h->spec.device};
    for (int k = 0; k < h->n_blocks; k++)
        limits.bytes = most(limits.bytes, most(h->block[k].n, (h->n_ranks - 1) * h->block[k].mine) * unit_bytes(h));
    TRY(comm_init(&h->comm, h->spec.rank, h->spec.mesh, MESH_TOKENS, &limits));
    h->open = true;
    return OK;
}

enum status sharding_init(struct sharding *h, const struct sharding_spec *spec) {
    enum status st = OK;
    *h = (struct sharding){.spec = *spec, .n_ranks = 1, .n_blocks = spec->n_layers + 1, .last = -1};
    if (spec->rank) {
        h->n_ranks = mesh_size(spec->mesh, MESH_TOKENS);
        h->index = mesh_index(spec->mesh, MESH_TOKENS);
    }
    const enum sharding_stage stage = h->n_ranks > 1 ? spec->stage : SHARDING_NONE;
    h->wide = dtype_wide(spec->ctx->real);
    h->masters = spec->moments && h->wide != spec->ctx->real;
    h->fresh = h->n_ranks > 1 || spec->exact;
    h->sliced = stage != SHARDING_NONE;
    h->ring_g = stage == SHARDING_GRADIENTS || stage == SHARDING_PARAMETERS;
    h->ring_w = stage == SHARDING_PARAMETERS;
    TRY_OUT(take_lists(h));
    lay_out(h);
    if (spec->rank) TRY_OUT(open_comm(h));
out:
    if (st != OK) sharding_term(h);
    return st;
}

void sharding_term(struct sharding *h) {
    if (h->open) comm_term(&h->comm);
    mem_free(h->block);
    mem_free(h->piece);
    mem_free(h->at);
    mem_free(h->offset);
    mem_free(h->w_at);
    mem_free(h->sums_at);
    *h = (struct sharding){0};
}
