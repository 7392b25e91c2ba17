/* SPDX-License-Identifier: Apache-2.0
 * corpus.c - what quickstart.sh needs to know about its text, counted exactly.
 *
 *   corpus entropy FILE...                  nats a byte, given the two bytes before it in the same file
 *   corpus overlap TRAIN... -- VALID...     how many runs of 64 bytes of VALID stand in TRAIN; fails on any
 *   corpus drop TRAIN... -- VALID...        rewrites VALID without the lines that touch such a run
 *
 * Runs are found by a table of the positions of all training runs, keyed by a rolling hash, and compared byte by byte.
 */
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "base/file.h"

enum { RUN = 64 };
#define FACTOR    0x9e3779b97f4a7c15ULL /* odd, so that every byte of a run reaches the top bits */
#define MAX_BYTES ((int64_t)1 << 31)    /* of all training files: positions are 32-bit          */

/* All runs of the training files.  position holds 1 + where a run starts in bytes, 0 for an empty slot. */
struct runs {
    char *bytes;
    int64_t n, n_slots; /* n_slots: a power of two, at least twice the runs */
    uint32_t *position;
    int shift;
};

static uint64_t hash_next(uint64_t h, unsigned char in, unsigned char out, uint64_t top) {
    return h * FACTOR + in - top * out;
}

/* The power FACTOR^RUN takes the byte that leaves the run out of the hash. */
static uint64_t hash_top(void) {
    uint64_t top = 1;
    for (int i = 0; i < RUN; i++) top *= FACTOR;
    return top;
}

/* The slot that holds this run, or the empty one where it belongs. */
static int64_t slot_of(const struct runs *r, const char *run, uint64_t h) {
    int64_t i = (int64_t)((h * FACTOR) >> r->shift);
    while (r->position[i] && memcmp(r->bytes + r->position[i] - 1, run, RUN) != 0) i = (i + 1) & (r->n_slots - 1);
    return i;
}

static void add_runs(struct runs *r, int64_t from, int64_t to) {
    const uint64_t top = hash_top();
    uint64_t h = 0;
    for (int64_t i = from; i < to; i++) {
        const bool full = i - from >= RUN;
        h = hash_next(h, (unsigned char)r->bytes[i], full ? (unsigned char)r->bytes[i - RUN] : 0, top);
        if (i - from + 1 < RUN) continue;
        const int64_t at = i + 1 - RUN, slot = slot_of(r, r->bytes + at, h);
        if (!r->position[slot]) r->position[slot] = (uint32_t)(at + 1);
    }
}

/* hit[i] = 1 for each byte of text that lies in a run of the training files; *n_hits counts the runs. */
static void find_runs(const struct runs *r, const char *text, int64_t n, char *hit, int64_t *n_hits) {
    const uint64_t top = hash_top();
    uint64_t h = 0;
    memset(hit, 0, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        h = hash_next(h, (unsigned char)text[i], i >= RUN ? (unsigned char)text[i - RUN] : 0, top);
        if (i + 1 < RUN || !r->position[slot_of(r, text + i + 1 - RUN, h)]) continue;
        memset(hit + i + 1 - RUN, 1, RUN);
        ++*n_hits;
    }
}

static void runs_term(struct runs *r) {
    mem_free(r->bytes);
    mem_free(r->position);
    *r = (struct runs){0};
}

static enum status runs_init(struct runs *r, int n_files, char **files) {
    enum status st = OK;
    int64_t total = 0, bytes = 0;
    void *mem = NULL;
    *r = (struct runs){.shift = 64};
    for (int i = 0; i < n_files; i++, total += bytes) TRY(file_size(files[i], &bytes));
    FAIL_UNLESS(total < MAX_BYTES, ERR_DATA, "the training files hold %" PRId64 " bytes; at most 2 GiB fit", total);
    for (r->n_slots = 1; r->n_slots < 2 * total + 2; r->n_slots *= 2) r->shift--;
    TRY_OUT(mem_take(total + 1, &mem));
    r->bytes = mem;
    TRY_OUT(mem_take(r->n_slots * (int64_t)sizeof *r->position, &mem));
    r->position = mem;
    for (int i = 0; i < n_files; i++) {
        char *text = NULL;
        TRY_OUT(file_read(files[i], total - r->n, &text, &bytes));
        memcpy(r->bytes + r->n, text, (size_t)bytes);
        file_free(text);
        add_runs(r, r->n, r->n + bytes);
        r->n += bytes;
    }
out:
    if (st != OK) runs_term(r);
    return st;
}

/* Keeps the lines of text of which no byte was hit, in place; returns the bytes kept. */
static int64_t keep_lines(char *text, int64_t n, const char *hit) {
    int64_t kept = 0;
    for (int64_t from = 0, to; from < n; from = to) {
        const char *end = memchr(text + from, '\n', (size_t)(n - from));
        to = end ? end - text + 1 : n;
        if (memchr(hit + from, 1, (size_t)(to - from))) continue;
        memmove(text + kept, text + from, (size_t)(to - from));
        kept += to - from;
    }
    return kept;
}

/* Dropping lines brings others together, which may form a run anew: until there is none. */
static enum status clean_file(const struct runs *r, const char *path, bool drop, int64_t *n_hits, int64_t *n_kept) {
    char *text = NULL;
    void *hit = NULL;
    int64_t n = 0, found = 0;
    enum status st = OK;
    TRY(file_read(path, MAX_BYTES, &text, &n));
    TRY_OUT(mem_take(n + 1, &hit));
    do {
        found = 0;
        find_runs(r, text, n, hit, &found);
        *n_hits += found;
        if (drop && found) n = keep_lines(text, n, hit);
    } while (drop && found);
    *n_kept += n;
    if (drop) TRY_OUT(file_replace(path, text, n));
out:
    mem_free(hit);
    file_free(text);
    return st;
}

static enum status overlap(int argc, char **argv, bool drop) {
    struct runs r;
    int n_train = 0;
    int64_t n_hits = 0, n_kept = 0;
    enum status st = OK;
    while (n_train < argc && strcmp(argv[n_train], "--") != 0) n_train++;
    FAIL_UNLESS(n_train > 0 && n_train + 1 < argc, ERR_CONFIG, "usage: corpus overlap|drop TRAIN... -- VALID...");
    TRY(runs_init(&r, n_train, argv));
    for (int i = n_train + 1; i < argc; i++) TRY_OUT(clean_file(&r, argv[i], drop, &n_hits, &n_kept));
    printf("%" PRId64 " runs of %d bytes of the validation text %s in the training text; %" PRId64 " and %" PRId64
           " bytes\n",
           n_hits, RUN, drop ? "were also" : "stand", r.n, n_kept);
    if (!drop && n_hits) st = status_fail(ERR_DATA, __FILE__, __LINE__, "validation and training share text");
out:
    runs_term(&r);
    return st;
}

static enum status entropy(int argc, char **argv) {
    enum { CONTEXTS = 1 << 16 };
    void *mem = NULL;
    int64_t total = 0;
    TRY(mem_take(CONTEXTS * 256 * (int64_t)sizeof(int64_t), &mem));
    int64_t *count = mem;
    enum status st = OK;
    for (int i = 0; i < argc; i++) {
        char *text = NULL;
        int64_t n = 0;
        TRY_OUT(file_read(argv[i], MAX_BYTES, &text, &n));
        const unsigned char *t = (const unsigned char *)text;
        for (int64_t k = 2; k < n; k++) count[(t[k - 2] * 256 + t[k - 1]) * 256 + t[k]]++;
        total += n > 2 ? n - 2 : 0;
        file_free(text);
    }
    if (!total) FAIL_OUT(ERR_DATA, "there is no text to count: name files of three bytes or more");
    double nats = 0;
    for (int64_t c = 0; c < CONTEXTS; c++) {
        int64_t n = 0;
        for (int k = 0; k < 256; k++) n += count[c * 256 + k];
        for (int k = 0; k < 256; k++) {
            const double m = (double)count[c * 256 + k];
            if (m > 0) nats -= m * log(m / (double)n);
        }
    }
    printf("%.4f\n", nats / (double)total);
out:
    mem_free(count);
    return st;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    enum status st = ERR_CONFIG;
    if (!strcmp(what, "entropy")) st = entropy(argc - 2, argv + 2);
    else if (!strcmp(what, "overlap") || !strcmp(what, "drop")) st = overlap(argc - 2, argv + 2, *what == 'd');
    else fprintf(stderr, "usage: corpus entropy FILE... | corpus overlap|drop TRAIN... -- VALID...\n");
    if (*status_text()) fprintf(stderr, "corpus: %s\n", status_text());
    return st == OK ? 0 : 1;
}
