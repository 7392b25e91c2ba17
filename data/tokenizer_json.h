/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_TOKENIZER_JSON_H
#define BATON_DATA_TOKENIZER_JSON_H
/* tokenizer_json.h - a tokenizer.json as its parts, in the order in which a text passes them: added tokens of the raw
 * text, normalizer, added tokens of the normalized text, splitter (pre_tokenizer), bpe (model); and back: names,
 * decoder. The post_processor adds tokens of its own and nothing else, so it is not run. */
#include "base/json.h"
#include "data/added.h"
#include "data/bpe.h"
#include "data/decode.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NORMALIZE_STEPS_MAX 8
struct normalize_step {
    struct text from, to; /* from empty: put `to` before a text that is not empty */
};
struct normalizer {
    int n_steps;
    struct normalize_step step[NORMALIZE_STEPS_MAX];
};
struct token_name {
    int64_t at, n; /* in names; n -1: no token has this id */
};
struct tokenizer_json {
    struct added_set added_raw, added_normalized;
    struct normalizer normalizer;
    struct splitter splitter;
    struct bpe bpe;
    struct decoder decoder;
    struct text names;
    struct token_name *name; /* (n_ids) */
    int64_t n_ids;
};
enum status tokenizer_json_read(struct tokenizer_json *t, const char *where, const char *text, int64_t bytes);
void tokenizer_json_term(struct tokenizer_json *t);
/* *out is s itself, or in one of the two buffers. */
enum status normalizer_run(const struct normalizer *z, const char *s, int64_t n, struct text buffer[2],
                           const char **out, int64_t *n_out);

/* Parts of the reader. */
enum status read_normalizer(struct tokenizer_json *t, const char *where, const json_t *node);
enum status read_pre_tokenizer(struct tokenizer_json *t, const char *where, const json_t *node);
enum status read_decoder(struct tokenizer_json *t, const char *where, const json_t *node);
/* Behind the pre_tokenizer. */
enum status tokenizer_json_model(struct tokenizer_json *t, const char *where, const json_t *node);
/* Fail, showing the value under path. */
enum status not_understood(const char *where, const char *path, const json_t *value);
/* ERR_DATA unless node is an object whose keys are all in the list "a|b|c". */
enum status only_keys(const char *where, const char *path, const json_t *node, const char *keys);

#ifdef __cplusplus
}
#endif
#endif
