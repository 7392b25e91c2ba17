/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cases.h"
#include <math.h>
#include <string.h>
#include "base/rng.h"
#include "kernels/ops.h"
#include "kernels/activation/activation_cases.h"
#include "kernels/adamw/adamw_cases.h"
#include "kernels/add/add_cases.h"
#include "kernels/affine/affine_cases.h"
#include "kernels/attention/attention_cases.h"
#include "kernels/balance/balance_cases.h"
#include "kernels/combine/combine_cases.h"
#include "kernels/cast/cast_cases.h"
#include "kernels/clip/clip_cases.h"
#include "kernels/conv1d/conv1d_cases.h"
#include "kernels/copy/copy_cases.h"
#include "kernels/embedding/embedding_cases.h"
#include "kernels/fill/fill_cases.h"
#include "kernels/gated_norm/gated_norm_cases.h"
#include "kernels/group/group_cases.h"
#include "kernels/grouped_linear/grouped_linear_cases.h"
#include "kernels/head/head_cases.h"
#include "kernels/limit/limit_cases.h"
#include "kernels/linear/linear_cases.h"
#include "kernels/nudge/nudge_cases.h"
#include "kernels/rmsnorm/rmsnorm_cases.h"
#include "kernels/rope/rope_cases.h"
#include "kernels/route/route_cases.h"
#include "kernels/selective_scan/selective_scan_cases.h"
#include "kernels/selective_scan_local/selective_scan_local_cases.h"
#include "kernels/ssd/ssd_cases.h"
#include "kernels/ssd_local/ssd_local_cases.h"
#include "kernels/sum_squares/sum_squares_cases.h"
#include "kernels/tail/tail_cases.h"
#include "kernels/token_loss/token_loss_cases.h"
#include "kernels/tree_sum/tree_sum_cases.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

#define OP(op, flags)                                                                                                  \
    static void op##_row(struct trial *t, int row) {                                                                   \
        const struct op##_case *k = row < COUNT(op##_cases) ? &op##_cases[row] : &op##_bench[row - COUNT(op##_cases)]; \
        t->why = k->why;                                                                                               \
        op##_build(t, (struct op *)t->args, k);                                                                        \
    }                                                                                                                  \
    static enum status op##_run(struct ctx *c, enum pass p, const void *args) {                                        \
        return (p == FORWARD ? c->ops->op##_fwd : c->ops->op##_bwd)(c, (const struct op *)args);                       \
    }                                                                                                                  \
    static int64_t op##_bytes(const struct ctx *c, const void *args) {                                                 \
        return c->ops->op##_work(c, (const struct op *)args);                                                          \
    }
#include "kernels/ops.def"
#undef OP

const struct case_op case_ops[] = {
#define OP(op, flags)                                                                                                  \
    {#op, (flags), COUNT(op##_cases), COUNT(op##_bench), (int64_t)sizeof(struct op), op##_row, op##_run, op##_bytes},
#include "kernels/ops.def"
#undef OP
};
const int n_case_ops = COUNT(case_ops);

#define GUARD  64 /* elements before and behind a tensor: no row of a test tensor is far longer than this */
#define LARGE  (48 << 20)
#define PERIOD 65521 /* values of a larger tensor repeat: filling a benchmark's tensors should not take long */

void *case_memory(struct trial *t, int64_t bytes) {
    ASSERT(t->n_memory < TRIAL_MEMORY);
    void *p = NULL;
    ASSERT(mem_take(bytes, &p) == OK); /* a test's table: nothing could go on without it */
    return t->memory[t->n_memory++] = p;
}

struct case_tensor *case_tensor(struct trial *t, const char *name, struct tensor *at, unsigned roles, struct values v,
                                enum dtype type, struct dims dims) {
    ASSERT(t->n_tensors < TRIAL_TENSORS);
    struct case_tensor *x = &t->tensor[t->n_tensors++];
    int64_t n[4];
    for (int i = 0; i < 4; i++) n[i] = i > 0 && dims.n[i] == 0 ? 1 : dims.n[i];
    *at = tensor_4d(NULL, type, n);
    *x = (struct case_tensor){.name = name, .at = at, .roles = roles, .values = v};
    return x;
}

static int64_t rows_pitch(const struct case_tensor *x) {
    return x->at->shape[1] * x->at->shape[2] * x->at->shape[3] + x->gap;
}

int64_t trial_block_bytes(const struct case_tensor *x) {
    return (2 * GUARD + x->at->shape[0] * rows_pitch(x)) * dtype_bytes(x->at->dtype);
}

static void build_row(struct trial *t, const struct case_op *op, int row, enum dtype real) {
    *t = (struct trial){.op = op, .real = real, .rounded = real, .grad_bound = 1e-7, .roundings = 1.0};
    t->args = case_memory(t, op->args_bytes);
    op->build(t, row);
}

bool case_large(const struct case_op *op, int row) {
    struct trial t;
    bool large = false;
    build_row(&t, op, row, BF16);
    for (int i = 0; i < t.n_tensors; i++) large |= tensor_count(*t.tensor[i].at) > LARGE;
    trial_close(&t);
    return large;
}

enum status trial_open(struct trial *t, const struct case_op *op, int row, enum dtype real) {
    build_row(t, op, row, real);
    if (t->wide_bound == 0.0) t->wide_bound = t->bound;
    for (int i = 0; i < t->n_tensors; i++) {
        struct case_tensor *x = &t->tensor[i];
        void *block = NULL;
        TRY(mem_take(trial_block_bytes(x), &block));
        x->block = block;
        x->at->pitch = rows_pitch(x);
        x->at->data = x->block + GUARD * dtype_bytes(x->at->dtype);
        if (x->twin) *x->twin = *x->at;
    }
    return OK;
}

void trial_close(struct trial *t) {
    for (int i = 0; i < t->n_tensors; i++) mem_free(t->tensor[i].block);
    for (int i = 0; i < t->n_memory; i++) mem_free(t->memory[i]);
    *t = (struct trial){0};
}

static char *element(const struct case_tensor *x, int64_t i) {
    const int64_t width = x->at->shape[1] * x->at->shape[2] * x->at->shape[3];
    return (char *)x->at->data + (i / width * x->at->pitch + i % width) * dtype_bytes(x->at->dtype);
}

/* To nearest, ties to even; NaN stays as it is, which a cast of the halves would not promise. */
static uint16_t bf16_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
static float bf16_float(uint16_t b) {
    const uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

double trial_get(const struct case_tensor *x, int64_t i) {
    const char *p = element(x, i);
    float f;
    double d;
    int32_t s;
    int64_t l;
    uint16_t b;
    switch (x->at->dtype) {
    case BF16:
        return memcpy(&b, p, sizeof b), (double)bf16_float(b);
    case F64:
        return memcpy(&d, p, sizeof d), d;
    case F32:
        return memcpy(&f, p, sizeof f), (double)f;
    case I64:
        return memcpy(&l, p, sizeof l), (double)l;
    case I32:
        return memcpy(&s, p, sizeof s), (double)s;
    default:
        ASSERT(!"a type that no op has yet");
        return 0.0;
    }
}

void trial_set(const struct case_tensor *x, int64_t i, double v) {
    char *p = element(x, i);
    const float f = (float)v;
    const int32_t s = (int32_t)v;
    const int64_t l = (int64_t)v;
    const uint16_t b = bf16_of(f);
    switch (x->at->dtype) {
    case BF16:
        memcpy(p, &b, sizeof b);
        break;
    case F64:
        memcpy(p, &v, sizeof v);
        break;
    case F32:
        memcpy(p, &f, sizeof f);
        break;
    case I64:
        memcpy(p, &l, sizeof l);
        break;
    case I32:
        memcpy(p, &s, sizeof s);
        break;
    default:
        ASSERT(!"a type that no op has yet");
    }
}

static double draw(const struct trial *t, const struct case_tensor *x, int64_t i) {
    const struct values v = x->values;
    const uint64_t seed = rng_stream(t->op->name), stream = rng_stream(x->name);
    const bool real = x->at->dtype == F64 || x->at->dtype == F32 || x->at->dtype == BF16;
    if (v.numbers) return v.numbers[i];
    if (v.list) return (double)v.list[i];
    if (v.spread != 0.0) return v.lo + v.spread * rng_normal(seed, stream, (uint64_t)i);
    const double u = rng_uniform(seed, stream, (uint64_t)i);
    return real ? v.lo + (v.hi - v.lo) * u : v.lo + floor((v.hi - v.lo + 1.0) * u);
}

/* What lies in the first `period` bytes, again and again. */
static void repeat(char *at, int64_t period, int64_t bytes) {
    for (int64_t i = period; i < bytes; i += period)
        memcpy(at + i, at, (size_t)(bytes - i < period ? bytes - i : period));
}

/* Guards, gaps and outputs not yet written hold signalling NaNs, every one with a payload of its own: what is computed
 * from one is a quiet NaN, and what is copied comes from elsewhere, so that a write over a guard always shows. */
static void fill_block(const struct trial *t, const struct case_tensor *x) {
    const int64_t e = dtype_bytes(x->at->dtype), n = trial_block_bytes(x) / e;
    const uint64_t tensor = (uint64_t)(x - t->tensor) + 1;
    const int64_t period = 63 << 16; /* after which both payloads come again */
    for (int64_t i = 0; i < n && i < period; i++) {
        const uint64_t mark = tensor << 16 | ((uint64_t)i & 0xffff);
        const uint64_t wide = 0x7ff0000000000000u | mark;
        const uint32_t narrow = 0x7f800000u | (uint32_t)mark;
        const uint16_t half = (uint16_t)(0x7f80u | (1u + (uint32_t)(tensor * 5 + (uint64_t)i) % 63u));
        const void *nan = e == 8 ? (const void *)&wide : e == 4 ? (const void *)&narrow : (const void *)&half;
        memcpy(x->block + i * e, nan, (size_t)e);
    }
    repeat(x->block, period * e, n * e);
}

static void fill_tensor(const struct trial *t, const struct case_tensor *x) {
    const int64_t n = tensor_count(*x->at), e = dtype_bytes(x->at->dtype);
    const bool periodic = !x->values.list && !x->values.numbers, copied = periodic && tensor_packed(*x->at);
    fill_block(t, x);
    if (!(x->roles & F_IN) && (x->roles & F_OUT || !(x->roles & B_IN))) return;
    for (int64_t i = 0; i < n && !(copied && i >= PERIOD); i++) {
        const bool again = i >= PERIOD && periodic;
        /* Rounded, so that the same numbers go into every type. */
        const double v = again ? trial_get(x, i - PERIOD) : draw(t, x, i);
        const bool half = x->rounds && t->rounded == BF16;
        trial_set(x, i, (double)(half ? bf16_float(bf16_of((float)v)) : (float)v));
    }
    if (copied) repeat(x->at->data, PERIOD * e, n * e);
}

void trial_fill(struct trial *t) {
    for (int i = 0; i < t->n_tensors; i++) fill_tensor(t, &t->tensor[i]);
}

enum status trial_hook(struct trial *t, struct ctx *c, enum pass p) {
    if (!t->before[p]) return OK;
    struct arena work;
    struct arena *const kept = c->work;
    TRY(arena_init(&work, "workspace of a hook", 64 << 20));
    c->work = &work;
    const enum status st = t->before[p](c, t);
    c->work = kept;
    arena_term(&work);
    return st == OK ? OK : status_pass(st, __FILE__, __LINE__);
}

enum status trial_run(struct trial *t, struct ctx *c, enum pass p) {
    struct arena work;
    struct arena *const kept = c->work;
    TRY(arena_init(&work, "workspace of one call", t->op->work(c, t->args)));
    if (work.size) memset(work.base, 0xff, (size_t)work.size);
    c->work = &work;
    const enum status st = t->op->run(c, p, t->args);
    ASSERT(work.open_marks == 0 && work.used == 0);
    c->work = kept;
    arena_term(&work);
    return st == OK ? OK : status_pass(st, __FILE__, __LINE__);
}

double trial_bytes(const struct trial *t, enum pass p) {
    double sum = 0.0;
    if (t->bytes[p] != 0.0) return t->bytes[p];
    for (int i = 0; i < t->n_tensors; i++) {
        const unsigned in = p == FORWARD ? F_IN : B_IN, out = p == FORWARD ? F_OUT : B_OUT;
        const int times = !!(t->tensor[i].roles & in) + !!(t->tensor[i].roles & out);
        sum += times * (double)tensor_bytes(*t->tensor[i].at);
    }
    return sum;
}

struct case_tensor *trial_find(struct trial *t, const char *name) {
    for (int i = 0; i < t->n_tensors; i++)
        if (!strcmp(t->tensor[i].name, name)) return &t->tensor[i];
    return NULL;
}
