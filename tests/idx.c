/* SPDX-License-Identifier: Apache-2.0 */
/* Token files: what is written reads back, every integer type is read, and a malformed index is refused by name. */
#define _GNU_SOURCE
#include "data/idx.h"
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/arena.h"
#include "tests/check.h"

static char folder[PATH_BYTES];

static void path_of(char out[PATH_BYTES], const char *name) { MUST(path_print(out, "%s/%s", folder, name)); }

static void save(const char *name, const void *data, int64_t bytes) {
    char path[PATH_BYTES];
    path_of(path, name);
    MUST(file_replace(path, data, bytes));
}

/* An index of 3 entries (2, 0, 3 tokens) in 2 documents (entries 0 to 1 and 2), as bytes that a case changes. */
enum { GOOD_BYTES = 34 + 3 * 4 + 3 * 8 + 3 * 8, AT_LENGTHS = 34, AT_OFFSETS = 46, AT_STARTS = 70 };
static void put(unsigned char *p, int64_t v, int bytes) { memcpy(p, &v, (size_t)bytes); }
static void good_index(unsigned char p[GOOD_BYTES], int type, int size) {
    memcpy(p, "MMIDIDX\0", 9);
    put(p + 9, 1, 8);
    p[17] = (unsigned char)type;
    put(p + 18, 3, 8);
    put(p + 26, 3, 8);
    const int64_t lengths[] = {2, 0, 3}, starts[] = {0, 2, 3};
    for (int i = 0, at = 0; i < 3; i++) {
        put(p + AT_LENGTHS + 4 * i, lengths[i], 4);
        put(p + AT_OFFSETS + 8 * i, at, 8);
        put(p + AT_STARTS + 8 * i, starts[i], 8);
        at += (int)lengths[i] * size;
    }
}

static void test_types(void) {
    static const struct {
        const char *why;
        int code, size;
    } cases[] = {{"u8", 1, 1}, {"i8", 2, 1}, {"i16", 3, 2}, {"i32", 4, 4}, {"i64", 5, 8}, {"u16", 8, 2}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        unsigned char idx[GOOD_BYTES], bin[5 * 8];
        struct token_file f;
        char prefix[PATH_BYTES];
        int32_t got[3];
        good_index(idx, cases[c].code, cases[c].size);
        for (int i = 0; i < 5; i++) put(bin + i * cases[c].size, 101 + i, cases[c].size);
        save("t.idx", idx, sizeof idx);
        save("t.bin", bin, 5 * cases[c].size);
        path_of(prefix, "t");
        MUST(token_file_open(&f, prefix));
        CHECK(f.n_documents == 2 && f.n_entries == 3 && f.n_tokens == 5, "%s", cases[c].why);
        CHECK(token_file_length(&f, 0) == 2 && token_file_length(&f, 1) == 3, "%s", cases[c].why);
        MUST(token_file_read(&f, 0, 1, 1, 128, got));
        CHECK(got[0] == 102, "%s: token %d instead of 102", cases[c].why, got[0]);
        MUST(token_file_read(&f, 1, 0, 3, 128, got));
        CHECK(got[0] == 103 && got[2] == 105, "%s: tokens %d to %d instead of 103 to 105", cases[c].why, got[0],
              got[2]);
        CHECK(token_file_read(&f, 1, 0, 3, 105, got) == ERR_DATA, "%s: the token 105 in a vocabulary of 105",
              cases[c].why);
        CHECK(strstr(status_text(), "document 1") && strstr(status_text(), "position 2") &&
                  strstr(status_text(), "105"),
              "%s: the text does not say where: %s", cases[c].why, status_text());
        token_file_close(&f);
    }
}

static void test_negative_and_wide(void) {
    unsigned char idx[GOOD_BYTES];
    const int64_t wide[5] = {1, INT64_C(1) << 32, 0, 0, 0};
    const int32_t negative[5] = {-1, 0, 0, 0, 0};
    struct token_file f;
    char prefix[PATH_BYTES];
    int32_t got[2];
    path_of(prefix, "t");
    good_index(idx, 5, 8);
    save("t.idx", idx, sizeof idx);
    save("t.bin", wide, sizeof wide);
    MUST(token_file_open(&f, prefix));
    CHECK(token_file_read(&f, 0, 0, 2, INT32_MAX, got) == ERR_DATA, "a token of 2^32 was cut to 32 bits");
    token_file_close(&f);
    good_index(idx, 4, 4);
    save("t.idx", idx, sizeof idx);
    save("t.bin", negative, sizeof negative);
    MUST(token_file_open(&f, prefix));
    CHECK(token_file_read(&f, 0, 0, 2, INT32_MAX, got) == ERR_DATA, "a negative token was taken");
    token_file_close(&f);
}

static void test_malformed(void) {
    static const struct {
        const char *why;
        int at, bytes;
        int64_t value;
        const char *says;
    } cases[] = {
        {"another magic", 0, 1, 'X', "MMIDIDX"},
        {"version 2", 9, 8, 2, "version 2"},
        {"type 0", 17, 1, 0, "type 0"},
        {"a type of reals", 17, 1, 6, "type 6"},
        {"a type above all", 17, 1, 255, "type 255"},
        {"more entries than bytes", 18, 8, 4, "4 entries"},
        {"a count that wraps times 12", 18, 8, INT64_C(0x1555555555555556), "do not fill"},
        {"a negative count", 18, 8, -1, "do not fill"},
        {"fewer entries", 18, 8, 2, "do not fill"},
        {"more starts than bytes", 26, 8, 5, "5 document starts"},
        {"starts that wrap times 8", 26, 8, INT64_C(0x2000000000000003), "do not fill"},
        {"a negative length", AT_LENGTHS, 4, -2, "length -2"},
        {"lengths beyond .bin", AT_LENGTHS + 8, 4, 1000, "entry 2 has 1000 tokens"},
        {"lengths that end early", AT_LENGTHS + 8, 4, 2, "end at byte 8"},
        {"an offset that disagrees", AT_OFFSETS + 8, 8, 2, "entry 1 begins at byte 2"},
        {"a negative offset", AT_OFFSETS + 16, 8, -4, "entry 2 begins at byte -4"},
        {"a first document that is not 0", AT_STARTS, 8, 1, "document 0 starts at entry 1"},
        {"documents that run back", AT_STARTS + 8, 8, -1, "document 0 has the entries 0 to -1"},
        {"a document beyond the entries", AT_STARTS + 8, 8, 4, "document 0 has the entries 0 to 4"},
        {"documents that end early", AT_STARTS + 16, 8, 2, "end at entry 2"},
    };
    const uint16_t bin[5] = {1, 2, 3, 4, 5};
    char prefix[PATH_BYTES];
    path_of(prefix, "t");
    save("t.bin", bin, sizeof bin);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        unsigned char idx[GOOD_BYTES];
        struct token_file f;
        good_index(idx, 8, 2);
        put(idx + cases[c].at, cases[c].value, cases[c].bytes);
        save("t.idx", idx, sizeof idx);
        const enum status st = token_file_open(&f, prefix);
        CHECK(st == ERR_DATA, "%s: %s", cases[c].why, status_name(st));
        CHECK(strstr(status_text(), cases[c].says) && strstr(status_text(), prefix), "%s: the text is: %s",
              cases[c].why, status_text());
        if (st == OK) token_file_close(&f);
    }
}

/* Cut at every length: refused each time, and nothing behind the end is read (the sanitizers watch). */
static void test_cut_off(void) {
    unsigned char idx[GOOD_BYTES];
    const uint16_t bin[6] = {1, 2, 3, 4, 5, 6};
    for (int n = 0; n < GOOD_BYTES; n++) {
        struct token_file f = {.prefix = "cut"};
        void *exact = NULL;
        good_index(idx, 8, 2);
        MUST(mem_take(n, &exact));
        memcpy(exact, idx, (size_t)n);
        f.idx = (struct file_map){exact, n};
        f.bin = (struct file_map){(const unsigned char *)bin, 10};
        CHECK(token_file_check(&f) == ERR_DATA, "an index of %d of %d bytes was taken", n, GOOD_BYTES);
        mem_free(exact);
    }
    for (int64_t n = 0; n <= 12; n++) {
        struct token_file f = {.prefix = "cut", .idx = {idx, GOOD_BYTES}, .bin = {(const unsigned char *)bin, n}};
        CHECK((token_file_check(&f) == OK) == (n == 10), "a .bin of %" PRId64 " bytes instead of 10", n);
    }
}

static void test_missing(void) {
    struct token_file f;
    char prefix[PATH_BYTES];
    path_of(prefix, "nothing");
    CHECK(token_file_open(&f, prefix) == ERR_MISSING && strstr(status_text(), "baton prepare"), "%s", status_text());
    unsigned char idx[GOOD_BYTES];
    good_index(idx, 8, 2);
    save("nothing.idx", idx, sizeof idx);
    CHECK(token_file_open(&f, prefix) == ERR_MISSING && strstr(status_text(), "nothing.bin"), "%s", status_text());
}

static bool there(const char *name) {
    char path[PATH_BYTES];
    path_of(path, name);
    return file_exists(path);
}

static void test_written(int64_t vocab, enum dtype wanted) {
    struct token_writer *w = NULL;
    struct token_file f;
    char prefix[PATH_BYTES];
    static int32_t tokens[10000], got[10000];
    for (int i = 0; i < 10000; i++) tokens[i] = (int32_t)((uint32_t)i * 7919u % (uint32_t)vocab);
    tokens[9999] = (int32_t)vocab - 1;
    path_of(prefix, "w");
    MUST(token_writer_open(&w, prefix, vocab));
    MUST(token_writer_add(w, tokens, 10000));
    MUST(token_writer_add(w, tokens, 0));
    MUST(token_writer_add(w, tokens + 9999, 1));
    CHECK(!there("w.bin") && !there("w.idx"), "a file stands under its final name before the end");
    MUST(token_writer_close(w, true));
    CHECK(!there("w.bin.tmp") && !there("w.idx.tmp"), "a temporary file stayed");
    MUST(token_file_open(&f, prefix));
    CHECK(f.dtype == wanted, "vocab %" PRId64 ": %s instead of %s", vocab, dtype_name(f.dtype), dtype_name(wanted));
    CHECK(f.n_documents == 3 && f.n_tokens == 10001, "%" PRId64 " documents", f.n_documents);
    MUST(token_file_read(&f, 0, 0, 10000, vocab, got));
    CHECK(!memcmp(got, tokens, sizeof got), "vocab %" PRId64 ": the tokens changed", vocab);
    CHECK(token_file_length(&f, 1) == 0 && token_file_length(&f, 2) == 1, "document lengths");
    MUST(token_file_read(&f, 2, 0, 1, vocab, got));
    CHECK(got[0] == vocab - 1, "token %d", got[0]);
    token_file_close(&f);
    char path[PATH_BYTES];
    path_of(path, "w.bin");
    MUST(file_remove_tree(path));
    path_of(path, "w.idx");
    MUST(file_remove_tree(path));
}

static void test_dropped(void) {
    struct token_writer *w = NULL;
    char prefix[PATH_BYTES];
    const int32_t token = 7;
    path_of(prefix, "d");
    MUST(token_writer_open(&w, prefix, 256));
    MUST(token_writer_add(w, &token, 1));
    MUST(token_writer_close(w, false));
    CHECK(!there("d.bin") && !there("d.idx") && !there("d.bin.tmp") && !there("d.idx.tmp"), "a dropped file stayed");
    MUST(token_writer_close(NULL, false));
    path_of(prefix, "no/such/folder");
    CHECK(token_writer_open(&w, prefix, 256) == ERR_IO && w == NULL, "%s", status_text());
}

/* A disk that is full after `room` bytes, played by a limit on the size of files: an error, and no file is left. */
static void test_full_disk(int64_t room) {
    struct token_writer *w = NULL;
    struct rlimit before, tight;
    char prefix[PATH_BYTES];
    static int32_t tokens[1000];
    path_of(prefix, "f");
    signal(SIGXFSZ, SIG_IGN);
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0, "no limit can be read");
    tight = before;
    tight.rlim_cur = (rlim_t)room;
    MUST(token_writer_open(&w, prefix, 256));
    CHECK(setrlimit(RLIMIT_FSIZE, &tight) == 0, "no limit can be set");
    enum status st = OK;
    for (int i = 0; i < 500 && st == OK; i++) st = token_writer_add(w, tokens, 4);
    const enum status closed = token_writer_close(w, st == OK);
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK(st == ERR_IO || closed == ERR_IO, "%" PRId64 " bytes of room: %s", room, status_name(closed));
    CHECK(strstr(status_text(), "cannot write"), "%s", status_text());
    CHECK(!there("f.bin") && !there("f.idx") && !there("f.bin.tmp") && !there("f.idx.tmp"), "a file was left");
}

/* Every allocation fails once: an error, no file under a final name, and the next try succeeds. */
static void test_memory(void) {
    char prefix[PATH_BYTES];
    const int32_t token = 7;
    path_of(prefix, "m");
    for (int64_t k = 1;; k++) {
        struct token_writer *w = NULL;
        mem_fail_at(k);
        enum status st = token_writer_open(&w, prefix, 256);
        for (int i = 0; st == OK && i < 1500; i++) st = token_writer_add(w, &token, 1);
        const bool filled = st == OK;
        mem_fail_at(0);
        CHECK(filled || st == ERR_OOM, "%s", status_name(st));
        st = token_writer_close(w, filled);
        CHECK(there("m.idx") == filled, "allocation %" PRId64, k);
        if (filled) break;
    }
}

int main(void) {
    char name[] = "/tmp/baton_idx_XXXXXX";
    if (!mkdtemp(name)) SKIP("no temporary folder can be made");
    MUST(path_print(folder, "%s", name));
    test_types();
    test_negative_and_wide();
    test_malformed();
    test_cut_off();
    test_missing();
    test_written(256, U16);
    test_written(65499, U16);
    test_written(65500, I32);
    test_written(200000, I32);
    test_dropped();
    test_full_disk(100); /* .bin has 4,000 bytes, .idx 10,042 */
    test_full_disk(4096);
    test_memory();
    MUST(file_remove_tree(folder));
    return check_end();
}
