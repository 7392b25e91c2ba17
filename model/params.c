/* SPDX-License-Identifier: Apache-2.0 */
#include "model/param_draw.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/rng.h"

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
    for (int d = 0; d < 4; d++)
        if (d >= own->n_dims) own->shape[d] = 1;
    int64_t rows = 0;
    for (int i = 0; i < own->n_sections; i++) rows += own->section[i].rows;
    ASSERT(own->n_sections == 0 || rows == own->shape[0]);
    if (own->lr_scale == 0.0) own->lr_scale = 1.0;
    if (own->n_uses == 0) own->n_uses = 1;
    ps->n_elements += param_count(own);
    *index = ps->n++;
    return OK;
}

int param_find(const struct params *ps, const char *name) {
    for (int i = 0; i < ps->n; i++)
        if (!strcmp(ps->list[i].name, name)) return i;
    return -1;
}

int param_parts(const struct param *p) { return p->n_sections ? p->n_sections : 1; }

void param_part(const struct param *p, int i, struct param_part *out) {
    ASSERT(i >= 0 && i < param_parts(p));
    *out = (struct param_part){.rows = p->shape[0]};
    if (p->n_sections == 0) {
        snprintf(out->name, sizeof out->name, "%s", p->name);
        return;
    }
    for (int s = 0; s < i; s++) out->row_begin += p->section[s].rows;
    out->rows = p->section[i].rows;
    snprintf(out->name, sizeof out->name, "%s.%s", p->name, p->section[i].name);
}

int64_t param_count(const struct param *p) { return p->shape[0] * p->shape[1] * p->shape[2] * p->shape[3]; }

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

static double draw(const struct param *p, uint64_t seed, uint64_t stream, uint64_t i, double std, int n_layers) {
    const double u = rng_uniform(seed, stream, i);
    switch (p->init) {
    case INIT_ZERO:
        return 0.0;
    case INIT_ONE:
        return 1.0;
    case INIT_NORMAL:
        return std * rng_normal(seed, stream, i);
    case INIT_NORMAL_OUT:
        return std / sqrt(2.0 * n_layers) * rng_normal(seed, stream, i);
    case INIT_CONV:
    case INIT_FAN_IN:
        return (2.0 * u - 1.0) / sqrt((double)p->shape[p->n_dims - 1]);
    case INIT_CONV_BIAS:
        return (2.0 * u - 1.0) / sqrt(p->init_scale);
    case INIT_A_LOG:
        return log(1.0 + 15.0 * u);
    case INIT_A_LOG_ROW:
        return log(1.0 + (double)((int64_t)i % p->shape[p->n_dims - 1]));
    case INIT_DT_BIAS:
        return dt_bias_from(u);
    }
    ASSERT(!"an init without a rule");
    return NAN;
}

void param_draw(const struct param_draw *d, int64_t first, int64_t n, enum dtype type, void *out) {
    const uint64_t stream = rng_stream(d->param->name);
    ASSERT(type == F32 || type == F64);
    for (int64_t i = 0; i < n; i++) {
        const double v = draw(d->param, d->seed, stream, (uint64_t)(first + i), d->std, d->n_layers);
        if (type == F64) ((double *)out)[i] = v;
        else ((float *)out)[i] = (float)v;
    }
}

void params_term(struct params *ps) {
    mem_free(ps->list);
    *ps = (struct params){0};
}
