/* SPDX-License-Identifier: Apache-2.0 */
#include "dist/comm.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"
#include "dist/inside.h"

enum { FLIGHTS = 8 };

const char *comm_use_name(enum comm_use use) {
    static const char *const names[N_COMM_USES] = {"carry", "halo", "keys", "swap", "params", "grads", "control"};
    ASSERT((unsigned)use < N_COMM_USES);
    return names[use];
}

struct rank *comm_rank(const struct comm *c) {
    return c->inside->rank;
}

const char *comm_transport(const struct comm *c) { return c->inside->rank->world->transport->name; }

enum status comm_wait_stream(struct rank *r, void *stream) {
    FAIL(ERR_CUDA, "rank %d waits for stream %p: this build has no transport for device memory", r->index, stream);
}

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
    TRY(mem_take(in->n_flights * (int64_t)sizeof(struct flight), &flights));
    in->flights = flights;
    TRY(mem_take(in->n_flights * n_posts * (int64_t)sizeof(struct post), &posts));
    for (int i = 0; i < in->n_flights; i++) in->flights[i].posts = (struct post *)posts + (int64_t)i * n_posts;
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
    FAIL_UNLESS(!l->device, ERR_CUDA, "this build has no transport for device memory");
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
    };
    TRY_OUT(allocate(in, l->bytes));
    TRY_OUT(r->world->transport->join(in));
    c->inside = in;
out:
    if (st != OK) release(in);
    return st;
}

void comm_term(struct comm *c) {
    if (!c->inside) return;
    c->inside->rank->world->transport->leave(c->inside);
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

/* The posts of a list, receives first; what a rank sends itself is copied here. */
static void fill(struct comm *c, struct flight *f, const struct transfer *list, int n) {
    f->n = 0;
    for (int is_send = 0; is_send < 2; is_send++)
        for (int i = 0; i < n; i++) {
            const struct transfer *t = &list[i];
            ASSERT(t->peer >= 0 && t->peer < c->size && t->send_bytes >= 0 && t->recv_bytes >= 0);
            ASSERT((t->send || t->send_bytes == 0) && (t->recv || t->recv_bytes == 0));
            if (t->peer != c->index) add_post(f, &c->count[f->use], is_send, t);
            else if (is_send) {
                ASSERT(t->send_bytes == t->recv_bytes);
                if (t->send_bytes > 0) memmove(t->recv, t->send, (size_t)t->send_bytes);
            }
        }
    f->left = f->n;
}

enum status comm_post(struct comm *c, enum comm_use use, enum comm_op op, const struct transfer *list, int n,
                      struct pending *p) {
    struct comm_inside *in = c->inside;
    ASSERT(p->flight == 0 && (unsigned)use < N_COMM_USES);
    FAIL_UNLESS(n <= in->n_transfers, ERR_ARG, "%d transfers in one exchange of %s: %d were planned in comm_init", n,
                c->name, in->n_transfers);
    int i = 0;
    while (i < in->n_flights && in->flights[i].open) i++;
    FAIL_UNLESS(i < in->n_flights, ERR_ARG,
                "more than %d exchanges of %s in flight: plan more in comm_init, or end some", in->n_flights, c->name);
    struct flight *f = &in->flights[i];
    f->open = true;
    f->op = op;
    f->use = use;
    f->number = ++in->n_begun;
    fill(c, f, list, n);
    const enum status st = in->rank->world->transport->begin(in, f);
    if (st != OK) {
        f->open = false;
        return status_pass(st, __FILE__, __LINE__);
    }
    p->flight = i + 1;
    return OK;
}

enum status comm_begin(struct comm *c, enum comm_use use, const struct transfer *list, int n, struct pending *p) {
    return comm_post(c, use, OP_TRANSFER, list, n, p);
}

enum status comm_end(struct comm *c, struct pending *p) {
    struct comm_inside *in = c->inside;
    ASSERT(p->flight > 0 && p->flight <= in->n_flights && in->flights[p->flight - 1].open);
    struct flight *f = &in->flights[p->flight - 1];
    const enum status st = in->rank->world->transport->end(in, f);
    f->open = false;
    p->flight = 0;
    return st == OK ? OK : status_pass(st, __FILE__, __LINE__);
}
