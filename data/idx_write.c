/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/arena.h"
#include "data/idx.h"

/* Megatron's own bound between u16 and i32, below 65,536 so that readers may use the ids above it as marks. */
#define U16_VOCAB 65500

struct token_writer {
    char prefix[PATH_BYTES];
    bool narrow; /* u16, else i32                                            */
    FILE *bin;
    int64_t n_entries, room; /* of length                                       */
    int32_t *length;         /* of each entry, in tokens                        */
    int64_t n_starts, starts_room;
    int64_t *start; /* first entry of each document, then one past the last */
};

static enum status temp_path(char out[PATH_BYTES], const struct token_writer *w, const char *end) {
    return path_print(out, "%s.%s.tmp", w->prefix, end);
}

static enum status final_path(char out[PATH_BYTES], const struct token_writer *w, const char *end) {
    return path_print(out, "%s.%s", w->prefix, end);
}

/* Room for one more element behind n. */
static enum status grow_one(void **p, int64_t n, int64_t *room, int64_t size) {
    if (n < *room) return OK;
    const int64_t wanted = *room ? 2 * *room : 1024;
    TRY(mem_grow(p, *room * size, wanted * size));
    *room = wanted;
    return OK;
}

static enum status push_start(struct token_writer *w) {
    void *p = w->start;
    TRY(grow_one(&p, w->n_starts, &w->starts_room, (int64_t)sizeof *w->start));
    w->start = p;
    w->start[w->n_starts++] = w->n_entries;
    return OK;
}

static enum status push_entry(struct token_writer *w, int32_t length) {
    void *p = w->length;
    TRY(grow_one(&p, w->n_entries, &w->room, (int64_t)sizeof *w->length));
    w->length = p;
    w->length[w->n_entries++] = length;
    return OK;
}

static enum status put(FILE *f, const struct token_writer *w, const char *end, const void *data, size_t bytes) {
    FAIL_UNLESS(bytes == 0 || fwrite(data, 1, bytes, f) == bytes, ERR_IO, "cannot write %s.%s.tmp: %s", w->prefix, end,
                strerror(errno));
    return OK;
}

enum status token_writer_open(struct token_writer **out, const char *prefix, int64_t vocab) {
    enum status st = OK;
    void *mem = NULL;
    char path[PATH_BYTES];
    *out = NULL;
    ASSERT(vocab > 0 && vocab <= INT32_MAX);
    TRY(mem_take((int64_t)sizeof(struct token_writer), &mem));
    struct token_writer *w = mem;
    w->narrow = vocab < U16_VOCAB;
    TRY_OUT(path_print(w->prefix, "%s", prefix));
    TRY_OUT(push_start(w));
    TRY_OUT(temp_path(path, w, "bin"));
    w->bin = fopen(path, "wbe");
    if (!w->bin) FAIL_OUT(ERR_IO, "cannot create %s: %s; does its folder exist?", path, strerror(errno));
    *out = w;
out:
    if (st != OK) {
        mem_free(w->start);
        mem_free(w);
    }
    return st;
}

static enum status put_tokens(struct token_writer *w, const int32_t *tokens, int64_t n) {
    uint16_t narrow[4096];
    if (!w->narrow) return put(w->bin, w, "bin", tokens, (size_t)n * sizeof *tokens);
    for (int64_t at = 0; at < n;) {
        const int64_t many = n - at < 4096 ? n - at : 4096;
        for (int64_t i = 0; i < many; i++) narrow[i] = (uint16_t)tokens[at + i];
        TRY(put(w->bin, w, "bin", narrow, (size_t)many * sizeof *narrow));
        at += many;
    }
    return OK;
}

enum status token_writer_add(struct token_writer *w, const int32_t *tokens, int64_t n) {
    ASSERT(n >= 0);
    TRY(put_tokens(w, tokens, n));
    /* An entry's length is an i32, so a longer document becomes several entries. */
    do {
        const int32_t piece = n < INT32_MAX ? (int32_t)n : INT32_MAX;
        TRY(push_entry(w, piece));
        n -= piece;
    } while (n > 0);
    return push_start(w);
}

static enum status put_index(FILE *f, const struct token_writer *w) {
    const unsigned char type = w->narrow ? 8 : 4;
    const uint64_t version = 1, counts[2] = {(uint64_t)w->n_entries, (uint64_t)w->n_starts};
    TRY(put(f, w, "idx", "MMIDIDX\0", 9));
    TRY(put(f, w, "idx", &version, sizeof version));
    TRY(put(f, w, "idx", &type, 1));
    TRY(put(f, w, "idx", counts, sizeof counts));
    TRY(put(f, w, "idx", w->length, (size_t)w->n_entries * sizeof *w->length));
    int64_t at = 0;
    for (int64_t e = 0; e < w->n_entries; e++) {
        TRY(put(f, w, "idx", &at, sizeof at));
        at += w->length[e] * (w->narrow ? 2LL : 4LL);
    }
    return put(f, w, "idx", w->start, (size_t)w->n_starts * sizeof *w->start);
}

/* Flush, sync and close; the file is closed in every case. */
static enum status finish(FILE *f, const struct token_writer *w, const char *end) {
    const bool good = fflush(f) == 0 && fsync(fileno(f)) == 0;
    const int why = errno;
    const bool closed = fclose(f) == 0;
    FAIL_UNLESS(good && closed, ERR_IO, "cannot write %s.%s.tmp: %s", w->prefix, end, strerror(good ? errno : why));
    return OK;
}

static enum status write_index(const struct token_writer *w) {
    char path[PATH_BYTES];
    TRY(temp_path(path, w, "idx"));
    FILE *f = fopen(path, "wbe");
    FAIL_UNLESS(f, ERR_IO, "cannot create %s: %s", path, strerror(errno));
    const enum status st = put_index(f, w);
    if (st == OK) return finish(f, w, "idx");
    fclose(f);
    return st;
}

static enum status place(const struct token_writer *w, const char *end) {
    char from[PATH_BYTES], to[PATH_BYTES];
    TRY(temp_path(from, w, end));
    TRY(final_path(to, w, end));
    FAIL_UNLESS(rename(from, to) == 0, ERR_IO, "cannot rename %s to %s: %s", from, to, strerror(errno));
    return OK;
}

/* An index of an earlier run goes first and the new one comes last, so no index ever stands beside a foreign .bin. */
static enum status publish(struct token_writer *w) {
    char path[PATH_BYTES];
    FILE *bin = w->bin;
    w->bin = NULL;
    TRY(finish(bin, w, "bin"));
    TRY(write_index(w));
    TRY(final_path(path, w, "idx"));
    FAIL_UNLESS(unlink(path) == 0 || errno == ENOENT, ERR_IO, "cannot replace %s: %s", path, strerror(errno));
    TRY(place(w, "bin"));
    const enum status st = place(w, "idx");
    if (st != OK && final_path(path, w, "bin") == OK) unlink(path);
    TRY(st);
    TRY(path_print(path, "%s", w->prefix));
    char *slash = strrchr(path, '/');
    if (slash) slash[slash == path] = '\0';
    return file_sync_folder(slash ? path : ".");
}

enum status token_writer_close(struct token_writer *w, bool keep) {
    if (!w) return OK;
    enum status st = keep ? publish(w) : OK;
    if (w->bin) fclose(w->bin);
    char path[PATH_BYTES];
    const char *ends[] = {"bin", "idx"};
    for (int i = 0; i < 2; i++) /* after a publication neither name is there any more */
        if (snprintf(path, sizeof path, "%s.%s.tmp", w->prefix, ends[i]) < PATH_BYTES) unlink(path);
    mem_free(w->length);
    mem_free(w->start);
    mem_free(w);
    return st;
}
