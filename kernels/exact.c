/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/exact.h"
#include "kernels/add/add.h"
#include "kernels/attention/attention.h"
#include "kernels/conv1d/conv1d.h"
#include "kernels/copy/copy.h"
#include "kernels/embedding/embedding.h"
#include "kernels/fill/fill.h"
#include "kernels/gated_norm/gated_norm.h"
#include "kernels/grouped_linear/grouped_linear.h"
#include "kernels/head/head.h"
#include "kernels/linear/linear.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/ssd/ssd.h"
#include "kernels/token_loss/token_loss.h"
#include "kernels/tree_sum/tree_sum.h"

/* ---- trees ---- */

int exact_rows(int64_t n_ranges) {
    int levels = 1;
    while (((int64_t)1 << levels) <= n_ranges) levels++;
    return levels + 1;
}

static int64_t sum_bytes(int64_t leaves, int64_t numbers, enum dtype type) {
    return exact_rows(leaves) * arena_round(numbers * dtype_bytes(type));
}

static void sum_place(struct exact_sum *s, int64_t leaves, void *memory, int64_t numbers, enum dtype type) {
    const int64_t row = arena_round(numbers * dtype_bytes(type));
    *s = (struct exact_sum){.dtype = type, .memory = memory, .numbers = numbers, .leaf = memory};
    for (int l = 0; l + 1 < exact_rows(leaves); l++) s->level[l] = (char *)memory + (l + 1) * row;
}

static struct tensor as_row(const struct ctx *c, const struct exact_sum *s, void *data) {
    struct tensor t = tensor_2d(data, s->dtype, 1, s->numbers);
    t.space = c->space;
    return t;
}

/* right = left + right */
static enum status join(struct ctx *c, const struct exact_sum *s, void *left, void *right) {
    const struct tensor x = as_row(c, s, left), y = as_row(c, s, right);
    return c->exact->base->add_fwd(c, &(struct add){.x = x, .y = y, .out = y, .scale = 1.0});
}

static enum status leaf_clear(struct ctx *c, const struct exact_sum *s) {
    return c->exact->base->fill_fwd(c, &(struct fill){.x = as_row(c, s, s->leaf), .value = 0.0});
}

/* The leaf is complete: it takes its place in the tree, and another buffer becomes the leaf. */
static enum status leaf_push(struct ctx *c, struct exact_sum *s) {
    int l = 0;
    for (; s->count >> l & 1; l++) TRY(join(c, s, s->level[l], s->leaf));
    char *const free_row = s->level[l];
    s->level[l] = s->leaf;
    s->leaf = free_row;
    s->count++;
    return OK;
}

/* What is left is folded from the smallest node up; *root is NULL if there was no leaf. */
static enum status sum_fold(struct ctx *c, struct exact_sum *s, char **root) {
    *root = NULL;
    for (int l = 0; s->count >> l; l++) {
        if (!(s->count >> l & 1)) continue;
        if (*root) TRY(join(c, s, s->level[l], *root));
        else *root = s->level[l];
    }
    s->count = 0;
    return OK;
}

/* ---- one op over segments ---- */

/* A gradient that an op sums over tokens: where it goes, and its place in the leaf. */
struct part {
    struct tensor to;
    int64_t at;
};
enum { PARTS = 3 };
struct over {
    struct ctx *c;
    struct exact_sum sum;
    struct part part[PARTS];
    int n_parts;
    int64_t mark, leaves; /* leaves: segments, unless an op has sections of its own */
};

/* Parts of one sum have one type: that of parameters' gradients, or of activations. */
static void over_part(struct over *o, struct tensor to) {
    if (tensor_has(to)) o->sum.dtype = to.dtype;
    o->part[o->n_parts++] = (struct part){.to = to, .at = o->sum.numbers};
    if (tensor_has(to)) o->sum.numbers += tensor_count(to);
}

static enum status over_begin(struct over *o) {
    void *memory = NULL;
    if (o->leaves == 0) o->leaves = o->c->exact->n_ranges;
    o->mark = arena_mark(o->c->work);
    if (o->sum.numbers == 0) return OK;
    TRY(arena_take(o->c->work, sum_bytes(o->leaves, o->sum.numbers, o->sum.dtype), &memory));
    sum_place(&o->sum, o->leaves, memory, o->sum.numbers, o->sum.dtype);
    return OK;
}

/* Part i of the leaf, in the shape of its target. */
static struct tensor over_leaf(const struct over *o, int i) {
    struct tensor t = o->part[i].to;
    if (!tensor_has(t)) return t;
    t.data = o->sum.leaf + o->part[i].at * dtype_bytes(t.dtype);
    t.pitch = t.shape[1] * t.shape[2] * t.shape[3];
    return t;
}

static enum status over_clear(struct over *o) { return o->sum.numbers ? leaf_clear(o->c, &o->sum) : OK; }
static enum status over_push(struct over *o) { return o->sum.numbers ? leaf_push(o->c, &o->sum) : OK; }

/* add: to += root; else to = root. */
static enum status over_end(struct over *o, bool add) {
    char *root = NULL;
    enum status st = sum_fold(o->c, &o->sum, &root);
    const struct ops *base = o->c->exact->base;
    for (int i = 0; st == OK && i < o->n_parts; i++) {
        struct tensor to = o->part[i].to;
        if (!tensor_has(to) || (!root && add)) continue;
        const int64_t cols = to.shape[1] * to.shape[2] * to.shape[3];
        char *const at = root ? root + o->part[i].at * dtype_bytes(to.dtype) : NULL;
        const struct tensor x = tensor_like(to, at, to.shape[0], cols);
        const int64_t pitch = to.pitch;
        to = tensor_like(to, to.data, to.shape[0], cols);
        to.pitch = pitch;
        if (!root) st = base->fill_fwd(o->c, &(struct fill){.x = to, .value = 0.0});
        else if (add) st = base->add_fwd(o->c, &(struct add){.x = to, .y = x, .out = to, .scale = 1.0});
        else st = base->copy_fwd(o->c, &(struct copy){.x = x, .y = to});
    }
    arena_release(o->c->work, o->mark);
    return st;
}

static enum status over_fail(struct over *o, enum status st) {
    arena_release(o->c->work, o->mark);
    return st;
}

/* Rows of segment r; an absent tensor stays absent.  Of the residual stream this rank may have fewer. */
static struct tensor seg(const struct exact *e, struct tensor t, int64_t r) {
    const int64_t *range = e->range;
    if (e->range_own && t.shape[0] != range[e->n_ranges]) range = e->range_own;
    ASSERT(t.shape[0] == 0 || t.shape[0] == range[e->n_ranges]);
    return t.shape[0] > 0 ? tensor_rows(t, range[r], range[r + 1] - range[r]) : t;
}
/* Entry r of a tensor that counts ranges. */
static struct tensor entry(struct tensor t, int64_t r) { return t.shape[0] > 0 ? tensor_rows(t, r, 1) : t; }

static struct linear linear_seg(const struct exact *e, const struct linear *a, int64_t r) {
    struct linear b = *a;
    b.x = seg(e, a->x, r), b.y = seg(e, a->y, r), b.dy = seg(e, a->dy, r), b.dx = seg(e, a->dx, r);
    return b;
}

static enum status linear_fwd(struct ctx *c, const struct linear *a) {
    for (int64_t r = 0; r < c->exact->n_ranges; r++) {
        const struct linear b = linear_seg(c->exact, a, r);
        TRY(c->exact->base->linear_fwd(c, &b));
    }
    return OK;
}

#define OVER_RANGES(o, r, call)                                                                                        \
    do {                                                                                                               \
        for (int64_t r = 0; r < (o)->leaves; r++) {                                                                    \
            enum status s_ = over_clear(o);                                                                            \
            if (s_ == OK) s_ = (call);                                                                                 \
            if (s_ == OK) s_ = over_push(o);                                                                           \
            if (s_ != OK) return over_fail(o, status_pass(s_, __FILE__, __LINE__));                                    \
        }                                                                                                              \
    } while (0)

static enum status linear_one(struct over *o, const struct linear *a, int64_t r) {
    struct linear b = linear_seg(o->c->exact, a, r);
    b.dw = over_leaf(o, 0), b.db = over_leaf(o, 1);
    return o->c->exact->base->linear_bwd(o->c, &b);
}

static enum status linear_bwd(struct ctx *c, const struct linear *a) {
    struct over o = {.c = c};
    over_part(&o, a->dw);
    over_part(&o, a->db);
    TRY(over_begin(&o));
    OVER_RANGES(&o, r, linear_one(&o, a, r));
    return over_end(&o, true);
}

static enum status rmsnorm_one(struct over *o, const struct rmsnorm *a, int64_t r) {
    const struct exact *e = o->c->exact;
    struct rmsnorm b = *a;
    b.x = seg(e, a->x, r), b.y = seg(e, a->y, r), b.r = seg(e, a->r, r);
    b.dy = seg(e, a->dy, r), b.dx = seg(e, a->dx, r), b.dw = over_leaf(o, 0);
    return e->base->rmsnorm_bwd(o->c, &b);
}

static enum status rmsnorm_bwd(struct ctx *c, const struct rmsnorm *a) {
    struct over o = {.c = c};
    over_part(&o, a->dw);
    TRY(over_begin(&o));
    OVER_RANGES(&o, r, rmsnorm_one(&o, a, r));
    return over_end(&o, true);
}

static enum status gated_norm_one(struct over *o, const struct gated_norm *a, int64_t r) {
    const struct exact *e = o->c->exact;
    struct gated_norm b = *a;
    b.y = seg(e, a->y, r), b.z = seg(e, a->z, r), b.out = seg(e, a->out, r), b.r = seg(e, a->r, r);
    b.dout = seg(e, a->dout, r), b.dy = seg(e, a->dy, r), b.dz = seg(e, a->dz, r), b.pull = seg(e, a->pull, r);
    b.dw = over_leaf(o, 0);
    return e->base->gated_norm_bwd(o->c, &b);
}

static enum status gated_norm_bwd(struct ctx *c, const struct gated_norm *a) {
    struct over o = {.c = c};
    over_part(&o, a->dw);
    TRY(over_begin(&o));
    OVER_RANGES(&o, r, gated_norm_one(&o, a, r));
    return over_end(&o, true);
}

static enum status embedding_one(struct over *o, const struct embedding *a, int64_t r) {
    const struct exact *e = o->c->exact;
    struct embedding b = *a;
    b.ids = seg(e, a->ids, r), b.y = seg(e, a->y, r), b.dy = seg(e, a->dy, r), b.dw = over_leaf(o, 0);
    return e->base->embedding_bwd(o->c, &b);
}

static enum status embedding_bwd(struct ctx *c, const struct embedding *a) {
    struct over o = {.c = c};
    over_part(&o, a->dw);
    TRY(over_begin(&o));
    OVER_RANGES(&o, r, embedding_one(&o, a, r));
    return over_end(&o, true);
}

/* Ranges of one: the segment alone. */
static struct tensor own_range(const struct exact *e, int64_t r, int64_t range[2]) {
    range[0] = 0;
    range[1] = e->range[r + 1] - e->range[r];
    return tensor_has(e->own) ? tensor_like(e->own, (int64_t *)e->own.data + 2 * r, 2, 1) : tensor_1d(range, I64, 2);
}

static enum status conv1d_one(struct over *o, const struct conv1d *a, int64_t r) {
    const struct exact *e = o->c->exact;
    struct conv1d b = *a;
    int64_t range[2];
    b.range = own_range(e, r, range);
    b.pos = seg(e, a->pos, r), b.x = seg(e, a->x, r), b.y = seg(e, a->y, r);
    b.dy = seg(e, a->dy, r), b.dx = seg(e, a->dx, r);
    b.before = entry(a->before, r), b.dbefore = entry(a->dbefore, r);
    b.dw = over_leaf(o, 0), b.db = over_leaf(o, 1);
    return e->base->conv1d_bwd(o->c, &b);
}

static enum status conv1d_bwd(struct ctx *c, const struct conv1d *a) {
    struct over o = {.c = c};
    over_part(&o, a->dw);
    over_part(&o, a->db);
    TRY(over_begin(&o));
    OVER_RANGES(&o, r, conv1d_one(&o, a, r));
    return over_end(&o, true);
}

/* The number of segment r's first chunk. */
static int64_t chunks_before(const struct exact *e, int64_t r, int64_t chunk) {
    int64_t n = 0;
    for (int64_t i = 0; i < r; i++) n += (e->range[i + 1] - e->range[i] + chunk - 1) / chunk;
    return n;
}

static enum status ssd_one(struct over *o, const struct ssd *a, int64_t r) {
    const struct exact *e = o->c->exact;
    struct ssd b = *a;
    int64_t range[2];
    b.range = own_range(e, r, range);
    const int64_t chunk = chunks_before(e, r, a->chunk), chunks = (range[1] + a->chunk - 1) / a->chunk;
    b.pos = seg(e, a->pos, r), b.x = seg(e, a->x, r), b.dt = seg(e, a->dt, r), b.B = seg(e, a->B, r);
    b.C = seg(e, a->C, r), b.dts = seg(e, a->dts, r), b.cum = seg(e, a->cum, r), b.y = seg(e, a->y, r);
    b.dy = seg(e, a->dy, r), b.dx = seg(e, a->dx, r), b.ddt = seg(e, a->ddt, r);
    b.dB = seg(e, a->dB, r), b.dC = seg(e, a->dC, r);
    b.states = tensor_rows(a->states, chunk, chunks), b.dstates = tensor_rows(a->dstates, chunk, chunks);
    b.s_in = entry(a->s_in, r), b.s_out = entry(a->s_out, r);
    b.ds_out = entry(a->ds_out, r), b.ds_in = entry(a->ds_in, r);
    b.dA_log = over_leaf(o, 0), b.ddt_bias = over_leaf(o, 1), b.dD = over_leaf(o, 2);
    return e->base->ssd_bwd(o->c, &b);
}

static enum status ssd_bwd(struct ctx *c, const struct ssd *a) {
    struct over o = {.c = c};
    over_part(&o, a->dA_log);
    over_part(&o, a->ddt_bias);
    over_part(&o, a->dD);
    TRY(over_begin(&o));
    OVER_RANGES(&o, r, ssd_one(&o, a, r));
    return over_end(&o, true);
}

static enum status selective_scan_one(struct over *o, const struct selective_scan *a, int64_t r) {
    const struct exact *e = o->c->exact;
    struct selective_scan b = *a;
    int64_t range[2];
    b.range = own_range(e, r, range);
    const int64_t chunk = chunks_before(e, r, a->chunk), chunks = (range[1] + a->chunk - 1) / a->chunk;
    b.pos = seg(e, a->pos, r), b.x = seg(e, a->x, r), b.z = seg(e, a->z, r), b.dt = seg(e, a->dt, r);
    b.B = seg(e, a->B, r), b.C = seg(e, a->C, r), b.out = seg(e, a->out, r), b.dout = seg(e, a->dout, r);
    b.dx = seg(e, a->dx, r), b.dz = seg(e, a->dz, r), b.ddt = seg(e, a->ddt, r);
    b.dB = seg(e, a->dB, r), b.dC = seg(e, a->dC, r);
    b.states = tensor_rows(a->states, chunk, chunks), b.dstates = tensor_rows(a->dstates, chunk, chunks);
    b.chunk_time = tensor_rows(a->chunk_time, chunk, chunks);
    b.s_in = entry(a->s_in, r), b.s_out = entry(a->s_out, r);
    b.ds_out = entry(a->ds_out, r), b.ds_in = entry(a->ds_in, r);
    b.dA_log = over_leaf(o, 0), b.ddt_bias = over_leaf(o, 1), b.dD = over_leaf(o, 2);
    return e->base->selective_scan_bwd(o->c, &b);
}

static enum status selective_scan_bwd(struct ctx *c, const struct selective_scan *a) {
    struct over o = {.c = c};
    over_part(&o, a->dA_log);
    over_part(&o, a->ddt_bias);
    over_part(&o, a->dD);
    TRY(over_begin(&o));
    OVER_RANGES(&o, r, selective_scan_one(&o, a, r));
    return over_end(&o, true);
}

static enum status attention_one(struct over *o, const struct attention *a, int64_t r) {
    const struct exact *e = o->c->exact;
    struct attention b = *a;
    int64_t range[2];
    b.range = own_range(e, r, range);
    b.keys = entry(a->keys, r);
    b.pos = seg(e, a->pos, r), b.q = seg(e, a->q, r), b.o = seg(e, a->o, r), b.lse = seg(e, a->lse, r);
    b.dout = seg(e, a->dout, r), b.dq = seg(e, a->dq, r);
    b.dk = over_leaf(o, 0), b.dv = over_leaf(o, 1);
    return e->base->attention_bwd(o->c, &b);
}

static enum status attention_bwd(struct ctx *c, const struct attention *a) {
    struct over o = {.c = c};
    over_part(&o, a->dk);
    over_part(&o, a->dv);
    TRY(over_begin(&o));
    OVER_RANGES(&o, r, attention_one(&o, a, r));
    return over_end(&o, false);
}

/* Sections are the segments, of this rank or of all whose rows came; products of one section and expert are the op's
 * own already. */
static enum status grouped_one(struct over *o, const struct grouped_linear *a, int64_t r) {
    struct grouped_linear b = *a;
    b.offset = tensor_rows(a->offset, r, 1), b.dw = over_leaf(o, 0);
    return o->c->exact->base->grouped_linear_bwd(o->c, &b);
}

static enum status grouped_linear_bwd(struct ctx *c, const struct grouped_linear *a) {
    struct over o = {.c = c, .leaves = a->offset.shape[0]};
    over_part(&o, a->dw);
    TRY(over_begin(&o));
    OVER_RANGES(&o, r, grouped_one(&o, a, r));
    return over_end(&o, true);
}

/* ---- one call a segment ---- */

static enum status head_bwd(struct ctx *c, const struct head *a) {
    struct exact *e = c->exact;
    struct head b = *a;
    char *root = NULL;
    if (!tensor_has(a->dw)) return e->base->head_bwd(c, a);
    ASSERT(e->head.numbers == tensor_count(a->dw));
    b.dw.data = e->head.leaf;
    TRY(leaf_clear(c, &e->head));
    TRY(e->base->head_bwd(c, &b));
    TRY(leaf_push(c, &e->head));
    if (e->head.count < e->n_ranges) return OK;
    TRY(sum_fold(c, &e->head, &root));
    const struct tensor to = as_row(c, &e->head, a->dw.data);
    return e->base->add_fwd(c, &(struct add){.x = to, .y = as_row(c, &e->head, root), .out = to, .scale = 1.0});
}

static enum status token_loss_fwd(struct ctx *c, const struct token_loss *a) {
    struct exact *e = c->exact;
    struct token_loss b = *a;
    b.total = tensor_rows(e->losses, e->n_losses++, 1);
    TRY(e->base->token_loss_fwd(c, &b));
    if (e->n_losses < e->n_ranges) return OK;
    const struct tensor leaves = tensor_rows(e->losses, 0, e->n_ranges), root = tensor_rows(e->losses, e->n_ranges, 1);
    TRY(e->base->tree_sum_fwd(c, &(struct tree_sum){.x = leaves, .roots = root}));
    return e->base->add_fwd(c, &(struct add){.x = a->total, .y = root, .out = a->total, .scale = 1.0});
}

/* ---- workspace: the base op's for the longest segment, and the tree ---- */

static int64_t longest(const struct exact *e) {
    int64_t at = 0;
    for (int64_t r = 1; r < e->n_ranges; r++)
        if (e->range[r + 1] - e->range[r] > e->range[at + 1] - e->range[at]) at = r;
    return at;
}

static int64_t numbers_of(struct tensor t) { return t.shape[0] > 0 ? tensor_count(t) : 0; }

#define EXACT_WORK(op, type, slices, sums)                                                                             \
    static int64_t op##_work(const struct ctx *c, const struct op *a) {                                                \
        const struct exact *e = c->exact;                                                                              \
        struct op b = *a;                                                                                              \
        if (e->n_ranges > 0) {                                                                                         \
            const int64_t r = longest(e);                                                                              \
            (void)r;                                                                                                   \
            slices;                                                                                                    \
        }                                                                                                              \
        const int64_t whole = e->base->op##_work(c, a), part = e->base->op##_work(c, &b);                              \
        return (whole > part ? whole : part) + sum_bytes(e->n_ranges, (sums), type);                                   \
    }
EXACT_WORK(linear, dtype_wide(c->real), b = linear_seg(e, a, r), numbers_of(a->dw) + numbers_of(a->db))
EXACT_WORK(rmsnorm, dtype_wide(c->real), b.x = seg(e, a->x, r), numbers_of(a->dw))
EXACT_WORK(gated_norm, dtype_wide(c->real), b.y = seg(e, a->y, r), numbers_of(a->dw))
EXACT_WORK(embedding, dtype_wide(c->real), b.ids = seg(e, a->ids, r), numbers_of(a->dw))
EXACT_WORK(conv1d, dtype_wide(c->real), b.x = seg(e, a->x, r), numbers_of(a->dw) + numbers_of(a->db))
EXACT_WORK(ssd, dtype_wide(c->real), b.x = seg(e, a->x, r),
           numbers_of(a->dA_log) + numbers_of(a->ddt_bias) + numbers_of(a->dD))
EXACT_WORK(selective_scan, dtype_wide(c->real), b.pos = seg(e, a->pos, r),
           numbers_of(a->dA_log) + numbers_of(a->ddt_bias) + numbers_of(a->dD))
EXACT_WORK(attention, c->real, b.q = seg(e, a->q, r), numbers_of(a->dk) + numbers_of(a->dv))

static int64_t grouped_linear_work(const struct ctx *c, const struct grouped_linear *a) {
    return c->exact->base->grouped_linear_work(c, a) +
           sum_bytes(a->offset.shape[0], numbers_of(a->dw), dtype_wide(c->real));
}

void exact_init(struct exact *e, const struct ops *base, const int64_t *range, int64_t n_ranges) {
    *e = (struct exact){.table = *base, .base = base, .range = range, .n_ranges = n_ranges};
    e->table.linear_fwd = linear_fwd;
    e->table.token_loss_fwd = token_loss_fwd;
    e->table.head_bwd = head_bwd;
#define OVER(op) e->table.op##_bwd = op##_bwd, e->table.op##_work = op##_work
    OVER(linear);
    OVER(rmsnorm);
    OVER(gated_norm);
    OVER(embedding);
    OVER(conv1d);
    OVER(ssd);
    OVER(selective_scan);
    OVER(grouped_linear);
    OVER(attention);
#undef OVER
}

int64_t exact_head_bytes(const struct exact *e, int64_t numbers, enum dtype type) {
    return sum_bytes(e->n_ranges, numbers, type);
}

void exact_place(struct exact *e, void *memory, int64_t numbers, enum dtype type) {
    sum_place(&e->head, e->n_ranges, memory, numbers, type);
}

int64_t exact_loss_bytes(const struct exact *e) { return (e->n_ranges + 1) * (int64_t)sizeof(double); }

void exact_place_losses(struct exact *e, void *memory, enum space space) {
    e->losses = tensor_1d(memory, F64, e->n_ranges + 1);
    e->losses.space = space;
}

enum status exact_begin(struct ctx *c) {
    struct exact *e = c->exact;
    e->head.count = 0;
    e->n_losses = 0;
    return e->base->fill_fwd(c, &(struct fill){.x = e->losses, .value = 0.0});
}
