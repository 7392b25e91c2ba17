/* SPDX-License-Identifier: Apache-2.0 */
/* Texts to token files: shapes of files, odd bytes and ends of lines, order, and what a failure leaves behind. */
#define _GNU_SOURCE
#include "data/prepare.h"
#include <inttypes.h>
#include <unistd.h>
#include "base/arena.h"
#include "data/idx.h"
#include "tests/check.h"

static char folder[PATH_BYTES];
enum { MOST = 12 };

static void save(char path[PATH_BYTES], const char *name, const char *data, int64_t bytes) {
    MUST(path_print(path, "%s/%s", folder, name));
    MUST(file_replace(path, data, bytes));
}

static bool there(const char *name) {
    char path[PATH_BYTES];
    MUST(path_print(path, "%s/%s", folder, name));
    return file_exists(path);
}

struct run {
    struct prepare_spec spec;
    struct prepare_counts counts;
    const char *paths[MOST];
    char prefix[PATH_BYTES];
};

static enum status run(struct run *r) {
    struct tokenizer *t = NULL;
    MUST(tokenizer_open(&t, "bytes"));
    MUST(path_print(r->prefix, "%s/out", folder));
    r->spec.prefix = r->prefix;
    r->spec.paths = r->paths;
    if (r->spec.n_threads == 0) r->spec.n_threads = 2;
    if (!r->spec.field) r->spec.field = "text";
    const enum status st = prepare_run(t, &r->spec, &r->counts);
    tokenizer_close(t);
    return st;
}

/* All documents as one text, each closed by '|'. */
static void read_back(struct text *all) {
    char prefix[PATH_BYTES];
    struct token_file f;
    MUST(path_print(prefix, "%s/out", folder));
    MUST(token_file_open(&f, prefix));
    for (int64_t d = 0; d < f.n_documents; d++) {
        const int64_t n = token_file_length(&f, d);
        void *mem = NULL;
        MUST(mem_take(n * 4, &mem));
        int32_t *ids = mem;
        MUST(token_file_read(&f, d, 0, n, 256, ids));
        for (int64_t i = 0; i < n; i++) {
            const char byte = (char)ids[i];
            MUST(text_add(all, &byte, 1));
        }
        MUST(text_add(all, "|", 1));
        mem_free(mem);
    }
    token_file_close(&f);
}

#define TEXT(s) s, sizeof s - 1
static const struct {
    const char *why, *name;
    bool lines;
    int64_t end_token;
    const char *text;
    int64_t bytes;
    const char *wanted;
    int64_t wanted_bytes, empty;
} cases[] = {
    {"a file is one document, verbatim", "a.txt", false, -1, TEXT("ab\r\nc\n"), TEXT("ab\r\nc\n|"), 0},
    {"NUL and bytes that are no UTF-8", "a.txt", false, -1, TEXT("a\0b\xff\xfe"), TEXT("a\0b\xff\xfe|"), 0},
    {"an end token behind the document", "a.txt", false, '$', TEXT("ab"), TEXT("ab$|"), 0},
    {"lines", "a.txt", true, -1, TEXT("ab\nc\n"), TEXT("ab|c|"), 0},
    {"lines without a last end", "a.txt", true, -1, TEXT("ab\nc"), TEXT("ab|c|"), 0},
    {"lines with CR LF, and a CR alone", "a.txt", true, -1, TEXT("ab\r\nc\rd\r\n\r\n"), TEXT("ab|c\rd|"), 1},
    {"empty lines", "a.txt", true, '$', TEXT("\n\nab\n\n"), TEXT("ab$|"), 3},
    {"lines with NUL", "a.txt", true, -1, TEXT("a\0b\nc\n"), TEXT("a\0b|c|"), 0},
    {"jsonl", "a.jsonl", false, -1, TEXT("{\"text\": \"ab\"}\r\n\n{\"id\": 1, \"text\": \"c\\nd\"}"), TEXT("ab|c\nd|"),
     1},
    {"jsonl with empty text, NUL and escapes", "a.jsonl", true, -1,
     TEXT("{\"text\": \"\"}\n{\"text\": \"a\\u0000\\u00e9\"}\n"), TEXT("a\0\xc3\xa9|"), 1},
};

static void test_shapes(void) {
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        char path[PATH_BYTES];
        struct text all = {0};
        struct run r = {.spec = {.n_paths = 1, .lines = cases[c].lines, .end_token = cases[c].end_token}};
        save(path, cases[c].name, cases[c].text, cases[c].bytes);
        r.paths[0] = path;
        MUST(run(&r));
        read_back(&all);
        CHECK(all.n == cases[c].wanted_bytes && !memcmp(all.s, cases[c].wanted, (size_t)all.n), "%s: got %s",
              cases[c].why, all.s);
        CHECK(r.counts.empty == cases[c].empty, "%s: %" PRId64 " empty", cases[c].why, r.counts.empty);
        CHECK(r.counts.bytes == cases[c].bytes, "%s: %" PRId64 " bytes", cases[c].why, r.counts.bytes);
        text_term(&all);
    }
}

static const struct {
    const char *why, *name;
    const char *text;
    const char *says;
} bad[] = {
    {"an empty file", "b.txt", "", "no text at all"},
    {"jsonl with blank lines alone", "b.jsonl", "\n \n", "2 empty documents"},
    {"broken JSON", "b.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"text\": \n", "b.jsonl:3"},
    {"a line that is no object", "b.jsonl", "{\"text\": \"a\"}\n[1]\n", "b.jsonl:2: no text under \"text\""},
    {"another field", "b.jsonl", "{\"body\": \"a\"}\n", "--field"},
    {"a text that is a number", "b.jsonl", "{\"text\": 1}\n", "b.jsonl:1"},
    {"a surrogate alone", "b.jsonl", "{\"text\": \"\\ud800\"}\n", "b.jsonl:1"},
};

static void test_refused(void) {
    char good[PATH_BYTES], path[PATH_BYTES];
    save(good, "good.txt", "ab", 2);
    for (size_t c = 0; c < sizeof bad / sizeof *bad; c++) {
        const bool empty = c < 2; /* beside a good file these would pass */
        save(path, bad[c].name, bad[c].text, (int64_t)strlen(bad[c].text));
        struct run r = {.spec = {.n_paths = 1 + !empty, .end_token = -1}, .paths = {empty ? path : good, path}};
        CHECK(run(&r) == ERR_DATA, "%s was taken", bad[c].why);
        CHECK(strstr(status_text(), bad[c].says), "%s: the text is: %s", bad[c].why, status_text());
        CHECK(!there("out.bin") && !there("out.idx") && !there("out.bin.tmp") && !there("out.idx.tmp"),
              "%s: a file was left", bad[c].why);
    }
    struct run r = {.spec = {.n_paths = 2, .end_token = -1}, .paths = {good, "/no/such/text"}};
    CHECK(run(&r) == ERR_MISSING && !there("out.bin"), "%s", status_text());
    struct run end = {.spec = {.n_paths = 1, .end_token = 256}, .paths = {good}};
    CHECK(run(&end) == ERR_CONFIG && strstr(status_text(), "256"), "%s", status_text());
}

/* Many files of lines and whole ones, beyond several windows: the output is the same for 1 to 4 threads. */
static void test_order(void) {
    struct text big = {0}, wanted = {0};
    for (int i = 0; i < 200000; i++) MUST(text_print(&big, "line %d\n", i));
    char path[2][PATH_BYTES];
    save(path[0], "big.txt", big.s, big.n);
    save(path[1], "small.jsonl", "{\"text\": \"x\"}\n", 14);
    for (int threads = 1; threads <= 4; threads++) {
        struct run r = {.spec = {.n_paths = 5, .lines = true, .end_token = -1, .n_threads = threads},
                        .paths = {path[0], path[1], path[0], path[1], path[1]}};
        struct text all = {0};
        MUST(run(&r));
        CHECK(r.counts.documents == 400003, "%" PRId64 " documents", r.counts.documents);
        read_back(&all);
        if (threads == 1) wanted = all;
        else {
            CHECK(all.n == wanted.n && !memcmp(all.s, wanted.s, (size_t)all.n), "%d threads: another output", threads);
            text_term(&all);
        }
    }
    const char *at = wanted.s;
    for (int64_t i = 0; i < big.n && at; i++) at = big.s[i] == (*at == '|' ? '\n' : *at) ? at + 1 : NULL;
    CHECK(at && !strncmp(at, "x|line 0|", 9), "the lines are not in order");
    text_term(&big);
    text_term(&wanted);
}

/* Whole files and files of lines by turns: each is read once. */
static void test_mixed(void) {
    char path[3][PATH_BYTES];
    struct text all = {0};
    save(path[0], "whole.txt", "w\n", 2);
    save(path[1], "lines.jsonl", "{\"text\": \"x\"}\n{\"text\": \"y\"}\n", 28);
    save(path[2], "empty.txt", "", 0);
    struct run r = {.spec = {.n_paths = 7, .end_token = -1},
                    .paths = {path[0], path[1], path[2], path[0], path[1], path[0], path[2]}};
    MUST(run(&r));
    read_back(&all);
    CHECK(!strcmp(all.s, "w\n|x|y|w\n|x|y|w\n|"), "got %s", all.s);
    CHECK(r.counts.documents == 7 && r.counts.empty == 2, "%" PRId64 " documents", r.counts.documents);
    text_term(&all);
}

/* One line of 100 MB between two short ones. */
static void test_long_line(void) {
    const int64_t n = 100 << 20;
    void *mem = NULL;
    char path[PATH_BYTES], prefix[PATH_BYTES];
    MUST(mem_take(n + 4, &mem));
    char *s = mem;
    memset(s, 'x', (size_t)n + 4);
    s[1] = s[n + 2] = '\n';
    save(path, "long.txt", s, n + 4);
    mem_free(mem);
    struct run r = {.spec = {.n_paths = 1, .lines = true, .end_token = -1}, .paths = {path}};
    struct token_file f;
    MUST(run(&r));
    MUST(path_print(prefix, "%s/out", folder));
    MUST(token_file_open(&f, prefix));
    CHECK(f.n_documents == 3 && token_file_length(&f, 1) == n, "%" PRId64 " documents", f.n_documents);
    token_file_close(&f);
}

/* Every allocation fails once: an error, and no file of that run. */
static void test_memory(void) {
    char path[PATH_BYTES];
    save(path, "m.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"c\"}\n", 29);
    for (int64_t k = 1;; k++) {
        struct tokenizer *t = NULL;
        char prefix[PATH_BYTES];
        MUST(path_print(prefix, "%s/mem", folder));
        MUST(tokenizer_open(&t, "bytes"));
        const char *paths[1] = {path};
        const struct prepare_spec spec = {
            .prefix = prefix, .n_paths = 1, .paths = paths, .field = "text", .end_token = -1, .n_threads = 2};
        struct prepare_counts counts;
        mem_fail_at(k);
        const enum status st = prepare_run(t, &spec, &counts);
        mem_fail_at(0);
        tokenizer_close(t);
        CHECK(st == OK || st == ERR_OOM, "allocation %" PRId64 ": %s: %s", k, status_name(st), status_text());
        CHECK(there("mem.idx") == (st == OK) && there("mem.bin") == (st == OK) && !there("mem.bin.tmp"),
              "allocation %" PRId64 ": a file was left", k);
        if (st == OK) break;
    }
}

int main(void) {
    char name[] = "/tmp/baton_prepare_XXXXXX";
    if (!mkdtemp(name)) SKIP("no temporary folder can be made");
    MUST(path_print(folder, "%s", name));
    test_refused();
    test_shapes();
    test_order();
    test_mixed();
    test_long_line();
    test_memory();
    MUST(file_remove_tree(folder));
    return check_end();
}
