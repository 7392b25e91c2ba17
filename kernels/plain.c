/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/plain.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include "kernels/attention/attention.h"
#include "kernels/cast/cast.h"
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/selective_scan_local/selective_scan_local.h"
#include "kernels/ssd/ssd.h"
#include "kernels/ssd_local/ssd_local.h"

/* What a pass does with a tensor that is `real`. */
enum { F_READS = 1, F_WRITES = 2, B_READS = 4, B_WRITES = 8, READS = F_READS | B_READS, KEPT = F_WRITES | B_READS };
struct field {
    const char *name;
    size_t at; /* of its tensor in the arguments */
    unsigned roles;
};
#define FIELD(op, field, roles)                                                                                        \
    { #field, offsetof(struct op, field), (roles) }
#define END                                                                                                            \
    { NULL, 0, 0 }

static const struct field attention_fields[] = {
    FIELD(attention, q, READS),     FIELD(attention, k, READS),      FIELD(attention, v, READS),
    FIELD(attention, o, KEPT),      FIELD(attention, dout, B_READS), FIELD(attention, dq, B_WRITES),
    FIELD(attention, dk, B_WRITES), FIELD(attention, dv, B_WRITES),  END};
static const struct field ssd_local_fields[] = {FIELD(ssd_local, x, F_READS),        FIELD(ssd_local, dt, F_READS),
                                                FIELD(ssd_local, B, F_READS),        FIELD(ssd_local, states, F_WRITES),
                                                FIELD(ssd_local, C, B_READS),        FIELD(ssd_local, dy, B_READS),
                                                FIELD(ssd_local, dstates, B_WRITES), END};
static const struct field ssd_fields[] = {FIELD(ssd, x, READS),
                                          FIELD(ssd, dt, READS),
                                          FIELD(ssd, B, READS),
                                          FIELD(ssd, C, READS),
                                          FIELD(ssd, states, READS | F_WRITES),
                                          FIELD(ssd, y, F_WRITES),
                                          FIELD(ssd, dy, B_READS),
                                          FIELD(ssd, dstates, B_READS | B_WRITES),
                                          FIELD(ssd, dx, B_WRITES),
                                          FIELD(ssd, ddt, B_WRITES),
                                          FIELD(ssd, dB, B_WRITES),
                                          FIELD(ssd, dC, B_WRITES),
                                          END};
static const struct field selective_scan_local_fields[] = {
    FIELD(selective_scan_local, x, F_READS),    FIELD(selective_scan_local, dt, READS),
    FIELD(selective_scan_local, B, F_READS),    FIELD(selective_scan_local, z, READS),
    FIELD(selective_scan_local, dout, B_READS), FIELD(selective_scan_local, C, READS),
    FIELD(selective_scan_local, out, F_WRITES), END};
static const struct field selective_scan_fields[] = {FIELD(selective_scan, x, READS),
                                                     FIELD(selective_scan, z, READS),
                                                     FIELD(selective_scan, dt, READS),
                                                     FIELD(selective_scan, B, READS),
                                                     FIELD(selective_scan, C, READS),
                                                     FIELD(selective_scan, out, F_READS | F_WRITES),
                                                     FIELD(selective_scan, dout, B_READS),
                                                     FIELD(selective_scan, dx, B_WRITES),
                                                     FIELD(selective_scan, dz, B_WRITES),
                                                     FIELD(selective_scan, ddt, B_WRITES),
                                                     FIELD(selective_scan, dB, B_WRITES),
                                                     FIELD(selective_scan, dC, B_WRITES),
                                                     END};

static unsigned of_pass(const struct field *f, bool backward) { return f->roles >> (backward ? 2 : 0) & 3u; }
static struct tensor *tensor_at(void *args, const struct field *f) { return (struct tensor *)((char *)args + f->at); }
static struct tensor tensor_of(const void *args, const struct field *f) {
    struct tensor t;
    memcpy(&t, (const char *)args + f->at, sizeof t);
    return t;
}

/* ---- the plan ---- */

static int64_t copies(const struct field *fields, const void *args, bool backward) {
    int64_t bytes = 0;
    for (const struct field *f = fields; f->name; f++)
        if (of_pass(f, backward)) bytes += arena_round(tensor_count(tensor_of(args, f)) * dtype_bytes(F32));
    return bytes;
}

/* 2 bytes and 4 for every element that is read, and again if it is written. */
static int64_t moved(const struct field *fields, const void *args, bool backward) {
    int64_t bytes = 0;
    for (const struct field *f = fields; f->name; f++) {
        const unsigned roles = of_pass(f, backward);
        bytes += (int64_t)((roles & 1u) + (roles >> 1)) * 6 * tensor_count(tensor_of(args, f));
    }
    return bytes;
}

static int64_t note(struct plain *p, const char *op, const struct field *fields, const void *args) {
    const int64_t forward = copies(fields, args, false), backward = copies(fields, args, true);
    const int64_t most = forward > backward ? forward : backward;
    int i = 0;
    while (i < p->n_notes && p->note[i].op != op) i++;
    ASSERT(i < PLAIN_OPS);
    if (i == p->n_notes) p->n_notes++;
    if (!p->note[i].op || most > p->note[i].workspace) {
        p->note[i] = (struct plain_note){op, "", most, moved(fields, args, false), moved(fields, args, true)};
        snprintf(p->note[i].why, sizeof p->note[i].why, "%s", status_text());
    }
    status_clear();
    return most;
}

/* ---- a call ---- */

struct detour {
    struct ctx *c;
    struct ctx wide; /* the same in F32 */
    const char *name;
    const struct field *fields;
    const void *given; /* the arguments, and their copy, which has F32 tensors */
    void *args;
    bool backward;
};

static struct tensor as_rows(struct tensor t) {
    const int64_t pitch = t.pitch, rows = t.shape[0];
    t = tensor_like(t, t.data, rows, tensor_count(t) / (rows > 0 ? rows : 1));
    t.pitch = pitch;
    return t;
}

static enum status cast(const struct detour *d, struct tensor x, struct tensor y) {
    return d->c->ops->cast_fwd(d->c, &(struct cast){.x = as_rows(x), .y = as_rows(y)});
}

static enum status enter(const struct detour *d) {
    for (const struct field *f = d->fields; f->name; f++) {
        const struct tensor from = tensor_of(d->given, f);
        struct tensor to = from;
        void *mem = NULL;
        if (!of_pass(f, d->backward) || !tensor_has(from)) continue;
        FAIL_UNLESS(from.dtype == BF16, ERR_ARG, "%s: %s is %s, BF16 is expected", d->name, f->name,
                    dtype_name(from.dtype));
        TRY(arena_take(d->c->work, tensor_count(from) * dtype_bytes(F32), &mem));
        to.data = mem;
        to.dtype = F32;
        to.pitch = from.shape[1] * from.shape[2] * from.shape[3];
        if (of_pass(f, d->backward) & 1u) TRY(cast(d, from, to));
        *tensor_at(d->args, f) = to;
    }
    return OK;
}

static enum status leave(const struct detour *d) {
    for (const struct field *f = d->fields; f->name; f++) {
        const struct tensor to = tensor_of(d->given, f);
        if (of_pass(f, d->backward) & 2u && tensor_has(to)) TRY(cast(d, tensor_of(d->args, f), to));
    }
    return OK;
}

static enum status run(struct detour *d, enum status (*call)(struct ctx *, const void *)) {
    const int64_t mark = arena_mark(d->c->work);
    d->wide = *d->c;
    d->wide.real = F32;
    enum status st = enter(d);
    if (st == OK) st = call(&d->wide, d->args);
    if (st == OK) st = leave(d);
    arena_release(d->c->work, mark);
    return st;
}

static struct ctx in_f32(const struct ctx *c) {
    struct ctx wide = *c;
    wide.real = F32;
    return wide;
}

/* Whether the other table refuses the shapes; its words stay in status_text. */
#define PASS(op, pass, is_backward)                                                                                    \
    static enum status op##_##pass##_f32(struct ctx *c, const void *a) { return c->plain->base->op##_##pass(c, a); }   \
    static enum status op##_##pass##_plain(struct ctx *c, const struct op *a) {                                        \
        struct op args = *a;                                                                                           \
        struct detour d = {                                                                                            \
            .c = c, .name = #op, .fields = op##_fields, .given = a, .args = &args, .backward = (is_backward)};         \
        if (c->real != BF16 || c->plain->base->op##_work(c, a) >= 0) return c->plain->base->op##_##pass(c, a);         \
        status_clear();                                                                                                \
        return run(&d, op##_##pass##_f32);                                                                             \
    }
#define PLAIN(op)                                                                                                      \
    static int64_t op##_work_plain(const struct ctx *c, const struct op *a) {                                          \
        const int64_t bytes = c->plain->base->op##_work(c, a);                                                         \
        const struct ctx wide = in_f32(c);                                                                             \
        if (c->real != BF16 || bytes >= 0) return bytes;                                                               \
        return note(c->plain, #op, op##_fields, a) + c->plain->base->op##_work(&wide, a);                              \
    }                                                                                                                  \
    PASS(op, fwd, false)                                                                                               \
    PASS(op, bwd, true)

PLAIN(attention)
PLAIN(selective_scan)
PLAIN(selective_scan_local)
PLAIN(ssd)
PLAIN(ssd_local)

void plain_init(struct plain *p, const struct ops *base) {
    *p = (struct plain){.table = *base, .base = base};
#define ROW(op)                                                                                                        \
    p->table.op##_fwd = op##_fwd_plain, p->table.op##_bwd = op##_bwd_plain, p->table.op##_work = op##_work_plain
    ROW(attention);
    ROW(selective_scan);
    ROW(selective_scan_local);
    ROW(ssd);
    ROW(ssd_local);
#undef ROW
}

static double mib(int64_t bytes) { return (double)bytes / (1 << 20); }

enum status plain_print(const struct plain_note *note, int n, struct text *out) {
    for (int i = 0; i < n; i++)
        TRY(text_print(
            out,
            "kernels.plain: %s\n  %s runs in F32 on copies: %.1f MiB of workspace, %.1f MiB moved forward and "
            "%.1f backward a call\n  beside its own, and products at 1/15 at most of the rate of BF16 (FMA, "
            "67 of 989 TFLOP/s)\n",
            note[i].why, note[i].op, mib(note[i].workspace), mib(note[i].forward_bytes), mib(note[i].backward_bytes)));
    return OK;
}
