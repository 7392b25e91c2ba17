/* SPDX-License-Identifier: Apache-2.0 */
#include "data/added.h"
#include <string.h>
#include "base/arena.h"
#include "data/split_pattern.h"

static enum status grow(void **p, int64_t n, int64_t *room, int64_t size) {
    if (n < *room) return OK;
    const int64_t wanted = *room ? 2 * *room : 64;
    TRY(mem_grow(p, *room * size, wanted * size));
    *room = wanted;
    return OK;
}

static enum status new_node(struct added_set *a, unsigned char byte, int32_t *out) {
    void *p = a->node;
    TRY(grow(&p, a->n_nodes, &a->nodes_room, (int64_t)sizeof *a->node));
    a->node = p;
    FAIL_UNLESS(a->n_nodes < INT32_MAX, ERR_DATA, "added_tokens: too many bytes in all");
    a->node[a->n_nodes] = (struct added_node){.token = -1, .byte = byte};
    *out = (int32_t)a->n_nodes++;
    return OK;
}

static enum status compile_class(struct split_step *step, const char *class) {
    if (step->code) return OK;
    return split_compile(step, "class", class, (int64_t)strlen(class), false);
}

/* Most files have no token that asks for a class. */
static enum status compile_classes(struct added_set *a, const struct added_token *t) {
    if (t->lstrip || t->rstrip) TRY(compile_class(&a->space, "\\s"));
    if (t->single_word) TRY(compile_class(&a->word, "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]"));
    return OK;
}

enum status added_set_init(struct added_set *a) {
    int32_t root;
    *a = (struct added_set){0};
    return new_node(a, 0, &root);
}

void added_set_term(struct added_set *a) {
    struct splitter classes = {2, {a->space, a->word}};
    splitter_term(&classes);
    mem_free(a->node);
    mem_free(a->token);
    *a = (struct added_set){0};
}

static int32_t find_child(const struct added_set *a, int32_t node, unsigned char byte) {
    int32_t c = a->node[node].child;
    while (c != 0 && a->node[c].byte != byte) c = a->node[c].sibling;
    return c;
}

enum status added_set_put(struct added_set *a, const char *content, int64_t n, struct added_token token) {
    int32_t at = 0;
    ASSERT(n > 0);
    TRY(compile_classes(a, &token));
    for (int64_t i = 0; i < n; i++) {
        const unsigned char byte = (unsigned char)content[i];
        int32_t c = find_child(a, at, byte);
        if (c == 0) {
            TRY(new_node(a, byte, &c));
            a->node[c].sibling = a->node[at].child;
            a->node[at].child = c;
        }
        at = c;
    }
    if (a->node[at].token >= 0) return OK; /* two tokens that normalize to one text: the first one counts */
    void *p = a->token;
    TRY(grow(&p, a->n_tokens, &a->tokens_room, (int64_t)sizeof *a->token));
    a->token = p;
    a->node[at].token = (int32_t)a->n_tokens;
    a->token[a->n_tokens++] = token;
    a->begins[(unsigned char)content[0]] = true;
    return OK;
}

/* The longest token that begins at s; its bytes, or 0. */
static int64_t longest(const struct added_set *a, const char *s, int64_t n, int32_t *token) {
    int64_t best = 0;
    int32_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        at = find_child(a, at, (unsigned char)s[i]);
        if (at == 0) break;
        if (a->node[at].token >= 0) {
            *token = a->node[at].token;
            best = i + 1;
        }
    }
    return best;
}

static int64_t char_before(const char *text, int64_t at) {
    int64_t begin = at - 1;
    while (((unsigned char)text[begin] & 0xc0) == 0x80) begin--;
    return begin;
}

static int64_t char_behind(const char *text, int64_t at, int64_t n) {
    int64_t end = at + 1;
    while (end < n && ((unsigned char)text[end] & 0xc0) == 0x80) end++;
    return end;
}

static bool touches_word(const struct added_set *a, struct split_scratch *scratch, const char *text, int64_t n,
                         int64_t begin, int64_t end) {
    if (begin > 0) {
        const int64_t b = char_before(text, begin);
        if (split_is(&a->word, scratch, text + b, begin - b)) return true;
    }
    return end < n && split_is(&a->word, scratch, text + end, char_behind(text, end, n) - end);
}

/* Widen [begin, end) over white space as the token asks, on the left no further than `least`. */
static void strip(const struct added_set *a, struct split_scratch *scratch, const struct added_token *t,
                  const char *text, int64_t n, int64_t least, int64_t *begin, int64_t *end) {
    while (t->lstrip && *begin > least) {
        const int64_t b = char_before(text, *begin);
        if (!split_is(&a->space, scratch, text + b, *begin - b)) break;
        *begin = b;
    }
    while (t->rstrip && *end < n) {
        const int64_t e = char_behind(text, *end, n);
        if (!split_is(&a->space, scratch, text + *end, e - *end)) break;
        *end = e;
    }
}

enum status added_set_visit(const struct added_set *a, struct split_scratch *scratch, const char *text, int64_t n,
                            const struct added_visit *visit) {
    int64_t done = 0; /* what lies before is handed on */
    for (int64_t at = 0; a->n_tokens > 0 && at < n;) {
        int32_t which = -1;
        while (at < n && !a->begins[(unsigned char)text[at]]) at++;
        const int64_t bytes = at < n ? longest(a, text + at, n - at, &which) : 0;
        if (bytes == 0) {
            at++;
            continue;
        }
        const struct added_token *t = &a->token[which];
        int64_t begin = at, end = at + bytes;
        at = end;
        if (t->single_word && touches_word(a, scratch, text, n, begin, end)) continue;
        strip(a, scratch, t, text, n, done, &begin, &end);
        if (done < begin) TRY(visit->between(visit->arg, text + done, begin - done));
        TRY(visit->token(visit->arg, t->id));
        done = end;
    }
    return done < n ? visit->between(visit->arg, text + done, n - done) : OK;
}
