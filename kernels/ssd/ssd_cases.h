/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_CASES_H
#define BATON_KERNELS_SSD_CASES_H
#include "kernels/ops.h"
#include "kernels/ssd/ssd.h"
#include "kernels/ssd_local/ssd_local_cases.h"

#define ssd_case ssd_local_case /* both halves have the same rows */
static const struct ssd_case ssd_cases[] = {SSD_ROWS};
static const struct ssd_case ssd_bench[] = {SSD_BENCH};

/* The first half on the same tensors, so that gradients are those of both halves. */
static inline struct ssd_local *ssd_first_half(struct trial *t) {
    const struct ssd *a = (const struct ssd *)t->args;
    struct ssd_local *l = (struct ssd_local *)t->user;
    l->range = a->range, l->pos = a->pos, l->x = a->x, l->dt = a->dt, l->B = a->B, l->C = a->C, l->A_log = a->A_log;
    l->dt_bias = a->dt_bias, l->dts = a->dts, l->cum = a->cum, l->states = a->states, l->dy = a->dy;
    l->dstates = a->dstates;
    return l;
}
static inline enum status ssd_before_forward(struct ctx *c, struct trial *t) {
    return c->ops->ssd_local_fwd(c, ssd_first_half(t));
}
static inline enum status ssd_before_backward(struct ctx *c, struct trial *t) {
    return c->ops->ssd_local_bwd(c, ssd_first_half(t));
}

static inline void ssd_scratch(struct trial *t, const struct ssd_case *k) {
    struct ssd_local *l = (struct ssd_local *)case_memory(t, (int64_t)sizeof *l);
    const int64_t R = k->l.n_ranges;
    t->user = l;
    t->before[FORWARD] = ssd_before_forward;
    t->before[BACKWARD] = ssd_before_backward;
    l->heads = k->H, l->head_width = k->P, l->state = k->N, l->groups = k->G, l->chunk = k->Q;
    l->dt_min = k->dt_min, l->dt_max = k->dt_max;
    const struct dims state = {{R, k->H, k->P, k->N}}, decay = {{R, k->H, 0, 0}};
    case_tensor(t, "range_decay", &l->range_decay, 0, NORMAL(1.0), dtype_wide(t->real), decay);
    case_tensor(t, "range_state", &l->range_state, 0, NORMAL(1.0), dtype_wide(t->real), state);
    case_tensor(t, "range_dstate", &l->range_dstate, 0, NORMAL(1.0), dtype_wide(t->real), state);
}

static inline void ssd_build(struct trial *t, struct ssd *a, const struct ssd_case *k) {
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges, n = layout_chunks(&k->l, k->Q);
    const double state = 2.0 * (double)(T * k->H * k->P * k->N);
    const double square_group = (double)(T * k->Q * k->G * k->N), square_head = (double)(T * k->Q * k->H * k->P);
    a->heads = k->H, a->head_width = k->P, a->state = k->N, a->groups = k->G, a->chunk = k->Q;
    a->dt_min = k->dt_min, a->dt_max = k->dt_max;
    t->flops[FORWARD] = state + square_group + square_head;
    t->flops[BACKWARD] = 3.0 * state + 3.0 * square_group + 2.0 * square_head;
    t->bound = ssd_bound(3e-6, k);
    ssd_bf16(t, k);
    ssd_scratch(t, k);
    TENSOR(range, IN, layout_range(&k->l), I64, R + 1)->rows_by_elements = true;
    TENSOR(pos, IN, layout_pos(t, &k->l), I64, T);
    REALS(x, IN, NORMAL(1.0), T, k->H * k->P)->gap = k->gap;
    REALS(dt, IN, NORMAL(1.0), T, k->H)->gap = k->gap;
    REALS(B, IN, NORMAL(1.0), T, k->G * k->N)->gap = k->gap;
    REALS(C, IN, NORMAL(1.0), T, k->G * k->N)->gap = k->gap;
    WIDES(A_log, IN, UNIFORM(-1.0, 2.0), k->H);
    WIDES(dt_bias, IN, UNIFORM(-5.0, 0.0), k->H);
    WIDES(D, IN, NORMAL(1.0), k->H);
    WIDES(dts, IN, NORMAL(1.0), T, k->H);
    WIDES(cum, IN, NORMAL(1.0), T, k->H);
    struct case_tensor *states = REALS(states, F_ADD | B_IN, NORMAL(1.0), n, k->H, k->P, k->N);
    states->any_shape = true;
    states->gradient = "";
    WIDES(s_in, F_IN, NORMAL(1.0), R, k->H, k->P, k->N);
    WIDES(s_out, F_OUT | OPTIONAL, NORMAL(1.0), R, k->H, k->P, k->N);
    REALS(y, F_OUT, NORMAL(1.0), T, k->H * k->P)->gap = k->gap;
    REALS(dy, B_IN, NORMAL(1.0), T, k->H * k->P)->gap = k->gap;
    WIDES(ds_out, B_IN | OPTIONAL, NORMAL(1.0), R, k->H, k->P, k->N);
    REALS(dstates, B_ADD, NORMAL(1.0), n, k->H, k->P, k->N)->gradient = "";
    REALS(dx, B_OUT, NORMAL(1.0), T, k->H * k->P)->gap = k->gap;
    REALS(ddt, B_OUT, NORMAL(1.0), T, k->H)->gap = k->gap;
    REALS(dB, B_OUT, NORMAL(1.0), T, k->G * k->N)->gap = k->gap;
    REALS(dC, B_OUT, NORMAL(1.0), T, k->G * k->N)->gap = k->gap;
    WIDES(ds_in, B_OUT | OPTIONAL, NORMAL(1.0), R, k->H, k->P, k->N);
    WIDES(dA_log, B_ADD, NORMAL(1.0), k->H);
    WIDES(ddt_bias, B_ADD, NORMAL(1.0), k->H);
    WIDES(dD, B_ADD, NORMAL(1.0), k->H);
}
#endif
