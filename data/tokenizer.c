/* SPDX-License-Identifier: Apache-2.0 */
#include "data/tokenizer.h"
#include <inttypes.h>
#include <string.h>
#include "base/arena.h"

struct tokenizer {
    int64_t vocab;
};
struct tokenizer_scratch {
    int unused;
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

enum status tokenizer_open(struct tokenizer **out, const char *how) {
    void *mem = NULL;
    *out = NULL;
    FAIL_UNLESS(!strcmp(how, "bytes"), ERR_CONFIG, "%s: only the tokenizer bytes is there yet", how);
    TRY(mem_take((int64_t)sizeof(struct tokenizer), &mem));
    *out = mem;
    (*out)->vocab = 256;
    return OK;
}

void tokenizer_close(struct tokenizer *t) { mem_free(t); }

int64_t tokenizer_vocab(const struct tokenizer *t) { return t->vocab; }

enum status tokenizer_scratch_init(struct tokenizer_scratch **out, const struct tokenizer *t) {
    void *mem = NULL;
    (void)t;
    *out = NULL;
    TRY(mem_take((int64_t)sizeof(struct tokenizer_scratch), &mem));
    *out = mem;
    return OK;
}

void tokenizer_scratch_term(struct tokenizer_scratch *s) { mem_free(s); }

static enum status bytes_encode(const char *text, int64_t bytes, struct token_list *out) {
    TRY(token_list_room(out, bytes));
    for (int64_t i = 0; i < bytes; i++) out->id[out->n + i] = (unsigned char)text[i];
    out->n += bytes;
    return OK;
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

enum status tokenizer_encode(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text, int64_t bytes,
                             struct token_list *out) {
    (void)t;
    (void)s;
    return bytes_encode(text, bytes, out);
}

enum status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, int64_t n, struct text *out) {
    (void)t;
    return bytes_decode(ids, n, out);
}
