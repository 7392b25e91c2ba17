/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* comm_world.c - the cases in the world this program was started in: three threads, or under mpirun its processes.
 * comm_mpi.sh also asks it to misbehave: the argument says how its rank 1 does. */
#include <signal.h>
#include <unistd.h>
#include "base/log.h"
#include "tests/comm_cases.h"
#include "dist/agree.h"

enum { DEADLINE_S = 2 };

static enum status all_cases(struct rank *r, void *arg) {
    (void)arg;
    TRY(comm_groups_in(r, "nothing", 0, NULL));
    TRY(comm_groups_in(r, "one", 1, NULL));
    TRY(comm_groups_in(r, "uneven", 1003, NULL));
    return comm_groups_in(r, "chunks of one message", 5000, NULL);
}

static enum status large(struct rank *r, void *arg) {
    (void)arg;
    return comm_groups_in(r, "large", (1 << 20) + 3, NULL);
}

/* Messages to a rank that is late, so that they arrive before they are expected. */
static enum status misbehave(struct comm *c, const char *how) {
    static double in[20000], out[20000], scratch[20000];
    const bool me = c->index == 1;
    struct reduction r = {.use = COMM_GRADS, .dtype = F64, .in = in, .out = out, .n = 20000, .scratch = scratch};
    ASSERT(all_reduce_scratch(c, F64, 20000) <= (int64_t)sizeof scratch);
    TRY(barrier(c));
    if (me && !strcmp(how, "fail")) FAIL(ERR_DATA, "books/valid.bin: 3 bytes are missing");
    if (!strcmp(how, "config")) FAIL(ERR_CONFIG, "train.steps is wrong on all ranks alike");
    if (!strcmp(how, "stopped")) return ERR_STOPPED;
    if (me && !strcmp(how, "kill")) raise(SIGKILL);
    if (me && !strcmp(how, "silent")) raise(SIGSTOP);
    if (me && !strcmp(how, "slow")) sleep(60);
    if (me && !strcmp(how, "ends")) return OK;
    if (me && !strcmp(how, "smaller")) r.n = 19990;
    if (me && !strcmp(how, "other")) return barrier(c);
    if (!strcmp(how, "differs")) TRY(agree_warn(c, "OpenBLAS", me ? "0.3.26" : "0.3.21"));
    if (!strcmp(how, "differs")) return agree_same(c, "the configuration", me ? "ab" : "cd");
    TRY(all_reduce_begin(c, &r));
    return all_reduce_end(c, &r);
}

static enum status one_mistake(struct rank *r, void *arg) {
    const struct mesh_sizes sizes = {1, 1, rank_size(r), 1, 1};
    struct mesh m;
    struct comm c = {0};
    TRY(mesh_place(&m, &sizes, rank_size(r), rank_index(r)));
    TRY(comm_init(&c, r, &m, MESH_SEQ, NULL));
    rank_phase(r, "test", 7);
    const enum status st = misbehave(&c, arg);
    comm_term(&c);
    return st;
}

/* The exit codes of the program: 4 for a lost rank, 3 for a stop, 2 for a configuration. */
static int exit_code(enum status st) {
    if (st == OK) return check_end();
    return st == ERR_COMM || st == ERR_TIMEOUT ? 4 : st == ERR_STOPPED ? 3 : st == ERR_CONFIG ? 2 : 1;
}

int main(int argc, char **argv) {
    struct world *w = NULL;
    const char *how = argc > 1 ? argv[1] : "cases";
    const char *launcher = world_launcher(getenv);
    struct world_spec spec = {.n_ranks = launcher ? 0 : 3, .launcher = launcher, .deadline_s = DEADLINE_S};
    world_fn *fn = !strcmp(how, "cases") ? all_cases : !strcmp(how, "large") ? large : one_mistake;
    if (fn != one_mistake) spec.deadline_s = 60;
    if (fn == all_cases) spec.chunk_bytes = 30000;
    MUST(world_open(&w, &spec));
    const enum status st = world_run(w, fn, (void *)(uintptr_t)how);
    if (st != OK && world_speaks(w)) fprintf(stderr, "failed: %s\n", status_text());
    world_close(w);
    return exit_code(st);
}
