/* SPDX-License-Identifier: Apache-2.0
 * What people read about a configuration: the keys there are, the stack that came out, what differs from another run.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "launch/config_fields.h"

static void print_range(char *out, size_t room, const struct field *f) {
    static const char *const type[] = {[FIELD_INT] = "integer", [FIELD_REAL] = "number", [FIELD_BOOL] = "true|false",
                                       [FIELD_TEXT] = "text",   [FIELD_LIST] = "list",   [FIELD_CHOICE] = ""};
    const bool number = f->type == FIELD_INT || f->type == FIELD_REAL;
    if (f->type == FIELD_CHOICE) snprintf(out, room, "%s", f->choices);
    else if (!number || (f->min == 0.0 && f->max == 0.0)) snprintf(out, room, "%s", type[f->type]);
    else if (isinf(f->max)) snprintf(out, room, "%s, at least %.9g", type[f->type], f->min);
    else snprintf(out, room, "%s, %.9g to %.9g", type[f->type], f->min, f->max);
}

static enum status help_table(struct text *out, const struct field *table) {
    for (const struct field *f = table; f->key; f++) {
        char range[96], fallback[64];
        print_range(range, sizeof range, f);
        if (!f->fallback) snprintf(fallback, sizeof fallback, "required");
        else if (f->type == FIELD_LIST) snprintf(fallback, sizeof fallback, "default []");
        else snprintf(fallback, sizeof fallback, "default %s", f->fallback);
        TRY(text_print(out, "  %-20s %s; %s (%s)%s\n", f->key, f->help, fallback, range, f->free ? " *" : ""));
    }
    return OK;
}

enum status config_help(struct text *out) {
    TRY(text_print(out, "Keys of a configuration.  Those marked * may change when a run continues.\n"));
    for (const struct config_section *s = config_sections; s->name; s++) {
        TRY(text_print(out, "\n%s\n", s->name));
        TRY(help_table(out, s->fields));
    }
    TRY(text_print(out, "\nbeside the sections\n"));
    TRY(help_table(out, config_root_fields));
    TRY(text_print(out, "\nmodel.pattern is a text, one symbol a layer, or {repeat: TEXT, times: N}\n"));
    TRY(help_table(out, repeat_fields));
    TRY(text_print(out, "\nmodel.ratio, in place of model.pattern\n"));
    TRY(help_table(out, ratio_fields));
    TRY(text_print(out, "\nmodel.mtp: multi-token prediction; without it there is none\n"));
    TRY(help_table(out, mtp_fields));
    for (const struct mixer_kind *const *k = mixer_kinds; *k; k++) {
        TRY(text_print(out, "\nmodel.layers.SYMBOL: {kind: %s, ...}\n", (*k)->name));
        TRY(help_table(out, (*k)->fields));
    }
    return text_print(out, "\nIntegers take 1_000, 1k, 1M, 1G, 1KiB, 1MiB and 1GiB; numbers take 3e-4 and 1/8.\n");
}

/* The keys of a row that say something: those given no default, and those that differ from it. */
static enum status print_row(const struct layer_symbol *s, struct text *out) {
    const char *between = "  ";
    for (const struct field *f = s->kind->fields; f->key; f++) {
        char value[PATH_BYTES];
        if (f->type == FIELD_LIST) continue;
        TRY(field_print(f, s->config, 0, value, sizeof value));
        if (f->fallback && !strcmp(f->fallback, value)) continue;
        TRY(text_print(out, "%s%s %s", between, f->key, value));
        between = ", ";
    }
    return text_print(out, "\n");
}

enum status config_print_stack(const struct config *c, struct text *out) {
    const struct model_config *m = &c->model;
    const size_t n_layers = strlen(m->pattern);
    TRY(text_print(out, "stack: %zu layer%s  %s\n", n_layers, n_layers == 1 ? "" : "s", m->pattern));
    for (int i = 0; i < m->n_symbols; i++) {
        int n = 0;
        for (const char *p = m->pattern; *p; p++) n += *p == m->symbol[i].symbol;
        TRY(text_print(out, "  %c  %4d x %-9s", m->symbol[i].symbol, n, m->symbol[i].kind->name));
        TRY(print_row(&m->symbol[i], out));
    }
    if (m->mtp.depths == 0) return OK;
    return text_print(out, "  and heads for %" PRId64 " further token%s, %s each%s, weight %g\n", m->mtp.depths,
                      m->mtp.depths == 1 ? "" : "s", m->mtp.pattern, m->mtp.shared ? " with the same weights" : "",
                      m->mtp.weight);
}

/* One line "key: value" of an identity; no key holds ": ". */
struct line {
    const char *key, *value, *next;
    size_t key_bytes, value_bytes;
};

static struct line take_line(const char *s) {
    const size_t n = strcspn(s, "\n");
    struct line l = {.key = s, .value = s + n, .next = s + n + (s[n] == '\n'), .key_bytes = n};
    const char *between = strstr(s, ": ");
    if (!between || (size_t)(between - s) >= n) return l;
    l.key_bytes = (size_t)(between - s);
    l.value = between + 2;
    l.value_bytes = n - l.key_bytes - 2;
    return l;
}

static bool find_line(const char *text, const struct line *wanted, struct line *out) {
    while (*text) {
        *out = take_line(text);
        if (out->key_bytes == wanted->key_bytes && !memcmp(out->key, wanted->key, wanted->key_bytes)) return true;
        text = out->next;
    }
    return false;
}

static enum status print_difference(struct text *out, const struct line *key, const struct line *a,
                                    const struct line *b) {
    static const struct line none = {.value = "no such key", .value_bytes = sizeof "no such key" - 1};
    if (!a) a = &none;
    if (!b) b = &none;
    return text_print(out, "%.*s: this run has %.*s, the checkpoint has %.*s\n", (int)key->key_bytes, key->key,
                      (int)a->value_bytes, a->value, (int)b->value_bytes, b->value);
}

enum status config_identity_diff(const char *mine, const char *theirs, struct text *out) {
    struct line found;
    for (const char *s = mine; *s;) {
        const struct line l = take_line(s);
        const bool both = find_line(theirs, &l, &found);
        const bool same = both && l.value_bytes == found.value_bytes && !memcmp(l.value, found.value, l.value_bytes);
        if (!same) TRY(print_difference(out, &l, &l, both ? &found : NULL));
        s = l.next;
    }
    for (const char *s = theirs; *s;) {
        const struct line l = take_line(s);
        if (!find_line(mine, &l, &found)) TRY(print_difference(out, &l, NULL, &l));
        s = l.next;
    }
    return OK;
}
