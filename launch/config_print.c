/* SPDX-License-Identifier: Apache-2.0
 * What a configuration looks like from outside: resolved YAML, identity lines, the stack, help. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "launch/config_fields.h"

/* Code point and length of the UTF-8 sequence at s, which is valid: it came through YAML or was checked. */
static int decode(const char *s, unsigned *point) {
    const unsigned char *u = (const unsigned char *)s;
    const int n = u[0] < 0x80 ? 1 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    *point = n == 1 ? u[0] : u[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) *point = *point << 6 | (u[i] & 0x3f);
    return n;
}

/* Stands for itself in a double-quoted scalar, in one line. */
static bool literal(unsigned p) {
    if (p == '"' || p == '\\' || p == 0x2028 || p == 0x2029 || p == 0xfeff) return false;
    return (p >= ' ' && p <= '~') || (p >= 0xa0 && p <= 0xd7ff) || (p >= 0xe000 && p <= 0xfffd) || p >= 0x10000;
}

static enum status print_quoted(struct text *out, const char *s) {
    TRY(text_add(out, "\"", 1));
    while (*s) {
        unsigned point = 0;
        const int n = decode(s, &point);
        if (literal(point)) TRY(text_add(out, s, n));
        else if (point < 0x100) TRY(text_print(out, "\\x%02X", point));
        else TRY(text_print(out, "\\u%04X", point));
        s += n;
    }
    return text_add(out, "\"", 1);
}

static enum status print_value(struct text *out, const struct field *f, const void *base) {
    char word[PATH_BYTES];
    const int n = f->type == FIELD_LIST ? ((const struct field_list *)((const char *)base + f->at))->n : 1;
    if (f->type == FIELD_LIST) TRY(text_add(out, "[", 1));
    for (int i = 0; i < n; i++) {
        TRY(field_print(f, base, i, word, sizeof word));
        if (i) TRY(text_add(out, ", ", 2));
        if (f->type == FIELD_LIST || f->type == FIELD_TEXT) TRY(print_quoted(out, word));
        else TRY(text_add(out, word, (int64_t)strlen(word)));
    }
    return f->type == FIELD_LIST ? text_add(out, "]", 1) : OK;
}

/* A required key that was not given: only where a model alone was read. */
static bool absent(const struct field *f, const void *base) { return !f->fallback && field_empty(f, base); }

static enum status print_table(struct text *out, const struct field *table, const void *base, int indent) {
    for (const struct field *f = table; f->key; f++) {
        if (absent(f, base)) continue;
        TRY(text_print(out, "%*s%s: ", indent, "", f->key));
        TRY(print_value(out, f, base));
        TRY(text_add(out, "\n", 1));
    }
    return OK;
}

static enum status print_model(const struct model_config *m, struct text *out) {
    TRY(text_print(out, "  pattern: "));
    TRY(print_quoted(out, m->pattern));
    TRY(text_print(out, "\n  layers:\n"));
    for (int i = 0; i < m->n_symbols; i++) {
        const char symbol[2] = {m->symbol[i].symbol, '\0'};
        TRY(text_print(out, "    "));
        TRY(print_quoted(out, symbol));
        TRY(text_print(out, ":\n      kind: %s\n", m->symbol[i].kind->name));
        TRY(print_table(out, m->symbol[i].kind->fields, m->symbol[i].config, 6));
    }
    if (!m->mtp.pattern) return OK;
    TRY(text_print(out, "  mtp:\n"));
    return print_table(out, mtp_fields, &m->mtp, 4);
}

enum status config_print_resolved(const struct config *c, struct text *out) {
    for (const struct config_section *s = config_sections; s->name; s++) {
        TRY(text_print(out, "%s:\n", s->name));
        TRY(print_table(out, s->fields, (const char *)c + s->at, 2));
        if (s->at == offsetof(struct config, model)) TRY(print_model(&c->model, out));
    }
    return print_table(out, config_root_fields, c, 0);
}

/* The identity's lines while they are not sorted yet: offsets of their beginnings in text. */
struct lines {
    struct text text;
    int64_t *at;
    int n, room;
};

static enum status begin_line(struct lines *l) {
    if (l->n == l->room) {
        const int room = l->room ? 2 * l->room : 64;
        void *p = l->at;
        TRY(mem_grow(&p, l->room * (int64_t)sizeof *l->at, room * (int64_t)sizeof *l->at));
        l->at = p;
        l->room = room;
    }
    l->at[l->n++] = l->text.n;
    return OK;
}

static enum status end_line(struct lines *l) { return text_add(&l->text, "", 1); }

static enum status add_table(struct lines *l, const char *prefix, const struct field *table, const void *base) {
    for (const struct field *f = table; f->key; f++) {
        if (f->free || absent(f, base)) continue;
        TRY(begin_line(l));
        TRY(text_print(&l->text, "%s%s: ", prefix, f->key));
        TRY(print_value(&l->text, f, base));
        TRY(end_line(l));
    }
    return OK;
}

static enum status add_model(struct lines *l, const struct model_config *m) {
    TRY(begin_line(l));
    TRY(text_print(&l->text, "model.pattern: "));
    TRY(print_quoted(&l->text, m->pattern));
    TRY(end_line(l));
    for (int i = 0; i < m->n_symbols; i++) {
        const struct layer_symbol *s = &m->symbol[i];
        char prefix[32];
        snprintf(prefix, sizeof prefix, "model.layers.%c.", s->symbol);
        TRY(begin_line(l));
        TRY(text_print(&l->text, "%skind: %s", prefix, s->kind->name));
        TRY(end_line(l));
        TRY(add_table(l, prefix, s->kind->fields, s->config));
    }
    return m->mtp.pattern ? add_table(l, "model.mtp.", mtp_fields, &m->mtp) : OK;
}

static enum status add_all(struct lines *l, const struct config *c) {
    for (const struct config_section *s = config_sections; s->name; s++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "%s.", s->name);
        TRY(add_table(l, prefix, s->fields, (const char *)c + s->at));
    }
    TRY(add_table(l, "", config_root_fields, c));
    return add_model(l, &c->model);
}

static int compare_lines(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

enum status config_print_identity(const struct config *c, struct text *out) {
    enum status st = OK;
    struct lines l = {0};
    void *mem = NULL;
    TRY_OUT(add_all(&l, c));
    TRY_OUT(mem_take(l.n * (int64_t)sizeof(char *), &mem));
    const char **sorted = mem;
    for (int i = 0; i < l.n; i++) sorted[i] = l.text.s + l.at[i];
    qsort(sorted, (size_t)l.n, sizeof *sorted, compare_lines);
    for (int i = 0; i < l.n; i++) TRY_OUT(text_print(out, "%s\n", sorted[i]));
out:
    mem_free(mem);
    mem_free(l.at);
    text_term(&l.text);
    return st;
}
