/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_BPE_H
#define BATON_DATA_BPE_H
/* bpe.h - byte-pair encoding of one word: start from its characters and join, again and again, the neighbours whose
 * merge stands first in the list, the leftmost where it occurs several times; O(n log n) by a heap.
 *
 * The unit is a character.  With byte_level a word is raw bytes, and each byte stands for the character that GPT-2 gave
 * it.  A long word is first cut where no merge can ever join (two units that are neighbours in no token), which
 * changes nothing in the result: so a text without any pre-tokenizer needs no more memory than its longest piece. */
#include "data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Keys of two 32-bit halves; open addressing. */
struct pair_slot {
    uint64_t key; /* PAIR_NONE: empty */
    int32_t rank, id;
};
#define PAIR_NONE UINT64_MAX
struct pair_map {
    struct pair_slot *slot;
    int64_t n, n_slots; /* n_slots: a power of two, or 0 */
};
enum status pair_map_put(struct pair_map *m, uint32_t high, uint32_t low, int32_t rank, int32_t id);
const struct pair_slot *pair_map_find(const struct pair_map *m, uint32_t high, uint32_t low); /* NULL: not there */

/* Texts to ids; used for whole words (ignore_merges). */
struct word_map {
    struct text text; /* all words, one behind the other */
    struct word_slot {
        int64_t at, n;
        int32_t id;
        bool used;
    } * slot;
    int64_t n, n_slots;
};
enum status word_map_put(struct word_map *m, const char *s, int64_t n, int32_t id);
int32_t word_map_find(const struct word_map *m, const char *s, int64_t n); /* -1: not there */

enum { UNK_NONE = -1, UNK_ABSENT = -2 }; /* no unk_token; one that the vocabulary lacks */
struct bpe {
    bool byte_level, byte_fallback, fuse_unk, ignore_merges;
    int32_t unk;
    uint32_t byte_char[256];  /* byte_level: the character of each byte      */
    int32_t byte_id[256];     /* byte_level: its id; -1: not in the vocabulary */
    int32_t fallback_id[256]; /* of <0x00> ... <0xFF>; -1                  */
    struct pair_map units;    /* (0, character) -> id                      */
    struct pair_map merges;   /* (left id, right id) -> rank, id           */
    struct pair_map joints;   /* characters that are neighbours in a token */
    struct word_map words;    /* with ignore_merges: every token           */
};
void bpe_term(struct bpe *b);
/* The character that stands for each byte in the vocabularies of byte-level tokenizers. */
void byte_chars(uint32_t out[256]);

struct bpe_scratch;
enum status bpe_scratch_init(struct bpe_scratch **out);
void bpe_scratch_term(struct bpe_scratch *s);
/* Appends the ids of a word of valid UTF-8 (byte_level: of any bytes). */
enum status bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *word, int64_t n, struct token_list *out);

#ifdef __cplusplus
}
#endif
#endif
