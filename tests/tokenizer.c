/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers of the published shapes against the texts, ids and decodings that the library gave for them. */
#include "data/tokenizer.h"
#include <inttypes.h>
#include "base/json.h"
#include "tests/check.h"

static void check_ids(const char *why, const struct token_list *got, const json_t *wanted) {
    const int64_t n = (int64_t)json_array_size(wanted);
    for (int64_t i = 0; i < n && i < got->n; i++) {
        const int64_t id = json_integer_value(json_array_get(wanted, (size_t)i));
        if (got->id[i] == id) continue;
        CHECK(false, "%s: token %" PRId64 " is %d instead of %" PRId64, why, i, got->id[i], id);
        return;
    }
    CHECK(got->n == n, "%s: %" PRId64 " tokens instead of %" PRId64, why, got->n, n);
}

static void check_line(const char *why, const struct tokenizer *t, struct tokenizer_scratch *s, const json_t *line) {
    struct token_list ids = {0};
    struct text back = {0};
    const json_t *text = json_object_get(line, "text"), *decoded = json_object_get(line, "decoded");
    MUST(tokenizer_encode(t, s, json_string_value(text), (int64_t)json_string_length(text), &ids));
    check_ids(why, &ids, json_object_get(line, "ids"));
    MUST(tokenizer_decode(t, ids.id, ids.n, &back));
    CHECK(back.n == (int64_t)json_string_length(decoded) &&
              (back.n == 0 || !memcmp(back.s, json_string_value(decoded), (size_t)back.n)),
          "%s: decoded to '%s' instead of '%s'", why, back.s ? back.s : "", json_string_value(decoded));
    text_term(&back);
    token_list_term(&ids);
}

static void test_golden(const char *shared, const char *name) {
    char path[PATH_BYTES], why[PATH_BYTES + 32];
    char *lines = NULL;
    int64_t bytes = 0, n = 0;
    struct tokenizer *t = NULL;
    struct tokenizer_scratch *s = NULL;
    MUST(path_print(path, "%s/tokenizers/%s/tokenizer.json", shared, name));
    MUST(tokenizer_open(&t, path));
    MUST(tokenizer_scratch_init(&s, t));
    CHECK(tokenizer_vocab(t) == 8192, "%s: %" PRId64 " tokens", name, tokenizer_vocab(t));
    MUST(path_print(path, "%s/tokenizers/%s/golden.jsonl", shared, name));
    MUST(file_read(path, 1 << 24, &lines, &bytes));
    for (char *line = lines, *end; line < lines + bytes; line = end + 1) {
        json_t *root = NULL;
        end = memchr(line, '\n', (size_t)(lines + bytes - line));
        if (!end) end = lines + bytes;
        snprintf(why, sizeof why, "%s, line %" PRId64, name, ++n);
        MUST(json_read_text(why, line, end - line, &root));
        check_line(why, t, s, root);
        json_decref(root);
    }
    CHECK(n >= 30, "%s: %" PRId64 " lines", name, n);
    file_free(lines);
    tokenizer_scratch_term(s);
    tokenizer_close(t);
}

int main(void) {
    const char *shared = check_shared();
    char path[PATH_BYTES];
    MUST(path_print(path, "%s/tokenizers/README.md", shared ? shared : "."));
    if (!shared || !file_exists(path)) SKIP("no tokenizers under $BATON_SHARED");
    test_golden(shared, "bytelevel_gpt2");
    test_golden(shared, "bytelevel_split");
    test_golden(shared, "sentencepiece_bpe");
    return check_end();
}
