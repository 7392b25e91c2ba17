/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "dist/lane.h"
#include "profiling/prof.h"

/* Mailboxes of pointers.  A send leaves its address in its rank's queue for that member; the receiver takes it and
 * copies, outside the lock, into the place its own queue names.  Every wait moves all of the rank's communicators
 * forward, so pendings may be ended in any order, as over a network.  Memory of a rank is touched by others only while
 * a post of it is COPYING, and nothing that owns such a post returns before that ends.
 *
 * Of memory of GPUs the receiver enqueues the copy, under the lock; when both have posted, the exchange is over for the
 * host. */

/* The other side of this communicator, or NULL while that rank has not opened it. */
static struct comm_inside *other_side(const struct comm_inside *in, int member) {
    struct rank *peer = &in->rank->world->ranks[comm_world_rank(in, member)];
    struct comm_inside *theirs = in->id < peer->n_comms ? peer->comms[in->id] : NULL;
    return theirs && theirs->serial == in->serial ? theirs : NULL;
}

/* Texts of failures begin with where this rank stands; the caller adds what went wrong. */
static enum status fail_here(struct rank *r, enum status st, const char *what) {
    char where[200];
    rank_where(r, where, sizeof where);
    status_fail(st, __FILE__, __LINE__, "%s: %s", where, what);
    world_record(r, st, true);
    threads_wake_all(r->world);
    return st;
}

/* Two ranks that opened different groups as their n-th communicator have nothing to match. */
static enum status check_same(struct comm_inside *in, const struct comm_inside *peer) {
    char what[200];
    if (!peer->lane != !in->lane)
        return fail_here(in->rank, ERR_COMM,
                         "one rank opened this communicator over host memory, another over a GPU's: ranks differ in "
                         "what they run");
    if (peer->axis == in->axis && peer->first == in->first && peer->comm->size == in->comm->size) return OK;
    snprintf(what, sizeof what,
             "rank %d opened %s (%d ranks from %d) where this rank opened %s (%d from %d): ranks "
             "differ in what they run",
             peer->rank->index, peer->comm->name, peer->comm->size, peer->first, in->comm->name, in->comm->size,
             in->first);
    return fail_here(in->rank, ERR_COMM, what);
}

static enum status check_match(struct comm_inside *in, const struct comm_inside *peer, const struct post *s,
                               const struct post *mine) {
    char what[500], theirs[40], ours[40];
    const int from = peer->rank->index;
    if (s->number != mine->number) {
        snprintf(what, sizeof what, "message %" PRId64 " from rank %d was lost: number %" PRId64 " came in its place",
                 mine->number, from, s->number);
        return fail_here(in->rank, ERR_COMM, what);
    }
    if (s->bytes == mine->bytes && comm_tag(s->flight) == comm_tag(mine->flight)) return OK;
    comm_print_tag(comm_tag(s->flight), theirs, sizeof theirs);
    comm_print_tag(comm_tag(mine->flight), ours, sizeof ours);
    snprintf(what, sizeof what,
             "rank %d sent %" PRId64 " bytes of %s where %" PRId64
             " bytes of %s are expected: ranks differ in what they "
             "run",
             from, s->bytes, theirs, mine->bytes, ours);
    return fail_here(in->rank, ERR_COMM, what);
}

/* The last post of a flight is done: on a lane, the exchange is enqueued. */
static enum status done(struct comm_inside *in, struct post *p) {
    p->state = POST_DONE;
    p->flight->left--;
    return in->lane && p->flight->left == 0 ? lane_finish(in, p->flight) : OK;
}

static enum status copy(struct comm_inside *in, struct post *p, struct comm_inside *peer, struct post *s) {
    if (in->lane) return lane_take(in, p, peer, s);
    s->state = p->state = POST_COPYING;
    pthread_mutex_unlock(&in->rank->world->lock);
    memcpy(p->to, s->from, (size_t)p->bytes);
    pthread_mutex_lock(&in->rank->world->lock);
    return OK;
}

/* Receive the next message of one member, if both sides of it are there. */
static enum status take_one(struct comm_inside *in, int member, bool *moved) {
    struct comm_inside *peer = other_side(in, member);
    struct box *mine = &in->boxes[member];
    if (!peer || !mine->recvs.head) return OK;
    TRY(check_same(in, peer));
    if (!peer->boxes[in->comm->index].sends.head) return OK;
    struct post *s = peer->boxes[in->comm->index].sends.head, *p = mine->recvs.head;
    TRY(check_match(in, peer, s, p));
    struct rank *sender = peer->rank;
    queue_pop(&peer->boxes[in->comm->index].sends);
    queue_pop(&mine->recvs);
    TRY(copy(in, p, peer, s));
    TRY(done(peer, s));
    TRY(done(in, p));
    pthread_cond_signal(&sender->wake);
    *moved = true;
    return OK;
}

/* Receive all that is there, on all communicators of this rank. */
static enum status progress(struct rank *r) {
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < r->n_comms; i++)
            for (int m = 0; r->comms[i] && m < r->comms[i]->comm->size; m++) TRY(take_one(r->comms[i], m, &moved));
    }
    return OK;
}

/* After a failure: no post of this communicator is matched any more, and none is being copied. */
static void take_back(struct comm_inside *in) {
    for (int m = 0; m < in->comm->size; m++) in->boxes[m].sends = in->boxes[m].recvs = (struct queue){0};
    for (int i = 0; i < in->n_slots; i++)
        for (int k = 0; in->flights[i].open && k < in->flights[i].n; k++)
            while (in->flights[i].posts[k].state == POST_COPYING)
                pthread_cond_wait(&in->rank->wake, &in->rank->world->lock);
}

/* Its sender has sent it, and yet it is not there. */
static bool is_lost(const struct comm_inside *in, const struct post *p) {
    const struct comm_inside *theirs = other_side(in, p->peer);
    return !p->is_send && theirs && theirs->boxes[in->comm->index].n_sent > p->number;
}

/* Of the posts that a flight waits for, the one that explains most: lost, or its peer in no wait, or any. */
static const struct post *worst(const struct comm_inside *in, const struct flight *f) {
    const struct post *any = NULL, *idle = NULL;
    for (int k = 0; k < f->n; k++) {
        const struct post *p = &f->posts[k];
        if (p->state == POST_DONE) continue;
        if (is_lost(in, p)) return p;
        any = p;
        if (!in->rank->world->ranks[comm_world_rank(in, p->peer)].waits) idle = p;
    }
    return idle ? idle : any;
}

/* "ranks 1, 4": all members that a post waits for. */
static void print_missing(const struct comm_inside *in, const struct flight *f, char *out, size_t room) {
    size_t n = 0;
    int seen = 0;
    for (int m = 0; m < in->comm->size && n + 12 < room; m++) {
        bool waits = false;
        for (int k = 0; k < f->n; k++) waits |= f->posts[k].state != POST_DONE && f->posts[k].peer == m;
        if (waits) n += (size_t)snprintf(out + n, room - n, "%s%d", seen++ ? ", " : "", comm_world_rank(in, m));
    }
}

/* Whom to look at: follow who waits for whom until a message is lost, somebody does not wait, or a circle closes. */
static void print_blame(const struct comm_inside *in, const struct flight *f, char *out, size_t room) {
    const struct world *w = in->rank->world;
    size_t n = 0;
    for (int hops = 0; hops < w->size && n + 1 < room; hops++) {
        const struct post *p = worst(in, f);
        if (!p) return;
        const struct rank *peer = &w->ranks[comm_world_rank(in, p->peer)];
        char state[300];
        rank_state(peer, state, sizeof state);
        n += (size_t)snprintf(out + n, room - n, "; %s", state);
        if (is_lost(in, p) && n < room)
            snprintf(out + n, room - n, "; message %" PRId64 " was lost on its way from rank %d", p->number,
                     peer->index);
        if (is_lost(in, p) || !peer->waits) return;
        f = peer->waits;
        in = peer->last;
    }
}

static enum status fail_late(struct comm_inside *in, const struct flight *f) {
    char missing[200], blame[900], what[1300];
    blame[0] = '\0';
    print_missing(in, f, missing, sizeof missing);
    print_blame(in, f, blame, sizeof blame);
    snprintf(what, sizeof what, "waited %g s, not heard of rank %s%s", in->rank->world->spec.deadline_s, missing,
             blame);
    return fail_here(in->rank, ERR_TIMEOUT, what);
}

static enum status ended_by_failure(const struct rank *r) {
    const struct world *w = r->world;
    if (w->first.set) FAIL(ERR_COMM, "rank %d of %d was ended by a failure: %s", r->index, w->size, w->first.text);
    return OK;
}

enum status threads_fail(struct rank *r, enum status st, const char *what) {
    pthread_mutex_lock(&r->world->lock);
    fail_here(r, st, what);
    pthread_mutex_unlock(&r->world->lock);
    return st;
}

enum status threads_poll(struct rank *r) {
    pthread_mutex_lock(&r->world->lock);
    const enum status st = ended_by_failure(r);
    pthread_mutex_unlock(&r->world->lock);
    return st;
}

/* Why this wait can have no good end, or OK. */
static enum status look_around(struct comm_inside *in, const struct flight *f) {
    struct rank *r = in->rank;
    const struct world *w = r->world;
    TRY(ended_by_failure(r));
    for (int k = 0; k < f->n; k++) {
        if (f->posts[k].state == POST_DONE) continue;
        const struct rank *peer = &w->ranks[comm_world_rank(in, f->posts[k].peer)];
        if (!peer->ended || f->posts[k].state == POST_COPYING) continue;
        char what[120];
        snprintf(what, sizeof what, "rank %d has ended without it: it runs something else, or a message was lost",
                 peer->index);
        return fail_here(r, ERR_COMM, what);
    }
    return OK;
}

enum status threads_end(struct comm_inside *in, struct flight *f) {
    struct rank *r = in->rank;
    struct world *w = r->world;
    enum status st = OK;
    pthread_mutex_lock(&w->lock);
    rank_enters(in, f);
    r->waits = f;
    const double until = prof_seconds() + w->spec.deadline_s;
    for (bool in_time = true;;) {
        TRY_OUT(progress(r));
        if (f->left == 0) break;
        TRY_OUT(look_around(in, f));
        if (!in_time) TRY_OUT(fail_late(in, f));
        in_time = threads_sleep(r, until);
    }
out:
    if (st != OK) take_back(in);
    r->waits = NULL;
    r->in = st != OK;
    pthread_mutex_unlock(&w->lock);
    return st;
}

static enum status enqueue(struct comm_inside *in, struct post *p) {
    struct box *b = &in->boxes[p->peer];
    p->number = p->is_send ? b->n_sent++ : b->n_received++;
    if (p->state == POST_DONE) return done(in, p); /* lost on its way */
    queue_push(p->is_send ? &b->sends : &b->recvs, p);
    if (p->is_send) pthread_cond_signal(&in->rank->world->ranks[comm_world_rank(in, p->peer)].wake);
    return OK;
}

enum status threads_strike(struct rank *r, struct flight *f) {
    for (int k = 0; k < f->n; k++) {
        bool lost = false;
        if (f->posts[k].is_send) TRY(fault_strike(r, &lost));
        f->posts[k].state = lost ? POST_DONE : POST_WAITING;
    }
    return OK;
}

enum status threads_begin(struct comm_inside *in, struct flight *f) {
    struct rank *r = in->rank;
    struct world *w = r->world;
    enum status st = OK;
    pthread_mutex_lock(&w->lock);
    rank_enters(in, f);
    pthread_mutex_unlock(&w->lock);
    TRY(threads_strike(r, f));
    pthread_mutex_lock(&w->lock);
    TRY_OUT(ended_by_failure(r));
    for (int k = 0; k < f->n; k++) TRY_OUT(enqueue(in, &f->posts[k]));
    TRY_OUT(progress(r));
out:
    if (st != OK) take_back(in);
    r->in = st != OK;
    pthread_mutex_unlock(&w->lock);
    return st;
}

enum status threads_join(struct comm_inside *in) {
    struct rank *r = in->rank;
    struct world *w = r->world;
    pthread_mutex_lock(&w->lock);
    in->id = r->n_comms++;
    r->comms[in->id] = in;
    threads_wake_all(w); /* others may have sent already */
    pthread_mutex_unlock(&w->lock);
    return OK;
}

void threads_leave(struct comm_inside *in) {
    struct rank *r = in->rank;
    pthread_mutex_lock(&r->world->lock);
    take_back(in);
    r->comms[in->id] = NULL;
    while (r->n_comms > 0 && !r->comms[r->n_comms - 1]) r->n_comms--;
    if (r->last == in) r->last = NULL;
    pthread_mutex_unlock(&r->world->lock);
}
