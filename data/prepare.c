/* SPDX-License-Identifier: Apache-2.0 */
#include "data/prepare.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "base/json.h"
#include "base/pool.h"
#include "data/idx.h"

enum { WINDOW_ITEMS = 256, ITEM_BYTES = 256 << 10, WINDOW_BYTES = 32 << 20, ERROR_BYTES = 512 };

enum shape { SHAPE_WHOLE, SHAPE_LINES, SHAPE_JSONL };

/* A stretch of one file, whole documents; and what became of it. */
struct item {
    const char *path;
    enum shape shape;
    struct file_map whole; /* SHAPE_WHOLE: the item's own mapping */
    const char *text;
    int64_t bytes, line; /* line: number of the first one, from 1 */
    struct token_list tokens;
    struct token_list lengths; /* of the documents that have text; two ids a length: low and high 31 bits */
    int64_t n_empty;
    enum status st;
    char error[ERROR_BYTES];
};

struct prepare {
    const struct prepare_spec *spec;
    const struct tokenizer *tokenizer;
    struct tokenizer_scratch **scratch; /* one a thread */
    struct item *item;
    int n_items;
    int at_path;         /* the next file to open                                     */
    struct file_map map; /* of the file of lines that is being cut                    */
    int64_t map_at, line;
    struct token_writer *writer;
    struct prepare_counts counts;
};

static enum status push_length(struct token_list *l, int64_t n) {
    TRY(token_list_room(l, 2));
    l->id[l->n++] = (int32_t)(n & INT32_MAX);
    l->id[l->n++] = (int32_t)(n >> 31);
    return OK;
}

static int64_t length_at(const struct token_list *l, int64_t i) {
    return l->id[2 * i] | (int64_t)l->id[2 * i + 1] << 31;
}

static enum status add_document(const struct prepare *p, struct item *it, int worker, const char *text, int64_t bytes) {
    if (bytes == 0) {
        it->n_empty++;
        return OK;
    }
    const int64_t before = it->tokens.n;
    TRY(tokenizer_encode(p->tokenizer, p->scratch[worker], text, bytes, &it->tokens));
    if (p->spec->end_token >= 0) {
        TRY(token_list_room(&it->tokens, 1));
        it->tokens.id[it->tokens.n++] = (int32_t)p->spec->end_token;
    }
    return push_length(&it->lengths, it->tokens.n - before);
}

static enum status add_json(const struct prepare *p, struct item *it, int worker, const char *text, int64_t bytes,
                            int64_t line) {
    char where[PATH_BYTES + 32];
    json_t *root = NULL;
    snprintf(where, sizeof where, "%s:%" PRId64, it->path, line);
    TRY(json_read_text(where, text, bytes, &root));
    enum status st = OK;
    const json_t *v = json_object_get(root, p->spec->field);
    if (!json_is_string(v))
        st = status_fail(ERR_DATA, __FILE__, __LINE__, "%s: no text under \"%s\": name the field with --field", where,
                         p->spec->field);
    else st = add_document(p, it, worker, json_string_value(v), (int64_t)json_string_length(v));
    json_decref(root);
    return st;
}

static bool blank(const char *s, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r') return false;
    return true;
}

static enum status add_lines(const struct prepare *p, struct item *it, int worker) {
    const char *end = it->text + it->bytes;
    int64_t line = it->line;
    for (const char *s = it->text; s < end; line++) {
        const char *stop = memchr(s, '\n', (size_t)(end - s));
        const char *next = stop ? stop + 1 : end;
        int64_t n = (stop ? stop : end) - s;
        if (it->shape == SHAPE_LINES) {
            if (stop && n > 0 && s[n - 1] == '\r') n--;
            TRY(add_document(p, it, worker, s, n));
        } else if (blank(s, n)) it->n_empty++;
        else TRY(add_json(p, it, worker, s, n, line));
        s = next;
    }
    return OK;
}

/* Failures are recorded by thread, so the text travels in the item. */
static void work(void *arg, int64_t index, int worker) {
    const struct prepare *p = arg;
    struct item *it = &p->item[index];
    it->st = it->shape == SHAPE_WHOLE ? add_document(p, it, worker, it->text, it->bytes) : add_lines(p, it, worker);
    if (it->st == OK) return;
    const bool named = strstr(status_text(), it->path) != NULL;
    snprintf(it->error, sizeof it->error, "%s%s%s", named ? "" : it->path, named ? "" : ": ", status_text());
}

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* Whole lines, some ITEM_BYTES of them, from the file that is being cut. */
static void cut_lines(struct prepare *p, struct item *it) {
    if (p->map.bytes == 0) return; /* an empty file: its mapping is NULL */
    const char *text = (const char *)p->map.data + p->map_at;
    const int64_t left = p->map.bytes - p->map_at;
    int64_t n = left;
    if (left > ITEM_BYTES) {
        const char *stop = memchr(text + ITEM_BYTES, '\n', (size_t)(left - ITEM_BYTES));
        if (stop) n = stop + 1 - text;
    }
    it->text = text;
    it->bytes = n;
    it->line = p->line;
    p->map_at += n;
    for (const char *s = text, *stop; (stop = memchr(s, '\n', (size_t)(text + n - s))); s = stop + 1) p->line++;
}

static void reset_item(struct item *it) {
    file_map_close(&it->whole);
    if (it->tokens.room > 4 * ITEM_BYTES) token_list_term(&it->tokens); /* what a long document left must not stay */
    it->tokens.n = it->lengths.n = it->n_empty = 0;
    it->text = NULL;
    it->bytes = 0;
}

static enum status next_path(struct prepare *p, struct item *it) {
    it->path = p->spec->paths[p->at_path];
    it->shape = ends_with(it->path, ".jsonl") ? SHAPE_JSONL : p->spec->lines ? SHAPE_LINES : SHAPE_WHOLE;
    p->at_path++;
    if (it->shape == SHAPE_WHOLE) {
        TRY(file_map_open(&it->whole, it->path));
        it->text = (const char *)it->whole.data;
        it->bytes = it->whole.bytes;
        return OK;
    }
    file_map_close(&p->map);
    p->map_at = 0;
    p->line = 1;
    return file_map_open(&p->map, it->path);
}

/* Items for one window.  A file of lines that is used up ends the window, since its mapping serves all of them. */
static enum status fill_window(struct prepare *p) {
    int64_t bytes = 0;
    p->n_items = 0;
    while (p->n_items < WINDOW_ITEMS && bytes < WINDOW_BYTES) {
        const bool cutting = p->map_at < p->map.bytes;
        if (!cutting && p->at_path == p->spec->n_paths) break;
        struct item *it = &p->item[p->n_items];
        reset_item(it);
        if (!cutting) TRY(next_path(p, it));
        else {
            it->path = p->spec->paths[p->at_path - 1];
            it->shape = ends_with(it->path, ".jsonl") ? SHAPE_JSONL : SHAPE_LINES;
        }
        if (it->shape != SHAPE_WHOLE) cut_lines(p, it);
        bytes += it->bytes;
        p->n_items++;
        if (it->shape != SHAPE_WHOLE && p->map_at == p->map.bytes) break;
    }
    return OK;
}

static enum status write_window(struct prepare *p) {
    for (int i = 0; i < p->n_items; i++) {
        const struct item *it = &p->item[i];
        FAIL_UNLESS(it->st == OK, it->st, "%s", it->error);
        const int32_t *tokens = it->tokens.id;
        for (int64_t d = 0; d < it->lengths.n / 2; d++) {
            const int64_t n = length_at(&it->lengths, d);
            TRY(token_writer_add(p->writer, tokens, n));
            tokens += n;
        }
        p->counts.documents += it->lengths.n / 2;
        p->counts.empty += it->n_empty;
        p->counts.tokens += it->tokens.n;
        p->counts.bytes += it->bytes;
    }
    return OK;
}

static enum status run_windows(struct prepare *p, struct pool *pool) {
    for (;;) {
        TRY(fill_window(p));
        if (p->n_items == 0) break;
        pool_run(pool, p->n_items, work, p);
        TRY(write_window(p));
        if (p->spec->progress) p->spec->progress(p->spec->progress_arg, &p->counts);
    }
    FAIL_UNLESS(p->counts.documents > 0, ERR_DATA,
                "%s%s: no text at all, %" PRId64 " empty documents: nothing to write", p->spec->paths[0],
                p->spec->n_paths > 1 ? " and the files behind it" : "", p->counts.empty);
    return OK;
}

static enum status prepare_init(struct prepare *p, struct pool **pool) {
    void *mem = NULL;
    TRY(pool_init(pool, p->spec->n_threads));
    TRY(mem_take(pool_size(*pool) * (int64_t)sizeof *p->scratch, &mem));
    p->scratch = mem;
    for (int i = 0; i < pool_size(*pool); i++) TRY(tokenizer_scratch_init(&p->scratch[i], p->tokenizer));
    TRY(mem_take(WINDOW_ITEMS * (int64_t)sizeof *p->item, &mem));
    p->item = mem;
    return token_writer_open(&p->writer, p->spec->prefix, tokenizer_vocab(p->tokenizer));
}

enum status prepare_run(const struct tokenizer *t, const struct prepare_spec *spec, struct prepare_counts *counts) {
    enum status st = OK;
    struct pool *pool = NULL;
    struct prepare p = {.spec = spec, .tokenizer = t};
    FAIL_UNLESS(spec->n_paths > 0, ERR_ARG, "no texts were given");
    FAIL_UNLESS(spec->end_token < tokenizer_vocab(t), ERR_CONFIG,
                "end token %" PRId64 " is outside the vocabulary of %" PRId64 " tokens", spec->end_token,
                tokenizer_vocab(t));
    TRY_OUT(prepare_init(&p, &pool));
    TRY_OUT(run_windows(&p, pool));
    struct token_writer *w = p.writer;
    p.writer = NULL;
    TRY_OUT(token_writer_close(w, true));
    *counts = p.counts;
out:
    token_writer_close(p.writer, false);
    for (int i = 0; p.item && i < WINDOW_ITEMS; i++) {
        file_map_close(&p.item[i].whole);
        token_list_term(&p.item[i].tokens);
        token_list_term(&p.item[i].lengths);
    }
    for (int i = 0; p.scratch && i < pool_size(pool); i++) tokenizer_scratch_term(p.scratch[i]);
    file_map_close(&p.map);
    mem_free(p.item);
    mem_free(p.scratch);
    pool_term(pool);
    return st;
}
