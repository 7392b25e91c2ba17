/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/arena.h"
#include "base/log.h"
#include "base/pool.h"
#include "data/prepare.h"
#include "launch/command.h"

struct timing {
    double begin, shown; /* seconds */
    int64_t bytes_in_all;
};

static double now_s(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double speed(const struct timing *t, const struct prepare_counts *c, double now) {
    return now > t->begin ? 1e-6 * (double)c->bytes / (now - t->begin) : 0.0;
}

static void show_progress(void *arg, const struct prepare_counts *c) {
    struct timing *t = arg;
    const double now = now_s();
    if (now - t->shown < 2.0) return;
    t->shown = now;
    log_note("prepare: %.1f of %.1f MB, %" PRId64 " documents, %" PRId64 " tokens, %.1f MB/s", 1e-6 * (double)c->bytes,
             1e-6 * (double)t->bytes_in_all, c->documents, c->tokens, speed(t, c, now));
}

static enum status parse_count(const char *option, const char *text, int64_t min, int64_t max, int64_t *out) {
    char *end = NULL;
    errno = 0;
    *out = strtoll(text, &end, 10);
    FAIL_UNLESS(*text && *end == '\0' && errno == 0 && *out >= min && *out <= max, ERR_CONFIG,
                "%s %s: wants an integer from %" PRId64 " to %" PRId64, option, text, min, max);
    return OK;
}

/* The texts in the order typed: a path with '=' in it was sorted among the overrides, which this command has not. */
static int texts_of(const struct command_line *l, int argc, char **argv, const char **texts) {
    int n = 0, w = 0, o = 0;
    for (int i = 1; i < argc; i++) {
        if (w < l->n_words && l->words[w] == argv[i]) texts[n++] = l->words[w++];
        else if (o < l->n_overrides && l->overrides[o] == argv[i]) texts[n++] = l->overrides[o++];
    }
    return n;
}

static enum status prepare(const char *how, struct prepare_spec *spec) {
    struct tokenizer *t = NULL;
    struct prepare_counts counts = {0};
    struct timing timing = {0};
    for (int i = 0; i < spec->n_paths; i++) {
        int64_t bytes = 0;
        TRY(file_size(spec->paths[i], &bytes));
        timing.bytes_in_all += bytes;
    }
    TRY(tokenizer_open(&t, how));
    timing.begin = timing.shown = now_s();
    spec->progress = show_progress;
    spec->progress_arg = &timing;
    const enum status st = prepare_run(t, spec, &counts);
    if (st == OK)
        log_note("prepare: %s: %" PRId64 " documents (%" PRId64 " empty ones skipped), %" PRId64
                 " tokens of a vocabulary of %" PRId64 ", %.1f MB of text at %.1f MB/s",
                 spec->prefix, counts.documents, counts.empty, counts.tokens, tokenizer_vocab(t),
                 1e-6 * (double)counts.bytes, speed(&timing, &counts, now_s()));
    tokenizer_close(t);
    return st;
}

static enum status prepare_main(int argc, char **argv) {
    enum status st = OK;
    const char *how = NULL, *out_prefix = NULL, *field = "text", *end_token = NULL, *threads = NULL;
    int lines = 0;
    int64_t n_threads = pool_cores();
    struct command_line l = {0};
    void *mem = NULL;
    const struct option_row rows[] = {{"--tokenizer", &how, NULL},       {"--out", &out_prefix, NULL},
                                      {"--lines", NULL, &lines},         {"--field", &field, NULL},
                                      {"--end-token", &end_token, NULL}, {"--threads", &threads, NULL}};
    TRY(command_parse(argc, argv, rows, sizeof rows / sizeof *rows, &l));
    struct prepare_spec spec = {.prefix = out_prefix, .field = field, .lines = lines, .end_token = -1};
    if (!how) FAIL_OUT(ERR_CONFIG, "prepare: --tokenizer bytes, or --tokenizer FILE with a tokenizer.json, is needed");
    if (!out_prefix) FAIL_OUT(ERR_CONFIG, "prepare: --out PREFIX is needed: PREFIX.bin and PREFIX.idx are made");
    if (end_token) TRY_OUT(parse_count("--end-token", end_token, 0, INT32_MAX, &spec.end_token));
    if (threads) TRY_OUT(parse_count("--threads", threads, 1, 1024, &n_threads));
    spec.n_threads = (int)n_threads;
    TRY_OUT(mem_take((argc + 1) * (int64_t)sizeof(char *), &mem));
    spec.paths = mem;
    spec.n_paths = texts_of(&l, argc, argv, mem);
    if (spec.n_paths == 0) FAIL_OUT(ERR_CONFIG, "prepare: no TEXT: name the files to read");
    TRY_OUT(prepare(how, &spec));
out:
    mem_free(mem);
    command_line_term(&l);
    return st;
}

const struct command command_prepare = {
    .name = "prepare",
    .usage =
        "prepare --tokenizer bytes|FILE --out PREFIX [--lines] [--field NAME] [--end-token ID] [--threads N] TEXT...",
    .help = "Turns texts into the token files PREFIX.bin and PREFIX.idx.\n\n"
            "  --tokenizer HOW   bytes (one token a byte, vocabulary 256), or the path of a tokenizer.json\n"
            "  --out PREFIX      files to make; nothing is under these names until all is written\n"
            "  --lines           each line of a plain file is a document; else a file is one\n"
            "  --field NAME      member of a .jsonl line that holds the text (default: text)\n"
            "  --end-token ID    a token to put behind each document (default: none)\n"
            "  --threads N       host threads (default: the cores this process may use)\n\n"
            "A file whose name ends in .jsonl has one JSON object a line.  Documents without text are skipped.\n",
    .run = prepare_main,
};
