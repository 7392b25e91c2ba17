/* SPDX-License-Identifier: Apache-2.0 */
#include "data/tokenizer_json.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"

enum status not_understood(const char *where, const char *path, const json_t *value) {
    char shown[160] = {0}; /* a value that does not fit is cut where its last whole part ends */
    const size_t n = value ? json_dumpb(value, shown, sizeof shown, JSON_ENCODE_ANY | JSON_COMPACT) : 0;
    const size_t fits = n < sizeof shown ? n : sizeof shown;
    FAIL(
        ERR_DATA,
        "%s: \"%s\": %.*s%s is not understood: this program tokenizes BPE of the byte-level and the byte-fallback kind",
        where, path, value ? (int)fits : 7, value ? shown : "nothing", n > fits ? "..." : "");
}

static bool in_list(const char *key, const char *list) {
    const size_t n = strlen(key);
    for (const char *p = list; n > 0 && (p = strstr(p, key)); p += n)
        if ((p == list || p[-1] == '|') && (p[n] == '|' || p[n] == '\0')) return true;
    return false;
}

enum status only_keys(const char *where, const char *path, const json_t *node, const char *keys) {
    const char *key;
    json_t *value;
    if (!json_is_object(node)) return not_understood(where, path, node);
    json_object_foreach((json_t *)(uintptr_t)node, key, value) {
        char inner[160];
        snprintf(inner, sizeof inner, "%s%s%s", path, *path ? "." : "", key);
        if (!in_list(key, keys)) return not_understood(where, inner, value);
    }
    return OK;
}

static enum status name_put(struct tokenizer_json *t, int64_t id, const char *s, int64_t n) {
    ASSERT(id <= t->n_ids);
    if (id == t->n_ids) {
        void *p = t->name;
        TRY(mem_grow(&p, t->n_ids * (int64_t)sizeof *t->name, (t->n_ids + 1) * (int64_t)sizeof *t->name));
        t->name = p;
        t->n_ids++;
    }
    t->name[id] = (struct token_name){t->names.n, n};
    return text_add(&t->names, s, n);
}

/* What is known while the list of added tokens is read. */
struct added_reader {
    struct tokenizer_json *t;
    const char *where;
    const json_t *vocab;
    struct word_map seen; /* contents of the tokens before */
    int64_t next_id;      /* of the next token that the vocabulary lacks */
};

/* The library numbers added tokens itself: the vocabulary's id where the content is there, else the next number. */
static enum status added_id(struct added_reader *r, const char *path, const char *content, int64_t n, int64_t written,
                            int32_t *id) {
    const json_t *in_vocab = json_object_getn(r->vocab, content, (size_t)n);
    int64_t wanted = in_vocab ? json_integer_value(in_vocab) : word_map_find(&r->seen, content, n);
    const bool is_new = wanted < 0;
    if (is_new) wanted = r->next_id++;
    FAIL_UNLESS(wanted == written, ERR_DATA,
                "%s: %s '%s' has the id %" PRId64 ", but by the vocabulary and the order of the list it is %" PRId64,
                r->where, path, content, written, wanted);
    *id = (int32_t)wanted;
    TRY(word_map_put(&r->seen, content, n, *id));
    if (!is_new) return OK;
    FAIL_UNLESS(wanted >= r->t->n_ids || r->t->name[wanted].n < 0, ERR_DATA,
                "%s: %s '%s' gets the id %" PRId64 ", which the vocabulary has for another token", r->where, path,
                content, wanted);
    return name_put(r->t, wanted, content, n);
}

/* The library also decodes such a token as its normalized text. */
static enum status add_normalized(struct tokenizer_json *t, const char *content, int64_t n, struct added_token token) {
    enum status st = OK;
    struct text buffer[2] = {{0}, {0}};
    const char *s = NULL;
    int64_t bytes = 0;
    TRY_OUT(normalizer_run(&t->normalizer, content, n, buffer, &s, &bytes));
    if (bytes == 0) goto out;
    t->name[token.id] = (struct token_name){t->names.n, bytes};
    TRY_OUT(text_add(&t->names, s, bytes));
    TRY_OUT(added_set_put(&t->added_normalized, s, bytes, token));
out:
    text_term(&buffer[0]);
    text_term(&buffer[1]);
    return st;
}

static enum status read_added(struct added_reader *r, int64_t i, const json_t *node) {
    char path[32];
    struct added_token token = {0};
    int64_t id = 0;
    bool normalized = true, special = false;
    snprintf(path, sizeof path, "added_tokens[%" PRId64 "]", i);
    TRY(only_keys(r->where, path, node, "id|content|single_word|lstrip|rstrip|normalized|special"));
    TRY(json_int(r->where, node, "id", &id));
    TRY(json_bool_or(r->where, node, "single_word", false, &token.single_word));
    TRY(json_bool_or(r->where, node, "lstrip", false, &token.lstrip));
    TRY(json_bool_or(r->where, node, "rstrip", false, &token.rstrip));
    TRY(json_bool_or(r->where, node, "special", false, &special));
    TRY(json_bool_or(r->where, node, "normalized", !special, &normalized));
    const json_t *content = json_object_get(node, "content");
    const int64_t n = (int64_t)json_string_length(content);
    if (n == 0) return not_understood(r->where, path, node);
    const char *s = json_string_value(content);
    TRY(added_id(r, path, s, n, id, &token.id));
    return normalized ? add_normalized(r->t, s, n, token) : added_set_put(&r->t->added_raw, s, n, token);
}

static enum status read_added_tokens(struct tokenizer_json *t, const char *where, const json_t *root) {
    enum status st = OK;
    const json_t *list = json_object_get(root, "added_tokens");
    const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
    struct added_reader r = {.t = t, .where = where, .vocab = vocab, .next_id = (int64_t)json_object_size(vocab)};
    TRY(added_set_init(&t->added_raw));
    TRY(added_set_init(&t->added_normalized));
    if (!list || json_is_null(list)) return OK;
    if (!json_is_array(list)) return not_understood(where, "added_tokens", list);
    for (size_t i = 0; st == OK && i < json_array_size(list); i++)
        st = read_added(&r, (int64_t)i, json_array_get(list, i));
    mem_free(r.seen.slot);
    text_term(&r.seen.text);
    return st;
}

static enum status read_root(struct tokenizer_json *t, const char *where, const json_t *root) {
    static const char *const absent[] = {"truncation", "padding"};
    static const char *const posts = "ByteLevel|TemplateProcessing|Sequence|BertProcessing|RobertaProcessing";
    TRY(only_keys(where, "", root,
                  "version|truncation|padding|added_tokens|normalizer|pre_tokenizer|post_processor|decoder|model"));
    const json_t *version = json_object_get(root, "version");
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
        return not_understood(where, "version", version);
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        const json_t *v = json_object_get(root, absent[i]);
        if (v && !json_is_null(v)) return not_understood(where, absent[i], v);
    }
    const json_t *post = json_object_get(root, "post_processor");
    const char *kind = json_string_value(json_object_get(post, "type"));
    if (post && !json_is_null(post) && (!kind || !in_list(kind, posts)))
        return not_understood(where, "post_processor", post);
    TRY(read_normalizer(t, where, json_object_get(root, "normalizer")));
    TRY(read_pre_tokenizer(t, where, json_object_get(root, "pre_tokenizer")));
    TRY(read_decoder(t, where, json_object_get(root, "decoder")));
    TRY(tokenizer_json_model(t, where, json_object_get(root, "model")));
    return read_added_tokens(t, where, root);
}

enum status tokenizer_json_read(struct tokenizer_json *t, const char *where, const char *text, int64_t bytes) {
    json_t *root = NULL;
    *t = (struct tokenizer_json){0};
    TRY(json_read_text(where, text, bytes, &root));
    const enum status st = read_root(t, where, root);
    json_decref(root);
    if (st != OK) tokenizer_json_term(t);
    return st;
}

void tokenizer_json_term(struct tokenizer_json *t) {
    added_set_term(&t->added_raw);
    added_set_term(&t->added_normalized);
    for (int i = 0; i < t->normalizer.n_steps; i++) {
        text_term(&t->normalizer.step[i].from);
        text_term(&t->normalizer.step[i].to);
    }
    splitter_term(&t->splitter);
    bpe_term(&t->bpe);
    decoder_term(&t->decoder);
    text_term(&t->names);
    mem_free(t->name);
    *t = (struct tokenizer_json){0};
}
