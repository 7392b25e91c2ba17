/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include "base/arena.h"
#include "dist/inside.h"
#include "profiling/prof.h"

/* Each communicator is a duplicate of MPI's world: the ranks of one group use it among themselves.  Duplicating all,
 * not splitting, is what MPI can do without blocking, so that a rank that never comes ends in a deadline.
 *
 * A message is received only once it is there and its tag (use, operation) and size are what the oldest waiting post of
 * its source expects.  So a wrong one is an error with a text, no receive is ever cancelled, and MPI never writes to
 * memory after a failure but what drain() waits for.  Every wait moves all of the rank's communicators forward. */
struct mpi_comm {
    MPI_Comm comm;
    MPI_Request *requests; /* (slots, n_requests) */
    int *owners;           /* (slots, n_requests) */
};

enum { DRAIN_S = 2 };

enum status mpi_fail(struct rank *r, enum status st, const char *what) {
    char where[200];
    rank_where(r, where, sizeof where);
    status_fail(st, __FILE__, __LINE__, "%s: %s", where, what);
    world_record(r, st, true);
    if (r->world->first_here) mpi_tell_all(r->world);
    return st;
}

enum status mpi_poll(struct rank *r) {
    mpi_listen(r->world);
    const struct world *w = r->world;
    if (w->first.set) FAIL(ERR_COMM, "rank %d of %d was ended by a failure: %s", r->index, w->size, w->first.text);
    return OK;
}

static enum status duplicate(struct comm_inside *in, MPI_Comm *out) {
    struct rank *r = in->rank;
    MPI_Request request;
    int done = 0;
    TRY(mpi_status(MPI_Comm_idup(MPI_COMM_WORLD, out, &request), "MPI_Comm_idup"));
    const double until = prof_seconds() + r->world->spec.deadline_s;
    for (int64_t polls = 0;; polls++) {
        TRY(mpi_status(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Comm_idup"));
        if (done) break;
        TRY(mpi_poll(r));
        if (prof_seconds() > until)
            return mpi_fail(r, ERR_TIMEOUT, "not all ranks opened this communicator: one is late, stuck or lost");
        world_nap(polls);
    }
    MPI_Comm_set_errhandler(*out, MPI_ERRORS_RETURN);
    return OK;
}

static void release(struct mpi_comm *m) {
    mem_free(m->requests);
    mem_free(m->owners);
    mem_free(m);
}

static enum status allocate(struct comm_inside *in, struct mpi_comm *m) {
    const int64_t n = in->n_requests, all = in->n_slots * n;
    void *requests = NULL, *owners = NULL;
    TRY(mem_take(all * (int64_t)sizeof(MPI_Request), &requests));
    m->requests = requests;
    TRY(mem_take(all * (int64_t)sizeof(int), &owners));
    m->owners = owners;
    for (int i = 0; i < in->n_slots; i++) {
        in->flights[i].requests = m->requests + i * n;
        in->flights[i].owner = m->owners + i * n;
    }
    return OK;
}

enum status mpi_join(struct comm_inside *in) {
    enum status st = OK;
    void *mem = NULL;
    TRY(mem_take(sizeof(struct mpi_comm), &mem));
    TRY_OUT(allocate(in, mem));
    TRY_OUT(duplicate(in, &((struct mpi_comm *)mem)->comm));
    in->mpi = mem;
    in->id = in->rank->n_comms++;
    in->rank->comms[in->id] = in;
out:
    if (st != OK) release(mem);
    return st;
}

/* After a failure: receives under way touch memory that the caller is about to give back, so they are waited for as
 * long as their senders may live.  Sends are left to MPI, which only reads them. */
static void drain(struct flight *f) {
    MPI_Request *requests = f->requests;
    const double until = prof_seconds() + DRAIN_S;
    for (int i = 0; i < f->n_requests; i++) {
        int done = f->posts[f->owner[i]].is_send || requests[i] == MPI_REQUEST_NULL;
        for (int64_t polls = 0; !done && prof_seconds() < until; polls++) {
            if (MPI_Test(&requests[i], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
            world_nap(polls);
        }
        if (requests[i] != MPI_REQUEST_NULL) MPI_Request_free(&requests[i]);
    }
    f->n_requests = 0;
}

static void drain_all(struct comm_inside *in) {
    for (int m = 0; m < in->comm->size; m++) in->boxes[m].recvs = (struct queue){0};
    for (int i = 0; i < in->n_slots; i++)
        if (in->flights[i].open) drain(&in->flights[i]);
}

void mpi_leave(struct comm_inside *in) {
    struct mpi_comm *m = in->mpi;
    drain_all(in);
    if (!in->rank->world->first.set) MPI_Comm_free(&m->comm);
    in->rank->comms[in->id] = NULL;
    while (in->rank->n_comms > 0 && !in->rank->comms[in->rank->n_comms - 1]) in->rank->n_comms--;
    if (in->rank->last == in) in->rank->last = NULL;
    release(m);
}

/* Room for one more request of post p. */
static enum status add_request(struct comm_inside *in, struct post *p, MPI_Request **out) {
    struct flight *f = p->flight;
    FAIL_UNLESS(f->n_requests < in->n_requests, ERR_ARG,
                "%" PRId64 " bytes in one message of %s are more than comm_init planned: set limits.bytes", p->bytes,
                in->comm->name);
    *out = (MPI_Request *)f->requests + f->n_requests;
    f->owner[f->n_requests] = (int)(p - f->posts);
    return OK;
}

static int chunk_of(const struct comm_inside *in, const struct post *p) {
    const int64_t chunk = in->rank->world->spec.chunk_bytes, left = p->bytes - p->matched;
    return (int)(left < chunk ? left : chunk);
}

static enum status send_post(struct comm_inside *in, struct post *p) {
    const struct mpi_comm *m = in->mpi;
    const int to = comm_world_rank(in, p->peer);
    while (p->matched < p->bytes) {
        MPI_Request *request = NULL;
        const int bytes = chunk_of(in, p);
        TRY(add_request(in, p, &request));
        TRY(mpi_status(
            MPI_Isend((const char *)p->from + p->matched, bytes, MPI_BYTE, to, comm_tag(p->flight), m->comm, request),
            "MPI_Isend"));
        p->flight->n_requests++;
        p->matched += bytes;
    }
    return OK;
}

static enum status check_match(struct comm_inside *in, const struct post *p, const MPI_Status *s) {
    const int want = chunk_of(in, p);
    int got = 0;
    char what[400], theirs[40], ours[40];
    MPI_Get_count(s, MPI_BYTE, &got);
    if (got == want && s->MPI_TAG == comm_tag(p->flight)) return OK;
    comm_print_tag(s->MPI_TAG, theirs, sizeof theirs);
    comm_print_tag(comm_tag(p->flight), ours, sizeof ours);
    snprintf(what, sizeof what,
             "rank %d sent %d bytes of %s where %d bytes of %s are expected: ranks differ in what they run",
             comm_world_rank(in, p->peer), got, theirs, want, ours);
    return mpi_fail(in->rank, ERR_COMM, what);
}

/* Receive the next chunk from one member, if it is there. */
static enum status take_one(struct comm_inside *in, int member, bool *moved) {
    const struct mpi_comm *m = in->mpi;
    struct queue *q = &in->boxes[member].recvs;
    struct post *p = q->head;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Request *request = NULL;
    MPI_Status s;
    int there = 0;
    if (!p) return OK;
    TRY(mpi_status(MPI_Improbe(comm_world_rank(in, member), MPI_ANY_TAG, m->comm, &there, &message, &s),
                   "MPI_Improbe"));
    if (!there) return OK;
    TRY(check_match(in, p, &s));
    TRY(add_request(in, p, &request));
    const int bytes = chunk_of(in, p);
    TRY(mpi_status(MPI_Imrecv((char *)p->to + p->matched, bytes, MPI_BYTE, &message, request), "MPI_Imrecv"));
    p->flight->n_requests++;
    p->matched += bytes;
    *moved = true;
    if (p->matched < p->bytes) return OK;
    p->flight->left--;
    queue_pop(q);
    return OK;
}

static enum status progress(struct rank *r) {
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < r->n_comms; i++)
            for (int m = 0; r->comms[i] && m < r->comms[i]->comm->size; m++) TRY(take_one(r->comms[i], m, &moved));
    }
    return OK;
}

enum status mpi_begin(struct comm_inside *in, struct flight *f) {
    enum status st = OK;
    rank_enters(in, f);
    f->n_requests = 0;
    TRY_OUT(mpi_poll(in->rank));
    for (int k = 0; k < f->n; k++) {
        struct post *p = &f->posts[k];
        if (!p->is_send) {
            queue_push(&in->boxes[p->peer].recvs, p);
            continue;
        }
        TRY_OUT(send_post(in, p));
        f->left--;
    }
    TRY_OUT(progress(in->rank));
    in->rank->in = false;
out:
    if (st != OK) drain_all(in);
    return st;
}

/* Does post k still wait?  A receive until its last chunk is there, any post while a request of it runs. */
static bool is_open(const struct flight *f, int k) {
    if (f->posts[k].matched < f->posts[k].bytes) return true;
    for (int i = 0; i < f->n_requests; i++) {
        int done = 0;
        if (f->owner[i] != k) continue;
        MPI_Request_get_status(((const MPI_Request *)f->requests)[i], &done, MPI_STATUS_IGNORE);
        if (!done) return true;
    }
    return false;
}

static enum status fail_late(struct comm_inside *in, const struct flight *f) {
    char missing[200] = "", what[400];
    size_t n = 0;
    for (int member = 0; member < in->comm->size && n + 12 < sizeof missing; member++) {
        bool waits = false;
        for (int k = 0; k < f->n; k++) waits |= f->posts[k].peer == member && is_open(f, k);
        if (waits)
            n += (size_t)snprintf(missing + n, sizeof missing - n, "%s%d", n ? ", " : "", comm_world_rank(in, member));
    }
    snprintf(what, sizeof what, "waited %g s, not heard of rank %s: late, stuck or lost",
             in->rank->world->spec.deadline_s, missing);
    return mpi_fail(in->rank, ERR_TIMEOUT, what);
}

static enum status wait_all(struct comm_inside *in, struct flight *f) {
    const double until = prof_seconds() + in->rank->world->spec.deadline_s;
    for (int64_t polls = 0;; polls++) {
        int done = 0;
        TRY(progress(in->rank));
        /* The requests of a list are all known only when its last message is there. */
        if (f->left == 0)
            TRY(mpi_status(MPI_Testall(f->n_requests, f->requests, &done, MPI_STATUSES_IGNORE), "MPI_Testall"));
        if (done) return OK;
        TRY(mpi_poll(in->rank));
        if (prof_seconds() > until) return fail_late(in, f);
        world_nap(polls);
    }
}

enum status mpi_end(struct comm_inside *in, struct flight *f) {
    rank_enters(in, f);
    const enum status st = wait_all(in, f);
    if (st != OK) drain_all(in);
    in->rank->in = st != OK;
    return st;
}
