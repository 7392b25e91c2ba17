/* SPDX-License-Identifier: Apache-2.0 */
#include "dist/comm.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "dist/lane.h"

enum {
    FLIGHTS = 8,
    REMEMBERED = 64 /* exchanges of a lane: the host runs ahead of the device, which may hang in an old one */
};

const char *comm_use_name(enum comm_use use) {
    static const char *const names[N_COMM_USES] = {"carry",  "halo",   "keys",  "swap",   "tensor",
                                                   "expert", "params", "grads", "control"};
    ASSERT((unsigned)use < N_COMM_USES);
    return names[use];
}

struct rank *comm_rank(const struct comm *c) {
    return c->inside->rank;
}

const char *comm_transport(const struct comm *c) { return c->inside->transport->name; }

struct comm_count comm_total(const struct comm *c) {
    struct comm_count sum = {0};
    for (int i = 0; i < N_COMM_USES; i++) {
        sum.messages += c->count[i].messages;
        sum.bytes_sent += c->count[i].bytes_sent;
        sum.bytes_received += c->count[i].bytes_received;
    }
    return sum;
}

void comm_count_reset(struct comm *c) { memset(c->count, 0, sizeof c->count); }

void queue_push(struct queue *q, struct post *p) {
    p->next = NULL;
    if (q->tail) q->tail->next = p;
    else q->head = p;
    q->tail = p;
}

void queue_pop(struct queue *q) {
    q->head = q->head->next;
    if (!q->head) q->tail = NULL;
}

int comm_world_rank(const struct comm_inside *in, int member) { return in->first + member * in->stride; }
int comm_tag(const struct flight *f) { return (int)f->op * N_COMM_USES + (int)f->use; }

/* Requests of one list over MPI: a message takes one, and one more for each full chunk. */
static int64_t requests_of(const struct comm_inside *in, int64_t bytes) {
    const int64_t chunk = in->rank->world->spec.chunk_bytes;
    const int64_t most = bytes > in->n_transfers * chunk ? bytes : in->n_transfers * chunk;
    return 2 * (in->n_transfers + most / chunk);
}

static enum status allocate(struct comm_inside *in, int64_t bytes) {
    const int n = in->comm->size, n_posts = 2 * in->n_transfers;
    void *flights = NULL, *posts = NULL, *boxes = NULL, *list = NULL, *at = NULL;
    TRY(mem_take(in->n_slots * (int64_t)sizeof(struct flight), &flights));
    in->flights = flights;
    TRY(mem_take(in->n_slots * n_posts * (int64_t)sizeof(struct post), &posts));
    for (int i = 0; i < in->n_slots; i++) in->flights[i].posts = (struct post *)posts + (int64_t)i * n_posts;
    TRY(mem_take(n * (int64_t)sizeof(struct box), &boxes));
    in->boxes = boxes;
    TRY(mem_take(2 * n * (int64_t)sizeof(struct transfer), &list));
    in->list = list;
    TRY(mem_take((n + 1) * (int64_t)sizeof(int64_t), &at));
    in->at = at;
    const int64_t n_requests = requests_of(in, bytes);
    FAIL_UNLESS(n_requests <= INT32_MAX, ERR_ARG, "%" PRId64 " bytes in one exchange are more chunks than MPI counts",
                bytes);
    in->n_requests = (int)n_requests;
    return OK;
}

static void release(struct comm_inside *in) {
    if (in->flights) mem_free(in->flights[0].posts);
    mem_free(in->flights);
    mem_free(in->boxes);
    mem_free(in->list);
    mem_free(in->at);
    mem_free(in);
}

enum status comm_init(struct comm *c, struct rank *r, const struct mesh *m, enum mesh_axis axis,
                      const struct comm_limits *limits) {
    static const struct comm_limits none;
    enum status st = OK;
    const struct comm_limits *l = limits ? limits : &none;
    void *mem = NULL;
    ASSERT(m->n_ranks == r->world->size && m->rank == r->index && l->flights >= 0 && l->transfers >= 0);
    *c = (struct comm){.size = mesh_size(m, axis), .index = mesh_index(m, axis), .name = mesh_axis_name(axis)};
    FAIL_UNLESS(r->n_comms < COMMS_MAX, ERR_ARG, "more than %d communicators open at once", COMMS_MAX);
    TRY(mem_take(sizeof *c->inside, &mem));
    struct comm_inside *in = mem;
    *in = (struct comm_inside){
        .comm = c,
        .rank = r,
        .axis = axis,
        .serial = r->n_opened++,
        .first = mesh_member(m, axis, 0),
        .stride = mesh_stride(m, axis),
        .n_flights = l->flights ? l->flights : FLIGHTS,
        .n_transfers = l->transfers > c->size ? l->transfers : 2 * c->size,
        .transport = r->world->kind->host,
    };
    in->n_slots = l->device && in->n_flights < REMEMBERED ? REMEMBERED : in->n_flights;
    TRY_OUT(allocate(in, l->bytes));
    if (l->device) TRY_OUT(lane_open(in, m, l->device));
    TRY_OUT(in->transport->join(in));
    c->inside = in;
out:
    if (st != OK) {
        lane_close(in);
        release(in);
    }
    return st;
}

void comm_term(struct comm *c) {
    if (!c->inside) return;
    c->inside->transport->leave(c->inside);
    lane_close(c->inside);
    release(c->inside);
    *c = (struct comm){0};
}

static void add_post(struct flight *f, struct comm_count *count, bool is_send, const struct transfer *t) {
    const int64_t bytes = is_send ? t->send_bytes : t->recv_bytes;
    if (bytes == 0) return;
    f->posts[f->n++] =
        (struct post){.flight = f, .is_send = is_send, .peer = t->peer, .from = t->send, .to = t->recv, .bytes = bytes};
    count->messages += is_send;
    *(is_send ? &count->bytes_sent : &count->bytes_received) += bytes;
}

static enum status copy_own(struct comm *c, const struct transfer *t) {
    ASSERT(t->send_bytes == t->recv_bytes);
    if (c->inside->lane) return lane_copy(c->inside, t->recv, t->send, t->send_bytes);
    if (t->send_bytes > 0) memmove(t->recv, t->send, (size_t)t->send_bytes);
    return OK;
}

/* The posts of a list, receives first; what a rank sends itself is copied here. */
static enum status fill(struct comm *c, struct flight *f, const struct transfer *list, int n) {
    f->n = 0;
    for (int is_send = 0; is_send < 2; is_send++)
        for (int i = 0; i < n; i++) {
            const struct transfer *t = &list[i];
            ASSERT(t->peer >= 0 && t->peer < c->size && t->send_bytes >= 0 && t->recv_bytes >= 0);
            ASSERT((t->send || t->send_bytes == 0) && (t->recv || t->recv_bytes == 0));
            if (t->peer != c->index) add_post(f, &c->count[f->use], is_send, t);
            else if (is_send) TRY(copy_own(c, t));
        }
    f->left = f->n;
    return OK;
}

/* A place among the exchanges in flight; of those that ended, the oldest is forgotten first. */
static enum status claim(struct comm_inside *in, struct flight **out) {
    FAIL_UNLESS(in->n_open < in->n_flights, ERR_ARG,
                "more than %d exchanges of %s in flight: plan more in comm_init, or end some", in->n_flights,
                in->comm->name);
    while (in->flights[in->next_slot].open) in->next_slot = (in->next_slot + 1) % in->n_slots;
    *out = &in->flights[in->next_slot];
    in->next_slot = (in->next_slot + 1) % in->n_slots;
    in->n_open++;
    (*out)->open = true;
    return OK;
}

static void give_back(struct comm_inside *in, struct flight *f) {
    f->open = false;
    in->n_open--;
}

/* The exchange, up to what its transport does. */
static enum status prepare(struct comm *c, struct flight *f, const struct transfer *list, int n) {
    struct comm_inside *in = c->inside;
    f->moves = f->enqueued = f->over = false;
    for (int i = 0; i < n; i++) f->moves |= list[i].send_bytes > 0 || list[i].recv_bytes > 0;
    f->number = ++in->n_begun;
    if (in->lane && f->moves) TRY(lane_begin(in, f));
    return fill(c, f, list, n);
}

enum status comm_post(struct comm *c, enum comm_use use, enum comm_op op, const struct transfer *list, int n,
                      struct pending *p) {
    struct comm_inside *in = c->inside;
    struct flight *f = NULL;
    ASSERT(p->flight == 0 && (unsigned)use < N_COMM_USES);
    FAIL_UNLESS(n <= in->n_transfers, ERR_ARG, "%d transfers in one exchange of %s: %d were planned in comm_init", n,
                c->name, in->n_transfers);
    TRY(claim(in, &f));
    pthread_mutex_lock(&in->rank->lock);
    f->op = op;
    f->use = use;
    enum status st = prepare(c, f, list, n);
    pthread_mutex_unlock(&in->rank->lock);
    if (st == OK) st = in->transport->begin(in, f);
    if (st == OK && in->lane && f->n == 0) st = lane_finish(in, f);
    if (st != OK) {
        give_back(in, f);
        return status_pass(st, __FILE__, __LINE__);
    }
    p->flight = (int)(f - in->flights) + 1;
    return OK;
}

enum status comm_begin(struct comm *c, enum comm_use use, const struct transfer *list, int n, struct pending *p) {
    return comm_post(c, use, OP_TRANSFER, list, n, p);
}

enum status comm_end(struct comm *c, struct pending *p) {
    struct comm_inside *in = c->inside;
    ASSERT(p->flight > 0 && p->flight <= in->n_slots && in->flights[p->flight - 1].open);
    struct flight *f = &in->flights[p->flight - 1];
    enum status st = in->transport->end(in, f);
    if (st == OK && in->lane) st = lane_end(in, f);
    give_back(in, f);
    p->flight = 0;
    return st == OK ? OK : status_pass(st, __FILE__, __LINE__);
}
