/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "launch/config.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/arena.h"
#include "launch/config_reading.h"

void nearest_try(struct nearest *n, const char *candidate) {
    const int d = text_closeness(n->word, candidate);
    if (d < 0 || (n->best && d >= n->distance)) return;
    n->best = candidate;
    n->distance = d;
}

void join_path(char out[KEY_PATH], const char *path, const char *key) {
    snprintf(out, KEY_PATH, "%.100s%s%.50s", path, *path ? "." : "", key);
}

const struct node *map_child(const struct tree *t, const struct node *parent, const char *key) {
    const struct node *found = NULL;
    for (const struct node *n = tree_first(t, parent); n; n = tree_next(t, n))
        if (n->type == NODE_MAP && !strcmp(tree_key(t, n), key)) found = n;
    return found;
}

struct place place_of_key(const struct reading *r, const char *section, const char *key) {
    const struct node *map = map_child(&r->tree, &r->tree.nodes[0], section);
    const struct node *n = tree_child(&r->tree, map, key);
    return n ? n->at : map ? map->key_at : r->tree.nodes[0].at;
}

enum status mistake_of(struct reading *r, enum status st, struct place at, const char *path) {
    if (st != ERR_CONFIG && st != ERR_ARG) return st;
    TRY(mistake_add(&r->tree.mistakes, at, path, "%s", status_text()));
    status_clear();
    return OK;
}

/* path as seen from folder: leading . and .. are taken off against it, as nothing there is a link.  Inside the path ..
 * stays, because a link may stand before it. */
static enum status absolute_path(char out[PATH_BYTES], const char *folder, const char *path) {
    char base[PATH_BYTES];
    FAIL_UNLESS(*path, ERR_CONFIG, "wants a path, nothing is here");
    TRY(path_print(base, "%s", *path == '/' ? "" : folder));
    for (;;) {
        while (*path == '/') path++;
        if (path[0] == '.' && (path[1] == '/' || !path[1])) {
            path++;
        } else if (path[0] == '.' && path[1] == '.' && (path[2] == '/' || !path[2])) {
            char *slash = strrchr(base, '/');
            if (slash) *slash = '\0';
            path += 2;
        } else {
            break;
        }
    }
    if (!strcmp(base, "/")) base[0] = '\0';
    return path_print(out, "%s%s%s", base, *path || !*base ? "/" : "", path);
}

static enum status set_text(struct reading *r, const struct table *t, const struct field *f, const struct node *n,
                            const char *text, const char *path) {
    char full[PATH_BYTES];
    enum status st = OK;
    if (field_is_path(f, t->section)) {
        const bool from_here = n->at.override >= 0 || f->type != FIELD_LIST;
        st = absolute_path(full, from_here ? r->here : r->folder, text);
        text = full;
    }
    if (st == OK) st = field_set(f, t->base, text);
    return mistake_of(r, st, n->at, path);
}

/* The items of an override: a,b; nothing at all is the empty list. */
static enum status set_split(struct reading *r, const struct table *t, const struct field *f, const struct node *n,
                             const char *path) {
    char item[PATH_BYTES];
    const char *s = tree_text(&r->tree, n);
    if (!*s) return OK;
    for (;;) {
        const size_t bytes = strcspn(s, ",");
        if (bytes >= sizeof item) return mistake_add(&r->tree.mistakes, n->at, path, "an item of %zu bytes", bytes);
        memcpy(item, s, bytes);
        item[bytes] = '\0';
        TRY(set_text(r, t, f, n, item, path));
        if (!s[bytes]) return OK;
        s += bytes + 1;
    }
}

static enum status set_list(struct reading *r, const struct table *t, const struct field *f, const struct node *n,
                            const char *path) {
    field_clear(f, t->base);
    if (n->n_children > FIELD_LIST_MAX)
        return mistake_add(&r->tree.mistakes, n->at, path, "%d items, at most %d", n->n_children, FIELD_LIST_MAX);
    if (n->type == NODE_SCALAR && n->at.override >= 0) return set_split(r, t, f, n, path);
    if (n->type == NODE_SCALAR) return set_text(r, t, f, n, tree_text(&r->tree, n), path);
    for (const struct node *item = tree_first(&r->tree, n); item; item = tree_next(&r->tree, item)) {
        if (item->refused) continue;
        if (item->type != NODE_SCALAR)
            TRY(mistake_add(&r->tree.mistakes, item->at, path, "wants a list of words, %s here",
                            item->type == NODE_MAP ? "keys are" : "a list is"));
        else TRY(set_text(r, t, f, item, tree_text(&r->tree, item), path));
    }
    return OK;
}

static enum status set_value(struct reading *r, const struct table *t, const struct field *f, const struct node *n) {
    char path[KEY_PATH];
    join_path(path, t->path, f->key);
    if (n->refused) return OK;
    if (n->type == NODE_MAP) return mistake_add(&r->tree.mistakes, n->at, path, "wants a value, keys are here");
    if (f->type == FIELD_LIST) return set_list(r, t, f, n, path);
    if (n->type == NODE_LIST) return mistake_add(&r->tree.mistakes, n->at, path, "wants one value, a list is here");
    return set_text(r, t, f, n, tree_text(&r->tree, n), path);
}

/* The section that has this key, for one that stands in the wrong place. */
static const char *section_with(const char *key) {
    for (const struct config_section *s = config_sections; s->name; s++)
        if (field_find(s->fields, key)) return s->name;
    return NULL;
}

static enum status unknown_key(struct reading *r, const struct table *t, const struct node *n) {
    char path[KEY_PATH];
    const char *key = tree_key(&r->tree, n);
    struct nearest near = {.word = key};
    join_path(path, t->path, key);
    for (const struct field *f = t->fields; f->key; f++) nearest_try(&near, f->key);
    for (const char *const *b = t->beside; b && *b; b++) nearest_try(&near, *b);
    const char *section = section_with(key);
    if (section)
        return mistake_add(&r->tree.mistakes, n->key_at, path, "unknown key; did you mean '%s.%.40s'?", section, key);
    if (near.best) return mistake_add(&r->tree.mistakes, n->key_at, path, "unknown key; did you mean '%s'?", near.best);
    return mistake_add(&r->tree.mistakes, n->key_at, path, "unknown key");
}

static bool is_beside(const struct table *t, const char *key) {
    for (const char *const *b = t->beside; b && *b; b++)
        if (!strcmp(*b, key)) return true;
    return false;
}

static enum status report_missing(struct reading *r, const struct table *t) {
    const struct node *root = &r->tree.nodes[0];
    const struct place at = t->map && t->map->key_at.override < 0 && t->map != root ? t->map->key_at : root->at;
    for (const struct field *f = t->fields; f->key; f++) {
        char path[KEY_PATH];
        if (f->fallback || tree_child(&r->tree, t->map, f->key)) continue;
        join_path(path, t->path, f->key);
        TRY(mistake_add(&r->tree.mistakes, at, path, "missing (%s)", f->help));
    }
    return OK;
}

enum status read_table(struct reading *r, const struct table *t) {
    TRY(field_defaults(t->fields, t->base));
    for (const struct node *n = tree_first(&r->tree, t->map); n; n = tree_next(&r->tree, n)) {
        const char *key = tree_key(&r->tree, n);
        const struct field *f = field_find(t->fields, key);
        if (is_beside(t, key)) continue;
        if (f) TRY(set_value(r, t, f, n));
        else TRY(unknown_key(r, t, n));
    }
    return t->optional || r->tree.broken ? OK : report_missing(r, t);
}

static const struct config_section *find_section(const char *name) {
    for (const struct config_section *s = config_sections; s->name; s++)
        if (!strcmp(s->name, name)) return s;
    return NULL;
}

static enum status read_root(struct reading *r) {
    const struct node *root = &r->tree.nodes[0];
    const char *names[16] = {NULL};
    int n_names = 0;
    for (const struct config_section *s = config_sections; s->name; s++) names[n_names++] = s->name;
    const struct table t = {.path = "", .map = root, .fields = config_root_fields, .beside = names, .base = r->c};
    TRY(read_table(r, &t));
    for (const struct node *n = tree_first(&r->tree, root); n; n = tree_next(&r->tree, n))
        if (n->type != NODE_MAP && !n->refused && find_section(tree_key(&r->tree, n)))
            TRY(mistake_add(&r->tree.mistakes, n->at, tree_key(&r->tree, n), "wants keys below it, %s here",
                            n->type == NODE_LIST      ? "a list is"
                            : *tree_text(&r->tree, n) ? "a value is"
                                                      : "nothing is"));
    return OK;
}

static enum status read_sections(struct reading *r) {
    for (const struct config_section *s = config_sections; s->name; s++) {
        const struct node *root = &r->tree.nodes[0], *map = map_child(&r->tree, root, s->name);
        const bool told = !map && tree_child(&r->tree, root, s->name); /* that it is no mapping */
        if (s->at == offsetof(struct config, model)) {
            if (!told) TRY(read_model(r, map));
            continue;
        }
        const struct table t = {.path = s->name,
                                .map = map,
                                .fields = s->fields,
                                .section = s,
                                .base = (char *)r->c + s->at,
                                .optional = told || r->from->model_only};
        TRY(read_table(r, &t));
    }
    return OK;
}

static enum status read_tree(struct reading *r, const char *yaml, int64_t bytes) {
    TRY(tree_read(&r->tree, yaml, bytes));
    for (int i = 0; i < r->from->n_overrides; i++) TRY(tree_override(&r->tree, i));
    if (r->tree.nodes[0].refused) return OK;
    TRY(read_root(r));
    TRY(read_sections(r));
    return r->tree.mistakes.n ? OK : check_config(r);
}

/* What the relative paths of the file and of the command line start from; both without links. */
static enum status find_folders(struct reading *r) {
    char folder[PATH_BYTES], real[4096];
    FAIL_UNLESS(getcwd(r->here, sizeof r->here), ERR_IO, "cannot tell the current folder: %s", strerror(errno));
    const char *slash = r->from->path ? strrchr(r->from->path, '/') : NULL;
    if (!slash) return path_print(r->folder, "%s", r->here);
    TRY(path_print(folder, "%.*s/", (int)(slash - r->from->path), r->from->path));
    FAIL_UNLESS(realpath(folder, real), ERR_IO, "cannot find the folder %s: %s", folder, strerror(errno));
    return path_print(r->folder, "%s", real);
}

static enum status read_source(struct reading *r) {
    const struct config_source *from = r->from;
    const struct place whole = {.override = -1};
    char *yaml = NULL;
    int64_t bytes = from->text_bytes;
    if (from->path) {
        const enum status st = file_read(from->path, FILE_MAX, &yaml, &bytes);
        if (st == ERR_OOM) return status_pass(st, __FILE__, __LINE__);
        if (st == ERR_MISSING) return mistake_add(&r->tree.mistakes, whole, "", "there is no such file");
        if (st != OK) return mistake_add(&r->tree.mistakes, whole, "", "%s", status_text());
    } else if (bytes > FILE_MAX) {
        return mistake_add(&r->tree.mistakes, whole, "", "%" PRId64 " bytes, at most %d", bytes, FILE_MAX);
    }
    enum status st = find_folders(r);
    if (st == OK) st = read_tree(r, from->path ? yaml : from->text, bytes);
    file_free(yaml);
    return st;
}

static enum status report(struct reading *r, struct text *errors) {
    const struct mistakes *m = &r->tree.mistakes;
    struct text lines = {0};
    enum status st = mistakes_print(m, &lines);
    if (st == OK && errors) st = text_add(errors, lines.s, lines.n);
    if (st == OK) st = status_fail(ERR_CONFIG, __FILE__, __LINE__, "%.*s", (int)strcspn(lines.s, "\n"), lines.s);
    text_term(&lines);
    return st;
}

enum status config_read(struct config *c, const struct config_source *from, struct text *errors) {
    enum status st = OK;
    struct reading r = {.c = c, .from = from};
    *c = (struct config){0};
    r.tree.mistakes.from = from;
    r.tree.mistakes.name = from->path ? from->path : from->where;
    TRY_OUT(read_source(&r));
    if (r.tree.mistakes.n) TRY_OUT(report(&r, errors));
    TRY_OUT(config_print_resolved(c, &c->resolved));
    TRY_OUT(config_print_identity(c, &c->identity));
    TRY_OUT(hash_sha256(c->identity.s, c->identity.n, c->identity_hash));
out:
    tree_term(&r.tree);
    if (st != OK) config_term(c);
    return st;
}

void config_term(struct config *c) {
    model_config_term(&c->model);
    for (const struct config_section *s = config_sections; s->name; s++) field_term(s->fields, (char *)c + s->at);
    text_term(&c->resolved);
    text_term(&c->identity);
    *c = (struct config){0};
}
