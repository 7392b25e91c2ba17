/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: a tokenizer.json.  What is taken must encode some texts, the file itself among them, to ids of its
 * vocabulary, and decode these. */
#include <stddef.h>
#include <string.h>
#include "base/arena.h"
#include "data/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode(const struct tokenizer *t, struct tokenizer_scratch *s, const char *text, int64_t n) {
    struct token_list ids = {0};
    struct text back = {0};
    if (tokenizer_encode(t, s, text, n, &ids) == OK) {
        for (int64_t i = 0; i < ids.n; i++) ASSERT(ids.id[i] >= 0 && ids.id[i] < tokenizer_vocab(t));
        ASSERT(tokenizer_decode(t, ids.id, ids.n, &back) == OK);
    }
    token_list_term(&ids);
    text_term(&back);
}

/* "bytes" gives back whatever it was given. */
static void round_trip(const char *text, int64_t n) {
    struct tokenizer *t = NULL;
    struct token_list ids = {0};
    struct text back = {0};
    if (tokenizer_open(&t, "bytes") == OK && tokenizer_encode(t, NULL, text, n, &ids) == OK &&
        tokenizer_decode(t, ids.id, ids.n, &back) == OK)
        ASSERT(back.n == n && (n == 0 || !memcmp(back.s, text, (size_t)n)));
    token_list_term(&ids);
    text_term(&back);
    tokenizer_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const texts[] = {"abc ab\r\n  abcab1234<e>b <e> \xc3\xa9\xe2\x82\xac _\xff", "a"};
    struct tokenizer *t = NULL;
    struct tokenizer_scratch *s = NULL;
    void *text = NULL;
    if (mem_take((int64_t)size, &text) != OK) return 0;
    if (size > 0) memcpy(text, data, size);
    if (tokenizer_read(&t, "fuzz", text, (int64_t)size) == OK && tokenizer_scratch_init(&s, t) == OK) {
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) encode(t, s, texts[i], (int64_t)strlen(texts[i]));
        encode(t, s, text, size < 4096 ? (int64_t)size : 4096);
    }
    round_trip(text, size < 4096 ? (int64_t)size : 4096);
    tokenizer_scratch_term(s);
    tokenizer_close(t);
    mem_free(text);
    return 0;
}
