/* SPDX-License-Identifier: Apache-2.0 */
#include "data/stream.h"
#include <inttypes.h>
#include <string.h>
#include "base/arena.h"
#include "base/rng.h"

struct stream {
    int n_files;
    struct token_file *file; /* (n_files)                                                          */
    int64_t *file_first;     /* (n_files + 1) number of each file's first document                 */
    int64_t n_documents, n_tokens, n_sequences;
    int64_t length; /* S */
    int64_t vocab;
    uint64_t seed;
    bool shuffle;
    int64_t epoch;   /* whose order row_at describes; -1: none yet                                 */
    int64_t *row_at; /* (n_documents + 1) place in the epoch's row where its i-th document begins  */
};

/* One stream of random numbers an epoch, so that orders of different epochs share nothing. */
static uint64_t order_stream(const char *what, int64_t epoch) { return rng_bits(rng_stream(what), (uint64_t)epoch, 0); }

static int64_t permuted(const struct stream *s, const char *what, int64_t epoch, int64_t i, int64_t n) {
    if (!s->shuffle) return i;
    return (int64_t)rng_permute(s->seed, order_stream(what, epoch), (uint64_t)i, (uint64_t)n);
}

/* The last i in [0, n) with first[i] <= at; first[0] <= at. */
static int64_t find_last(const int64_t *first, int64_t n, int64_t at) {
    int64_t low = 0, high = n;
    while (high - low > 1) {
        const int64_t mid = low + (high - low) / 2;
        if (first[mid] <= at) low = mid;
        else high = mid;
    }
    return low;
}

static const struct token_file *file_of(const struct stream *s, int64_t document, int64_t *inner) {
    const int64_t i = find_last(s->file_first, s->n_files, document);
    *inner = document - s->file_first[i];
    return &s->file[i];
}

static void enter_epoch(struct stream *s, int64_t epoch) {
    if (s->epoch == epoch) return;
    int64_t at = 0, inner;
    for (int64_t i = 0; i < s->n_documents; i++) {
        const struct token_file *f = file_of(s, permuted(s, "data.documents", epoch, i, s->n_documents), &inner);
        s->row_at[i] = at;
        at += token_file_length(f, inner);
    }
    s->row_at[s->n_documents] = at;
    s->epoch = epoch;
}

static enum status open_files(struct stream *s, const struct stream_spec *spec) {
    void *mem = NULL;
    TRY(mem_take(spec->n_prefixes * (int64_t)sizeof *s->file, &mem));
    s->file = mem;
    TRY(mem_take((spec->n_prefixes + 1) * (int64_t)sizeof *s->file_first, &mem));
    s->file_first = mem;
    for (int i = 0; i < spec->n_prefixes; i++) {
        TRY(token_file_open(&s->file[i], spec->prefixes[i]));
        s->n_files++;
        s->n_documents += s->file[i].n_documents;
        s->n_tokens += s->file[i].n_tokens;
        s->file_first[i + 1] = s->n_documents;
    }
    FAIL_UNLESS(s->n_tokens > 0, ERR_DATA, "%s%s: no token at all: nothing to read; were the texts empty?",
                spec->prefixes[0], spec->n_prefixes > 1 ? " and the files beside it" : "");
    s->n_sequences = (s->n_tokens - 1) / s->length + 1;
    TRY(mem_take((s->n_documents + 1) * (int64_t)sizeof *s->row_at, &mem));
    s->row_at = mem;
    return OK;
}

enum status stream_open(struct stream **out, const struct stream_spec *spec) {
    enum status st = OK;
    void *mem = NULL;
    *out = NULL;
    FAIL_UNLESS(spec->n_prefixes > 0, ERR_ARG, "no token files were given");
    FAIL_UNLESS(spec->tokens_per_sequence > 0, ERR_ARG, "sequences of %" PRId64 " tokens: at least 1 is needed",
                spec->tokens_per_sequence);
    FAIL_UNLESS(spec->vocab > 0 && spec->vocab <= INT32_MAX, ERR_ARG, "a vocabulary of %" PRId64 " tokens",
                spec->vocab);
    TRY(mem_take((int64_t)sizeof(struct stream), &mem));
    struct stream *s = mem;
    s->length = spec->tokens_per_sequence;
    s->vocab = spec->vocab;
    s->seed = spec->seed;
    s->shuffle = spec->shuffle;
    s->epoch = -1;
    TRY_OUT(open_files(s, spec));
    enter_epoch(s, 0);
    *out = s;
out:
    if (st != OK) stream_close(s);
    return st;
}

void stream_close(struct stream *s) {
    if (!s) return;
    for (int i = 0; i < s->n_files; i++) token_file_close(&s->file[i]);
    mem_free(s->file);
    mem_free(s->file_first);
    mem_free(s->row_at);
    mem_free(s);
}

int64_t stream_sequences(const struct stream *s) { return s->n_sequences; }
int64_t stream_tokens(const struct stream *s) { return s->n_tokens; }

/* n tokens from place `begin` of the row's i-th document, their targets and positions. */
static enum status read_piece(const struct stream *s, int64_t i, int64_t begin, int64_t n, int32_t *ids,
                              int32_t *targets, int64_t *pos) {
    int64_t inner;
    const int64_t document = permuted(s, "data.documents", s->epoch, i, s->n_documents);
    const struct token_file *f = file_of(s, document, &inner);
    TRY(token_file_read(f, inner, begin, n, s->vocab, ids));
    memcpy(targets, ids + 1, (size_t)(n - 1) * sizeof *ids);
    targets[n - 1] = -1;
    if (begin + n < token_file_length(f, inner))
        TRY(token_file_read(f, inner, begin + n, 1, s->vocab, &targets[n - 1]));
    for (int64_t t = 0; t < n; t++) pos[t] = t;
    return OK;
}

enum status stream_read(struct stream *s, int64_t n, int32_t *ids, int32_t *targets, int64_t *pos) {
    ASSERT(n >= 0);
    const int64_t epoch = n / s->n_sequences;
    enter_epoch(s, epoch);
    const int64_t begin = s->length * permuted(s, "data.sequences", epoch, n % s->n_sequences, s->n_sequences);
    int64_t done = 0;
    for (int64_t i = find_last(s->row_at, s->n_documents, begin); done < s->length && i < s->n_documents; i++) {
        const int64_t at = begin + done, left = s->row_at[i + 1] - at;
        const int64_t many = left < s->length - done ? left : s->length - done;
        if (many == 0) continue; /* an empty document */
        TRY(read_piece(s, i, at - s->row_at[i], many, ids + done, targets + done, pos + done));
        done += many;
    }
    for (int64_t t = done; t < s->length; t++) {
        ids[t] = 0;
        targets[t] = -1;
        pos[t] = t - done;
    }
    return OK;
}
