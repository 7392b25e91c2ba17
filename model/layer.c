/* SPDX-License-Identifier: Apache-2.0 */
#include "model/layer.h"
#include <stdio.h>
#include <string.h>

enum status layer_param(struct layer *l, struct params *ps, int slot, struct param p) {
    ASSERT(slot >= 0 && slot < LAYER_PARAMS);
    char full[PARAM_NAME];
    const int n = snprintf(full, sizeof full, "layers.%d.%s", l->index, p.name);
    ASSERT(n > 0 && n < (int)sizeof full);
    memcpy(p.name, full, sizeof full);
    return param_add(ps, &p, &l->param[slot]);
}

struct tensor layer_w(const struct step *s, const struct layer *l, int slot) {
    return l->param[slot] < 0 ? (struct tensor){0} : s->params->list[l->param[slot]].w;
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

void plan_total(struct plan *p, int64_t numbers) {
    if (numbers > p->total_numbers) p->total_numbers = numbers;
}

void plan_work(struct plan *p, int64_t bytes) {
    if (bytes < 0) p->refused = true;
    if (bytes > p->work) p->work = bytes;
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
