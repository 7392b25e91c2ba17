/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/traced.h"
#include <stdlib.h>
#include <string.h>

static int row_of(struct traced *t, const char *name) {
    int i = 0;
    while (i < t->n_rows && t->row[i].name != name) i++;
    ASSERT(i < TRACED_ROWS);
    if (i == t->n_rows) t->row[t->n_rows++] = (struct traced_row){.name = name};
    return i;
}

enum status traced_begin(struct ctx *c, enum prof_kind kind, const char *name, int *stretch) {
    struct traced *t = c->traced;
    *stretch = -1;
    if (!t) return OK;
    prof_begin(kind, name);
    if (!t->recording || t->n == TRACED_MAX) return OK;
    *stretch = t->n++;
    struct traced_stretch *s = &t->list[*stretch];
    s->row = row_of(t, name);
    return device_timer_begin(c->device, &s->timer);
}

enum status traced_end(struct ctx *c, int stretch) {
    if (!c->traced) return OK;
    prof_end();
    return stretch < 0 ? OK : device_timer_end(c->device, &c->traced->list[stretch].timer);
}

#define CALL(op, pass)                                                                                                 \
    static enum status op##_##pass##_traced(struct ctx *c, const struct op *a) {                                       \
        int stretch = -1;                                                                                              \
        TRY(traced_begin(c, PROF_OP, #op "_" #pass, &stretch));                                                        \
        const enum status st = c->traced->base->op##_##pass(c, a);                                                     \
        const enum status ended = traced_end(c, stretch);                                                              \
        return st != OK ? st : ended;                                                                                  \
    }
#define OP(op, flags) CALL(op, fwd) CALL(op, bwd)
#include "kernels/ops.def"
#undef OP

enum status traced_init(struct traced *t, const struct ops *base) {
    void *mem = NULL;
    *t = (struct traced){.table = *base, .base = base};
    TRY(mem_take(TRACED_MAX * (int64_t)sizeof *t->list, &mem));
    t->list = mem;
    for (int i = 0; i < TRACED_MAX; i++) TRY(device_timer_init(&t->list[i].timer));
#define OP(op, flags) t->table.op##_fwd = op##_fwd_traced, t->table.op##_bwd = op##_bwd_traced;
#include "kernels/ops.def"
#undef OP
    return OK;
}

void traced_term(struct traced *t) {
    for (int i = 0; t->list && i < TRACED_MAX; i++) device_timer_term(&t->list[i].timer);
    mem_free(t->list);
    *t = (struct traced){0};
}

void traced_record(struct traced *t) {
    t->recording = true;
    t->n = t->n_rows = 0;
}

static int longer_first(const void *a, const void *b) {
    const double x = ((const struct traced_row *)a)->ms, y = ((const struct traced_row *)b)->ms;
    return x < y ? 1 : x > y ? -1 : 0;
}

enum status traced_report(struct traced *t, struct text *out) {
    t->recording = false;
    for (int i = 0; i < t->n; i++) {
        double ms = 0.0;
        struct traced_row *row = &t->row[t->list[i].row];
        TRY(device_timer_read(&t->list[i].timer, &ms));
        row->ms += ms;
        row->calls++;
    }
    qsort(t->row, (size_t)t->n_rows, sizeof *t->row, longer_first);
    for (int i = 0; i < t->n_rows; i++)
        TRY(text_print(out, "  %-24s %10.3f ms %6lld calls\n", t->row[i].name, t->row[i].ms,
                       (long long)t->row[i].calls));
    return t->n < TRACED_MAX ? OK : text_print(out, "  further calls were not timed\n");
}
