/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_TOKENIZER_H
#define BATON_DATA_TOKENIZER_H
/* tokenizer.h - text to tokens and back: "bytes", or a Hugging Face tokenizer.json of the BPE kind (byte-level with the
 * GPT-2 or a split pattern; byte fallback with a space-replacing normalizer).  What a file asks for and is not
 * understood is refused by name.  No tokenizer adds tokens of its own.
 *
 * "bytes" takes any bytes.  The others read UTF-8: each maximal part of a character that is not well-formed is read as
 * U+FFFD, as if the text had been decoded with replacement before.  Decoding of byte-level and byte-fallback tokens
 * gives UTF-8 in the same way, so only "bytes" gives back every text bit by bit. */
#include "base/file.h"

#ifdef __cplusplus
extern "C" {
#endif

struct tokenizer;
/* how: "bytes" or a path. */
enum status tokenizer_open(struct tokenizer **out, const char *how);
/* The text of a tokenizer.json; where: its name in messages. */
enum status tokenizer_read(struct tokenizer **out, const char *where, const char *text, int64_t bytes);
void tokenizer_close(struct tokenizer *t);
int64_t tokenizer_vocab(const struct tokenizer *t); /* largest id + 1 */

struct token_list {
    int32_t *id;
    int64_t n, room;
};
enum status token_list_room(struct token_list *l, int64_t n); /* room for n more behind the last */
void token_list_term(struct token_list *l);
/* Appends to out.  One tokenizer may serve several threads, each with its own scratch (NULL: made and dropped inside).
 */
struct tokenizer_scratch;
enum status tokenizer_scratch_init(struct tokenizer_scratch **out, const struct tokenizer *t);
void tokenizer_scratch_term(struct tokenizer_scratch *s);
enum status tokenizer_encode(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text, int64_t bytes,
                             struct token_list *out);
/* Appends to out.  ERR_DATA for an id that is no token. */
enum status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, int64_t n, struct text *out);

#ifdef __cplusplus
}
#endif
#endif
