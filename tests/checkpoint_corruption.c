/* SPDX-License-Identifier: Apache-2.0 */
/* timeout: 300 */
/* Checkpoints harmed after they were written: every kind of harm is seen before a byte reaches a tensor, is told with
 * the file and, where one is hurt, the tensor, and the previous step is taken instead. */
#define _GNU_SOURCE
#include <sys/stat.h>
#include "base/arena.h"
#include "base/hash.h"
#include "checkpoints/safetensors.h"
#include "tests/checkpoint_world.h"

#define SHARD "shard-00000-of-00001.safetensors"
enum { BLOCK = 4096 };
static char run[PATH_BYTES], step2[PATH_BYTES];
static const char *files[] = {SHARD, "manifest.json", "config.yaml"};

static void path_of(char out[PATH_BYTES], const char *file) { snprintf(out, PATH_BYTES, "%.900s/%s", step2, file); }

static void put(const char *file, const char *data, int64_t bytes) {
    char path[PATH_BYTES];
    path_of(path, file);
    MUST(file_replace(path, data, bytes));
}

static char *get(const char *file, int64_t *bytes) {
    char path[PATH_BYTES], *text = NULL;
    path_of(path, file);
    MUST(file_read(path, 1 << 24, &text, bytes));
    return text;
}

/* Opening tells `says`; the list given to read stays as it was; step 1 is found, and why not step 2. */
static void refused(const char *why, const char *says, const char *also) {
    char path[PATH_BYTES];
    struct checkpoint *c = NULL;
    struct text skipped = {0};
    const enum status st = checkpoint_open(&c, step2);
    CHECK(st == ERR_DATA && !c, "%s: %s: %s", why, status_name(st), status_text());
    checkpoint_close(c);
    CHECK(strstr(status_text(), says) && strstr(status_text(), also), "%s: '%s' does not say '%s' and '%s'", why,
          status_text(), says, also);
    MUST(checkpoint_find(run, path, &skipped));
    CHECK(strstr(path, "step-00000001"), "%s: %s was found", why, path);
    CHECK(skipped.s && strstr(skipped.s, "skipped step 2: ") && strstr(skipped.s, says), "%s: passed over with '%s'",
          why, skipped.s ? skipped.s : "");
    text_term(&skipped);
    if (check_failures) exit(1);
}

/* ---- single bits ---- */

static const struct shard_entry *entry_at(const struct shard_file *f, int64_t at) {
    for (int64_t i = 0; i < f->n_entries; i++)
        if (at >= f->entry[i].begin && at < f->entry[i].begin + f->entry[i].bytes) return &f->entry[i];
    return NULL;
}

static void flip(const char *file, char *data, int64_t bytes, int64_t at, int bit, const char *tensor) {
    char why[200];
    snprintf(why, sizeof why, "%s: bit %d of byte %" PRId64, file, bit, at);
    data[at] = (char)(data[at] ^ 1 << bit);
    put(file, data, bytes);
    refused(why, file, tensor);
    data[at] = (char)(data[at] ^ 1 << bit);
}

/* One bit in every block of 4 KiB of every file, at places that differ from block to block; every byte of what is
 * parsed: the header of the shard, the manifest, the configuration. */
static void test_bits(void) {
    char path[PATH_BYTES];
    struct shard_file f;
    path_of(path, SHARD);
    for (int i = 0; i < 3; i++) {
        int64_t bytes = 0;
        char *data = get(files[i], &bytes);
        uint64_t header = 0;
        const int64_t parsed = i == 0 ? (memcpy(&header, data, 8), 8 + (int64_t)header) : bytes;
        MUST(shard_open(&f, path));
        for (int64_t at = 0; at < parsed; at++) flip(files[i], data, bytes, at, (int)(at * 5 % 8), "");
        put(files[i], data, bytes);
        for (int64_t block = 0; i == 0 && block * BLOCK < bytes; block++) {
            const int64_t at = block * BLOCK + block * 977 % BLOCK;
            const struct shard_entry *e = at < bytes ? entry_at(&f, at) : NULL;
            if (at < bytes) flip(files[i], data, bytes, at, (int)(block % 8), e ? e->name : "");
        }
        for (int64_t t = 0; i == 0 && t < f.n_entries; t++)
            if (f.entry[t].bytes)
                flip(files[i], data, bytes, f.entry[t].begin + f.entry[t].bytes - 1, 7, f.entry[t].name);
        put(files[i], data, bytes);
        shard_close(&f);
        file_free(data);
    }
}

/* ---- lengths ---- */

static void cut(const char *file, const char *data, int64_t bytes) {
    char why[200];
    snprintf(why, sizeof why, "%s: cut to %" PRId64 " bytes", file, bytes);
    put(file, data, bytes);
    refused(why, file, "");
}

static void test_lengths(void) {
    for (int i = 0; i < 3; i++) {
        int64_t bytes = 0;
        char *data = get(files[i], &bytes);
        uint64_t header = 0;
        memcpy(&header, data, 8);
        for (int64_t at = 0; at < bytes; at += BLOCK) cut(files[i], data, at);
        const int64_t edges[] = {
            1, 7, 8, 9, 8 + (int64_t)header - 1, 8 + (int64_t)header, 8 + (int64_t)header + 1, bytes - 1};
        for (size_t e = 0; e < sizeof edges / sizeof *edges; e++)
            if (edges[e] < bytes && edges[e] > 0) cut(files[i], data, edges[e]);
        struct text longer = {0};
        MUST(text_add(&longer, data, bytes));
        MUST(text_add(&longer, "\n", 1));
        put(files[i], longer.s, longer.n);
        refused("a byte more", files[i], "");
        text_term(&longer);
        put(files[i], data, bytes);
        file_free(data);
    }
}

/* ---- whole files ---- */

static void test_files(void) {
    char path[PATH_BYTES], other[PATH_BYTES];
    for (int i = 0; i < 3; i++) {
        int64_t bytes = 0, stale_bytes = 0;
        char *data = get(files[i], &bytes), *stale = NULL;
        path_of(path, files[i]);
        CHECK(unlink(path) == 0, "unlink");
        refused("a file is gone", files[i], "");
        CHECK(mkdir(path, 0755) == 0, "mkdir");
        refused("a folder in its place", files[i], "");
        CHECK(rmdir(path) == 0, "rmdir");
        snprintf(other, sizeof other, "%.900s/checkpoints/step-00000001/%s", run, files[i]);
        CHECK(symlink(other, path) == 0, "symlink");
        refused("a link in its place", files[i], "link");
        CHECK(unlink(path) == 0, "unlink");
        MUST(file_read(other, 1 << 24, &stale, &stale_bytes));
        if (stale_bytes != bytes || memcmp(stale, data, (size_t)bytes) != 0) {
            put(files[i], stale, stale_bytes);
            refused("the same file of another step", i == 1 ? "named after step 2" : files[i], i ? "" : "adamw.m/");
        }
        put(files[i], data, bytes);
        file_free(stale);
        file_free(data);
    }
    world_check(step2, 2, "everything is back");
}

/* ---- a manifest that was edited and sealed again ---- */

static void reseal(struct text *t) {
    char hex[SHA256_HEX];
    char *line = strstr(t->s, " \"sha256\": \"");
    if (!line || t->s[t->n - 1] != '\n') exit(1);
    char *next = strchr(line, '\n') + 1;
    struct text bare = {0};
    MUST(text_add(&bare, t->s, line - t->s));
    MUST(text_add(&bare, next, t->s + t->n - 1 - next));
    MUST(hash_sha256(bare.s, bare.n, hex));
    memcpy(line + strlen(" \"sha256\": \""), hex, 64);
    text_term(&bare);
}

static void replace_first(struct text *out, const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    CHECK(at, "a case replaces '%s', which is not there", from);
    if (!at) exit(1);
    MUST(text_add(out, text, at - text));
    MUST(text_print(out, "%s%s", to, at + strlen(from)));
}

static void test_edits(void) {
    static const struct {
        const char *why, *from, *to, *says;
    } cases[] = {
        {"a path out of the folder", "\"name\": \"config.yaml\"", "\"name\": \"../config.yaml\"",
         "not a plain file name"},
        {"an absolute path", "\"name\": \"config.yaml\"", "\"name\": \"/etc/passwd\"", "not a plain file name"},
        {"a path into a folder", "\"name\": \"config.yaml\"", "\"name\": \"a/config.yaml\"", "not a plain file name"},
        {"the folder itself", "\"name\": \"config.yaml\"", "\"name\": \".\"", "not a plain file name"},
        {"a file that is not there", "\"name\": \"config.yaml\"", "\"name\": \"config.yam\"", "it is not there"},
        {"another format", "baton-checkpoint-1", "baton-checkpoint-2", "its format is"},
        {"another step", "\"step\": 2", "\"step\": 3", "named after step 2"},
        {"another size", "\"bytes\": 34", "\"bytes\": 35", "the manifest says 35"},
        {"a size below 0", "\"bytes\": 34", "\"bytes\": -1", "less than 0"},
        {"another checksum", "\"xxh3\": \"", "\"xxh3\": \"0123456789abcdef0123456789abcdef\", \"was\": \"", "checksum"},
        {"a checksum that is none", "\"xxh3\": \"", "\"xxh3\": \"ABC", "checksum"},
        {"another shape", "    37,\n    91\n", "    91,\n    37\n", "rows"},
        {"another width", "    37,\n    91\n", "    37,\n    92\n", "type or shape differs"},
        {"another type", "\"dtype\": \"F64\"", "\"dtype\": \"I64\"", "type or shape differs"},
        {"a type that is none", "\"dtype\": \"F64\"", "\"dtype\": \"F65\"", "no type is called F65"},
        {"a shape below 0", "    37,\n    91\n", "    37,\n    -91\n", "no memory holds"},
        {"a shape above all", "    37,\n    91\n", "    4611686018427387904,\n    91\n", "no memory holds"},
        {"another name", "\"param/scalar\"", "\"param/scales\"", "param/scales"},
        {"a piece elsewhere", "\"file\": 1", "\"file\": 0", "not a shard"},
        {"a piece nowhere", "\"file\": 1", "\"file\": 2", "no file has the number"},
        {"a piece that begins late", "\"begin\": 0", "\"begin\": 1", "not each row once"},
        {"a piece cut short", "\"rows\": 37", "\"rows\": 36", "in no file"},
        {"a piece too long", "\"rows\": 37", "\"rows\": 38", "not each row once"},
        {"a band that is too narrow", "\"rows\": 37", "\"rows\": 37, \"dim\": 1, \"from\": 0, \"size\": 90",
         "of 91 entries of dim 1 are in no file"},
        {"a band that is too wide", "\"rows\": 37", "\"rows\": 37, \"dim\": 1, \"from\": 0, \"size\": 92",
         "not each once"},
        {"a band that begins late", "\"rows\": 37", "\"rows\": 37, \"dim\": 1, \"from\": 1, \"size\": 90",
         "not each once"},
        {"a band of no dim", "\"rows\": 37", "\"rows\": 37, \"dim\": 2, \"from\": 0, \"size\": 1", "along dim 2"},
        {"a band of nothing", "\"rows\": 37", "\"rows\": 37, \"dim\": 1, \"from\": 0, \"size\": 0", "along dim 1"},
        {"a band without a size", "\"rows\": 37", "\"rows\": 37, \"dim\": 1, \"from\": 0", "size"},
        {"a seed that is none", "\"seed\": \"18", "\"seed\": \"-18", "\"seed\" is not a number"},
        {"an identity that is none", "\"identity\": \"a", "\"identity\": \"x", "identity"},
        {"no tokens", "\"tokens\"", "\"token\"", "tokens"},
    };
    int64_t bytes = 0;
    char *old = get("manifest.json", &bytes);
    struct text same = {0};
    MUST(text_add(&same, old, bytes));
    reseal(&same);
    CHECK(same.n == bytes && !memcmp(same.s, old, (size_t)bytes), "the test's own seal is not the program's");
    text_term(&same);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct text t = {0};
        replace_first(&t, old, cases[i].from, cases[i].to);
        put("manifest.json", t.s, t.n);
        refused(cases[i].why, "manifest.json", ""); /* the seal, or what is said before it is looked at */
        reseal(&t);
        put("manifest.json", t.s, t.n);
        refused(cases[i].why, cases[i].says, "step-00000002");
        text_term(&t);
    }
    put("manifest.json", old, bytes);
    file_free(old);
}

int main(void) {
    world_folder(run);
    world_save(run, 1, 0);
    world_save(run, 2, 0);
    snprintf(step2, sizeof step2, "%.900s/checkpoints/step-00000002", run);
    test_bits();
    world_check(step2, 2, "after all bits");
    test_lengths();
    world_check(step2, 2, "after all lengths");
    test_files();
    test_edits();
    world_check(step2, 2, "after all edits");
    MUST(file_remove_tree(run));
    return check_end();
}
