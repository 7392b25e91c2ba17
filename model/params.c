/* SPDX-License-Identifier: Apache-2.0 */
#include "model/param_draw.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/rng.h"
#include "model/param_parts.h"

/* From what is declared, whole, to what is held here. */
static void settle(struct param *p, const struct split *split) {
    int64_t rows = 0;
    for (int d = 0; d < 4; d++)
        if (d >= p->n_dims) p->shape[d] = 1;
    memcpy(p->whole, p->shape, sizeof p->whole);
    for (int a = 0; a < N_SPLITS; a++) {
        struct cut *c = &p->cut[a];
        ASSERT(c->parts <= 1 || p->n_sections == 0 || c->dim > 0);
        p->shape[c->dim] = cut_settle(c, split, (enum split_axis)a, p->shape[c->dim]);
    }
    for (int i = 0; i < p->n_sections; i++) {
        struct section *s = &p->section[i];
        s->whole = s->rows;
        s->rows = cut_settle(&s->cut, split, SPLIT_TENSOR, s->whole);
        p->shape[0] -= s->whole - s->rows;
        rows += s->rows;
    }
    ASSERT(p->n_sections == 0 || rows == p->shape[0]);
}

enum status param_add(struct params *ps, const struct param *p, int *index) {
    ASSERT(p->n_sections <= SECTIONS_MAX && p->n_dims >= 1 && p->n_dims <= 4);
    FAIL_UNLESS(param_find(ps, p->name) < 0, ERR_ARG, "parameter %s is declared twice", p->name);
    if (ps->n == ps->room) {
        const int room = ps->room ? 2 * ps->room : 64;
        void *mem = ps->list;
        TRY(mem_grow(&mem, ps->room * (int64_t)sizeof *ps->list, room * (int64_t)sizeof *ps->list));
        ps->list = mem;
        ps->room = room;
    }
    struct param *own = &ps->list[ps->n];
    *own = *p;
    settle(own, &ps->split);
    if (own->lr_scale == 0.0) own->lr_scale = 1.0;
    if (own->n_uses == 0) own->n_uses = 1;
    ps->n_elements += param_whole(own);
    *index = ps->n++;
    return OK;
}

int param_find(const struct params *ps, const char *name) {
    for (int i = 0; i < ps->n; i++)
        if (!strcmp(ps->list[i].name, name)) return i;
    return -1;
}

int param_parts(const struct param *p) { return p->n_sections ? p->n_sections : 1; }

int param_later_cut(const struct param *p, int64_t *begin) {
    *begin = 0;
    for (int a = 0; a < N_SPLITS; a++) {
        *begin = p->cut[a].begin;
        if (p->cut[a].dim > 0 && p->cut[a].parts > 1) return p->cut[a].dim;
    }
    *begin = 0;
    return 0;
}

int64_t params_parts(const struct params *ps) {
    int64_t n = 0;
    for (int i = 0; i < ps->n; i++) n += param_parts(&ps->list[i]);
    return n;
}

const struct param *params_part_of(const struct params *ps, int64_t at) {
    int i = 0;
    while (at >= param_parts(&ps->list[i])) at -= param_parts(&ps->list[i++]);
    return &ps->list[i];
}

void param_part(const struct param *p, int i, struct param_part *out) {
    const struct cut *c = &p->cut[SPLIT_TENSOR];
    ASSERT(i >= 0 && i < param_parts(p));
    *out = (struct param_part){.rows = p->shape[0], .whole = p->whole[0], .copies = c->copies, .copy = c->copy};
    for (int a = 0; a < N_SPLITS; a++)
        if (p->cut[a].dim == 0) out->whole_begin += p->cut[a].begin;
    if (p->n_sections == 0) {
        snprintf(out->name, sizeof out->name, "%s", p->name);
        return;
    }
    const struct section *own = &p->section[i];
    for (int s = 0; s < i; s++) out->row_begin += p->section[s].rows;
    out->rows = own->rows;
    out->whole = own->whole;
    out->whole_begin = own->cut.begin;
    if (c->parts == 1) out->copies = own->cut.copies, out->copy = own->cut.copy;
    snprintf(out->name, sizeof out->name, "%s.%s", p->name, own->name);
}

int64_t param_count(const struct param *p) { return p->shape[0] * p->shape[1] * p->shape[2] * p->shape[3]; }
int64_t param_whole(const struct param *p) { return p->whole[0] * p->whole[1] * p->whole[2] * p->whole[3]; }

/* Where a row held here stands among those of the whole, and how many from it on stand there together. */
static int64_t whole_row(const struct param *p, int64_t row, int64_t *n) {
    int64_t at = 0, whole_at = 0;
    for (int i = 0; i < p->n_sections; i++) {
        const struct section *s = &p->section[i];
        *n = at + s->rows - row;
        if (*n > 0) return whole_at + s->cut.begin + row - at;
        at += s->rows;
        whole_at += s->whole;
    }
    *n = p->shape[0] - row;
    for (int a = 0; a < N_SPLITS; a++)
        if (p->cut[a].dim == 0) whole_at += p->cut[a].begin;
    return whole_at + row;
}

int64_t param_run(const struct param *p, int64_t held, int64_t *whole) {
    int64_t inner = p->shape[1] * p->shape[2] * p->shape[3], rows = 0, rest = held % inner, n = 0;
    *whole = whole_row(p, held / inner, &rows);
    n = rows * inner - rest;
    for (int d = 1; d < 4; d++) {
        int64_t begin = 0;
        for (int a = 0; a < N_SPLITS; a++)
            if (p->cut[a].dim == d) begin += p->cut[a].begin;
        inner /= p->shape[d];
        *whole = *whole * p->whole[d] + begin + rest / inner;
        if (p->shape[d] < p->whole[d]) n = p->shape[d] * inner - rest;
        rest %= inner;
    }
    return n;
}

void params_shape(struct params *ps, enum dtype real, enum space space) {
    for (int i = 0; i < ps->n; i++) {
        struct param *p = &ps->list[i];
        p->w = tensor_4d(NULL, p->product ? real : dtype_wide(real), p->shape);
        p->g = tensor_4d(NULL, dtype_wide(real), p->shape);
        p->w.space = p->g.space = space;
    }
}

/* dt log-uniform in [1e-3, 0.1], at least 1e-4; what softplus turns into it. */
static double dt_bias_from(double u) {
    const double dt = fmax(exp(u * (log(0.1) - log(1e-3)) + log(1e-3)), 1e-4);
    return dt + log(-expm1(-dt));
}

static bool normal(const struct param *p) { return p->init == INIT_NORMAL || p->init == INIT_NORMAL_OUT; }
static double deviation(const struct param_draw *d) {
    return d->param->init == INIT_NORMAL_OUT ? d->std / sqrt(2.0 * d->n_layers) : d->std;
}

static double draw(const struct param_draw *d, uint64_t stream, uint64_t i) {
    const struct param *p = d->param;
    const double u = rng_uniform(d->seed, stream, i);
    switch (p->init) {
    case INIT_ZERO:
        return 0.0;
    case INIT_ONE:
        return 1.0;
    case INIT_NORMAL:
    case INIT_NORMAL_OUT:
        return deviation(d) * rng_normal(d->seed, stream, i);
    case INIT_CONV:
    case INIT_FAN_IN:
        return (2.0 * u - 1.0) / sqrt((double)p->whole[p->n_dims - 1]);
    case INIT_CONV_BIAS:
        return (2.0 * u - 1.0) / sqrt(p->init_scale);
    case INIT_A_LOG:
        return log(1.0 + 15.0 * u);
    case INIT_A_LOG_ROW:
        return log(1.0 + (double)((int64_t)i % p->whole[p->n_dims - 1]));
    case INIT_DT_BIAS:
        return dt_bias_from(u);
    }
    ASSERT(!"an init without a rule");
    return NAN;
}

void param_draw(const struct param_draw *d, int64_t first, int64_t n, enum dtype type, void *out) {
    const uint64_t stream = rng_stream(d->param->name);
    const bool many = type == F32 && normal(d->param);
    int64_t whole = 0;
    ASSERT(type == F32 || type == F64);
    for (int64_t at = 0, run; at < n; at += run) {
        run = param_run(d->param, first + at, &whole);
        if (run > n - at) run = n - at;
        if (many) rng_normals(d->seed, stream, (uint64_t)whole, run, deviation(d), (float *)out + at);
        for (int64_t i = at; i < at + run && !many; i++) {
            const double v = draw(d, stream, (uint64_t)(whole + i - at));
            if (type == F64) ((double *)out)[i] = v;
            else ((float *)out)[i] = (float)v;
        }
    }
}

void params_term(struct params *ps) {
    mem_free(ps->list);
    *ps = (struct params){0};
}
