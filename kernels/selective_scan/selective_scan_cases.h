/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SELECTIVE_SCAN_CASES_H
#define BATON_KERNELS_SELECTIVE_SCAN_CASES_H
#include "kernels/ops.h"
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/selective_scan_local/selective_scan_local_cases.h"

#define selective_scan_case selective_scan_local_case /* both halves have the same rows */
static const struct selective_scan_case selective_scan_cases[] = {SELECTIVE_ROWS};
static const struct selective_scan_case selective_scan_bench[] = {SELECTIVE_BENCH};

/* The first half on the same tensors, so that gradients are those of both halves. */
static inline struct selective_scan_local *selective_first_half(struct trial *t) {
    const struct selective_scan *a = (const struct selective_scan *)t->args;
    struct selective_scan_local *l = (struct selective_scan_local *)t->user;
    l->range = a->range, l->pos = a->pos, l->x = a->x, l->dt = a->dt, l->B = a->B, l->C = a->C, l->z = a->z;
    l->A_log = a->A_log, l->dt_bias = a->dt_bias, l->states = a->states, l->chunk_time = a->chunk_time;
    l->dout = a->dout, l->dstates = a->dstates, l->D = a->D, l->out = a->out;
    return l;
}
static inline enum status selective_before_forward(struct ctx *c, struct trial *t) {
    return c->ops->selective_scan_local_fwd(c, selective_first_half(t));
}
static inline enum status selective_before_backward(struct ctx *c, struct trial *t) {
    return c->ops->selective_scan_local_bwd(c, selective_first_half(t));
}

static inline void selective_scratch(struct trial *t, const struct selective_scan_case *k) {
    struct selective_scan_local *l = (struct selective_scan_local *)case_memory(t, (int64_t)sizeof *l);
    const struct dims state = {{k->l.n_ranges, k->D, 1, k->N}}, time = {{k->l.n_ranges, k->D, 0, 0}};
    t->user = l;
    t->before[FORWARD] = selective_before_forward;
    t->before[BACKWARD] = selective_before_backward;
    l->state = k->N, l->chunk = k->Q;
    case_tensor(t, "range_time", &l->range_time, 0, NORMAL(1.0), dtype_wide(t->real), time);
    case_tensor(t, "range_state", &l->range_state, 0, NORMAL(1.0), dtype_wide(t->real), state);
    case_tensor(t, "range_dstate", &l->range_dstate, 0, NORMAL(1.0), dtype_wide(t->real), state);
}

static inline void selective_scan_build(struct trial *t, struct selective_scan *a,
                                        const struct selective_scan_case *k) {
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges, n = selective_chunks(&k->l, k->Q), D = k->D, N = k->N;
    a->state = N, a->chunk = k->Q;
    t->flops[FORWARD] = 7.0 * (double)(T * D * N);
    t->flops[BACKWARD] = 22.0 * (double)(T * D * N);
    t->bound = 2e-6;
    t->no_bf16 = N > 16;
    t->roundings = 3.0; /* dB and dC: themselves, and their terms, which weigh more where they cancel */
    selective_scratch(t, k);
    TENSOR(range, IN, layout_range(&k->l), I64, R + 1)->rows_by_elements = true;
    TENSOR(pos, IN, layout_pos(t, &k->l), I64, T);
    REALS(x, IN, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(z, IN, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(dt, IN, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(B, IN, NORMAL(1.0), T, N)->gap = k->gap;
    REALS(C, IN, NORMAL(1.0), T, N)->gap = k->gap;
    WIDES(A_log, IN, UNIFORM(-1.0, 3.0), D, N);
    WIDES(dt_bias, IN, UNIFORM(-5.0, 0.0), D);
    WIDES(D, IN, NORMAL(1.0), D);
    struct case_tensor *states = WIDES(states, F_ADD | B_IN, NORMAL(1.0), n, D, 1, N);
    states->any_shape = true;
    states->gradient = "";
    WIDES(chunk_time, IN, UNIFORM(0.1, 1.0), n, D);
    WIDES(s_in, F_IN, NORMAL(1.0), R, D, 1, N);
    WIDES(s_out, F_OUT | OPTIONAL, NORMAL(1.0), R, D, 1, N);
    REALS(out, F_ADD, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(dout, B_IN, NORMAL(1.0), T, D)->gap = k->gap;
    WIDES(ds_out, B_IN | OPTIONAL, NORMAL(1.0), R, D, 1, N);
    WIDES(dstates, B_ADD, NORMAL(1.0), n, D, 1, N)->gradient = "";
    REALS(dx, B_OUT, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(dz, B_OUT, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(ddt, B_OUT, NORMAL(1.0), T, D)->gap = k->gap;
    REALS(dB, B_OUT, NORMAL(1.0), T, N)->gap = k->gap;
    REALS(dC, B_OUT, NORMAL(1.0), T, N)->gap = k->gap;
    WIDES(ds_in, B_OUT | OPTIONAL, NORMAL(1.0), R, D, 1, N);
    WIDES(dA_log, B_ADD, NORMAL(1.0), D, N);
    WIDES(ddt_bias, B_ADD, NORMAL(1.0), D);
    WIDES(dD, B_ADD, NORMAL(1.0), D);
}
#endif
