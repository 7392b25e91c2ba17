/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/config_tree.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"

/* One line whatever it quotes: control characters of a file must not reach a terminal. */
static void make_plain(struct text *line) {
    for (int64_t i = 0; i < line->n; i++)
        if ((unsigned char)line->s[i] < ' ' || line->s[i] == 0x7f) line->s[i] = '?';
}

static enum status print_place(const struct mistakes *m, struct place at, struct text *out) {
    if (at.override >= 0) return text_print(out, "%.200s: ", m->from->overrides[at.override]);
    if (at.line == 0) return text_print(out, "%s: ", m->name);
    return text_print(out, "%s:%d:%d: ", m->name, at.line, at.column);
}

enum status mistake_add(struct mistakes *m, struct place at, const char *path, const char *fmt, ...) {
    char reason[700];
    if (m->n == MISTAKES_MAX) {
        m->n_more++;
        return OK;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(reason, sizeof reason, fmt, ap);
    va_end(ap);
    if (m->n == m->room) {
        const int room = m->room ? 2 * m->room : 8;
        void *p = m->list;
        TRY(mem_grow(&p, m->room * (int64_t)sizeof *m->list, room * (int64_t)sizeof *m->list));
        m->list = p;
        m->room = room;
    }
    struct mistake *x = &m->list[m->n++];
    x->place = at;
    TRY(print_place(m, at, &x->line));
    TRY(text_print(&x->line, "%s%s%s", path, *path ? ": " : "", reason));
    make_plain(&x->line);
    return OK;
}

static bool place_before(struct place a, struct place b) {
    if (a.override != b.override) return a.override < b.override;
    return a.line != b.line ? a.line < b.line : a.column < b.column;
}

enum status mistakes_print(const struct mistakes *m, struct text *out) {
    int order[MISTAKES_MAX];
    for (int i = 0; i < m->n; i++) {
        int j = i;
        for (; j > 0 && place_before(m->list[i].place, m->list[order[j - 1]].place); j--) order[j] = order[j - 1];
        order[j] = i;
    }
    for (int i = 0; i < m->n; i++) TRY(text_print(out, "%s\n", m->list[order[i]].line.s));
    if (m->n_more) TRY(text_print(out, "%s: and %" PRId64 " more\n", m->name, m->n_more));
    return OK;
}

void mistakes_term(struct mistakes *m) {
    for (int i = 0; i < m->n; i++) text_term(&m->list[i].line);
    mem_free(m->list);
    m->list = NULL;
    m->n = m->room = 0;
}

static enum status keep_text(struct tree *t, const char *text, int64_t *offset) {
    *offset = t->texts.n;
    return text_add(&t->texts, text, (int64_t)strlen(text) + 1);
}

enum status tree_add(struct tree *t, int parent, const struct node *n, const char *key, const char *text, int *index) {
    struct node made = *n;
    if (t->n == t->room) {
        const int room = t->room ? 2 * t->room : 64;
        void *p = t->nodes;
        TRY(mem_grow(&p, t->room * (int64_t)sizeof *t->nodes, room * (int64_t)sizeof *t->nodes));
        t->nodes = p;
        t->room = room;
    }
    TRY(keep_text(t, key, &made.key));
    TRY(keep_text(t, text, &made.text));
    made.first = made.last = made.next = -1;
    made.n_children = 0;
    *index = t->n;
    t->nodes[t->n++] = made;
    if (parent < 0) return OK;
    struct node *up = &t->nodes[parent];
    if (up->last >= 0) t->nodes[up->last].next = *index;
    else up->first = *index;
    up->last = *index;
    up->n_children++;
    return OK;
}

const struct node *tree_first(const struct tree *t, const struct node *parent) {
    return parent && parent->first >= 0 ? &t->nodes[parent->first] : NULL;
}

const struct node *tree_next(const struct tree *t, const struct node *n) {
    return n->next >= 0 ? &t->nodes[n->next] : NULL;
}

const char *tree_key(const struct tree *t, const struct node *n) { return t->texts.s + n->key; }
const char *tree_text(const struct tree *t, const struct node *n) { return t->texts.s + n->text; }

const struct node *tree_child(const struct tree *t, const struct node *parent, const char *key) {
    const struct node *found = NULL;
    for (const struct node *n = tree_first(t, parent); n; n = tree_next(t, n))
        if (!strcmp(tree_key(t, n), key)) found = n;
    return found;
}

void tree_term(struct tree *t) {
    mem_free(t->nodes);
    text_term(&t->texts);
    mistakes_term(&t->mistakes);
    *t = (struct tree){0};
}

/* Bytes of the UTF-8 sequence at s; 0 if it is none (also overlong, surrogates, beyond U+10FFFF). */
static int utf8_bytes(const unsigned char *s) {
    static const unsigned char least[5] = {0, 0, 0, 0xa0, 0x90}; /* of the second byte after e0 and f0 */
    if (s[0] < 0x80) return 1;
    const int n = s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((s[0] == 0xe0 || s[0] == 0xf0) && s[1] < least[n]) return 0;
    if ((s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f)) return 0;
    return n;
}

static bool valid_utf8(const char *text) {
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        const int n = utf8_bytes(s);
        if (!n) return false;
        s += n;
    }
    return true;
}

/* The mapping of this name below parent, made if there is none. */
static enum status map_below(struct tree *t, int *parent, const char *key, struct place at) {
    for (int i = t->nodes[*parent].first; i >= 0; i = t->nodes[i].next)
        if (t->nodes[i].type == NODE_MAP && !t->nodes[i].refused && !strcmp(tree_key(t, &t->nodes[i]), key)) {
            *parent = i;
            return OK;
        }
    const struct node map = {.type = NODE_MAP, .at = at, .key_at = at};
    return tree_add(t, *parent, &map, key, "", parent);
}

enum status tree_override(struct tree *t, int index) {
    const char *typed = t->mistakes.from->overrides[index];
    const struct place at = {.override = index};
    const char *equal = strchr(typed, '=');
    char path[KEY_PATH];
    if (!valid_utf8(typed)) return mistake_add(&t->mistakes, at, "", "is not UTF-8");
    if (!equal || equal == typed) return mistake_add(&t->mistakes, at, "", "wants key=value");
    if (equal - typed >= (int64_t)sizeof path) return mistake_add(&t->mistakes, at, "", "no key is that long");
    snprintf(path, sizeof path, "%.*s", (int)(equal - typed), typed);
    int parent = 0, leaf = 0, level = 1;
    char *key = path;
    for (char *dot = strchr(key, '.'); dot; dot = strchr(key, '.')) {
        if (++level > LEVELS_MAX) return mistake_add(&t->mistakes, at, "", "more than %d levels of keys", LEVELS_MAX);
        *dot = '\0';
        TRY(map_below(t, &parent, key, at));
        key = dot + 1;
    }
    const struct node value = {.type = NODE_SCALAR, .at = at, .key_at = at};
    return tree_add(t, parent, &value, key, equal + 1, &leaf);
}
