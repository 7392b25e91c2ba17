/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "data/tokenizer_json.h"
#include "data/utf8.h"

/* Ids may leave gaps, but a file of a few bytes must not ask for gigabytes. */
static int64_t ids_max(int64_t n_tokens) { return 2 * n_tokens + 65536; }

static enum status read_vocab(struct tokenizer_json *t, const char *where, const json_t *vocab) {
    const char *key;
    json_t *value;
    const int64_t n = (int64_t)json_object_size(vocab);
    void *mem = NULL;
    if (n == 0) return not_understood(where, "model.vocab", vocab);
    json_object_foreach((json_t *)(uintptr_t)vocab, key, value) {
        const int64_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        FAIL_UNLESS(id >= 0 && id < ids_max(n), ERR_DATA,
                    "%s: model.vocab: the id of '%s' is not an integer in [0, %" PRId64 ")", where, key, ids_max(n));
        if (id >= t->n_ids) t->n_ids = id + 1;
    }
    TRY(mem_take(t->n_ids * (int64_t)sizeof *t->name, &mem));
    t->name = mem;
    for (int64_t i = 0; i < t->n_ids; i++) t->name[i].n = -1;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, value) {
        const int64_t id = json_integer_value(value), bytes = (int64_t)strlen(key);
        FAIL_UNLESS(t->name[id].n < 0, ERR_DATA, "%s: model.vocab: '%s' has the id %" PRId64 " of another token", where,
                    key, id);
        t->name[id] = (struct token_name){t->names.n, bytes};
        TRY(text_add(&t->names, key, bytes));
    }
    return OK;
}

/* A token as the bytes that its characters stand for; false if one stands for none. */
static enum status as_bytes(const struct bpe *b, const char *s, int64_t n, struct text *out, bool *all) {
    *all = true;
    for (int64_t at = 0; at < n;) {
        uint32_t code;
        at += utf8_next(s + at, n - at, &code);
        int byte = 0;
        while (byte < 256 && b->byte_char[byte] != code) byte++;
        *all = byte < 256;
        if (!*all) return OK;
        const char c = (char)byte;
        TRY(text_add(out, &c, 1));
    }
    return OK;
}

static enum status put_word(struct bpe *b, const char *s, int64_t n, int32_t id) {
    struct text bytes = {0};
    bool all = true;
    if (!b->byte_level) return word_map_put(&b->words, s, n, id);
    enum status st = as_bytes(b, s, n, &bytes, &all);
    if (st == OK && all && bytes.n > 0) st = word_map_put(&b->words, bytes.s, bytes.n, id);
    text_term(&bytes);
    return st;
}

static enum status index_tokens(struct tokenizer_json *t) {
    struct bpe *b = &t->bpe;
    byte_chars(b->byte_char);
    for (int64_t id = 0; id < t->n_ids; id++) {
        const char *s = t->names.s + t->name[id].at;
        const int64_t n = t->name[id].n;
        uint32_t code = 0;
        if (n <= 0) continue;
        if (utf8_next(s, n, &code) == n) TRY(pair_map_put(&b->units, 0, code, 0, (int32_t)id));
        if (b->ignore_merges) TRY(put_word(b, s, n, (int32_t)id));
    }
    for (int i = 0; i < 256; i++) {
        const struct pair_slot *u = pair_map_find(&b->units, 0, b->byte_char[i]);
        b->byte_id[i] = u ? u->id : -1;
    }
    return OK;
}

struct merge {
    const char *left, *right;
    int64_t n_left, n_right;
};

/* ["a", "b"], or "a b" in older files. */
static bool split_merge(const json_t *node, struct merge *m) {
    if (json_is_array(node) && json_array_size(node) == 2) {
        const json_t *left = json_array_get(node, 0), *right = json_array_get(node, 1);
        *m = (struct merge){json_string_value(left), json_string_value(right), (int64_t)json_string_length(left),
                            (int64_t)json_string_length(right)};
    } else if (json_is_string(node)) {
        const char *s = json_string_value(node), *space = strchr(s, ' ');
        const int64_t n = (int64_t)json_string_length(node);
        if (!space || strchr(space + 1, ' ')) return false;
        *m = (struct merge){s, space + 1, space - s, n - (space + 1 - s)};
    } else return false;
    return m->n_left > 0 && m->n_right > 0;
}

static int32_t id_of(const json_t *vocab, const char *s, int64_t n) {
    const json_t *v = json_object_getn(vocab, s, (size_t)n);
    return v ? (int32_t)json_integer_value(v) : -1;
}

static uint32_t last_char(const char *s, int64_t n) {
    int64_t at = n - 1;
    uint32_t code;
    while (((unsigned char)s[at] & 0xc0) == 0x80) at--;
    utf8_next(s + at, n - at, &code);
    return code;
}

static enum status read_merge(struct tokenizer_json *t, const char *where, const json_t *vocab, int32_t rank,
                              const json_t *node, struct text *joined) {
    struct merge m = {0};
    char path[40];
    uint32_t first;
    snprintf(path, sizeof path, "model.merges[%" PRId32 "]", rank);
    if (!split_merge(node, &m)) return not_understood(where, path, node);
    const uint32_t last = last_char(m.left, m.n_left);
    utf8_next(m.right, m.n_right, &first);
    joined->n = 0;
    TRY(text_add(joined, m.left, m.n_left));
    TRY(text_add(joined, m.right, m.n_right));
    const int32_t left = id_of(vocab, m.left, m.n_left), right = id_of(vocab, m.right, m.n_right);
    const int32_t made = id_of(vocab, joined->s, joined->n);
#ifndef BATON_PLANT_TOKENIZER /* planted: this check left out, for the fuzzer to find */
    FAIL_UNLESS(left >= 0 && right >= 0 && made >= 0, ERR_DATA, "%s: %s: '%s' is not in the vocabulary", where, path,
                left < 0    ? m.left
                : right < 0 ? m.right
                            : joined->s);
#endif
    TRY(pair_map_put(&t->bpe.joints, last, first, 0, 0));
    return pair_map_put(&t->bpe.merges, (uint32_t)left, (uint32_t)right, rank, made);
}

static enum status read_merges(struct tokenizer_json *t, const char *where, const json_t *vocab, const json_t *merges) {
    enum status st = OK;
    struct text joined = {0};
    if (!json_is_array(merges)) return not_understood(where, "model.merges", merges);
    for (size_t i = 0; st == OK && i < json_array_size(merges); i++)
        st = read_merge(t, where, vocab, (int32_t)i, json_array_get(merges, i), &joined);
    text_term(&joined);
    return st;
}

static enum status read_fallback(struct tokenizer_json *t, const json_t *vocab) {
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        t->bpe.fallback_id[i] = id_of(vocab, name, 6);
    }
    return OK;
}

/* Fields that change the result and are not here: they must be absent, null, or without effect. */
static enum status read_switched_off(const char *where, const json_t *node) {
    static const char *const texts[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *dropout = json_object_get(node, "dropout");
    if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0.0))
        return not_understood(where, "model.dropout", dropout);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const json_t *v = json_object_get(node, texts[i]);
        if (v && !json_is_null(v) && !(json_is_string(v) && json_string_length(v) == 0)) {
            char path[64];
            snprintf(path, sizeof path, "model.%s", texts[i]);
            return not_understood(where, path, v);
        }
    }
    return OK;
}

enum status tokenizer_json_model(struct tokenizer_json *t, const char *where, const json_t *node) {
    struct bpe *b = &t->bpe;
    const char *unk = NULL;
    TRY(only_keys(where, "model", node,
                  "type|dropout|unk_token|continuing_subword_prefix|end_of_word_suffix|fuse_unk|byte_fallback|"
                  "ignore_merges|vocab|merges"));
    const json_t *kind = json_object_get(node, "type"), *vocab = json_object_get(node, "vocab");
    if (kind && (!json_is_string(kind) || strcmp(json_string_value(kind), "BPE") != 0))
        return not_understood(where, "model.type", kind);
    TRY(read_switched_off(where, node));
    TRY(json_bool_or(where, node, "fuse_unk", false, &b->fuse_unk));
    TRY(json_bool_or(where, node, "byte_fallback", false, &b->byte_fallback));
    TRY(json_bool_or(where, node, "ignore_merges", false, &b->ignore_merges));
    TRY(json_text_or(where, node, "unk_token", NULL, &unk));
    if (!json_is_object(vocab)) return not_understood(where, "model.vocab", vocab);
    TRY(read_vocab(t, where, vocab));
    TRY(index_tokens(t));
    TRY(read_fallback(t, vocab));
    const int32_t unk_id = unk ? id_of(vocab, unk, (int64_t)strlen(unk)) : -1;
    b->unk = !unk ? UNK_NONE : unk_id < 0 ? UNK_ABSENT : unk_id;
    return read_merges(t, where, vocab, json_object_get(node, "merges"));
}
