/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints that nothing harms: round trip, several shards, pieces, keep, find, refusals. */
#define _GNU_SOURCE
#include <fcntl.h>
#include "base/hash.h"
#include "checkpoints/manifest.h"
#include "checkpoints/safetensors.h"
#include "tests/checkpoint_world.h"

static char run[PATH_BYTES];

static const char *step_path(int64_t step) {
    static char path[PATH_BYTES];
    snprintf(path, sizeof path, "%.900s/checkpoints/step-%08" PRId64, run, step);
    return path;
}

static void found(int64_t step, int64_t n_skipped, const char *why) {
    char path[PATH_BYTES];
    struct text skipped = {0};
    int64_t lines = 0;
    MUST(checkpoint_find(run, path, &skipped));
    CHECK(!strcmp(path, step_path(step)), "%s: %s", why, path);
    for (const char *p = skipped.s; p && *p; p++) lines += *p == '\n';
    CHECK(lines == n_skipped, "%s: %" PRId64 " skipped:\n%s", why, lines, skipped.s ? skipped.s : "");
    text_term(&skipped);
    world_check(path, step, why);
}

static void fails(enum status got, enum status wanted, const char *part, const char *why) {
    CHECK(got == wanted, "%s: %s: %s", why, status_name(got), status_text());
    CHECK(strstr(status_text(), part), "%s: '%s' does not say '%s'", why, status_text(), part);
}

static void test_round_trip(void) {
    char path[PATH_BYTES];
    struct text skipped = {0};
    fails(checkpoint_find(run, path, &skipped), ERR_MISSING, "no checkpoint", "an empty run");
    fails(checkpoint_find(step_path(7), path, &skipped), ERR_MISSING, "no such folder", "a step that is not there");
    world_save(run, 7, 0);
    found(7, 0, "the only one");
    MUST(checkpoint_find(step_path(7), path, &skipped));
    world_check(path, 7, "by its own name");
    world_save(run, 7, 0); /* whole and of this run: enough as it is */
    struct world w;
    struct checkpoint_meta m = world_meta(7);
    world_init(&w);
    m.identity[0] = 'b';
    fails(checkpoint_save(run, &m, w.list, WORLD_TENSORS, 0), ERR_ARG, "another run", "same step of another run");
    found(7, 0, "after the refusal");
    text_term(&skipped);
}

static void test_keep(void) {
    for (int64_t step = 8; step <= 12; step++) world_save(run, step, 0);
    for (int64_t step = 7; step <= 12; step++) CHECK(file_exists(step_path(step)), "step %" PRId64, step);
    world_save(run, 13, 3);
    for (int64_t step = 7; step <= 10; step++) CHECK(!file_exists(step_path(step)), "step %" PRId64 " stays", step);
    for (int64_t step = 11; step <= 13; step++) world_check(step_path(step), step, "kept");
    world_save(run, 14, 1);
    CHECK(!file_exists(step_path(13)) && file_exists(step_path(14)), "keep 1");
}

/* A damaged older one does not count among those kept; a damaged one of the same step is replaced. */
static void test_damaged(void) {
    char path[PATH_BYTES], left[PATH_BYTES];
    world_save(run, 15, 0);
    world_save(run, 16, 0);
    snprintf(path, sizeof path, "%.900s/manifest.json", step_path(16));
    CHECK(unlink(path) == 0, "unlink");
    found(15, 1, "the newest has lost its manifest");
    world_save(run, 17, 3);
    CHECK(file_exists(step_path(14)) && file_exists(step_path(15)), "a damaged one counted among those kept");
    snprintf(path, sizeof path, "%.900s/config.yaml", step_path(17));
    CHECK(truncate(path, 3) == 0, "truncate");
    found(15, 2, "two damaged");
    const int loud = dup(2), silent = open("/dev/null", O_WRONLY);
    dup2(silent, 2); /* the warning that a damaged one is replaced */
    world_save(run, 17, 2);
    dup2(loud, 2);
    close(loud);
    close(silent);
    found(17, 0, "written again over a damaged one");
    snprintf(left, sizeof left, "%.900s.tmp-1999999999-elsewhere", step_path(18));
    MUST(file_make_folders(left));
    world_save(run, 18, 0);
    CHECK(!file_exists(left), "a dead process's folder stays");
    snprintf(left, sizeof left, "%.900s.tmp-notes", step_path(18));
    MUST(file_make_folders(left));
    world_save(run, 19, 0);
    CHECK(file_exists(left), "what no save made was removed");
}

static void test_none_valid(void) {
    char other[PATH_BYTES], path[PATH_BYTES];
    struct text skipped = {0};
    snprintf(other, sizeof other, "%.900s/other", run);
    world_save(other, 3, 0);
    snprintf(path, sizeof path, "%.900s/checkpoints/step-00000003/config.yaml", other);
    CHECK(unlink(path) == 0, "unlink");
    fails(checkpoint_find(other, path, &skipped), ERR_DATA, "config.yaml", "the only one is damaged");
    text_term(&skipped);
}

/* ---- a checkpoint of several shards, made by hand ---- */

enum { ROWS = 10, COLS = 3 };
static float whole[ROWS * COLS];

struct half {
    int64_t begin, rows;
};

/* Each shard holds rows of "param/a"; "param/b" (a scalar) is in the first. */
static enum status make_shards(const char *dir, const struct half *h, int n) {
    char name[4][64], path[PATH_BYTES], hex[5][HASH_HEX];
    struct shard_sum sum[4];
    struct manifest_file file[5] = {{.name = "config.yaml"}};
    struct manifest_piece piece[5] = {{.file = 1, .rows = 1, .xxh3 = hex[0]}};
    struct manifest_tensor tensor[2] = {
        {.name = "param/b", .dtype = F32, .n_dims = 0, .shape = {1, 1, 1, 1}, .n_pieces = 1},
        {.name = "param/a", .dtype = F32, .n_dims = 2, .shape = {ROWS, COLS, 1, 1}, .first_piece = 1, .n_pieces = n}};
    struct manifest m = {.step = 5,
                         .identity_text = "",
                         .file = file,
                         .tensor = tensor,
                         .piece = piece,
                         .n_files = n + 1,
                         .n_tensors = 2,
                         .n_pieces = n + 1};
    struct text text = {0};
    char identity[65] = {0}, config_sum[HASH_HEX];
    memset(identity, '0', 64);
    m.identity = identity;
    hash_xxh3(whole, 4, hex[0]);
    TRY(file_remove_tree(dir));
    TRY(file_make_folders(dir));
    for (int i = 0; i < n; i++) {
        const struct shard_item item[2] = {
            {.name = "param/a",
             .dtype = F32,
             .n_dims = 2,
             .shape = {h[i].rows, COLS, 1, 1},
             .data = whole + h[i].begin * COLS},
            {.name = "param/b", .dtype = F32, .n_dims = 0, .shape = {1, 1, 1, 1}, .data = whole}};
        snprintf(name[i], sizeof name[i], "shard-%05d-of-%05d.safetensors", i, n);
        snprintf(path, sizeof path, "%.800s/%s", dir, name[i]);
        TRY(shard_write(path, item, i == 0 ? 2 : 1, NULL, &sum[i]));
        file[i + 1] = (struct manifest_file){.name = name[i], .bytes = sum[i].bytes, .xxh3 = sum[i].xxh3};
        hash_xxh3(whole + h[i].begin * COLS, h[i].rows * COLS * 4, hex[i + 1]);
        piece[i + 1] =
            (struct manifest_piece){.file = i + 1, .begin = h[i].begin, .rows = h[i].rows, .xxh3 = hex[i + 1]};
    }
    hash_xxh3("x", 1, config_sum);
    file[0].bytes = 1;
    file[0].xxh3 = config_sum;
    snprintf(path, sizeof path, "%.800s/config.yaml", dir);
    TRY(file_replace(path, "x", 1));
    enum status st = manifest_print(&m, &text);
    snprintf(path, sizeof path, "%.800s/manifest.json", dir);
    if (st == OK) st = file_replace(path, text.s, text.n);
    text_term(&text);
    return st;
}

static void read_stretch(const struct checkpoint *c, int64_t begin, int64_t rows) {
    double out[ROWS * COLS + 1];
    struct state_tensor s = {.name = "param/a", .global = {ROWS, COLS, 1, 1}, .n_dims = 2, .begin = begin};
    for (int i = 0; i <= ROWS * COLS; i++) out[i] = -1;
    s.t = tensor_2d(out, F64, rows, COLS);
    MUST(checkpoint_read(c, &s, 1, false));
    for (int64_t i = 0; i < rows * COLS; i++)
        CHECK(out[i] == (double)whole[begin * COLS + i], "rows %" PRId64 "+%" PRId64 ": element %" PRId64 ": %g for %g",
              begin, rows, i, out[i], (double)whole[begin * COLS + i]);
    CHECK(out[rows * COLS] == -1, "rows %" PRId64 "+%" PRId64 ": written past the end", begin, rows);
}

static void test_shards(void) {
    static const struct {
        const char *why, *says; /* says: of the refusal, or NULL */
        int n;
        struct half h[4];
    } cases[] = {
        {"one shard", NULL, 1, {{0, 10}}},
        {"two, uneven", NULL, 2, {{0, 7}, {7, 3}}},
        {"listed out of order", NULL, 3, {{4, 6}, {0, 3}, {3, 1}}},
        {"a rank without rows", NULL, 3, {{0, 5}, {5, 0}, {5, 5}}},
        {"a hole", "not each row once", 2, {{0, 4}, {5, 5}}},
        {"an overlap", "not each row once", 2, {{0, 6}, {5, 5}}},
        {"the same rows twice", "not each row once", 2, {{0, 10}, {0, 10}}},
        {"rows missing at the end", "in no file", 2, {{0, 4}, {4, 5}}},
    };
    char dir[PATH_BYTES];
    snprintf(dir, sizeof dir, "%.900s/hand", run);
    for (int i = 0; i < ROWS * COLS; i++) whole[i] = 0.5f + (float)i;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct checkpoint *c = NULL;
        const enum status st = make_shards(dir, cases[i].h, cases[i].n);
        if (cases[i].says) {
            fails(st, ERR_DATA, cases[i].says, cases[i].why);
            continue;
        }
        CHECK(st == OK, "%s: %s", cases[i].why, status_text());
        MUST(checkpoint_open(&c, dir));
        for (int64_t begin = 0; begin <= ROWS; begin++)
            for (int64_t rows = 0; begin + rows <= ROWS; rows++) read_stretch(c, begin, rows);
        checkpoint_close(c);
    }
}

static void test_asked(void) {
    struct world w;
    struct checkpoint *c = NULL;
    world_init(&w);
    MUST(checkpoint_open(&c, step_path(19)));
    fails(checkpoint_read(c, w.list, WORLD_TENSORS - 1, true), ERR_DATA, "state/bytes", "one that nobody asked for");
    MUST(checkpoint_read(c, w.list, WORLD_TENSORS - 1, false));
    w.list[0].global[0]++;
    fails(checkpoint_read(c, w.list, 1, false), ERR_DATA, "38, 91", "another shape");
    strcpy(w.list[0].name, "param/none");
    fails(checkpoint_read(c, w.list, 1, false), ERR_DATA, "param/none", "a name that is missing");
    checkpoint_close(c);
}

static void test_links(void) {
    char from[PATH_BYTES], to[PATH_BYTES], path[PATH_BYTES];
    struct text skipped = {0};
    snprintf(to, sizeof to, "%.900s/config.yaml", step_path(19));
    snprintf(from, sizeof from, "%.900s/stolen.yaml", run);
    CHECK(rename(to, from) == 0 && symlink(from, to) == 0, "cannot make a link");
    fails(checkpoint_find(step_path(19), path, &skipped), ERR_DATA, "is a link", "a file that is a link");
    CHECK(unlink(to) == 0 && rename(from, to) == 0, "cannot restore");
    snprintf(to, sizeof to, "%s", step_path(19));
    CHECK(symlink(to, step_path(20)) == 0, "cannot make a link");
    found(19, 1, "a step that is a link is passed over");
    text_term(&skipped);
}

int main(void) {
    world_folder(run);
    test_round_trip();
    test_keep();
    test_damaged();
    test_none_valid();
    test_shards();
    test_asked();
    test_links();
    MUST(file_remove_tree(run));
    return check_end();
}
