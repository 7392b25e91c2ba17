/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
#include "tests/check.h"
#include <stdbool.h>
#include "base/arena.h"
#include "base/rng.h"
#include "dist/collectives.h"
#include "profiling/prof.h"

enum { RANKS_MAX = 4, TEXT = 400 };
/* What the ranks of one run left behind, each in its own place. */
struct left {
    enum status st[RANKS_MAX];
    char text[RANKS_MAX][2048];
    int64_t messages[RANKS_MAX];
    double data[RANKS_MAX][3][8 * RANKS_MAX];
    char first[2048];
};

static double word(int i, int64_t k) { return (double)((i * 37 + k * 11) % 101); }

/* A little of everything: a chain, a sum, a gather behind local work, on two communicators. */
static enum status exchanges(struct comm *whole, struct comm *half, double (*data)[8 * RANKS_MAX]) {
    const int me = whole->index, last = whole->size - 1;
    double *x = data[0], *y = data[1], *scratch = data[2];
    struct pending p = {0}, q = {0};
    for (int k = 0; k < 8; k++) x[k] = word(me, k);
    if (me > 0) {
        TRY(comm_begin(whole, COMM_CARRY, &(struct transfer){.peer = me - 1, .recv = y, .recv_bytes = 64}, 1, &p));
        TRY(comm_end(whole, &p));
        for (int k = 0; k < 8; k++) x[k] += y[k];
    }
    if (me < last) {
        TRY(comm_begin(whole, COMM_CARRY, &(struct transfer){.peer = me + 1, .send = x, .send_bytes = 64}, 1, &p));
        TRY(comm_end(whole, &p));
    }
    TRY(all_gather_even_begin(whole, COMM_KEYS, x, 64, y, &p));
    struct reduction r = {.use = COMM_GRADS, .dtype = F64, .in = x, .out = x, .n = 8, .scratch = scratch};
    TRY(comm_end(whole, &p));
    TRY(all_reduce_begin(half, &r));
    TRY(all_gather_even_begin(whole, COMM_PARAMS, y, 8, scratch + 24, &q));
    TRY(all_reduce_end(half, &r));
    TRY(comm_end(whole, &q));
    for (int i = 0; i <= last; i++)
        for (int k = 0; k < 8; k++) {
            double want = 0;
            for (int j = 0; j <= i; j++) want += word(j, k);
            CHECK(y[i * 8 + k] == want, "rank %d: block %d, %d: %g is not %g", me, i, k, y[i * 8 + k], want);
        }
    return barrier(whole);
}

static enum status scenario(struct rank *r, void *arg) {
    struct left *left = arg;
    const int me = rank_index(r), n = rank_size(r);
    const struct mesh_sizes sizes = {1, n % 2 ? 1 : 2, n % 2 ? n : n / 2, 1, 1};
    struct mesh m;
    struct comm whole = {0}, half = {0};
    enum status st = OK;
    rank_phase(r, "scenario", me);
    TRY_OUT(mesh_place(&m, &sizes, n, me));
    TRY_OUT(comm_init(&whole, r, &m, MESH_WORLD, NULL));
    TRY_OUT(comm_init(&half, r, &m, MESH_SEQ, NULL));
    TRY_OUT(exchanges(&whole, &half, left->data[me]));
    left->messages[me] = comm_total(&whole).messages + comm_total(&half).messages;
out:
    comm_term(&half);
    comm_term(&whole);
    left->st[me] = st;
    snprintf(left->text[me], sizeof left->text[me], "%s", st == OK ? "" : status_text());
    return st;
}

static enum status run(int n_ranks, double deadline_s, const struct fault *faults, int n_faults, struct left *left) {
    struct world *w = NULL;
    memset(left, 0, sizeof *left);
    MUST(world_open(&w, &(struct world_spec){
                            .n_ranks = n_ranks, .deadline_s = deadline_s, .faults = faults, .n_faults = n_faults}));
    const double begun = prof_seconds();
    const enum status st = world_run(w, scenario, left);
    const double took = prof_seconds() - begun;
    snprintf(left->first, sizeof left->first, "%s", st == OK ? "" : status_text());
    CHECK(took < 4 * deadline_s + 20, "%d ranks took %g s with a deadline of %g s", n_ranks, took, deadline_s);
    world_close(w);
    return st;
}

/* Does the text lay this fault at this rank's door, and not just mention it? */
static bool blames(const char *text, enum fault_kind kind, int rank) {
    char says[4][TEXT] = {{0}};
    if (kind == FAULT_ERROR) {
        snprintf(says[0], TEXT, "injected fault: rank %d fails", rank);
        snprintf(says[1], TEXT, "rank %d of ", rank);
        return strstr(text, says[0]) && !strncmp(text, says[1], strlen(says[1]));
    }
    if (kind == FAULT_LOST) {
        snprintf(says[0], TEXT, "was lost on its way from rank %d", rank);
        snprintf(says[1], TEXT, "from rank %d was lost", rank);
        snprintf(says[2], TEXT, "rank %d has ended", rank);
    } else {
        snprintf(says[0], TEXT, "rank %d is in no wait", rank);
        snprintf(says[1], TEXT, "rank %d went silent", rank);
    }
    for (int i = 0; i < 4; i++)
        if (says[i][0] && strstr(text, says[i])) return true;
    return false;
}

/* A loaded machine may hold up another rank past a short deadline, and that one is then blamed rightly: before a fault
 * counts as blamed wrongly, all times are taken thirty times as long. */
static enum status run_fault(int n_ranks, struct fault f, double deadline_s, struct left *left) {
    const enum status st = run(n_ranks, deadline_s, &f, 1, left);
    if (deadline_s > 1 || (st != OK && blames(left->first, f.kind, f.rank))) return st;
    f.ms *= 30;
    return run(n_ranks, 30 * deadline_s, &f, 1, left);
}

static void check_fault(int n_ranks, const struct fault *f, double deadline_s) {
    static struct left left;
    const enum status st = run_fault(n_ranks, *f, deadline_s, &left);
    static const char *const kinds[] = {"late", "lost", "error", "stop"};
    const enum status want = f->kind == FAULT_ERROR ? ERR_IO : ERR_TIMEOUT;
    CHECK(st == want || (f->kind != FAULT_ERROR && st == ERR_COMM), "%s, rank %d, message %lld: %s (%s)",
          kinds[f->kind], f->rank, (long long)f->k, status_name(st), left.first);
    CHECK(blames(left.first, f->kind, f->rank), "%s, rank %d, message %lld: the text blames another: %s",
          kinds[f->kind], f->rank, (long long)f->k, left.first);
    for (int i = 0; i < n_ranks; i++)
        if (left.st[i] == ERR_COMM && i != f->rank)
            CHECK(strstr(left.text[i], left.first) || strstr(left.first, left.text[i]),
                  "rank %d was ended for another reason: %s; the first: %s", i, left.text[i], left.first);
}

/* Every message of every rank, each kind of fault; one more than there are is no fault. */
static void test_every_message(int n_ranks) {
    static struct left clean, left;
    MUST(run(n_ranks, 60, NULL, 0, &clean));
    for (int rank = 0; rank < n_ranks; rank++) {
        for (int64_t k = 1; k <= clean.messages[rank]; k++) {
            check_fault(n_ranks, &(struct fault){rank, k, FAULT_ERROR, 0}, 60);
            check_fault(n_ranks, &(struct fault){rank, k, FAULT_LOST, 0}, 0.1);
            check_fault(n_ranks, &(struct fault){rank, k, FAULT_STOP, 0}, 0.1);
            MUST(run(n_ranks, 60, &(struct fault){rank, k, FAULT_LATE, 3}, 1, &left));
            CHECK(!memcmp(left.data, clean.data, sizeof left.data), "rank %d late at message %lld: other results", rank,
                  (long long)k);
        }
        check_fault(n_ranks, &(struct fault){rank, 1, FAULT_LATE, 400}, 0.1);
        for (int kind = FAULT_LATE; kind <= FAULT_STOP; kind++)
            MUST(run(n_ranks, 60, &(struct fault){rank, clean.messages[rank] + 1, (enum fault_kind)kind, 1}, 1, &left));
    }
}

/* Mixtures: whatever happens, all ranks return in time, and a run that says OK has the right results. */
static void test_random(int n_runs) {
    static struct left left, clean[RANKS_MAX + 1];
    for (int n = 2; n <= RANKS_MAX; n++) MUST(run(n, 60, NULL, 0, &clean[n]));
    for (int i = 0; i < n_runs; i++) {
        struct fault faults[6];
        const int n = 2 + (int)(rng_bits(7, 0, (uint64_t)i) % 3);
        bool hard = false;
        for (int k = 0; k < 6; k++) {
            const uint64_t bits = rng_bits(8, (uint64_t)i, (uint64_t)k);
            const int kind = bits % 16 < 13 ? FAULT_LATE : (int)(bits % 16) - 12;
            faults[k] = (struct fault){.rank = (int)(bits >> 8) & 3, .k = 1 + (int64_t)(bits >> 16) % 12};
            faults[k].kind = (enum fault_kind)kind;
            faults[k].ms = (int)(bits >> 32 & 7);
            hard |= kind != FAULT_LATE;
        }
        const enum status st = run(n, hard ? 0.1 : 60, faults, 6, &left);
        CHECK(st == OK || hard, "run %d: late ranks alone broke it: %s", i, left.first);
        CHECK(st != OK || !memcmp(left.data, clean[n].data, sizeof left.data), "run %d: OK with wrong results", i);
        CHECK(st == OK || strstr(left.first, "rank "), "run %d names nobody: %s", i, left.first);
    }
}

/* Allocations fail one after the other: an error each time, until none is left to fail. */
static void test_memory(void) {
    static struct left left;
    int64_t k = 1;
    for (;; k++) {
        struct world *w = NULL;
        mem_fail_at(k);
        enum status st = world_open(&w, &(struct world_spec){.n_ranks = 3, .deadline_s = 60});
        if (st == OK) st = world_run(w, scenario, &left);
        world_close(w);
        mem_fail_at(0);
        if (st == OK) break;
        CHECK(st == ERR_OOM, "allocation %lld: %s: %s", (long long)k, status_name(st), status_text());
    }
    CHECK(k > 30, "only %lld allocations were made to fail", (long long)k - 1);
}

int main(void) {
    test_every_message(2);
    test_every_message(3);
    test_random(200);
    test_memory();
    return check_end();
}
