/* SPDX-License-Identifier: Apache-2.0 */
#include "model/layer.h"
#include <stdio.h>
#include <string.h>
#include "model/seams.h"

void layer_name(const struct layer *l, const char *name, char out[PARAM_NAME]) {
    const int n = snprintf(out, PARAM_NAME, "%slayers.%d.%s", l->trunk ? "mtp." : "", l->index - l->trunk, name);
    ASSERT(n > 0 && n < PARAM_NAME);
}

enum status layer_param(struct layer *l, struct params *ps, int slot, struct param p) {
    ASSERT(slot >= 0 && slot < LAYER_PARAMS);
    char full[PARAM_NAME];
    layer_name(l, p.name, full);
    memcpy(p.name, full, sizeof full);
    return param_add(ps, &p, &l->param[slot]);
}

struct tensor layer_w(const struct step *s, const struct layer *l, int slot) {
    return l->param[slot] < 0 ? (struct tensor){0} : s->params->list[l->param[slot]].w;
}

struct tensor layer_b(const struct step *s, const struct layer *l, int slot) {
    return l->split.at[SPLIT_TENSOR] > 0 ? (struct tensor){0} : layer_w(s, l, slot);
}

enum status layer_sum(struct step *s, const struct layer *l, struct tensor t, struct tensor own) {
    if (layer_ranks(l) == 1) return OK;
    TRY(s->seams->leave(s, t, own, NULL));
    return s->seams->enter(s, own, t, NULL);
}

int layer_ranks(const struct layer *l) { return split_n(&l->split, SPLIT_TENSOR); }

/* The sizes of an axis that would do, as far as a line goes. */
static void sizes_that_do(int64_t units, bool copies, char out[128]) {
    int n = 0;
    for (int ranks = 1; ranks <= 1024 && n < 64; ranks++)
        if (copies ? cut_parts(ranks, units) : units % ranks == 0)
            n += snprintf(out + n, (size_t)(128 - n), "%s%d", n ? ", " : "", ranks);
}

enum status split_units(const struct split *split, const char *what, int64_t units, bool copies, int64_t *mine) {
    const int n = split_n(split, SPLIT_TENSOR), parts = cut_parts(n, units);
    char sizes[128];
    sizes_that_do(units, copies, sizes);
    FAIL_UNLESS(parts == n || (copies && parts > 0), ERR_CONFIG,
                "%s %lld cannot be spread over the %d ranks of mesh.tensor; sizes that would do: %s", what,
                (long long)units, n, sizes);
    *mine = units / parts;
    return OK;
}

enum status split_experts(const struct split *split, int64_t experts) {
    const int n = split_n(split, SPLIT_EXPERT);
    char sizes[128];
    sizes_that_do(experts, false, sizes);
    FAIL_UNLESS(experts % n == 0, ERR_CONFIG,
                "experts %lld cannot be spread over the %d ranks of mesh.expert; sizes that would do: %s",
                (long long)experts, n, sizes);
    return OK;
}

struct tensor layer_g(const struct step *s, const struct layer *l, int slot) {
    return l->param[slot] < 0 ? (struct tensor){0} : s->params->list[l->param[slot]].g;
}

enum home saved_home(const struct saved *v, enum keep tag) {
    if (tag == KEEP_SCRATCH) return HOME_SCRATCH;
    return v->kept & 1u << tag ? HOME_OWN : HOME_SHARED;
}

int64_t saved_bytes(const struct saved *v, enum home home) {
    int64_t sum = 0;
    for (int k = 0; k < N_KEEPS; k++)
        if (saved_home(v, (enum keep)k) == home) sum += v->bytes[k];
    return sum;
}

bool layer_has(const struct step *s, const struct saved *v, int slot) {
    return s->again && saved_home(v, v->slot[slot].tag) == HOME_OWN;
}

static void add_slot(struct plan *p, int slot, struct saved_slot new) {
    ASSERT(slot >= 0 && slot < SAVED_MAX && !p->saved->slot[slot].name);
    struct saved_slot *s = &p->saved->slot[slot];
    *s = new;
    s->t.space = p->ctx->space;
    s->at = s->tag;
    s->offset = saved_bytes(p->saved, saved_home(p->saved, s->tag));
    p->saved->bytes[s->tag] += arena_round(tensor_bytes(s->t));
}

void plan_slot(struct plan *p, int slot, const char *name, enum keep tag, int64_t d0, int64_t d1, int64_t d2,
               int64_t d3) {
    const int64_t shape[4] = {d0, d1, d2, d3};
    add_slot(p, slot, (struct saved_slot){.name = name, .tag = tag, .t = tensor_4d(NULL, p->ctx->real, shape)});
}

void plan_wide(struct plan *p, int slot, const char *name, enum keep tag, int64_t d0, int64_t d1, int64_t d2,
               int64_t d3) {
    const int64_t shape[4] = {d0, d1, d2, d3};
    add_slot(p, slot,
             (struct saved_slot){.name = name, .tag = tag, .t = tensor_4d(NULL, dtype_wide(p->ctx->real), shape)});
}

void plan_typed(struct plan *p, int slot, const char *name, enum keep tag, enum dtype type, int64_t d0, int64_t d1) {
    add_slot(p, slot, (struct saved_slot){.name = name, .tag = tag, .t = tensor_2d(NULL, type, d0, d1)});
}

void plan_reuse(struct plan *p, int slot, const char *name, int first, int last, int64_t d0, int64_t d1, int64_t d2,
                int64_t d3) {
    plan_slot(p, slot, name, KEEP_SCRATCH, d0, d1, d2, d3);
    struct saved_slot *s = &p->saved->slot[slot];
    const struct saved_slot *from = &p->saved->slot[first], *to = &p->saved->slot[last];
    const int64_t bytes = arena_round(tensor_bytes(s->t));
    ASSERT(from->tag == to->tag && from->at == to->at && from->offset <= to->offset);
    if (bytes > to->offset + arena_round(tensor_bytes(to->t)) - from->offset) return;
    p->saved->bytes[KEEP_SCRATCH] -= bytes;
    s->at = from->at;
    s->offset = from->offset;
}

void plan_total(struct plan *p, int64_t numbers) {
    if (numbers > p->total_numbers) p->total_numbers = numbers;
}

void plan_sum(struct plan *p, const struct layer *l, int slot, int64_t columns) {
    if (layer_ranks(l) == 1) return;
    plan_slot(p, slot, "own rows", KEEP_SCRATCH, p->n_own, columns, 1, 1);
    if (columns > p->own_columns) p->own_columns = columns;
}

void plan_work(struct plan *p, int64_t bytes) {
    if (bytes < 0) p->refused = true;
    if (bytes > p->work) p->work = bytes;
}

void plan_routed(struct plan *p, struct routed_most layer) {
    struct routed_most *m = &p->routed;
    if (layer.experts > m->experts) m->experts = layer.experts;
    if (layer.offsets > m->offsets) m->offsets = layer.offsets;
    if (layer.numbers > m->numbers) m->numbers = layer.numbers;
}

void plan_carry(struct plan *p, int op, int64_t rows, int64_t cols) {
    for (int i = 0; i < p->n_carries; i++)
        if (p->carry[i].op == op && p->carry[i].rows == rows && p->carry[i].cols == cols) return;
    ASSERT(p->n_carries < CARRY_SHAPES);
    p->carry[p->n_carries++] = (struct carry_shape){op, rows, cols};
}

int64_t plan_chunks(const struct plan *p, int64_t chunk) {
    int64_t n = 0;
    for (int64_t r = 0; r < p->n_ranges; r++) n += (p->range[r + 1] - p->range[r] + chunk - 1) / chunk;
    return n;
}
