/* SPDX-License-Identifier: Apache-2.0 */
/* Small tokenizers made here: each rule of encoding and decoding once, and every file that must be refused. */
#define _GNU_SOURCE
#include "data/tokenizer.h"
#include <inttypes.h>
#include "base/arena.h"
#include "data/utf8.h"
#include "tests/check.h"

#define TEXT(s) s, sizeof s - 1

/* a b c, space, e acute as two bytes; ab abc " a"; a token added behind the vocabulary, one in it. */
static const char byte_level[] =
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": ["
    "{\"id\": 7, \"content\": \"<e>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": "
    "false, "
    "\"special\": true}], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
    "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, \"post_processor\": null, \"decoder\": "
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}, \"model\": "
    "{\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null, "
    "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": "
    "{\"a\": 0, \"b\": 1, \"c\": 2, \"\xc4\xa0\": 3, \"ab\": 4, \"abc\": 5, \"\xc4\xa0"
    "a\": 6, \"<e>\": 7, \"\xc3\x83\": 8, \"\xc2\xa9\": 9}, "
    "\"merges\": [[\"a\", \"b\"], [\"ab\", \"c\"], [\"\xc4\xa0\", \"a\"]]}}";

/* The shape without a pre-tokenizer: 0 to 5 characters and words, 6 and 7 the bytes of e acute, 8 unknown. */
static const char fallback[] =
    "{\"added_tokens\": [{\"id\": 9, \"content\": \"<s>\", \"special\": true}], \"normalizer\": {\"type\": "
    "\"Sequence\", "
    "\"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"_\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": "
    "\" \"}, "
    "\"content\": \"_\"}]}, \"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": "
    "{\"String\": \"_\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": "
    "\"Strip\", "
    "\"content\": \" \", \"start\": 1, \"stop\": 0}]}, \"model\": {\"type\": \"BPE\", \"unk_token\": \"?\", "
    "\"fuse_unk\": true, "
    "\"byte_fallback\": true, \"vocab\": {\"_\": 0, \"a\": 1, \"b\": 2, \"_a\": 3, \"ab\": 4, \"_ab\": 5, \"<0xC3>\": "
    "6, "
    "\"<0xA9>\": 7, \"?\": 8, \"<s>\": 9}, \"merges\": [\"a b\", \"_ a\", \"_ ab\"]}}";

/* The file with one text in it replaced (an empty one: the file as it is), and what a text must become. */
static const struct {
    const char *why, *json, *from, *to;
    const char *text;
    int64_t bytes;
    const char *ids, *decoded;
} cases[] = {
    {"merges by rank", byte_level, "", "", TEXT("abc abc"), "5 3 5", "abc abc"},
    {"an empty text", byte_level, "", "", TEXT(""), "", ""},
    {"a character of two bytes", byte_level, "", "", TEXT("a\xc3\xa9"), "0 8 9", "a\xc3\xa9"},
    {"characters outside the vocabulary vanish before merging", byte_level, "", "", TEXT("adb d"), "4 3", "ab "},
    {"bytes that are no UTF-8 vanish as U+FFFD does", byte_level, "", "",
     TEXT("a\xff\xc3"
          "b"),
     "0 1", "ab"},
    {"added tokens, the longest", byte_level, "\"special\": true}],",
     "\"special\": true}, {\"id\": 10, \"content\": \"<e>b\", \"special\": true}],", TEXT("ab<e>a<e>bb"), "4 7 0 10 1",
     "ab<e>a<e>bb"},
    {"added tokens of the raw text come first", byte_level, "\"special\": true}],",
     "\"special\": true}, {\"id\": 10, \"content\": \"<e>b\", \"normalized\": true}],", TEXT("ab<e>a<e>b"), "4 7 0 7 1",
     "ab<e>a<e>b"},
    {"a merge list from last to first", byte_level, "[[\"a\", \"b\"], [\"ab\", \"c\"], [\"\xc4\xa0\", \"a\"]]",
     "[[\"\xc4\xa0\", \"a\"], [\"ab\", \"c\"], [\"a\", \"b\"]]", TEXT(" abc abc"), "6 1 2 6 1 2", " abc abc"},
    {"the same merge twice counts by the last", byte_level, "[[\"a\", \"b\"],",
     "[[\"\xc4\xa0\", \"a\"], [\"a\", \"b\"],", TEXT(" ab"), "3 4", " ab"},
    {"a word of a whole token, merges ignored", byte_level, "\"ignore_merges\": false, \"vocab\": {",
     "\"ignore_merges\": true, \"vocab\": {\"cab\": 10, ", TEXT("cab cab"), "10 3 2 4", "cab cab"},
    {"a prefix space", byte_level, "\"add_prefix_space\": false", "\"add_prefix_space\": true", TEXT("ab<e> a"),
     "3 4 7 6", " ab<e> a"},
    {"a long word, cut where nothing can join", byte_level, "", "",
     TEXT("abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcab"), "5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 4",
     "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcab"},
    {"lstrip and rstrip", byte_level, "\"lstrip\": false, \"rstrip\": false, \"normalized\": false",
     "\"lstrip\": true, \"rstrip\": true, \"normalized\": false", TEXT("a \t<e> \xc2\xa0 b"), "0 7 1", "a<e>b"},
    {"single_word", byte_level, "\"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false",
     "\"single_word\": true, \"lstrip\": false, \"rstrip\": false, \"normalized\": false", TEXT("a<e> <e> <e>b"),
     "0 3 7 3 1", "a <e> b"},
    {"digits in runs, a space before each piece", byte_level,
     "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": "
     "true}",
     "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": "
     "false}, "
     "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"use_regex\": false}]}",
     TEXT("ab12c"), "3 4 3 3 2", " ab  c"},
    {"a Split that drops its matches", byte_level,
     "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": "
     "true}",
     "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?i:B)|\\\\s\"}, \"behavior\": \"Removed\", "
     "\"invert\": false}",
     TEXT("ab bc\xc2\x85"
          "ab"),
     "0 2 0",
     "ac"
     "a"},
    {"no decoder", byte_level,
     "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}",
     "\"decoder\": null", TEXT("ab c"), "4 3 2", "ab \xc4\xa0 c"},
    {"spaces replaced, one put before", fallback, "", "", TEXT("ab a"), "5 3", "ab a"},
    {"a space alone", fallback, "", "", TEXT(" "), "0 0", " "},
    {"bytes of a character", fallback, "", "", TEXT("\xc3\xa9"), "0 6 7", "\xc3\xa9"},
    {"unknown characters fused", fallback, "", "",
     TEXT("\xe2\x82\xac\xe2\x82\xac"
          "a"),
     "0 8 1", "?a"},
    {"unknown characters one by one", fallback, "\"fuse_unk\": true", "\"fuse_unk\": false",
     TEXT("\xe2\x82\xac\xe2\x82\xac"
          "a"),
     "0 8 8 1", "??a"},
    {"an unknown one waits behind bytes", fallback, "", "",
     TEXT("\xe2\x82\xac\xc3\xa9"
          "a"),
     "0 6 7 8 1", "\xc3\xa9?a"},
    {"unknown characters without a token for them", fallback, "\"unk_token\": \"?\"", "\"unk_token\": null",
     TEXT("\xe2\x82\xac"
          "a"),
     "3", "a"},
    {"each side of an added token is normalized alone", fallback, "", "", TEXT("a<s>b"), "3 9 0 2", "a<s> b"},
};

static struct text changed(const char *json, const char *from, const char *to) {
    struct text out = {0};
    const char *at = strstr(json, from);
    if (!at) {
        fprintf(stderr, "the case's text is not in the file: %s\n", from);
        exit(1);
    }
    MUST(text_print(&out, "%.*s%s%s", (int)(at - json), json, to, at + strlen(from)));
    return out;
}

static void test_cases(void) {
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct text json = changed(cases[c].json, cases[c].from, cases[c].to), got = {0}, back = {0};
        struct token_list ids = {0};
        struct tokenizer *t = NULL;
        const enum status st = tokenizer_read(&t, "small", json.s, json.n);
        CHECK(st == OK, "%s: %s", cases[c].why, status_text());
        if (st == OK) {
            MUST(tokenizer_encode(t, NULL, cases[c].text, cases[c].bytes, &ids));
            for (int64_t i = 0; i < ids.n; i++) MUST(text_print(&got, "%s%d", i ? " " : "", ids.id[i]));
            CHECK(!strcmp(got.s ? got.s : "", cases[c].ids), "%s: %s instead of %s", cases[c].why, got.s, cases[c].ids);
            MUST(tokenizer_decode(t, ids.id, ids.n, &back));
            CHECK(!strcmp(back.s ? back.s : "", cases[c].decoded), "%s: decoded to '%s'", cases[c].why, back.s);
        }
        tokenizer_close(t);
        token_list_term(&ids);
        text_term(&json);
        text_term(&got);
        text_term(&back);
    }
}

/* A file with one text replaced, and what the refusal must name. */
static const struct {
    const char *why, *json, *from, *to, *says;
} bad[] = {
    {"no JSON", byte_level, "{\"version\"", "\"version\"", "not JSON"},
    {"a key that is not known", byte_level, "\"padding\"", "\"paddings\"", "\"paddings\": null"},
    {"another version", byte_level, "\"1.0\"", "\"2.0\"", "\"version\": \"2.0\""},
    {"truncation", byte_level, "\"truncation\": null", "\"truncation\": {\"max_length\": 5}", "max_length"},
    {"a normalizer with tables", byte_level, "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}", "NFC"},
    {"a Replace by pattern", fallback, "{\"String\": \" \"}", "{\"Regex\": \" \"}", "normalizer.normalizers[1]"},
    {"Replace of nothing", fallback, "{\"String\": \" \"}", "{\"String\": \"\"}", "normalizer.normalizers[1]"},
    {"another pre-tokenizer", byte_level, "{\"type\": \"ByteLevel\"", "{\"type\": \"Whitespace\"", "Whitespace"},
    {"a pre-tokenizer without a type", byte_level, "{\"type\": \"ByteLevel\"", "{\"kind\": \"ByteLevel\"",
     "pre_tokenizer"},
    {"an option that is not known", byte_level, "\"trim_offsets\"", "\"trim\"", "pre_tokenizer.trim"},
    {"an option of another type", byte_level, "\"use_regex\": true", "\"use_regex\": 1", "use_regex"},
    {"a post_processor that is not known", byte_level, "\"post_processor\": null",
     "\"post_processor\": {\"type\": \"X\"}", "post_processor"},
    {"another decoder", fallback, "{\"type\": \"Fuse\"}", "{\"type\": \"CTC\"}", "decoder.decoders[2]"},
    {"a Strip of minus one", fallback, "\"start\": 1", "\"start\": -1", "decoder.decoders[3]"},
    {"another model", byte_level, "\"BPE\"", "\"Unigram\"", "Unigram"},
    {"dropout", byte_level, "\"dropout\": null", "\"dropout\": 0.1", "model.dropout"},
    {"a word-end suffix", byte_level, "\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"", "</w>"},
    {"an id that is a text", byte_level, "\"a\": 0", "\"a\": \"0\"", "'a'"},
    {"a negative id", byte_level, "\"a\": 0", "\"a\": -1", "'a'"},
    {"an id of billions", byte_level, "\"a\": 0", "\"a\": 2000000000", "'a'"},
    {"one id twice", byte_level, "\"a\": 0", "\"a\": 1", "the id 1"},
    {"one token twice", byte_level, "\"a\": 0", "\"b\": 0", "duplicate"},
    {"no vocabulary", byte_level, "\"vocab\"", "\"merges\": [], \"unk_token\"", "duplicate"},
    {"merges of three", byte_level, "[\"a\", \"b\"]", "[\"a\", \"b\", \"c\"]", "model.merges[0]"},
    {"a merge of nothing", byte_level, "[\"a\", \"b\"]", "[\"\", \"b\"]", "model.merges[0]"},
    {"a merge of numbers", byte_level, "[\"a\", \"b\"]", "[1, 2]", "model.merges[0]"},
    {"a merge without a space", fallback, "\"a b\"", "\"ab\"", "model.merges[0]"},
    {"a merge with two spaces", fallback, "\"a b\"", "\"a  b\"", "model.merges[0]"},
    {"a merge of a token that is not there", byte_level, "[\"a\", \"b\"]", "[\"a\", \"x\"]", "model.merges[0]: 'x'"},
    {"a merge into a token that is not there", byte_level, "[\"a\", \"b\"]", "[\"a\", \"c\"]", "model.merges[0]: 'ac'"},
    {"an added token with another id than the vocabulary's", byte_level, "{\"id\": 7,", "{\"id\": 8,",
     "'<e>' has the id 8"},
    {"an added token that leaves a gap", byte_level, "{\"id\": 7, \"content\": \"<e>\"",
     "{\"id\": 11, \"content\": \"<f>\"", "'<f>' has the id 11"},
    {"an added token without text", byte_level, "\"content\": \"<e>\"", "\"content\": \"\"", "added_tokens[0]"},
    {"an added token with an option that is not known", byte_level, "\"lstrip\"", "\"left\"", "added_tokens[0].left"},
};

static void test_refused(void) {
    for (size_t c = 0; c < sizeof bad / sizeof *bad; c++) {
        struct text json = changed(bad[c].json, bad[c].from, bad[c].to);
        struct tokenizer *t = NULL;
        const enum status st = tokenizer_read(&t, "small", json.s, json.n);
        CHECK(st == ERR_DATA && t == NULL, "%s: %s", bad[c].why, status_name(st));
        CHECK(strstr(status_text(), bad[c].says) && strstr(status_text(), "small"), "%s: the text is: %s", bad[c].why,
              status_text());
        tokenizer_close(t);
        text_term(&json);
    }
}

/* What PCRE2 would read otherwise than Oniguruma, or not at all. */
static void test_patterns(void) {
    static const struct {
        const char *why, *pattern;
        bool good;
    } patterns[] = {
        {"classes, properties, look-ahead", "[^\\\\r\\\\n\\\\p{L}]?\\\\p{L}+|\\\\s+(?!\\\\S)|\\\\d{1,3}|(?i:'s)", true},
        {"escaped signs", "\\\\.\\\\[\\\\]\\\\-[\\\\-\\\\]]", true},
        {"a word class", "\\\\w+", false},
        {"a word edge", "\\\\b", false},
        {"horizontal space to one, a digit to the other", "\\\\h", false},
        {"an end of line", "a$", false},
        {"a begin of line", "^a", false},
        {"not white space within a class", "[\\\\S]", false},
        {"a class within a class", "[a[b]]", false},
        {"an intersection", "[a&&b]", false},
        {"a POSIX class", "[[:alpha:]]", false},
        {"a class that is not closed", "[a", false},
        {"a class that begins with its end", "[]a]", false},
        {"a verb", "(*ACCEPT)a", false},
        {"a named group", "(?<n>a)", false},
        {"an option for the rest", "(?i)a", false},
        {"a group that is not closed", "(a", false},
        {"at most n", "a{,3}", false},
        {"a possessive interval", "a{1,3}+", false},
        {"an interval that is not closed", "a{1", false},
        {"a property that is not known", "\\\\p{Nonsense}", false},
        {"a property without braces", "\\\\pL", false},
        {"a backslash at the end", "a\\\\", false},
        {"a back reference", "(a)\\\\1", false},
    };
    for (size_t c = 0; c < sizeof patterns / sizeof *patterns; c++) {
        char split[512];
        snprintf(
            split, sizeof split,
            "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, \"behavior\": \"Isolated\", "
            "\"invert\": false}, \"post_processor\"",
            patterns[c].pattern);
        struct text json = changed(fallback, "\"normalizer\"", "\"post_processor\": null, \"normalizer\""), file;
        struct tokenizer *t = NULL;
        file = changed(json.s, "\"post_processor\"", split);
        const enum status st = tokenizer_read(&t, "small", file.s, file.n);
        CHECK((st == OK) == patterns[c].good, "%s: %s", patterns[c].why, st == OK ? "was taken" : status_text());
        CHECK(st == OK || strstr(status_text(), "pre_tokenizer"), "%s: the text is: %s", patterns[c].why,
              status_text());
        tokenizer_close(t);
        text_term(&json);
        text_term(&file);
    }
}

/* Every allocation fails once, from reading the file to decoding. */
static void test_memory(void) {
    for (int64_t k = 1;; k++) {
        struct tokenizer *t = NULL;
        struct token_list ids = {0};
        struct text back = {0};
        mem_fail_at(k);
        enum status st = tokenizer_read(&t, "small", fallback, sizeof fallback - 1);
        if (st == OK) st = tokenizer_encode(t, NULL, "ab<s> \xff ab a", 13, &ids);
        if (st == OK) st = tokenizer_decode(t, ids.id, ids.n, &back);
        mem_fail_at(0);
        CHECK(st == OK || st == ERR_OOM, "allocation %" PRId64 ": %s", k, status_text());
        tokenizer_close(t);
        token_list_term(&ids);
        text_term(&back);
        if (st == OK) break;
    }
}

/* Unicode's own example of maximal parts, and the edges of well-formed characters. */
static void test_utf8(void) {
    static const struct {
        const char *why, *text, *wanted;
    } texts[] = {
        {"Unicode 15, table 3-8", "\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", "????????A"},
        {"Unicode 15, table 3-9", "\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", "????????A"},
        {"Unicode 15, table 3-10", "\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", "?????A??B"},
        {"Unicode 15, table 3-11", "\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", "????A"},
        {"a text cut within a character", "abcdefgh\xf0\x9f\x98", "abcdefgh?"},
        {"the edges", "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf", NULL},
    };
    for (size_t c = 0; c < sizeof texts / sizeof *texts; c++) {
        const int64_t n = (int64_t)strlen(texts[c].text);
        struct text got = {0}, marks = {0};
        MUST(utf8_repair(texts[c].text, n, &got));
        const struct text mark = {.s = "\xef\xbf\xbd", .n = 3};
        for (const char *s = got.s; *s; s += *s == mark.s[0] && !strncmp(s, mark.s, 3) ? 3 : 1)
            MUST(text_print(&marks, "%c", !strncmp(s, mark.s, 3) ? '?' : *s));
        const char *wanted = texts[c].wanted ? texts[c].wanted : texts[c].text;
        CHECK(!strcmp(marks.s, wanted), "%s: %s instead of %s", texts[c].why, marks.s, wanted);
        CHECK(utf8_valid(texts[c].text, n) == !texts[c].wanted, "%s: validity", texts[c].why);
        text_term(&got);
        text_term(&marks);
    }
}

static void test_bytes(void) {
    struct tokenizer *t = NULL;
    struct token_list ids = {0};
    struct text back = {0};
    char all[256];
    for (int i = 0; i < 256; i++) all[i] = (char)i;
    MUST(tokenizer_open(&t, "bytes"));
    MUST(tokenizer_encode(t, NULL, all, 256, &ids));
    CHECK(tokenizer_vocab(t) == 256 && ids.n == 256 && ids.id[255] == 255, "%" PRId64 " tokens", ids.n);
    MUST(tokenizer_decode(t, ids.id, ids.n, &back));
    CHECK(back.n == 256 && !memcmp(back.s, all, 256), "the bytes changed");
    ids.id[3] = 256;
    CHECK(tokenizer_decode(t, ids.id, ids.n, &back) == ERR_DATA && strstr(status_text(), "position 3"), "%s",
          status_text());
    token_list_term(&ids);
    text_term(&back);
    tokenizer_close(t);
    CHECK(tokenizer_open(&t, "/no/such/tokenizer.json") == ERR_MISSING && t == NULL, "%s", status_text());
}

/* A word without a cut, long enough for the heap to matter; the ids of a tokenizer are refused when they are none. */
static void test_long_word(void) {
    const int64_t n = 1 << 20;
    struct text json = changed(fallback, "\"_ a\"", "\"_ a\", \"b ab\"");
    struct text more = changed(json.s, "\"_a\": 3,", "\"_a\": 3, \"bab\": 10,");
    struct tokenizer *t = NULL;
    struct token_list ids = {0};
    struct text back = {0};
    void *mem = NULL;
    MUST(tokenizer_read(&t, "small", more.s, more.n));
    MUST(mem_take(n, &mem));
    for (int64_t i = 0; i < n; i++) ((char *)mem)[i] = i % 2 ? 'b' : 'a';
    MUST(tokenizer_encode(t, NULL, mem, n, &ids));
    CHECK(ids.n == n / 2 && ids.id[0] == 5 && ids.id[1] == 4 && ids.id[ids.n - 1] == 4, "%" PRId64 " tokens, first %d",
          ids.n, ids.id[0]);
    ids.id[1] = 11;
    CHECK(tokenizer_decode(t, ids.id, ids.n, &back) == ERR_DATA && strstr(status_text(), "token 11"), "%s",
          status_text());
    mem_free(mem);
    token_list_term(&ids);
    text_term(&back);
    text_term(&json);
    text_term(&more);
    tokenizer_close(t);
}

int main(void) {
    test_cases();
    test_refused();
    test_patterns();
    test_memory();
    test_utf8();
    test_bytes();
    test_long_word();
    return check_end();
}
