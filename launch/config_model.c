/* SPDX-License-Identifier: Apache-2.0
 * The section `model`: sizes, the layer table and the pattern in its three forms. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "launch/config_reading.h"

struct model_reading {
    struct reading *r;
    struct model_config *m;
    const struct node *map, *layers;
    const char *later;           /* symbols of model.mtp.pattern; "" without */
    const struct node *row[128]; /* by symbol: its row of the layer table, right or wrong */
};

static enum status wrong_symbol(struct reading *r, const struct node *n, const char *path) {
    const char *key = tree_key(&r->tree, n);
    if (!strcmp(key, "|"))
        return mistake_add(&r->tree.mistakes, n->key_at, path, "'|' cuts a pipeline in a pattern; it is no symbol");
    if (!strcmp(key, "/"))
        return mistake_add(&r->tree.mistakes, n->key_at, path,
                           "'/' begins multi-token prediction in a pattern; it is no symbol");
    return mistake_add(&r->tree.mistakes, n->key_at, path,
                       "a symbol is one printable ASCII character, but no space, '|', '/', '.' or '='");
}

static enum status read_kind(struct reading *r, const struct node *row, const char *path,
                             const struct mixer_kind **kind) {
    const struct node *n = tree_child(&r->tree, row, "kind");
    char key[KEY_PATH], all[256] = "";
    *kind = NULL;
    join_path(key, path, "kind");
    if (!n && r->tree.broken) return OK;
    if (!n) return mistake_add(&r->tree.mistakes, row->key_at, key, "missing (what this symbol means)");
    if (n->refused) return OK;
    const char *name = tree_text(&r->tree, n);
    if (n->type == NODE_SCALAR) *kind = mixer_kind_find(name);
    if (*kind) return OK;
    struct nearest near = {.word = name};
    size_t used = 0;
    for (const struct mixer_kind *const *k = mixer_kinds; *k && used < sizeof all; k++) {
        nearest_try(&near, (*k)->name);
        used += (size_t)snprintf(all + used, sizeof all - used, "%s%s", used ? ", " : "", (*k)->name);
    }
    if (n->type != NODE_SCALAR)
        return mistake_add(&r->tree.mistakes, n->at, key, "wants one of %s, %s here", all,
                           n->type == NODE_LIST ? "a list is" : "keys are");
    return mistake_add(&r->tree.mistakes, n->at, key, "unknown kind '%.40s', there are %s%s%s%s", name, all,
                       near.best ? "; did you mean '" : "", near.best ? near.best : "", near.best ? "'?" : "");
}

/* A value that was refused when the file was read: its mistake is older than those of the row. */
static bool holds_refused(const struct tree *t, const struct node *map) {
    for (const struct node *n = tree_first(t, map); n; n = tree_next(t, n))
        if (n->refused) return true;
    return false;
}

static enum status read_row(struct model_reading *s, const struct node *row, const char *path,
                            struct layer_symbol *out) {
    static const char *const beside[] = {"kind", NULL};
    struct reading *r = s->r;
    const int n_before = r->tree.mistakes.n;
    TRY(read_kind(r, row, path, &out->kind));
    if (!out->kind) return OK;
    TRY(mem_take((int64_t)out->kind->config_bytes, &out->config));
    const struct table t = {
        .path = path, .map = row, .fields = out->kind->fields, .beside = beside, .base = out->config};
    TRY(read_table(r, &t));
    if (r->tree.mistakes.n > n_before || r->tree.broken || holds_refused(&r->tree, row) || s->m->width < 1) return OK;
    return mistake_of(r, out->kind->check(out->config, s->m->width), row->key_at, path);
}

static enum status read_layers(struct model_reading *s) {
    struct reading *r = s->r;
    s->layers = tree_child(&r->tree, s->map, "layers");
    if (!s->layers) {
        const struct place top = s->map && s->map->key_at.override < 0 ? s->map->key_at : r->tree.nodes[0].at;
        if (r->tree.broken) return OK;
        return mistake_add(&r->tree.mistakes, top, "model.layers", "missing (what each symbol of the pattern means)");
    }
    if (s->layers->refused) return OK;
    if (s->layers->type != NODE_MAP)
        return mistake_add(&r->tree.mistakes, s->layers->at, "model.layers", "wants symbols, each with its kind");
    for (const struct node *n = tree_first(&r->tree, s->layers); n; n = tree_next(&r->tree, n)) {
        const char *key = tree_key(&r->tree, n);
        char path[KEY_PATH];
        join_path(path, "model.layers", key);
        if (strlen(key) != 1 || !symbol_allowed(*key)) {
            TRY(wrong_symbol(r, n, path));
            continue;
        }
        s->row[(int)*key] = n;
        if (n->refused) continue;
        if (n->type != NODE_MAP) TRY(mistake_add(&r->tree.mistakes, n->at, path, "wants {kind: ..., ...}"));
        else if (s->m->n_symbols == SYMBOLS_MAX)
            TRY(mistake_add(&r->tree.mistakes, n->key_at, path, "more than %d symbols", SYMBOLS_MAX));
        else {
            struct layer_symbol *symbol = &s->m->symbol[s->m->n_symbols++];
            symbol->symbol = *key;
            TRY(read_row(s, n, path, symbol));
        }
    }
    return OK;
}

static char other_case(char c) { return (char)((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ? c ^ 0x20 : c); }

static enum status unknown_symbol(struct model_reading *s, struct place at, const char *path, char c) {
    struct mistakes *m = &s->r->tree.mistakes;
    char all[2 * 128 + 1] = "";
    int used = 0;
    if (c == '|') return mistake_add(m, at, path, "'|' cuts a pipeline into stages, which is not supported yet");
    if (c == '/')
        return mistake_add(m, at, path, "'/' begins multi-token prediction, which has a key here: model.mtp.pattern");
    if (!symbol_allowed(c)) return mistake_add(m, at, path, "no symbol is a space, '.', '=' or outside ASCII");
    const char other = other_case(c);
    if (s->row[(int)other])
        return mistake_add(m, at, path, "symbol '%c' has no row in model.layers; did you mean '%c'?", c, other);
    for (int i = 0; i < 128; i++)
        if (s->row[i]) used += snprintf(all + used, sizeof all - (size_t)used, " %c", i);
    return mistake_add(m, at, path, "symbol '%c' has no row in model.layers, which has%s", c, used ? all : " none");
}

/* Overrides reach the pattern but cannot take rows out, so rows of the file that an overridden pattern leaves unused
 * are no mistake: they are dropped. */
static bool overridden(const struct tree *t, const struct node *n) {
    bool from_override = n->at.override >= 0;
    for (const struct node *child = tree_first(t, n); child; child = tree_next(t, child))
        from_override |= child->at.override >= 0;
    return from_override;
}

static void drop_row(struct model_config *m, char symbol) {
    for (int i = 0; i < m->n_symbols; i++) {
        struct layer_symbol *s = &m->symbol[i];
        if (s->symbol != symbol) continue;
        if (s->config) field_term(s->kind->fields, s->config);
        mem_free(s->config);
        m->n_symbols--;
        memmove(s, s + 1, (size_t)(m->n_symbols - i) * sizeof *s);
        return;
    }
}

static enum status compare_rows(struct model_reading *s, const struct node *n, const char *pattern) {
    const bool drop = overridden(&s->r->tree, n);
    for (int i = 0; i < 128; i++) {
        const struct node *row = s->row[i];
        char path[KEY_PATH], symbol[2] = {(char)i, '\0'};
        if (!row || strchr(pattern, i) || strchr(s->later, i)) continue;
        if (drop && row->key_at.override < 0) {
            drop_row(s->m, (char)i);
            continue;
        }
        join_path(path, "model.layers", symbol);
        TRY(mistake_add(&s->r->tree.mistakes, row->key_at, path,
                        "the pattern never uses this symbol; use it or take its row out"));
    }
    return OK;
}

/* Every symbol has a row.  n: the text with symbols. */
static enum status find_rows(struct model_reading *s, const struct node *n, const char *path, const char *pattern) {
    bool told[256] = {false};
    if (s->r->tree.broken) return OK;
    for (int i = 0; pattern[i]; i++) {
        const unsigned char c = (unsigned char)pattern[i];
        if (told[c] || (c < 128 && s->row[c])) continue;
        told[c] = true;
        struct place at = n->at;
        if (n->one_to_one && at.override < 0) at.column += n->quoted + i;
        TRY(unknown_symbol(s, at, path, (char)c));
    }
    return OK;
}

/* Every symbol has a row and every row a symbol.  whole: the node of the pattern or ratio; n: the text with symbols. */
static enum status compare_symbols(struct model_reading *s, const struct node *whole, const struct node *n,
                                   const char *path, const char *pattern) {
    TRY(find_rows(s, n, path, pattern));
    return s->r->tree.broken ? OK : compare_rows(s, whole, pattern);
}

static enum status read_mtp(struct model_reading *s) {
    struct reading *r = s->r;
    struct mtp_config *mtp = &s->m->mtp;
    const struct node *map = tree_child(&r->tree, s->map, "mtp");
    s->later = "";
    if (!map || map->refused) return OK;
    if (map->type != NODE_MAP)
        return mistake_add(&r->tree.mistakes, map->at, "model.mtp", "wants {pattern: TEXT, depths: N, ...}");
    const struct table t = {.path = "model.mtp", .map = map, .fields = mtp_fields, .base = mtp};
    TRY(read_table(r, &t));
    const struct node *text = tree_child(&r->tree, map, "pattern");
    if (!mtp->pattern || !text || text->refused) return OK;
    s->later = mtp->pattern;
    const int64_t n = (int64_t)strlen(mtp->pattern);
    if (n == 0 || n * MTP_DEPTHS_MAX > LAYERS_MAX)
        return mistake_add(&r->tree.mistakes, text->at, "model.mtp.pattern", "wants 1 to %d layers, not %" PRId64,
                           LAYERS_MAX / MTP_DEPTHS_MAX, n);
    return find_rows(s, text, "model.mtp.pattern", mtp->pattern);
}

static enum status read_repeat(struct model_reading *s, const struct node *n) {
    struct reading *r = s->r;
    enum status st = OK;
    struct repeat_form form = {0};
    const int n_before = r->tree.mistakes.n;
    const struct table t = {.path = "model.pattern", .map = n, .fields = repeat_fields, .base = &form};
    TRY_OUT(read_table(r, &t));
    const struct node *unit = tree_child(&r->tree, n, "repeat"), *times = tree_child(&r->tree, n, "times");
    const bool refused = (unit && unit->refused) || (times && times->refused); /* it has its mistake already */
    if (r->tree.mistakes.n > n_before || !unit || refused || r->tree.broken) goto out;
    TRY_OUT(mistake_of(r, pattern_repeat(form.repeat, form.times, &s->m->pattern), unit->at, "model.pattern.repeat"));
    TRY_OUT(compare_symbols(s, n, unit, "model.pattern.repeat", form.repeat));
out:
    field_term(repeat_fields, &form);
    return st;
}

/* n of 1/n; 0 for 0. */
static enum status every_of(struct reading *r, const struct node *map, const char *key, double ratio, int64_t *every) {
    char path[KEY_PATH];
    *every = ratio > 0.0 ? (int64_t)llround(fmin(1.0 / ratio, 1e9)) : 0;
    if (ratio == 0.0 || fabs(ratio * (double)*every - 1.0) < 1e-9) return OK;
    join_path(path, "model.ratio", key);
    const struct node *n = tree_child(&r->tree, map, key);
    return mistake_add(&r->tree.mistakes, n ? n->at : map->at, path, "wants 1/n with a whole n, or 0, not %.40s",
                       n ? tree_text(&r->tree, n) : "this");
}

static enum status read_ratio(struct model_reading *s, const struct node *n) {
    struct reading *r = s->r;
    struct ratio_form form = {0};
    struct pattern_ratio ratio = {0};
    const int n_before = r->tree.mistakes.n;
    const struct table t = {.path = "model.ratio", .map = n, .fields = ratio_fields, .base = &form};
    if (n->type != NODE_MAP)
        return mistake_add(&r->tree.mistakes, n->at, "model.ratio", "wants {attention: 1/n, moe: 1/n, layers: n}");
    TRY(read_table(r, &t));
    TRY(every_of(r, n, "attention", form.attention, &ratio.attention_every));
    TRY(every_of(r, n, "moe", form.moe, &ratio.moe_every));
    ratio.pairs = form.layers;
    const struct node *layers = tree_child(&r->tree, n, "layers");
    if (r->tree.mistakes.n > n_before || (layers && layers->refused) || r->tree.broken) return OK;
    TRY(mistake_of(r, pattern_from_ratio(s->m, &ratio, &s->m->pattern), n->key_at, "model.ratio"));
    return s->m->pattern ? compare_symbols(s, n, n, "model.ratio", s->m->pattern) : OK;
}

static enum status read_pattern(struct model_reading *s) {
    struct reading *r = s->r;
    const struct node *pattern = tree_child(&r->tree, s->map, "pattern"),
                      *ratio = tree_child(&r->tree, s->map, "ratio");
    if (pattern && ratio && (pattern->key_at.override < 0) == (ratio->key_at.override < 0))
        return mistake_add(&r->tree.mistakes, ratio->key_at, "model.ratio", "stands in the place of pattern; give one");
    if (pattern && ratio && pattern->key_at.override < 0) pattern = NULL;
    if (!pattern && !ratio) {
        const struct place top = s->map && s->map->key_at.override < 0 ? s->map->key_at : r->tree.nodes[0].at;
        return r->tree.broken ? OK
                              : mistake_add(&r->tree.mistakes, top, "model.pattern", "missing (the stack of layers)");
    }
    if (!pattern) return ratio->refused ? OK : read_ratio(s, ratio);
    if (pattern->refused) return OK;
    if (pattern->type == NODE_MAP) return read_repeat(s, pattern);
    if (pattern->type == NODE_LIST)
        return mistake_add(&r->tree.mistakes, pattern->at, "model.pattern", "wants one text, a list is here");
    const char *text = tree_text(&r->tree, pattern);
    TRY(mistake_of(r, pattern_repeat(text, 1, &s->m->pattern), pattern->at, "model.pattern"));
    return s->m->pattern ? compare_symbols(s, pattern, pattern, "model.pattern", text) : OK;
}

enum status read_model(struct reading *r, const struct node *map) {
    static const char *const beside[] = {"pattern", "ratio", "layers", "mtp", NULL};
    struct model_reading s = {.r = r, .m = &r->c->model, .map = map};
    const struct table t = {.path = "model", .map = map, .fields = model_fields, .beside = beside, .base = s.m};
    TRY(read_table(r, &t));
    TRY(read_layers(&s));
    TRY(read_mtp(&s));
    return read_pattern(&s);
}
