/* SPDX-License-Identifier: Apache-2.0 */
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "base/log.h"
#include "dist/lane.h"
#include "profiling/prof.h"

enum {
    TAG_NOTICE = 1,
    TAG_END = 2,
    EXIT_LOST = 4, /* a rank or link was lost */
    GRACE_S = 10,  /* after a failure: for the others to see it and come to the end */
};

/* A rank that fails tells all others: who, and why.  Small enough to leave at once. */
struct notice {
    int rank, st;
    char text[1600];
};
struct mpi_world {
    MPI_Comm control;
    struct notice heard, said; /* said outlives its sends, which nobody waits for */
    MPI_Request hearing;
    MPI_Request *ends; /* (2 * ranks): the word of each that it has ended, and mine to each */
    char *end_bytes;
    bool ran, told;
};

enum status mpi_status(int code, const char *what) {
    if (code == MPI_SUCCESS) return OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(code, text, &n);
    FAIL(ERR_COMM, "%s: %s", what, text);
}

static int listen_for_failure(struct mpi_world *m) {
    return MPI_Irecv(&m->heard, sizeof m->heard, MPI_BYTE, MPI_ANY_SOURCE, TAG_NOTICE, m->control, &m->hearing);
}

void mpi_listen(struct world *w) {
    struct mpi_world *m = w->mpi;
    int done = 0;
    while (m->hearing != MPI_REQUEST_NULL) {
        if (MPI_Test(&m->hearing, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || !done) return;
        if (!w->first.set) {
            w->first = (struct record){.set = true, .rank = m->heard.rank, .st = (enum status)m->heard.st};
            memcpy(w->first.text, m->heard.text, sizeof w->first.text);
            __atomic_store_n(&w->failed, 1, __ATOMIC_RELEASE);
        } else if (w->first_here && m->heard.st == (int)w->first.st && m->heard.rank < w->first.rank)
            w->first_here = false; /* several failed alike: the lowest speaks */
        if (listen_for_failure(m) != MPI_SUCCESS) return;
    }
}

void mpi_tell_all(struct world *w) {
    struct mpi_world *m = w->mpi;
    if (m->told) return;
    m->told = true;
    m->said = (struct notice){.rank = w->first.rank, .st = (int)w->first.st};
    memcpy(m->said.text, w->first.text, sizeof m->said.text);
    for (int i = 0; i < w->size; i++) {
        MPI_Request sent;
        if (i == w->rank_here) continue;
        if (MPI_Isend(&m->said, sizeof m->said, MPI_BYTE, i, TAG_NOTICE, m->control, &sent) == MPI_SUCCESS)
            MPI_Request_free(&sent);
    }
}

/* All ranks meet at the end, so that none leaves while another still talks to it.  False: not all came. */
static bool meet(struct world *w) {
    struct mpi_world *m = w->mpi;
    for (int i = 0; i < w->size; i++) {
        MPI_Irecv(&m->end_bytes[i], 1, MPI_BYTE, i, TAG_END, m->control, &m->ends[i]);
        MPI_Isend(&m->end_bytes[w->size], 1, MPI_BYTE, i, TAG_END, m->control, &m->ends[w->size + i]);
    }
    const double deadline = w->spec.deadline_s, grace = deadline < GRACE_S ? deadline : GRACE_S;
    const double begun = prof_seconds();
    double failed = 0; /* when this rank learnt of the first failure */
    int done = 0;
    for (int64_t polls = 0; !done; polls++) {
        if (MPI_Testall(2 * w->size, m->ends, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS) return false;
        mpi_listen(w);
        const double now = prof_seconds();
        if (w->first.set && failed == 0) failed = now;
        if (!done && now > (w->first.set ? failed + grace : begun + deadline + grace)) return false;
        world_nap(polls);
    }
    return true;
}

static void give_up(struct world *w) {
    struct mpi_world *m = w->mpi;
    char missing[200] = "";
    size_t n = 0;
    for (int i = 0; i < w->size && n + 12 < sizeof missing; i++) {
        int done = 0;
        MPI_Request_get_status(m->ends[i], &done, MPI_STATUS_IGNORE);
        if (!done) n += (size_t)snprintf(missing + n, sizeof missing - n, "%s%d", n ? ", " : "", i);
    }
    if (w->first.set && w->first_here) log_warn("%s", w->first.text);
    log_warn("rank %d of %d has ended; rank %s did not come to the end in time: all are ended with exit code %d",
             w->rank_here, w->size, missing, EXIT_LOST);
    MPI_Abort(MPI_COMM_WORLD, EXIT_LOST);
}

static enum status mpi_run(struct world *w, world_fn *fn, void *arg) {
    struct mpi_world *m = w->mpi;
    struct rank *r = &w->ranks[0];
    FAIL_UNLESS(!m->ran, ERR_ARG, "a world of MPI ranks runs once");
    m->ran = true;
    enum status st = fn(r, arg);
    for (int i = 0; i < r->n_comms; i++) ASSERT(!r->comms[i]);
    nccl_stop(w);
    if (st == OK) st = nccl_verdict(r);
    mpi_listen(w);
    if (st != OK && st != ERR_STOPPED) world_record(r, st, false);
    if (w->first.set && w->first_here) mpi_tell_all(w);
    if (!meet(w)) give_up(w);
    if (w->first.set) FAIL(w->first.st, "%s", w->first.text);
    return st;
}

static void mpi_close(struct world *w) {
    struct mpi_world *m = w->mpi;
    if (m->hearing != MPI_REQUEST_NULL) {
        MPI_Cancel(&m->hearing);
        MPI_Request_free(&m->hearing);
    }
    MPI_Comm_free(&m->control);
    MPI_Finalize();
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_destroy(&w->ranks[0].lock);
    mem_free(m->ends);
    mem_free(m->end_bytes);
    mem_free(w->ranks);
    mem_free(m);
}

const struct transport transport_mpi = {
    .name = "mpi",
    .join = mpi_join,
    .leave = mpi_leave,
    .begin = mpi_begin,
    .end = mpi_end,
};
const struct world_kind world_mpi = {
    .host = &transport_mpi,
    .run = mpi_run,
    .close = mpi_close,
    .fail = mpi_fail,
    .poll = mpi_poll,
};

static enum status count_host(struct world *w) {
    MPI_Comm host;
    TRY(mpi_status(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
                   "MPI_Comm_split_type"));
    MPI_Comm_size(host, &w->on_host);
    return mpi_status(MPI_Comm_free(&host), "MPI_Comm_free");
}

static enum status start(struct world *w) {
    struct mpi_world *m = w->mpi;
    int begun = 0, level = 0;
    void *ends = NULL, *bytes = NULL;
    MPI_Initialized(&begun);
    FAIL_UNLESS(!begun, ERR_ARG, "MPI was started before in this process: it has one world");
    TRY(mpi_status(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread"));
    FAIL_UNLESS(level >= MPI_THREAD_FUNNELED, ERR_COMM, "this MPI allows no threads beside it (level %d)", level);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_size(MPI_COMM_WORLD, &w->size);
    MPI_Comm_rank(MPI_COMM_WORLD, &w->rank_here);
    TRY(count_host(w));
    TRY(mem_take(2 * w->size * (int64_t)sizeof(MPI_Request), &ends));
    m->ends = ends;
    TRY(mem_take(w->size + 1, &bytes));
    m->end_bytes = bytes;
    TRY(mpi_status(MPI_Comm_dup(MPI_COMM_WORLD, &m->control), "MPI_Comm_dup"));
    MPI_Comm_set_errhandler(m->control, MPI_ERRORS_RETURN);
    return mpi_status(listen_for_failure(m), "MPI_Irecv");
}

enum status mpi_open(struct world *w) {
    enum status st = OK;
    void *world = NULL, *rank = NULL;
    TRY_OUT(mem_take(sizeof(struct mpi_world), &world));
    TRY_OUT(mem_take(sizeof(struct rank), &rank));
    w->mpi = world;
    TRY_OUT(start(w));
    w->ranks = rank;
    w->ranks[0] = (struct rank){.world = w, .index = w->rank_here};
    pthread_mutex_init(&w->ranks[0].lock, NULL);
    w->kind = &world_mpi;
    pthread_mutex_init(&w->lock, NULL);
out:
    if (st != OK && world) {
        mem_free(((struct mpi_world *)world)->ends);
        mem_free(((struct mpi_world *)world)->end_bytes);
    }
    if (st != OK) mem_free(world);
    if (st != OK) mem_free(rank);
    return st;
}
