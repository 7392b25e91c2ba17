/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads long */
/* timeout: 2400 */
/* One sequence out of one book, on one rank and over eight: three steps in F32 with the same losses, an eighth of the
 * saved activations on each rank, and the memory that the plan says, in the arenas and as the system counts it; with
 * every activation policy less of it, and the same bits.  The sequence is 16,384 bytes; BATON_LONG=1 makes it 409,600,
 * which takes minutes and 10 GiB. */
#define _DEFAULT_SOURCE
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/file.h"
#include "data/idx.h"
#include "launch/trainer.h"
#include "profiling/prof.h"
#include "tests/check.h"

enum { RANKS = 8, STEPS = 3, BOOK_BYTES = 1 << 20 };
static const char book[] = "books/train/moby-dick.txt";

/* What the ranks of one run leave in memory that the parent sees. */
struct outcome {
    double loss[STEPS], norm[STEPS], seconds;
    int64_t baseline, peak;                            /* resident bytes: before the run's memory, and most of all */
    int64_t saved[RANKS], planned[RANKS], high[RANKS]; /* high: of the arenas                                      */
};
static const struct keeping {
    const char *keep;
    int every;
} keepings[] = {{"all", 1}, {"gemm", 1}, {"inputs", 1}, {"inputs", 3}};
struct job {
    struct config config;
    struct outcome *out;
};

/* Kept until backward: all but what layers share and scratch. */
static int64_t saved_of(const struct runner *r) {
    int64_t sum = 0;
    for (int k = 0; k < N_KEEPS; k++) sum += r->act.by_keep[k];
    return sum;
}

static enum status train_rank(struct rank *rank, void *arg) {
    static const int never = 0;
    struct job *job = arg;
    struct outcome *o = job->out;
    struct trainer t;
    const int me = rank_index(rank);
    TRY(trainer_open(&t, &job->config, rank, NULL, &never));
    enum status st = OK;
    for (int i = 0; i < STEPS && st == OK; i++) {
        struct step_report r;
        st = train_step(&t, &r);
        if (st != OK || me > 0) continue;
        o->loss[i] = r.loss;
        o->norm[i] = r.grad_norm;
    }
    o->saved[me] = saved_of(&t.run);
    o->planned[me] = ledger_total(&t.run.ledger);
    o->high[me] = t.run.memory.high + t.run.work.high + t.tokens.high;
    trainer_close(&t);
    return st;
}

static void read_config(struct config *c, const char *tokens, int ranks, int64_t length, const struct keeping *k) {
    char data[PATH_BYTES + 16], seq[32], sequence[64], keep[32], every[32];
    const char *overrides[] = {data, seq, sequence, keep, every};
    struct text errors = {0};
    snprintf(data, sizeof data, "data.train=%s", tokens);
    snprintf(seq, sizeof seq, "mesh.seq=%d", ranks);
    snprintf(sequence, sizeof sequence, "train.tokens_per_sequence=%" PRId64, length);
    snprintf(keep, sizeof keep, "train.keep=%s", k->keep);
    snprintf(every, sizeof every, "train.keep_every=%d", k->every);
    const struct config_source from = {.path = "configs/bench_book.yaml", .n_overrides = 5, .overrides = overrides};
    const enum status st = config_read(c, &from, &errors);
    CHECK(st == OK, "%s", errors.s ? errors.s : status_text());
    MUST(st);
    text_term(&errors);
}

/* In a process of its own, whose resident memory is this run's alone. */
static void run_here(struct outcome *o, const char *tokens, int ranks, int64_t length, const struct keeping *k) {
    struct job job = {.out = o};
    struct world *world = NULL;
    read_config(&job.config, tokens, ranks, length, k);
    o->baseline = report_bytes_peak();
    const double begin = prof_seconds();
    MUST(world_open(&world, &(struct world_spec){.n_ranks = ranks, .deadline_s = 600}));
    MUST(world_run(world, train_rank, &job));
    o->seconds = prof_seconds() - begin;
    o->peak = report_bytes_peak();
    world_close(world);
    config_term(&job.config);
}

static struct outcome *run(const char *tokens, int ranks, int64_t length, const struct keeping *k) {
    struct outcome *o = mmap(NULL, sizeof *o, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int code = 0;
    ASSERT(o != MAP_FAILED);
    fflush(NULL);
    const pid_t child = fork();
    ASSERT(child >= 0);
    if (child == 0) {
        run_here(o, tokens, ranks, length, k);
        _exit(check_end());
    }
    CHECK(waitpid(child, &code, 0) == child && code == 0, "%d ranks: the run ended with status %d", ranks, code);
    return o;
}

static void check_memory(const struct outcome *o, int ranks) {
    int64_t planned = 0;
    for (int r = 0; r < ranks; r++) {
        CHECK(o->high[r] <= o->planned[r] && (double)o->high[r] >= 0.95 * (double)o->planned[r],
              "rank %d of %d: arenas held %" PRId64 " bytes, planned are %" PRId64, r, ranks, o->high[r],
              o->planned[r]);
        planned += o->planned[r];
    }
    const double share = (double)(o->peak - o->baseline) / (double)planned;
    printf("%d ranks: %.1f s, peak %.1f MiB less %.1f before the run, plan %.1f MiB: %.4f; arenas %.4f; saved %.1f\n",
           ranks, o->seconds, (double)o->peak / 1048576.0, (double)o->baseline / 1048576.0, (double)planned / 1048576.0,
           share, (double)o->high[0] / (double)o->planned[0], (double)o->saved[0] / 1048576.0);
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
    CHECK(share > 0.95 && share < 1.05, "%d ranks: %.4f of the planned memory is resident", ranks, share);
#endif
}

static void compare(const struct outcome *one, const struct outcome *many) {
    for (int i = 0; i < STEPS; i++) {
        const double loss = fabs(many->loss[i] / one->loss[i] - 1.0), norm = fabs(many->norm[i] / one->norm[i] - 1.0);
        printf("step %d: loss %.15g, apart %.2g; gradient norm %.9g, apart %.2g\n", i + 1, one->loss[i], loss,
               one->norm[i], norm);
        CHECK(loss <= 1e-5, "step %d: loss %.17g over %d ranks, %.17g on one", i + 1, many->loss[i], RANKS,
              one->loss[i]);
        CHECK(norm <= (i == 0 ? 1e-5 : 1e-4), "step %d: gradient norm %.17g over %d ranks, %.17g on one", i + 1,
              many->norm[i], RANKS, one->norm[i]);
    }
    CHECK(one->loss[STEPS - 1] < one->loss[0], "nothing is learnt: %g to %g", one->loss[0], one->loss[STEPS - 1]);
    for (int r = 0; r < RANKS; r++)
        CHECK(7 * many->saved[r] <= one->saved[0], "rank %d saves %" PRId64 " bytes, one rank %" PRId64, r,
              many->saved[r], one->saved[0]);
}

/* What was promised for the whole length, on two cores. */
static void check_limits(const struct outcome *o) {
    CHECK(o->seconds < 30 * 60, "three steps take %.0f s", o->seconds);
    CHECK(o->peak < (int64_t)16 << 30, "%" PRId64 " bytes are resident", o->peak);
}

static void write_book(const char *path, const char *prefix) {
    static int32_t ids[BOOK_BYTES];
    struct token_writer *w = NULL;
    FILE *f = fopen(path, "rb");
    int64_t n = 0;
    ASSERT(f);
    for (int c; n < BOOK_BYTES && (c = getc(f)) != EOF;) ids[n++] = c;
    fclose(f);
    CHECK(n == BOOK_BYTES, "%s has %" PRId64 " bytes alone", path, n);
    MUST(token_writer_open(&w, prefix, 256));
    MUST(token_writer_add(w, ids, n));
    MUST(token_writer_close(w, true));
}

int main(void) {
    char folder[] = "/tmp/baton_long_sequence_XXXXXX", path[PATH_BYTES], prefix[PATH_BYTES];
    const char *shared = check_shared();
    const int64_t length = getenv("BATON_LONG") ? 409600 : 16384;
    MUST(path_print(path, "%s/%s", shared ? shared : "../shared", book));
    if (access(path, R_OK) != 0) SKIP("there is no %s", path);
    if (!mkdtemp(folder)) SKIP("no temporary folder can be made");
    MUST(path_print(prefix, "%s/book", folder));
    write_book(path, prefix);
    struct outcome *one = run(prefix, 1, length, &keepings[0]), *many = run(prefix, RANKS, length, &keepings[0]);
    check_memory(one, 1);
    check_memory(many, RANKS);
    check_limits(many);
    compare(one, many);
    for (size_t i = 1; i < sizeof keepings / sizeof *keepings; i++) {
        struct outcome *less = run(prefix, RANKS, length, &keepings[i]);
        check_memory(less, RANKS);
        CHECK(!memcmp(less->loss, many->loss, sizeof many->loss) && !memcmp(less->norm, many->norm, sizeof many->norm),
              "keep %s, every %d: other losses than with keep all", keepings[i].keep, keepings[i].every);
        CHECK(less->peak < many->peak, "keep %s, every %d: no less memory", keepings[i].keep, keepings[i].every);
        munmap(less, sizeof *less);
    }
    munmap(one, sizeof *one);
    munmap(many, sizeof *many);
    MUST(file_remove_tree(folder));
    return check_end();
}
