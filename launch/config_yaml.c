/* SPDX-License-Identifier: Apache-2.0
 * From libyaml's events to a tree: the only user of libyaml. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>
#include "base/arena.h"
#include "launch/config_tree.h"

#define SKIP_MAX 32 /* levels below the deepest that are read on to find further mistakes */

struct level {
    int node;
    bool has_key, drop; /* the key's value is awaited; it is to be dropped */
    bool full;          /* that there are too many children is told        */
    int64_t key;        /* offset in tree.texts */
    struct place key_at;
};
struct builder {
    struct tree *tree;
    yaml_parser_t parser;
    struct level level[LEVELS_MAX];
    int n_levels;
    int skip;          /* open containers whose content is dropped     */
    bool skipping_key; /* they stand where a key should; a value follows */
    int n_documents;
    bool ended;
};

static struct place place_of(yaml_mark_t m) {
    return (struct place){.override = -1, .line = (int)m.line + 1, .column = (int)m.column + 1};
}

/* The key path of the value that is awaited now. */
static const char *path_here(const struct builder *b, char path[KEY_PATH]) {
    int used = 0;
    path[0] = '\0';
    for (int i = 0; i < b->n_levels && used < KEY_PATH; i++)
        if (b->level[i].has_key)
            used += snprintf(path + used, (size_t)(KEY_PATH - used), "%s%.60s", used ? "." : "",
                             b->tree->texts.s + b->level[i].key);
    return path;
}

static enum status refuse(struct builder *b, struct place at, const char *what) {
    char path[KEY_PATH];
    return mistake_add(&b->tree->mistakes, at, path_here(b, path), "%s", what);
}

static struct level *innermost(struct builder *b) { return b->n_levels ? &b->level[b->n_levels - 1] : NULL; }

static bool in_map(const struct builder *b) {
    return b->n_levels && b->tree->nodes[b->level[b->n_levels - 1].node].type == NODE_MAP;
}

static bool awaits_key(const struct builder *b) { return in_map(b) && !b->level[b->n_levels - 1].has_key; }

/* The value of the innermost level's key is complete. */
static void value_done(struct builder *b) {
    struct level *l = innermost(b);
    if (l) l->has_key = l->drop = false;
}

static bool dropped(struct builder *b) { return b->n_levels && innermost(b)->drop; }

/* A container whose content is not kept, from its opening event on. */
static void skip_container(struct builder *b) { b->skip = 1; }

static enum status refuse_marks(struct builder *b, struct place at, const yaml_char_t *anchor, const yaml_char_t *tag) {
    if (anchor) TRY(refuse(b, at, "anchors (&name) are not read here; write the value out"));
    if (tag) TRY(refuse(b, at, "tags (!name) are not read here; a key's type is known, leave the tag out"));
    return OK;
}

static enum status take_key(struct builder *b, const yaml_event_t *e) {
    struct level *l = innermost(b);
    const char *key = (const char *)e->data.scalar.value;
    struct tree *t = b->tree;
    struct place at = place_of(e->start_mark);
    TRY(refuse_marks(b, at, e->data.scalar.anchor, e->data.scalar.tag));
    l->key = t->texts.n;
    l->key_at = at;
    TRY(text_add(&t->texts, key, (int64_t)strlen(key) + 1));
    l->has_key = true;
    if (strlen(key) != e->data.scalar.length) {
        l->drop = true;
        return refuse(b, at, "a NUL character in a key");
    }
    if (!strcmp(key, "<<") && e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE) {
        l->drop = true;
        return refuse(b, at, "merge keys are not read here; write the keys out");
    }
    const struct node *first = tree_child(t, &t->nodes[l->node], key);
    if (first) {
        char path[KEY_PATH];
        l->drop = true;
        return mistake_add(&t->mistakes, at, path_here(b, path), "given twice, first in line %d", first->key_at.line);
    }
    return OK;
}

static enum status add_node(struct builder *b, const struct node *n, const char *text, int *index) {
    struct tree *t = b->tree;
    struct level *l = innermost(b);
    struct node made = *n;
    char key[KEY_PATH] = "";
    if (l && l->has_key) {
        made.key_at = l->key_at;
        snprintf(key, sizeof key, "%s", t->texts.s + l->key);
    }
    if (l && t->nodes[l->node].n_children == CHILDREN_MAX) {
        *index = -1;
        if (l->full) return OK;
        l->full = true;
        return refuse(b, n->at, "more entries than any list of keys or values has here; the rest is not read");
    }
    return tree_add(t, l ? l->node : -1, &made, key, text, index);
}

static enum status take_value(struct builder *b, const yaml_event_t *e) {
    const char *text = (const char *)e->data.scalar.value;
    const size_t n = e->data.scalar.length;
    const bool quoted = e->data.scalar.style == YAML_SINGLE_QUOTED_SCALAR_STYLE ||
                        e->data.scalar.style == YAML_DOUBLE_QUOTED_SCALAR_STYLE;
    struct node made = {.type = NODE_SCALAR, .at = place_of(e->start_mark), .quoted = quoted};
    int index = 0;
    TRY(refuse_marks(b, made.at, e->data.scalar.anchor, e->data.scalar.tag));
    if (!b->n_levels) {
        made.type = NODE_MAP;
        made.refused = true;
        TRY(refuse(b, made.at, "wants keys and values, one word is here"));
    }
    if (strlen(text) != n) {
        made.refused = true;
        TRY(refuse(b, made.at, "a NUL character"));
    }
    /* Every character took one column: nothing was escaped, folded or longer than a byte. */
    const size_t columns = e->end_mark.column - e->start_mark.column - (quoted ? 2 : 0);
    made.one_to_one = e->end_mark.line == e->start_mark.line && columns == n;
    TRY(add_node(b, &made, text, &index));
    value_done(b);
    return OK;
}

static enum status take_scalar(struct builder *b, const yaml_event_t *e) {
    if (awaits_key(b)) return take_key(b, e);
    if (!dropped(b)) return take_value(b, e);
    value_done(b);
    return OK;
}

/* In the place of a value that was refused: its key is not missing. */
static enum status add_refused(struct builder *b, struct place at) {
    const struct node refused = {.type = NODE_SCALAR, .at = at, .refused = true};
    int index = 0;
    return add_node(b, &refused, "", &index);
}

static enum status take_alias(struct builder *b, const yaml_event_t *e) {
    const struct place at = place_of(e->start_mark);
    const bool key = awaits_key(b);
    if (!dropped(b)) {
        TRY(refuse(b, at, "aliases (*name) are not read here; a symbol or pattern that begins with * needs quotes"));
        if (!key) TRY(add_refused(b, at));
    }
    if (!key) {
        value_done(b);
        return OK;
    }
    struct level *l = innermost(b);
    l->has_key = l->drop = true;
    l->key = b->tree->texts.n;
    return text_add(&b->tree->texts, "*", 2);
}

static enum status open_container(struct builder *b, const yaml_event_t *e) {
    const bool map = e->type == YAML_MAPPING_START_EVENT;
    const struct place at = place_of(e->start_mark);
    struct node made = {.type = map ? NODE_MAP : NODE_LIST, .at = at};
    int index = 0;
    if (awaits_key(b)) {
        TRY(refuse(b, at, "a key must be a word"));
        struct level *l = innermost(b);
        l->has_key = l->drop = true;
        l->key = b->tree->texts.n;
        TRY(text_add(&b->tree->texts, "?", 2));
        b->skipping_key = true;
        skip_container(b);
        return OK;
    }
    if (dropped(b)) {
        skip_container(b);
        return OK;
    }
    TRY(refuse_marks(b, at, map ? e->data.mapping_start.anchor : e->data.sequence_start.anchor,
                     map ? e->data.mapping_start.tag : e->data.sequence_start.tag));
#ifndef BATON_PLANT_CONFIG /* a bug for the fuzzer to find: the bound left out */
    if (b->n_levels == LEVELS_MAX) {
        skip_container(b);
        TRY(refuse(b, at, "nested deeper than 4 levels"));
        return add_refused(b, at);
    }
#endif
    if (!b->n_levels && !map) {
        made.type = NODE_MAP;
        made.refused = true;
        TRY(refuse(b, at, "wants keys and values, a list is here"));
        TRY(add_node(b, &made, "", &index));
        skip_container(b);
        return OK;
    }
    TRY(add_node(b, &made, "", &index));
    if (index < 0) skip_container(b);
    else b->level[b->n_levels++] = (struct level){.node = index};
    return OK;
}

static void close_skipped(struct builder *b) {
    if (--b->skip) return;
    if (!b->skipping_key) value_done(b);
    b->skipping_key = false;
}

/* Events inside a container that is dropped. */
static void skip_event(struct builder *b, yaml_event_type_t type) {
    if (type == YAML_MAPPING_START_EVENT || type == YAML_SEQUENCE_START_EVENT) b->skip++;
    if (type == YAML_MAPPING_END_EVENT || type == YAML_SEQUENCE_END_EVENT) close_skipped(b);
    if (b->skip < SKIP_MAX) return;
    b->ended = true;
    b->tree->broken = true;
}

static enum status take_event(struct builder *b, const yaml_event_t *e) {
    if (b->skip) {
        skip_event(b, e->type);
        return OK;
    }
    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (b->n_documents++ == 0) return OK;
        b->ended = true;
        return refuse(b, place_of(e->start_mark), "a second document; a configuration is one");
    case YAML_ALIAS_EVENT:
        return take_alias(b, e);
    case YAML_SCALAR_EVENT:
        return take_scalar(b, e);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        return open_container(b, e);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        b->n_levels--;
        value_done(b);
        return OK;
    case YAML_STREAM_END_EVENT:
        b->ended = true;
        return OK;
    default:
        return OK;
    }
}

/* The place of a byte: errors of libyaml's reader come without a mark. */
static struct place place_of_byte(const char *yaml, int64_t at) {
    struct place p = {.override = -1, .line = 1, .column = 1};
    for (int64_t i = 0; i < at; i++) {
        if (yaml[i] == '\n') {
            p.line++;
            p.column = 1;
        } else if (((unsigned char)yaml[i] & 0xc0) != 0x80) {
            p.column++;
        }
    }
    return p;
}

static enum status syntax_error(struct builder *b, const char *yaml, int64_t bytes) {
    const yaml_parser_t *p = &b->parser;
    struct place at = place_of(p->problem_mark);
    b->tree->broken = true;
    FAIL_UNLESS(p->error != YAML_MEMORY_ERROR, ERR_OOM, "no memory to read the YAML of a configuration");
    if (p->error == YAML_READER_ERROR) {
        const int64_t offset = (int64_t)p->problem_offset;
        at = place_of_byte(yaml, offset < bytes ? offset : bytes);
    }
    const bool quotes = p->context && strstr(p->context, "alias");
    return mistake_add(&b->tree->mistakes, at, "", "YAML syntax: %s%s%s%s", p->problem ? p->problem : "unreadable",
                       p->context ? ", " : "", p->context ? p->context : "",
                       quotes ? "; a symbol or pattern that begins with * needs quotes" : "");
}

static enum status build(struct builder *b, const char *yaml, int64_t bytes) {
    while (!b->ended) {
        yaml_event_t e;
        if (!yaml_parser_parse(&b->parser, &e)) return syntax_error(b, yaml, bytes);
        const enum status st = take_event(b, &e);
        yaml_event_delete(&e);
        TRY(st);
    }
    return OK;
}

/* Report the first tab of each line and make them spaces, so that reading goes on with the columns unchanged. */
static enum status replace_tabs(struct tree *t, char *yaml, int64_t bytes) {
    struct place at = {.override = -1, .line = 1, .column = 1};
    int told = 0; /* the last line reported */
    for (int64_t i = 0; i < bytes; i++) {
        if (yaml[i] == '\t') {
            if (told != at.line) TRY(mistake_add(&t->mistakes, at, "", "a tab; indent and separate with spaces"));
            told = at.line;
            yaml[i] = ' ';
        }
        if (yaml[i] == '\n') {
            at.line++;
            at.column = 1;
        } else if (((unsigned char)yaml[i] & 0xc0) != 0x80) {
            at.column++;
        }
    }
    return OK;
}

/* Whatever the text, overrides need a root to hang from. */
static enum status ensure_root(struct tree *t) {
    const struct place top = {.override = -1, .line = 1, .column = 1};
    const struct node root = {.type = NODE_MAP, .at = top, .key_at = top};
    int index = 0;
    if (t->n) return OK;
    if (!t->broken) TRY(mistake_add(&t->mistakes, top, "", "nothing is here; wants the sections of a configuration"));
    t->broken = true;
    return tree_add(t, -1, &root, "", "", &index);
}

enum status tree_read(struct tree *t, const char *yaml, int64_t bytes) {
    enum status st = OK;
    struct builder b = {.tree = t};
    void *copy = NULL;
    if (bytes >= 3 && !memcmp(yaml, "\xef\xbb\xbf", 3)) {
        yaml += 3;
        bytes -= 3;
    }
    TRY(mem_take(bytes + 1, &copy));
    if (bytes) memcpy(copy, yaml, (size_t)bytes);
    TRY_OUT(replace_tabs(t, copy, bytes));
    if (!yaml_parser_initialize(&b.parser)) FAIL_OUT(ERR_OOM, "no memory to read the YAML of a configuration");
    yaml_parser_set_encoding(&b.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&b.parser, copy, (size_t)bytes);
    TRY_OUT(build(&b, copy, bytes));
    TRY_OUT(ensure_root(t));
out:
    yaml_parser_delete(&b.parser);
    mem_free(copy);
    return st;
}
