/* SPDX-License-Identifier: Apache-2.0 */
#include "data/tokenizer.h"
#include <inttypes.h>
#include <string.h>
#include "base/arena.h"
#include "data/tokenizer_json.h"
#include "data/utf8.h"

#define TOKENIZER_BYTES_MAX ((int64_t)1 << 28)

struct tokenizer {
    int64_t vocab;
    bool bytes; /* no json */
    struct tokenizer_json json;
};
struct tokenizer_scratch {
    struct text repaired, normalized[2];
    struct split_scratch *split;
    struct bpe_scratch *bpe;
};

enum status token_list_room(struct token_list *l, int64_t n) {
    if (n <= l->room - l->n) return OK;
    int64_t room = l->room ? l->room : 1024;
    while (room - l->n < n) room *= 2;
    void *p = l->id;
    TRY(mem_grow(&p, l->n * (int64_t)sizeof *l->id, room * (int64_t)sizeof *l->id));
    l->id = p;
    l->room = room;
    return OK;
}

void token_list_term(struct token_list *l) {
    mem_free(l->id);
    *l = (struct token_list){0};
}

enum status tokenizer_read(struct tokenizer **out, const char *where, const char *text, int64_t bytes) {
    void *mem = NULL;
    *out = NULL;
    TRY(mem_take((int64_t)sizeof(struct tokenizer), &mem));
    struct tokenizer *t = mem;
    const enum status st = tokenizer_json_read(&t->json, where, text, bytes);
    if (st != OK) {
        mem_free(t);
        return st;
    }
    t->vocab = t->json.n_ids;
    *out = t;
    return OK;
}

enum status tokenizer_open(struct tokenizer **out, const char *how) {
    void *mem = NULL;
    char *text = NULL;
    int64_t bytes = 0;
    *out = NULL;
    if (strcmp(how, "bytes") != 0) {
        TRY(file_read(how, TOKENIZER_BYTES_MAX, &text, &bytes));
        const enum status st = tokenizer_read(out, how, text, bytes);
        file_free(text);
        return st;
    }
    TRY(mem_take((int64_t)sizeof(struct tokenizer), &mem));
    *out = mem;
    (*out)->vocab = 256;
    (*out)->bytes = true;
    return OK;
}

void tokenizer_close(struct tokenizer *t) {
    if (!t) return;
    if (!t->bytes) tokenizer_json_term(&t->json);
    mem_free(t);
}

int64_t tokenizer_vocab(const struct tokenizer *t) { return t->vocab; }

enum status tokenizer_scratch_init(struct tokenizer_scratch **out, const struct tokenizer *t) {
    enum status st = OK;
    void *mem = NULL;
    *out = NULL;
    TRY(mem_take((int64_t)sizeof(struct tokenizer_scratch), &mem));
    struct tokenizer_scratch *s = mem;
    if (!t->bytes) {
        TRY_OUT(split_scratch_init(&s->split));
        TRY_OUT(bpe_scratch_init(&s->bpe));
    }
    *out = s;
out:
    if (st != OK) tokenizer_scratch_term(s);
    return st;
}

void tokenizer_scratch_term(struct tokenizer_scratch *s) {
    if (!s) return;
    text_term(&s->repaired);
    text_term(&s->normalized[0]);
    text_term(&s->normalized[1]);
    split_scratch_term(s->split);
    bpe_scratch_term(s->bpe);
    mem_free(s);
}

struct encoding {
    const struct tokenizer_json *t;
    struct tokenizer_scratch *s;
    struct token_list *out;
};

static enum status take_token(void *arg, int32_t id) {
    struct encoding *e = arg;
    TRY(token_list_room(e->out, 1));
    e->out->id[e->out->n++] = id;
    return OK;
}

static enum status take_word(void *arg, const char *word, int64_t n) {
    struct encoding *e = arg;
    return bpe_encode(&e->t->bpe, e->s->bpe, word, n, e->out);
}

static enum status take_normalized(void *arg, const char *text, int64_t n) {
    struct encoding *e = arg;
    return split_words(&e->t->splitter, e->s->split, text, n, take_word, e);
}

static enum status take_raw(void *arg, const char *text, int64_t n) {
    struct encoding *e = arg;
    const char *s = NULL;
    int64_t bytes = 0;
    const struct added_visit visit = {take_token, take_normalized, e};
    TRY(normalizer_run(&e->t->normalizer, text, n, e->s->normalized, &s, &bytes));
    return added_set_visit(&e->t->added_normalized, e->s->split, s, bytes, &visit);
}

static enum status json_encode(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text, int64_t bytes,
                               struct token_list *out) {
    struct encoding e = {&t->json, s, out};
    const struct added_visit visit = {take_token, take_raw, &e};
    if (!utf8_valid(text, bytes)) {
        s->repaired.n = 0;
        TRY(utf8_repair(text, bytes, &s->repaired));
        text = s->repaired.s;
        bytes = s->repaired.n;
    }
    return added_set_visit(&t->json.added_raw, s->split, text, bytes, &visit);
}

static enum status bytes_encode(const char *text, int64_t bytes, struct token_list *out) {
    TRY(token_list_room(out, bytes));
    for (int64_t i = 0; i < bytes; i++) out->id[out->n + i] = (unsigned char)text[i];
    out->n += bytes;
    return OK;
}

enum status tokenizer_encode(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text, int64_t bytes,
                             struct token_list *out) {
    if (t->bytes) return bytes_encode(text, bytes, out);
    if (s) return json_encode(t, s, text, bytes, out);
    TRY(tokenizer_scratch_init(&s, t));
    const enum status st = json_encode(t, s, text, bytes, out);
    tokenizer_scratch_term(s);
    return st;
}

static enum status bytes_decode(const int32_t *ids, int64_t n, struct text *out) {
    for (int64_t i = 0; i < n; i++) {
        FAIL_UNLESS(ids[i] >= 0 && ids[i] < 256, ERR_DATA, "token %" PRId32 " at position %" PRId64 " is not a byte",
                    ids[i], i);
        const char byte = (char)(unsigned char)ids[i];
        TRY(text_add(out, &byte, 1));
    }
    return OK;
}

enum status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, int64_t n, struct text *out) {
    enum status st = OK;
    struct pieces p = {0};
    if (t->bytes) return bytes_decode(ids, n, out);
    for (int64_t i = 0; i < n; i++) {
        const int32_t id = ids[i];
        if (id < 0 || id >= t->vocab || t->json.name[id].n < 0)
            FAIL_OUT(ERR_DATA, "token %" PRId32 " at position %" PRId64 " is not in the vocabulary", id, i);
        TRY_OUT(text_add(&p.text, t->json.names.s + t->json.name[id].at, t->json.name[id].n));
        TRY_OUT(pieces_close(&p));
    }
    TRY_OUT(decoder_run(&t->json.decoder, &p, out));
out:
    pieces_term(&p);
    return st;
}
