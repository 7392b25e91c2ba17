/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
#include "tests/comm_cases.h"
#include "base/rng.h"
#include "dist/agree.h"

struct plan {
    const char *why;
    int64_t n;
};

static enum status groups(struct rank *r, void *arg) {
    const struct plan *plan = arg;
    return comm_groups_in(r, plan->why, plan->n, NULL);
}

static enum status run(int n_ranks, double deadline_s, const struct fault *faults, int n_faults, world_fn *fn,
                       void *arg) {
    struct world *w = NULL;
    MUST(world_open(&w, &(struct world_spec){
                            .n_ranks = n_ranks, .deadline_s = deadline_s, .faults = faults, .n_faults = n_faults}));
    const enum status st = world_run(w, fn, arg);
    world_close(w);
    return st;
}

static const int rank_counts[] = {1, 2, 3, 4, 8};
enum { N_COUNTS = sizeof rank_counts / sizeof *rank_counts };

static void test_cases(void) {
    struct plan plans[] = {{"nothing", 0}, {"one", 1}, {"uneven", 1003}};
    for (int i = 0; i < N_COUNTS; i++)
        for (size_t k = 0; k < sizeof plans / sizeof *plans; k++)
            MUST(run(rank_counts[i], 60, NULL, 0, groups, &plans[k]));
    MUST(run(3, 60, NULL, 0, groups, &(struct plan){"large", (1 << 20) + 3}));
}

/* Ranks late at random, so that messages wait for their receivers and receivers for their messages. */
static void test_delays(void) {
    for (uint64_t i = 0; i < 20; i++) {
        struct fault late[24];
        for (uint64_t k = 0; k < 24; k++) {
            const uint64_t bits = rng_bits(11, i, k);
            late[k] =
                (struct fault){(int)(bits % 8), 1 + (int64_t)(bits >> 8) % 400, FAULT_LATE, (int)(bits >> 32 & 3)};
        }
        MUST(run(i % 2 ? 8 : 4, 60, late, 24, groups, &(struct plan){"late", 33}));
    }
}

/* Each mistake is made by the last of three ranks; all three must end, and the text must say which it was. */
enum mistake {
    OTHER_SIZE,
    OTHER_USE,
    OTHER_COLLECTIVE,
    OTHER_AXIS,
    ENDS_EARLY,
    FAILS,
    TOO_MANY_FLIGHTS,
    TOO_MANY_TRANSFERS
};

static enum status exchange_wrongly(struct comm *c, enum mistake mistake, bool wrong, char *recv) {
    static const char send[64];
    struct pending p[9] = {{0}};
    struct transfer list[7] = {{0}};
    if (wrong && mistake == ENDS_EARLY) return OK;
    if (wrong && mistake == FAILS) FAIL(ERR_DATA, "books/valid.bin: 3 bytes are missing");
    if (wrong && mistake == TOO_MANY_TRANSFERS) return comm_begin(c, COMM_HALO, list, 7, &p[0]);
    for (int i = 0; wrong && mistake == TOO_MANY_FLIGHTS && i < 9; i++) TRY(comm_begin(c, COMM_HALO, list, 0, &p[i]));
    const int64_t bytes = wrong && mistake == OTHER_SIZE ? 15 : 16;
    const enum comm_use use = wrong && mistake == OTHER_USE ? COMM_GRADS : COMM_PARAMS;
    if (wrong && mistake == OTHER_COLLECTIVE) TRY(all_to_all_even_begin(c, use, send, bytes, recv, &p[0]));
    else TRY(all_gather_even_begin(c, use, send, bytes, recv, &p[0]));
    return comm_end(c, &p[0]);
}

static enum status mistaken(struct rank *r, void *arg) {
    const enum mistake mistake = *(const enum mistake *)arg;
    const bool wrong = rank_index(r) == 2;
    const struct mesh_sizes sizes = {1, 1, 3, 1, 1};
    struct mesh m;
    struct comm c = {0};
    char recv[3 * 16];
    TRY(mesh_place(&m, &sizes, 3, rank_index(r)));
    TRY(comm_init(&c, r, &m, wrong && mistake == OTHER_AXIS ? MESH_TOKENS : MESH_SEQ, NULL));
    const enum status st = exchange_wrongly(&c, mistake, wrong, recv);
    comm_term(&c);
    return st;
}

static void test_mistakes(void) {
    static const struct {
        enum mistake mistake;
        enum status want;
        const char *says[3]; /* one of them: which rank is first to see it is a matter of time */
    } rows[] = {
        {OTHER_SIZE,
         ERR_COMM,
         {"rank 2 sent 15 bytes of all_gather (params) where 16", "sent 16 bytes", "rank 2 has ended"}},
        {OTHER_USE,
         ERR_COMM,
         {"rank 2 sent 16 bytes of all_gather (grads)", "bytes of all_gather (grads) are expected"}},
        {OTHER_COLLECTIVE, ERR_COMM, {"sent 16 bytes of all_to_all (params)", "of all_to_all (params) are expected"}},
        {OTHER_AXIS, ERR_COMM, {"rank 2 opened tokens", "opened seq (3 ranks from 0) where this rank opened tokens"}},
        {ENDS_EARLY, ERR_COMM, {"rank 2 has ended without it"}},
        {FAILS, ERR_DATA, {"rank 2 of 3: books/valid.bin: 3 bytes are missing"}},
        {TOO_MANY_FLIGHTS, ERR_ARG, {"more than 8 exchanges of seq in flight"}},
        {TOO_MANY_TRANSFERS, ERR_ARG, {"7 transfers in one exchange of seq: 6 were planned"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        enum mistake mistake = rows[i].mistake;
        const enum status st = run(3, 60, NULL, 0, mistaken, &mistake);
        CHECK(st == rows[i].want, "mistake %d: %s: %s", mistake, status_name(st), status_text());
        bool said = false;
        for (int k = 0; k < 3; k++) said |= rows[i].says[k] && strstr(status_text(), rows[i].says[k]);
        CHECK(said, "mistake %d: '%s' does not say '%s'", mistake, status_text(), rows[i].says[0]);
    }
}

/* texts[i] is what rank i says. */
static enum status compare(struct rank *r, void *arg) {
    const char *const *texts = arg;
    const struct mesh_sizes sizes = {1, rank_size(r), 1, 1, 1};
    struct mesh m;
    struct comm c = {0};
    enum status st = OK;
    TRY_OUT(mesh_place(&m, &sizes, rank_size(r), rank_index(r)));
    TRY_OUT(comm_init(&c, r, &m, MESH_WORLD, NULL));
    TRY_OUT(agree_same(&c, "the seed", "7"));
    TRY_OUT(agree_same(&c, "the configuration", texts[rank_index(r)]));
out:
    comm_term(&c);
    return st;
}

static void test_agree(void) {
    static const struct {
        const char *why, *texts[4], *says;
    } rows[] = {
        {"all agree", {"ab", "ab", "ab", "ab"}, NULL},
        {"one differs", {"ab", "ab", "cd", "ab"}, ": rank 2 has cd; 3 of 4 ranks, as rank 0, have ab"},
        {"the first differs", {"cd", "ab", "ab", "ab"}, ": rank 0 has cd; 3 of 4 ranks, as rank 1, have ab"},
        {"one is longer", {"ab", "ab", "ab", "abc"}, ": rank 3 has abc; 3 of 4 ranks, as rank 0, have ab"},
        {"two and two", {"ab", "cd", "cd", "ab"}, ": rank 1 has cd, rank 2 has cd; 2 of 4 ranks, as rank 0, have ab"},
        {"all differ",
         {"a", "b", "c", ""},
         ": rank 1 has b, rank 2 has c, rank 3 has ; 1 of 4 ranks, as rank 0, have a"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const enum status st = run(4, 60, NULL, 0, compare, (void *)(uintptr_t)rows[i].texts);
        CHECK(st == (rows[i].says ? ERR_CONFIG : OK), "%s: %s", rows[i].why, status_name(st));
        CHECK(!rows[i].says || strstr(status_text(), rows[i].says), "%s: '%s' does not say '%s'", rows[i].why,
              status_text(), rows[i].says);
    }
}

static enum status stopped(struct rank *r, void *arg) {
    (void)r;
    (void)arg;
    return ERR_STOPPED;
}

static char one[] = "1"; /* what a variable holds; only that it is there matters */

static char *under_mpirun(const char *name) { return strcmp(name, "OMPI_COMM_WORLD_SIZE") ? NULL : one; }
static char *under_srun(const char *name) { return strcmp(name, "PMIX_RANK") ? NULL : one; }
static char *alone(const char *name) { return (void)name, NULL; }

static void test_world(void) {
    struct world *w = NULL;
    CHECK(run(3, 60, NULL, 0, stopped, NULL) == ERR_STOPPED, "ranks that stop as asked");
    CHECK(!world_launcher(alone), "no launcher");
    CHECK(world_launcher(under_mpirun) && world_launcher(under_srun), "mpirun and srun are seen");
    CHECK(world_open(&w, &(struct world_spec){.n_ranks = 4, .launcher = world_launcher(under_mpirun)}) == ERR_CONFIG,
          "ranks and a launcher together");
    CHECK(strstr(status_text(), "OMPI_COMM_WORLD_SIZE"), "%s", status_text());
    CHECK(world_open(&w, &(struct world_spec){.n_ranks = 0}) == ERR_CONFIG && !w, "no ranks");
    CHECK(world_open(&w, &(struct world_spec){.n_ranks = 2, .deadline_s = -1}) == ERR_CONFIG && !w, "deadline");
    MUST(world_open(&w, &(struct world_spec){.n_ranks = 3}));
    for (int i = 0; i < 3; i++) { /* a failed run leaves nothing to the next */
        enum mistake mistake = FAILS;
        CHECK(world_run(w, mistaken, &mistake) == ERR_DATA, "run %d: %s", i, status_text());
        MUST(world_run(w, groups, &(struct plan){"after a failure", 5}));
    }
    world_close(w);
    world_close(NULL);
}

int main(void) {
    test_cases();
    test_delays();
    test_mistakes();
    test_agree();
    test_world();
    return check_end();
}
