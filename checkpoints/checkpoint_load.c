/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "base/arena.h"
#include "base/hash.h"
#include "checkpoints/checkpoint.h"
#include "checkpoints/manifest.h"
#include "checkpoints/safetensors.h"
#include "checkpoints/step_folders.h"

#define CONFIG_BYTES ((int64_t)16 << 20)

struct checkpoint {
    char path[PATH_BYTES];
    struct checkpoint_meta meta;
    struct manifest m;
    struct shard_file *shard;         /* one a file of the manifest; empty for what is no shard */
    const struct shard_entry **entry; /* one a piece */
    char *config;
};

static bool is_shard(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot && !strcmp(dot, ".safetensors");
}

/* A plain file in the folder: links are refused, for they may lead out of it. */
static enum status check_plain(const char *path) {
    struct stat s;
    if (lstat(path, &s) != 0)
        FAIL(errno == ENOENT ? ERR_DATA : ERR_IO, "%s: %s", path,
             errno == ENOENT ? "the manifest lists this file; it is not there" : strerror(errno));
    FAIL_UNLESS(!S_ISLNK(s.st_mode), ERR_DATA, "%s is a link: refused, a checkpoint holds its files itself", path);
    FAIL_UNLESS(S_ISREG(s.st_mode), ERR_DATA, "%s is not a plain file", path);
    return OK;
}

/* Which tensor a damaged shard hurts, as far as its header can still be read. */
static enum status name_damage(const struct checkpoint *c, int64_t file, const char *path) {
    struct shard_file f;
    char name[160] = "";
    char hex[HASH_HEX];
    const bool readable = shard_open(&f, path) == OK;
    for (int64_t i = 0; readable && i < c->m.n_tensors && !*name; i++) {
        const struct manifest_tensor *t = &c->m.tensor[i];
        const struct shard_entry *e = shard_find(&f, t->name);
        for (int64_t j = 0; e && j < t->n_pieces; j++) {
            const struct manifest_piece *p = &c->m.piece[t->first_piece + j];
            if (p->file != file) continue;
            hash_xxh3(f.map.data + e->begin, e->bytes, hex);
            if (strcmp(hex, p->xxh3) != 0) strncat(name, t->name, sizeof name - 1);
        }
    }
    if (readable) shard_close(&f);
    FAIL_UNLESS(!*name, ERR_DATA, "%s: tensor %s: its checksum does not hold: changed after it was written", path,
                name);
    FAIL(ERR_DATA, "%s: its checksum does not hold, in its header or names: changed after it was written", path);
}

static enum status check_size(const struct manifest_file *f, const char *path) {
    int64_t bytes = 0;
    TRY(check_plain(path));
    TRY(file_size(path, &bytes));
    FAIL_UNLESS(bytes == f->bytes, ERR_DATA, "%s: %" PRId64 " bytes; the manifest says %" PRId64 ": %s", path, bytes,
                f->bytes, bytes < f->bytes ? "cut short" : "something was added");
    return OK;
}

static enum status verify_file(const struct checkpoint *c, int64_t i, const char *path) {
    const struct manifest_file *f = &c->m.file[i];
    struct file_map map;
    char hex[HASH_HEX];
    TRY(check_size(f, path));
    TRY(file_map_open(&map, path));
    hash_xxh3(map.data, map.bytes, hex);
    file_map_close(&map);
    if (!strcmp(hex, f->xxh3)) return OK;
    if (is_shard(f->name)) return name_damage(c, i, path);
    FAIL(ERR_DATA, "%s: its checksum does not hold: changed after it was written", path);
}

/* The shard's entry for a piece, agreeing with the manifest. */
static enum status join_piece(struct checkpoint *c, const struct manifest_tensor *t, int64_t i) {
    const struct manifest_piece *p = &c->m.piece[i];
    const struct shard_file *f = &c->shard[p->file];
    const struct shard_entry *e = shard_find(f, t->name);
    FAIL_UNLESS(e, ERR_DATA, "%s: tensor %s: the manifest places it here; it is not", f->path, t->name);
    int64_t shape[4];
    memcpy(shape, t->shape, sizeof shape);
    if (t->n_dims > 0) shape[0] = p->rows;
    if (p->dim > 0) shape[p->dim] = p->size;
    FAIL_UNLESS(e->dtype == t->dtype && e->n_dims == t->n_dims && !memcmp(e->shape, shape, sizeof shape), ERR_DATA,
                "%s: tensor %s: type or shape differs from the manifest's", f->path, t->name);
    for (int64_t j = t->first_piece; j < i; j++)
        FAIL_UNLESS(c->m.piece[j].file != p->file, ERR_DATA, "%s: tensor %s: two pieces of it in one file", f->path,
                    t->name);
    c->entry[i] = e;
    return OK;
}

static enum status join_pieces(struct checkpoint *c) {
    int64_t entries = 0;
    for (int64_t i = 0; i < c->m.n_tensors; i++) {
        const struct manifest_tensor *t = &c->m.tensor[i];
        for (int64_t j = t->first_piece; j < t->first_piece + t->n_pieces; j++) TRY(join_piece(c, t, j));
    }
    for (int64_t i = 0; i < c->m.n_files; i++) entries += c->shard[i].n_entries;
    FAIL_UNLESS(entries == c->m.n_pieces, ERR_DATA,
                "%s: its shards hold %" PRId64 " pieces, the manifest lists %" PRId64, c->path, entries, c->m.n_pieces);
    return OK;
}

static enum status open_files(struct checkpoint *c) {
    char path[PATH_BYTES];
    int64_t bytes = 0;
    void *mem = NULL;
    TRY(mem_take((c->m.n_files + 1) * (int64_t)sizeof *c->shard, &mem));
    c->shard = mem;
    TRY(mem_take((c->m.n_pieces + 1) * (int64_t)sizeof *c->entry, &mem));
    c->entry = mem;
    for (int64_t i = 0; i < c->m.n_files; i++) {
        TRY(path_print(path, "%s/%s", c->path, c->m.file[i].name));
        TRY(verify_file(c, i, path));
        if (is_shard(c->m.file[i].name)) TRY(shard_open(&c->shard[i], path));
        else if (!strcmp(c->m.file[i].name, "config.yaml")) TRY(file_read(path, CONFIG_BYTES, &c->config, &bytes));
    }
    FAIL_UNLESS(c->config, ERR_DATA, "%s: the manifest lists no config.yaml", c->path);
    return join_pieces(c);
}

static enum status open_manifest(struct checkpoint *c) {
    char path[PATH_BYTES];
    char *text = NULL;
    int64_t bytes = 0;
    TRY(path_print(path, "%s/" MANIFEST_NAME, c->path));
    FAIL_UNLESS(file_exists(path), ERR_DATA, "%s: no manifest: not a checkpoint, or one whose files were lost", path);
    TRY(check_plain(path));
    TRY(file_read(path, MANIFEST_BYTES, &text, &bytes));
    const enum status st = manifest_open(&c->m, path, text, bytes);
    file_free(text);
    return st;
}

enum status checkpoint_glance(const char *path) {
    enum status st = OK;
    void *mem = NULL;
    char file[PATH_BYTES];
    struct checkpoint *c;
    TRY(mem_take(sizeof *c, &mem));
    c = mem;
    TRY_OUT(path_print(c->path, "%s", path));
    TRY_OUT(open_manifest(c));
    for (int64_t i = 0; i < c->m.n_files; i++) {
        TRY_OUT(path_print(file, "%s/%s", path, c->m.file[i].name));
        TRY_OUT(check_size(&c->m.file[i], file));
    }
out:
    checkpoint_close(c);
    return st;
}

enum status checkpoint_open(struct checkpoint **out, const char *path) {
    enum status st = OK;
    void *mem = NULL;
    struct checkpoint *c;
    int64_t step = 0;
    *out = NULL;
    TRY(mem_take(sizeof *c, &mem));
    c = mem;
    TRY_OUT(path_print(c->path, "%s", path));
    TRY_OUT(open_manifest(c));
    const char *slash = strrchr(path, '/');
    if (step_parse(slash ? slash + 1 : path, &step) && step != c->m.step)
        FAIL_OUT(ERR_DATA, "%s: the folder is named after step %" PRId64 ", its manifest is of step %" PRId64, path,
                 step, c->m.step);
    TRY_OUT(open_files(c));
    c->meta = (struct checkpoint_meta){.step = c->m.step,
                                       .tokens = c->m.tokens,
                                       .seed = c->m.seed,
                                       .identity_text = c->m.identity_text,
                                       .config = c->config};
    memcpy(c->meta.identity, c->m.identity, SHA256_HEX);
    *out = c;
    c = NULL;
out:
    checkpoint_close(c);
    return st;
}

void checkpoint_close(struct checkpoint *c) {
    if (!c) return;
    for (int64_t i = 0; c->shard && i < c->m.n_files; i++) shard_close(&c->shard[i]);
    mem_free(c->shard);
    mem_free(c->entry);
    file_free(c->config);
    manifest_close(&c->m);
    mem_free(c);
}

const struct checkpoint_meta *checkpoint_about(const struct checkpoint *c) { return &c->meta; }

const struct manifest *checkpoint_manifest(const struct checkpoint *c) { return &c->m; }

/* ---- reading tensors ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct manifest_tensor *)a)->name, ((const struct manifest_tensor *)b)->name);
}

static enum status find_tensor(const struct checkpoint *c, const struct state_tensor *s,
                               const struct manifest_tensor **out) {
    const struct manifest_tensor key = {.name = s->name};
    const struct manifest_tensor *t =
        c->m.n_tensors ? bsearch(&key, c->m.tensor, (size_t)c->m.n_tensors, sizeof key, by_name) : NULL;
    FAIL_UNLESS(t, ERR_DATA, "%s: no tensor %s in this checkpoint: was it saved by another model?", c->path, s->name);
    FAIL_UNLESS(t->n_dims == s->n_dims && !memcmp(t->shape, s->global, sizeof t->shape), ERR_DATA,
                "%s: tensor %s: (%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 ") in the checkpoint, (%" PRId64
                ", %" PRId64 ", %" PRId64 ", %" PRId64 ") in this model",
                c->path, s->name, t->shape[0], t->shape[1], t->shape[2], t->shape[3], s->global[0], s->global[1],
                s->global[2], s->global[3]);
    ASSERT((s->memory || s->t.space == HOST) && tensor_packed(s->t) && s->begin >= 0 &&
           s->begin + s->t.shape[0] <= manifest_rows(t));
    *out = t;
    return OK;
}

/* Elements of a piece's entry from `from` on become those of s from `to` on, through a buffer of the host. */
static enum status put_piece(const struct checkpoint *c, const struct state_tensor *s, int64_t piece, int64_t from,
                             int64_t to, int64_t n) {
    const struct manifest_piece *p = &c->m.piece[piece];
    const int64_t room_n = n < STATE_PIECE ? n : STATE_PIECE;
    void *room = NULL;
    enum status st = OK;
    TRY(mem_take(room_n * dtype_bytes(s->t.dtype), &room));
    for (int64_t at = 0; st == OK && at < n; at += room_n) {
        const int64_t m = n - at < room_n ? n - at : room_n;
        st = shard_read(&c->shard[p->file], c->entry[piece], from + at, m, s->t.dtype, room);
        if (st == OK) st = s->memory->put(s->memory->arg, s, to + at, m, room);
    }
    mem_free(room);
    return st;
}

/* Elements [from, from + n) of a piece's entry go to elements of s from `to` on. */
static enum status read_run(const struct checkpoint *c, const struct state_tensor *s, int64_t piece, int64_t from,
                            int64_t to, int64_t n) {
    const struct manifest_piece *p = &c->m.piece[piece];
    if (s->memory) return put_piece(c, s, piece, from, to, n);
    char *at = (char *)s->t.data + to * dtype_bytes(s->t.dtype);
    return shard_read(&c->shard[p->file], c->entry[piece], from, n, s->t.dtype, at);
}

/* What a box of rows, and of entries of one later dim, holds of it. */
struct box {
    int64_t begin, rows, from, size;
};

static int64_t low(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t high(int64_t a, int64_t b) { return a > b ? a : b; }

/* The elements that a piece and s share, in stretches; how many goes to *filled. */
static enum status read_piece(const struct checkpoint *c, const struct state_tensor *s, const struct manifest_tensor *t,
                              int64_t piece, int64_t *filled) {
    const struct manifest_piece *p = &c->m.piece[piece];
    const int64_t dim = p->dim > 0 ? p->dim : s->cut_dim;
    FAIL_UNLESS(p->dim == 0 || s->cut_dim == 0 || p->dim == s->cut_dim, ERR_DATA,
                "%s: tensor %s is cut along dim %" PRId64 " there and along dim %d here", c->path, s->name, p->dim,
                s->cut_dim);
    const int64_t all = dim > 0 ? t->shape[dim] : 1;
    const struct box theirs = {p->begin, p->rows, p->from, p->dim > 0 ? p->size : all};
    const struct box mine = {s->begin, s->t.shape[0], s->cut_begin, s->cut_dim > 0 ? s->t.shape[dim] : all};
    const int64_t begin = high(theirs.begin, mine.begin), end = low(theirs.begin + theirs.rows, mine.begin + mine.rows);
    const int64_t from = high(theirs.from, mine.from), to = low(theirs.from + theirs.size, mine.from + mine.size);
    int64_t inner = 1, outer = 1; /* elements of one entry of the dim; entries of the dims between rows and it */
    for (int d = 1; d < 4; d++)
        if (d > dim) inner *= t->shape[d];
        else if (d < dim) outer *= t->shape[d];
    if (begin >= end || from >= to) return OK;
    const bool whole = theirs.size == to - from && mine.size == to - from;
    const int64_t n_runs = whole ? 1 : (end - begin) * outer, n = (to - from) * inner;
    const int64_t each = whole ? (end - begin) * outer * n : n;
    for (int64_t i = 0; i < n_runs; i++) {
        const int64_t there = ((begin - theirs.begin) * outer + i) * theirs.size + from - theirs.from;
        const int64_t here = ((begin - mine.begin) * outer + i) * mine.size + from - mine.from;
        TRY(read_run(c, s, piece, there * inner, here * inner, each));
    }
    *filled += n_runs * each;
    return OK;
}

static enum status read_tensor(const struct checkpoint *c, const struct state_tensor *s,
                               const struct manifest_tensor *t) {
    int64_t filled = 0;
    for (int64_t i = t->first_piece; i < t->first_piece + t->n_pieces; i++) TRY(read_piece(c, s, t, i, &filled));
    ASSERT(filled == tensor_count(s->t)); /* pieces cover each element once, and stretches of them do not overlap */
    return OK;
}

enum status checkpoint_read(const struct checkpoint *c, const struct state_tensor *list, int64_t n, bool all) {
    enum status st = OK;
    const struct manifest_tensor *t = NULL;
    void *mem = NULL;
    TRY(mem_take(c->m.n_tensors + 1, &mem));
    char *asked = mem;
    for (int64_t i = 0; i < n; i++) {
        TRY_OUT(find_tensor(c, &list[i], &t));
        asked[t - c->m.tensor] = 1;
    }
    for (int64_t i = 0; all && i < c->m.n_tensors; i++)
        if (!asked[i])
            FAIL_OUT(ERR_DATA, "%s: tensor %s is in the checkpoint and not in this model", c->path,
                     c->m.tensor[i].name);
    for (int64_t i = 0; i < n; i++) {
        TRY_OUT(find_tensor(c, &list[i], &t));
        TRY_OUT(read_tensor(c, &list[i], t));
    }
out:
    mem_free(mem);
    return st;
}
