/* SPDX-License-Identifier: Apache-2.0 */
/* The stream is a pure function of (files, seed, number): packing, splitting, targets, positions, order. */
#define _GNU_SOURCE
#include "data/stream.h"
#include <inttypes.h>
#include <unistd.h>
#include "base/arena.h"
#include "tests/check.h"

enum { VOCAB = 70000, MOST = 2048 };
static char folder[PATH_BYTES];

/* A corpus: lengths of documents, in files.  A token names its origin, and id 0 is left for the filling. */
struct corpus {
    const char *why;
    int64_t sequence;
    int n_files;
    int lengths[3][9]; /* each ends with -1 */
};
static const struct corpus corpora[] = {
    {"documents packed and split", 8, 1, {{3, 20, 1, 1, 7, 13, 2, -1}}},
    {"three files, one without documents", 5, 3, {{4, 9, -1}, {-1}, {6, 1, 30, -1}}},
    {"empty documents at all places", 4, 2, {{0, 0, 5, 0, 3, 0, -1}, {0, 4, 0, -1}}},
    {"one-token documents", 4, 1, {{1, 1, 1, 1, 1, 1, 1, -1}}},
    {"a corpus shorter than a sequence", 64, 1, {{5, 3, -1}}},
    {"one token in all", 16, 1, {{1, -1}}},
    {"sequences of one token", 1, 1, {{3, 1, 4, -1}}},
    {"documents that end where sequences do", 4, 1, {{4, 8, 4, -1}}},
    {"one document over many sequences", 7, 1, {{95, -1}}},
};
enum { N_CORPORA = sizeof corpora / sizeof *corpora };

static int32_t token_of(int document, int at) { return 100 * (document + 1) + at; }

struct shape {
    int n_documents, length[32];
    int64_t n_tokens;
};

static void write_corpus(const struct corpus *c, char prefix[3][PATH_BYTES], struct shape *shape) {
    *shape = (struct shape){0};
    for (int i = 0; i < c->n_files; i++) {
        struct token_writer *w = NULL;
        MUST(path_print(prefix[i], "%s/part%d", folder, i));
        MUST(token_writer_open(&w, prefix[i], VOCAB));
        for (const int *n = c->lengths[i]; *n >= 0; n++) {
            int32_t tokens[128];
            for (int t = 0; t < *n; t++) tokens[t] = token_of(shape->n_documents, t);
            MUST(token_writer_add(w, tokens, *n));
            shape->length[shape->n_documents++] = *n;
            shape->n_tokens += *n;
        }
        MUST(token_writer_close(w, true));
    }
}

static struct stream *open_corpus(const struct corpus *c, char prefix[3][PATH_BYTES], uint64_t seed, bool shuffle) {
    char *names[3] = {prefix[0], prefix[1], prefix[2]};
    struct stream *s = NULL;
    const struct stream_spec spec = {.n_prefixes = c->n_files,
                                     .prefixes = names,
                                     .tokens_per_sequence = c->sequence,
                                     .vocab = VOCAB,
                                     .seed = seed,
                                     .shuffle = shuffle};
    MUST(stream_open(&s, &spec));
    return s;
}

struct sequence {
    int32_t ids[64], targets[64];
    int64_t pos[64];
};

/* One sequence against what its own tokens say; counts each token of the corpus in seen. */
static void check_sequence(const struct corpus *c, const struct shape *shape, const struct sequence *q, int64_t n,
                           int seen[MOST], int64_t *n_filling) {
    int64_t begin = 0; /* of the document, or the filling, that this place is in */
    for (int64_t t = 0; t < c->sequence; t++) {
        if (t > 0 && (q->targets[t - 1] == -1) && (q->ids[t] != 0 || q->ids[t - 1] != 0)) begin = t;
        CHECK(q->pos[t] == t - begin,
              "%s: sequence %" PRId64 ", place %" PRId64 ": position %" PRId64 " instead of %" PRId64, c->why, n, t,
              q->pos[t], t - begin);
        if (q->ids[t] == 0) {
            CHECK(q->targets[t] == -1, "%s: filling with the target %d", c->why, q->targets[t]);
            ++*n_filling;
            continue;
        }
        const int d = q->ids[t] / 100 - 1, at = q->ids[t] % 100;
        CHECK(d >= 0 && d < shape->n_documents && at < shape->length[d], "%s: token %d", c->why, q->ids[t]);
        seen[q->ids[t]]++;
        const int32_t target = at + 1 < shape->length[d] ? q->ids[t] + 1 : -1;
        CHECK(q->targets[t] == target, "%s: sequence %" PRId64 ", place %" PRId64 ": target %d instead of %d", c->why,
              n, t, q->targets[t], target);
        if (t > begin)
            CHECK(q->ids[t] == q->ids[t - 1] + 1, "%s: token %d behind %d", c->why, q->ids[t], q->ids[t - 1]);
    }
}

static void test_epochs(const struct corpus *c, bool shuffle) {
    static int seen[MOST];
    char prefix[3][PATH_BYTES];
    struct shape shape;
    write_corpus(c, prefix, &shape);
    struct stream *s = open_corpus(c, prefix, 11, shuffle);
    const int64_t N = stream_sequences(s);
    CHECK(stream_tokens(s) == shape.n_tokens, "%s: %" PRId64 " tokens", c->why, stream_tokens(s));
    CHECK(N == (shape.n_tokens + c->sequence - 1) / c->sequence, "%s: %" PRId64 " sequences", c->why, N);
    for (int64_t epoch = 0; epoch < 3; epoch++) {
        int64_t n_filling = 0;
        memset(seen, 0, sizeof seen);
        for (int64_t n = epoch * N; n < (epoch + 1) * N; n++) {
            struct sequence q;
            MUST(stream_read(s, n, q.ids, q.targets, q.pos));
            check_sequence(c, &shape, &q, n, seen, &n_filling);
        }
        for (int d = 0; d < shape.n_documents; d++)
            for (int t = 0; t < shape.length[d]; t++)
                CHECK(seen[token_of(d, t)] == 1, "%s: epoch %" PRId64 " has the token %d of document %d %d times",
                      c->why, epoch, t, d, seen[token_of(d, t)]);
        CHECK(n_filling == N * c->sequence - shape.n_tokens, "%s: %" PRId64 " places of filling", c->why, n_filling);
    }
    stream_close(s);
}

static bool same(const struct sequence *a, const struct sequence *b, int64_t n) {
    const size_t ids = (size_t)n * sizeof *a->ids;
    return !memcmp(a->ids, b->ids, ids) && !memcmp(a->targets, b->targets, ids) &&
           !memcmp(a->pos, b->pos, (size_t)n * sizeof *a->pos);
}

/* Read forwards, then from a fresh stream backwards and by leaps over epochs: the same sequences. */
static void test_random_access(const struct corpus *c) {
    static struct sequence forward[512];
    char prefix[3][PATH_BYTES];
    struct shape shape;
    write_corpus(c, prefix, &shape);
    struct stream *s = open_corpus(c, prefix, 5, true), *again = open_corpus(c, prefix, 5, true);
    const int64_t n = 4 * stream_sequences(s);
    for (int64_t i = 0; i < n; i++) MUST(stream_read(s, i, forward[i].ids, forward[i].targets, forward[i].pos));
    const int64_t calls = mem_stats().n_calls;
    for (int64_t i = n - 1; i >= 0; i--) {
        struct sequence q;
        const int64_t leap = i * 7 % n;
        MUST(stream_read(again, i, q.ids, q.targets, q.pos));
        CHECK(same(&q, &forward[i], c->sequence), "%s: sequence %" PRId64 " read backwards differs", c->why, i);
        MUST(stream_read(again, leap, q.ids, q.targets, q.pos));
        CHECK(same(&q, &forward[leap], c->sequence), "%s: sequence %" PRId64 " after a leap differs", c->why, leap);
    }
    CHECK(mem_stats().n_calls == calls, "%s: reading allocates", c->why);
    stream_close(s);
    stream_close(again);
}

/* Without shuffling, the row is the files and documents in their order, in every epoch. */
static void test_in_order(const struct corpus *c) {
    char prefix[3][PATH_BYTES];
    struct shape shape;
    write_corpus(c, prefix, &shape);
    struct stream *s = open_corpus(c, prefix, 5, false);
    for (int64_t epoch = 0; epoch < 2; epoch++) {
        int64_t at = 0;
        for (int d = 0; d < shape.n_documents; d++)
            for (int t = 0; t < shape.length[d]; t++, at++) {
                struct sequence q;
                const int64_t n = epoch * stream_sequences(s) + at / c->sequence;
                MUST(stream_read(s, n, q.ids, q.targets, q.pos));
                CHECK(q.ids[at % c->sequence] == token_of(d, t), "%s: token %d at %" PRId64, c->why,
                      q.ids[at % c->sequence], at);
            }
    }
    stream_close(s);
}

/* Seeds and epochs give different orders, and a seed gives its order on every machine: these are from the first run. */
static void test_order(void) {
    static const struct corpus many = {"an order", 4, 1, {{4, 4, 4, 4, 4, 4, 4, 4, -1}}};
    char prefix[3][PATH_BYTES];
    struct shape shape;
    int order[3][16];
    write_corpus(&many, prefix, &shape);
    for (int seed = 0; seed < 3; seed++) {
        struct stream *s = open_corpus(&many, prefix, (uint64_t)seed, true);
        for (int64_t n = 0; n < 16; n++) {
            struct sequence q;
            MUST(stream_read(s, n, q.ids, q.targets, q.pos));
            order[seed][n] = q.ids[0] / 100 - 1;
        }
        stream_close(s);
        CHECK(memcmp(order[seed], order[seed] + 8, 8 * sizeof(int)) != 0, "seed %d: both epochs in one order", seed);
    }
    CHECK(memcmp(order[0], order[1], 8 * sizeof(int)) != 0, "seeds 0 and 1 have one order");
    static const int wanted[8] = {7, 4, 2, 0, 6, 3, 5, 1};
    for (int n = 0; n < 8; n++)
        CHECK(order[1][n] == wanted[n], "place %d: document %d, not %d", n, order[1][n], wanted[n]);
}

static void test_refused(void) {
    struct stream *s = NULL;
    struct token_writer *w = NULL;
    char name[PATH_BYTES], *names[1] = {name};
    int32_t ids[4], targets[4], token = 300;
    int64_t pos[4];
    struct stream_spec spec = {.n_prefixes = 1, .prefixes = names, .tokens_per_sequence = 4, .vocab = 256};
    MUST(path_print(name, "%s/empty", folder));
    MUST(token_writer_open(&w, name, VOCAB));
    MUST(token_writer_add(w, &token, 0));
    MUST(token_writer_close(w, true));
    CHECK(stream_open(&s, &spec) == ERR_DATA && strstr(status_text(), "no token"), "%s", status_text());
    MUST(path_print(name, "%s/foreign", folder));
    MUST(token_writer_open(&w, name, VOCAB));
    MUST(token_writer_add(w, &token, 1));
    MUST(token_writer_close(w, true));
    MUST(stream_open(&s, &spec));
    CHECK(stream_read(s, 0, ids, targets, pos) == ERR_DATA && strstr(status_text(), "300") &&
              strstr(status_text(), "foreign"),
          "%s", status_text());
    stream_close(s);
    MUST(path_print(name, "%s/absent", folder));
    CHECK(stream_open(&s, &spec) == ERR_MISSING && s == NULL, "%s", status_text());
    spec.n_prefixes = 0;
    CHECK(stream_open(&s, &spec) == ERR_ARG, "%s", status_text());
    for (int64_t k = 1;; k++) {
        spec.n_prefixes = 1;
        MUST(path_print(name, "%s/foreign", folder));
        mem_fail_at(k);
        const enum status st = stream_open(&s, &spec);
        mem_fail_at(0);
        CHECK(st == OK || (st == ERR_OOM && s == NULL), "allocation %" PRId64 ": %s", k, status_name(st));
        stream_close(s);
        if (st == OK) break;
    }
}

int main(void) {
    char name[] = "/tmp/baton_stream_XXXXXX";
    if (!mkdtemp(name)) SKIP("no temporary folder can be made");
    MUST(path_print(folder, "%s", name));
    for (int c = 0; c < N_CORPORA; c++) {
        test_epochs(&corpora[c], true);
        test_epochs(&corpora[c], false);
        test_random_access(&corpora[c]);
        test_in_order(&corpora[c]);
    }
    test_order();
    test_refused();
    MUST(file_remove_tree(folder));
    return check_end();
}
