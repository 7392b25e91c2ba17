/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "dist/world.h"
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include "base/arena.h"
#include "dist/inside.h"

static const char *const ops[N_COMM_OPS] = {"transfer", "all_gather", "all_to_all", "sum", "broadcast", "barrier"};

#define DEADLINE_S 600.0
#define CHUNK      ((int64_t)1 << 30) /* MPI counts in int */

const char *world_launcher(char *(*get)(const char *name)) {
    /* Open MPI's mpirun, PMIx (srun --mpi=pmix), PMI-1 and PMI-2 (other launchers, srun --mpi=pmi2). */
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (get(names[i])) return names[i];
    return NULL;
}

static enum status check_spec(const struct world_spec *s) {
    if (s->launcher) {
        FAIL_UNLESS(s->n_ranks == 0, ERR_CONFIG,
                    "%d ranks are asked for, but a launcher started this process (%s is set): give the number to mpirun"
                    " or srun alone",
                    s->n_ranks, s->launcher);
        FAIL_UNLESS(s->n_faults == 0, ERR_ARG, "faults are injected in the thread world only");
    } else
        FAIL_UNLESS(s->n_ranks >= 1 && s->n_ranks <= 4096, ERR_CONFIG, "%d ranks as threads: 1 to 4096 are possible",
                    s->n_ranks);
    FAIL_UNLESS(!s->paper || (!s->launcher && s->alone >= 0 && s->alone < s->n_ranks), ERR_ARG,
                "rank %d of %d ranks on paper", s->alone, s->n_ranks);
    FAIL_UNLESS(s->deadline_s >= 0 && s->deadline_s <= 1e6, ERR_CONFIG,
                "a deadline of %g s: 0 (default) to 1,000,000 are possible", s->deadline_s);
    FAIL_UNLESS(s->chunk_bytes >= 0 && s->chunk_bytes <= CHUNK, ERR_ARG, "chunk_bytes is %" PRId64 ": at most 2^30",
                s->chunk_bytes);
    return OK;
}

static enum status open_world(struct world *w) {
#ifdef BATON_MPI
    if (w->spec.launcher) return mpi_open(w);
#else
    FAIL_UNLESS(
        !w->spec.launcher, ERR_CONFIG,
        "a launcher started this process (%s is set), but this build has no MPI: configure with -DBATON_MPI=ON, or"
        " start it without mpirun and srun",
        w->spec.launcher);
#endif
    return threads_open(w);
}

enum status world_open(struct world **out, const struct world_spec *spec) {
    *out = NULL;
    TRY(check_spec(spec));
    void *mem = NULL;
    TRY(mem_take(sizeof **out, &mem));
    struct world *w = mem;
    w->spec = *spec;
    if (w->spec.deadline_s == 0) w->spec.deadline_s = DEADLINE_S;
    if (w->spec.chunk_bytes == 0) w->spec.chunk_bytes = CHUNK;
    const enum status st = open_world(w);
    if (st != OK) {
        mem_free(w);
        return status_pass(st, __FILE__, __LINE__);
    }
    *out = w;
    return OK;
}

void world_close(struct world *w) {
    if (!w) return;
    w->kind->close(w);
    mem_free(w);
}

int world_size(const struct world *w) { return w->size; }
bool world_speaks(const struct world *w) { return w->first.set ? w->first_here : w->rank_here == 0; }

enum status world_run(struct world *w, world_fn *fn, void *arg) { return w->kind->run(w, fn, arg); }

int rank_index(const struct rank *r) { return r->index; }
int rank_size(const struct rank *r) { return r->world->size; }
int rank_on_host(const struct rank *r) { return r->world->on_host; }

void world_nap(int64_t polls) {
    if (polls < 200) sched_yield();
    else nanosleep(&(struct timespec){.tv_nsec = polls < 2000 ? 20000 : 200000}, NULL);
}

void rank_phase(struct rank *r, const char *name, int64_t number) {
    pthread_mutex_lock(&r->world->lock);
    r->phase = name;
    r->phase_number = number;
    pthread_mutex_unlock(&r->world->lock);
}

void rank_enters(struct comm_inside *in, const struct flight *f) {
    struct rank *r = in->rank;
    r->last = in;
    r->last_op = f->op;
    r->last_use = f->use;
    r->last_number = f->number;
    r->in = true;
}

static int print_exchange(const struct rank *r, char *out, size_t room) {
    return snprintf(out, room, "%s %" PRId64 " of %s (%s)", ops[r->last_op], r->last_number,
                    mesh_axis_name(r->last->axis), comm_use_name(r->last_use));
}

void rank_where(const struct rank *r, char *out, size_t room) {
    size_t n = (size_t)snprintf(out, room, "rank %d of %d", r->index, r->world->size);
    if (r->phase && n < room)
        n += (size_t)snprintf(out + n, room - n, ", phase %s %" PRId64, r->phase, r->phase_number);
    if (!r->last || n >= room) return;
    n += (size_t)snprintf(out + n, room - n, r->in ? ", in " : ", after ");
    if (n < room) print_exchange(r, out + n, room - n);
}

void rank_state(const struct rank *r, char *out, size_t room) {
    size_t n = (size_t)snprintf(out, room, "rank %d ", r->index);
    if (n >= room) return;
    if (r->ended) snprintf(out + n, room - n, "has ended");
    else if (r->waits) {
        n += (size_t)snprintf(out + n, room - n, "waits in ");
        if (n < room) print_exchange(r, out + n, room - n);
    } else if (r->waits_gpu) {
        n += (size_t)snprintf(out + n, room - n, "waits for its GPU");
    } else {
        n += (size_t)snprintf(out + n, room - n, "is in no wait: busy, late or stuck");
        if (r->phase && n < room)
            n += (size_t)snprintf(out + n, room - n, " in phase %s %" PRId64, r->phase, r->phase_number);
        if (r->last && n < room) n += (size_t)snprintf(out + n, room - n, ", its latest exchange ");
        if (r->last && n < room) print_exchange(r, out + n, room - n);
    }
}

void comm_print_tag(int tag, char *out, size_t room) {
    const int op = tag / N_COMM_USES;
    snprintf(out, room, "%s (%s)", op < N_COMM_OPS ? ops[op] : "unknown", comm_use_name(tag % N_COMM_USES));
}

void world_record(struct rank *r, enum status st, bool says_where) {
    struct world *w = r->world;
    if (w->first.set) return;
    w->first = (struct record){.set = true, .rank = r->index, .st = st};
    w->first_here = true;
    char where[200];
    rank_where(r, where, sizeof where);
    if (says_where) snprintf(w->first.text, sizeof w->first.text, "%s", status_text());
    else snprintf(w->first.text, sizeof w->first.text, "%s: %s [%.300s]", where, status_text(), status_trace());
    __atomic_store_n(&w->failed, 1, __ATOMIC_RELEASE);
}
