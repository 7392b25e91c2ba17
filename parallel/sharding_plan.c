/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include "base/arena.h"
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

static void lay_out_block(struct sharding *h, struct sharding_block *b) {
    const int64_t align = ARENA_ALIGN / dtype_bytes(h->spec.real);
    for (int i = b->first; i < b->end; i++) {
        h->offset[i] = b->n;
        b->n += ceil_div(param_count(&h->spec.params->list[i]), align) * align;
    }
    for (int k = 1; k < h->n_ranks; k++) b->at[k] = nearest_cut(h, b, b->n / h->n_ranks * k);
    b->at[h->n_ranks] = b->n;
    for (int k = 0; k <= h->n_ranks; k++) b->bytes_at[k] = b->at[k] * dtype_bytes(h->spec.real);
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
    struct arena *arena; /* NULL: count alone */
    int64_t bytes;
};

static enum status put(struct placer *p, int64_t bytes, char **out) {
    void *mem = NULL;
    p->bytes += arena_round(bytes);
    if (!p->arena) return OK;
    TRY(arena_take(p->arena, bytes, &mem));
    memset(mem, 0, (size_t)arena_round(bytes));
    *out = mem;
    return OK;
}

static int64_t unit_bytes(const struct sharding *h) { return dtype_bytes(h->spec.real); }
static struct sharding_block *ends_of(struct sharding *h) { return &h->block[h->n_blocks - 1]; }

static int64_t largest_layer(const struct sharding *h) {
    int64_t n = 0;
    for (int k = 0; k < h->spec.n_layers; k++) n = most(n, h->block[k].n);
    return n * unit_bytes(h);
}

static enum status put_slots(struct sharding *h, struct placer *p, char **slot, int n_slots) {
    for (int k = 0; k < n_slots && k < h->spec.n_layers; k++) TRY(put(p, largest_layer(h), &slot[k]));
    return OK;
}

static enum status put_weights(struct sharding *h, struct placer *p) {
    if (h->spec.borrowed) return OK;
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++) {
        const bool part = h->ring_w && b != ends_of(h);
        TRY(put(p, (part ? b->mine : b->n) * unit_bytes(h), part ? &b->w_mine : &b->w));
        if (p->arena && !part) b->w_mine = b->w + b->begin * unit_bytes(h);
    }
    return h->ring_w ? put_slots(h, p, h->slot_w, SLOTS_W) : OK;
}

static enum status put_gradients(struct sharding *h, struct placer *p) {
    if (!h->spec.gradients) return OK;
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++)
        if (!h->ring_g || b == ends_of(h)) TRY(put(p, b->n * unit_bytes(h), &b->g));
    return h->ring_g ? put_slots(h, p, h->slot_g, SLOTS_G) : OK;
}

/* Sums of micro-batches, unless the gradient itself is where they are; and the sums of squares. */
static enum status put_sums(struct sharding *h, struct placer *p) {
    const bool apart = h->fresh && (h->ring_g || h->spec.n_micro > 1 || h->spec.ends_twice);
    char *sums = NULL;
    if (!h->spec.gradients) return OK;
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++) {
        if (apart) TRY(put(p, b->mine * unit_bytes(h), &b->sum));
        else if (p->arena) b->sum = b->g + b->begin * unit_bytes(h);
    }
    TRY(put(p, h->sums_at[h->spec.params->n] * (int64_t)sizeof *h->sums, &sums));
    if (p->arena) h->sums = (double *)(void *)sums;
    return OK;
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
    return h->sliced ? reduce_scatter_scratch(&h->comm, h->spec.real, b->at)
                     : all_reduce_scratch(&h->comm, h->spec.real, b->n);
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
                                   .gradients = bytes_of(h, put_gradients),
                                   .sums = bytes_of(h, put_sums),
                                   .moments = bytes_of(h, put_moments),
                                   .exchanges = bytes_of(h, put_exchanges)};
}

static struct tensor view(const struct sharding *h, char *base, int64_t at, int64_t n) {
    return tensor_1d(base ? base + at * unit_bytes(h) : NULL, h->spec.real, n);
}

static void bind_all(struct sharding *h) {
    for (struct sharding_block *b = h->block; b <= ends_of(h); b++) {
        if (b->w) sharding_bind_w(h, b);
        if (b->g) sharding_bind_g(h, b, b->g);
        for (int i = b->first; i < b->end; i++) {
            struct sharding_piece *p = &h->piece[i];
            const int64_t at = h->offset[i] + p->begin - b->begin;
            if (p->n == 0) continue;
            p->w = view(h, b->w_mine, at, p->n);
            p->m = view(h, b->m, at, p->n);
            p->v = view(h, b->v, at, p->n);
            p->g = view(h, b->sum, at, p->n);
        }
    }
}

enum status sharding_place(struct sharding *h, struct arena *arena) {
    struct placer p = {.arena = arena};
    int64_t n = 0;
    TRY(put_weights(h, &p));
    TRY(put_gradients(h, &p));
    TRY(put_sums(h, &p));
    TRY(put_moments(h, &p));
    TRY(put_exchanges(h, &p));
    bind_all(h);
    for (int k = 0; k < h->n_blocks; k++) n += h->block[k].n;
    if (h->spec.gradients && !h->ring_g) h->grads = tensor_1d(h->block[0].g, h->spec.real, n);
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
    return take(n + 1, sizeof *h->sums_at, &h->sums_at);
}

static enum status open_comm(struct sharding *h) {
    struct comm_limits limits = {.flights = h->n_blocks + FLIGHTS_G + 1};
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
    mem_free(h->sums_at);
    *h = (struct sharding){0};
}
