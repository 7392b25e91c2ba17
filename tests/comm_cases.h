/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_COMM_CASES_H
#define BATON_TESTS_COMM_CASES_H
/* comm_cases.h - what every world must do, run by each of its ranks: comm_threads.c in the thread world, comm_world.c
 * also under mpirun, comm_device.c over memory of GPUs.  Contents are a function of (who sends, to whom, place), so a
 * wrong one tells where it is from. */
#include "tests/check.h"
#include <stdbool.h>
#include "base/arena.h"
#include "dist/collectives.h"

/* A value that is small and whole: sums of up to 8 are exact in F32, in any order. */
static int word(int from, int to, int64_t k) { return (int)((from * 131 + to * 31 + k * 7) % 127); }

static unsigned char *take(int64_t bytes) {
    void *p = NULL;
    MUST(mem_take(bytes, &p));
    return (unsigned char *)p;
}

/* Memory of a GPU: what host memory needs none of.  All but take is enqueued where the rank computes. */
struct case_memory {
    const struct comm_limits *limits;
    void *(*take)(struct rank *r, int64_t bytes); /* given back by give_all */
    void (*give_all)(struct rank *r);
    void (*push)(struct rank *r, void *to, const void *from, int64_t bytes);
    enum status (*pull)(struct rank *r, void *to, const void *from, int64_t bytes); /* and waits for it */
    void (*spoil)(struct rank *r, void *p, int64_t bytes);
    bool few; /* communicators are dear */
};
struct comm_case {
    struct comm *c;
    const char *why;
    int64_t n; /* elements or bytes of the largest block */
    const struct case_memory *memory;
};
/* What is exchanged, and what the host sees of it; the same place in host memory. */
struct buffer {
    unsigned char *host, *at;
    int64_t bytes;
};

static struct buffer buffer_take(const struct comm_case *t, int64_t bytes) {
    struct buffer b = {.host = take(bytes), .bytes = bytes};
    b.at = t->memory ? (unsigned char *)t->memory->take(comm_rank(t->c), bytes) : b.host;
    return b;
}
static void push(const struct comm_case *t, const struct buffer *b) {
    if (t->memory) t->memory->push(comm_rank(t->c), b->at, b->host, b->bytes);
}
static enum status pull(const struct comm_case *t, const struct buffer *b) {
    return t->memory ? t->memory->pull(comm_rank(t->c), b->host, b->at, b->bytes) : OK;
}
/* After the end of an exchange what was sent is free for other use, at once. */
static void spoil(const struct comm_case *t, const struct buffer *b) {
    if (t->memory) t->memory->spoil(comm_rank(t->c), b->at, b->bytes);
    else memset(b->at, 0xee, (size_t)b->bytes);
}
static void buffers_give(const struct comm_case *t, struct buffer *const *list, int n) {
    for (int i = 0; i < n; i++) mem_free(list[i]->host);
    if (t->memory) t->memory->give_all(comm_rank(t->c));
}
#define GIVE(t, ...)                                                                                                   \
    do {                                                                                                               \
        struct buffer *const list_[] = {__VA_ARGS__};                                                                  \
        buffers_give((t), list_, (int)(sizeof list_ / sizeof *list_));                                                 \
    } while (0)

static void expect(const struct comm_case *t, const char *what, int64_t k, double got, double want) {
    CHECK(got == want, "%s, %s of %d ranks, n %lld: rank %d, index %lld: %.17g is not %.17g", t->why, what, t->c->size,
          (long long)t->n, t->c->index, (long long)k, got, want);
}

/* Block i of a message between members: uneven, some of them empty. */
static int64_t part(int64_t n, int from, int to) {
    return (from + 2 * to) % 3 == 0 ? n : (from + to) % 3 == 1 ? n / 2 : 0;
}

static void expect_gathered(const struct comm_case *t, const char *what, const struct buffer *b, const int64_t *at) {
    for (int i = 0; i < t->c->size; i++)
        for (int64_t k = at[i]; k < at[i + 1]; k++) expect(t, what, k, b->host[k], word(i, 0, k - at[i]));
}

static enum status case_all_gather(const struct comm_case *t) {
    struct comm *c = t->c;
    struct pending p = {0};
    int64_t at[9] = {0};
    for (int i = 0; i < c->size; i++) at[i + 1] = at[i] + part(t->n, i, 0);
    const int64_t mine = part(t->n, c->index, 0);
    struct buffer recv = buffer_take(t, at[c->size]), send = buffer_take(t, mine);
    for (int64_t k = 0; k < mine; k++) send.host[k] = (unsigned char)word(c->index, 0, k);
    push(t, &send);
    TRY(all_gather_begin(c, COMM_PARAMS, send.at, recv.at, at, &p));
    TRY(comm_end(c, &p));
    spoil(t, &send);
    TRY(pull(t, &recv));
    expect_gathered(t, "all_gather", &recv, at);
    memset(recv.host, 0xee, (size_t)at[c->size]);
    for (int64_t k = 0; k < mine; k++) recv.host[at[c->index] + k] = (unsigned char)word(c->index, 0, k);
    push(t, &recv);
    TRY(all_gather_begin(c, COMM_PARAMS, recv.at + at[c->index], recv.at, at, &p));
    TRY(comm_end(c, &p));
    TRY(pull(t, &recv));
    expect_gathered(t, "all_gather in place", &recv, at);
    GIVE(t, &send, &recv);
    return OK;
}

static enum status case_all_to_all(const struct comm_case *t) {
    struct comm *c = t->c;
    struct pending p = {0};
    int64_t send_at[9] = {0}, recv_at[9] = {0};
    for (int i = 0; i < c->size; i++) {
        send_at[i + 1] = send_at[i] + part(t->n, c->index, i);
        recv_at[i + 1] = recv_at[i] + part(t->n, i, c->index);
    }
    struct buffer send = buffer_take(t, send_at[c->size]), recv = buffer_take(t, recv_at[c->size]);
    for (int i = 0; i < c->size; i++)
        for (int64_t k = send_at[i]; k < send_at[i + 1]; k++)
            send.host[k] = (unsigned char)word(c->index, i, k - send_at[i]);
    push(t, &send);
    TRY(all_to_all_begin(c, COMM_SWAP, send.at, send_at, recv.at, recv_at, &p));
    TRY(comm_end(c, &p));
    spoil(t, &send);
    TRY(pull(t, &recv));
    for (int i = 0; i < c->size; i++)
        for (int64_t k = recv_at[i]; k < recv_at[i + 1]; k++)
            expect(t, "all_to_all", k, recv.host[k], word(i, c->index, k - recv_at[i]));
    GIVE(t, &send, &recv);
    return OK;
}

static enum status case_even(const struct comm_case *t) {
    struct comm *c = t->c;
    struct pending p = {0}, q = {0};
    const int64_t n = t->n * c->size;
    struct buffer send = buffer_take(t, n), a = buffer_take(t, n), b = buffer_take(t, n);
    for (int64_t k = 0; k < n; k++) send.host[k] = (unsigned char)word(c->index, (int)(k / t->n), k % t->n);
    push(t, &send);
    TRY(all_to_all_even_begin(c, COMM_SWAP, send.at, t->n, a.at, &p));
    TRY(all_gather_even_begin(c, COMM_PARAMS, send.at, t->n, b.at, &q));
    /* Odd ranks end them in the other order: the waits of one must not hold up the other. */
    TRY(comm_end(c, c->index % 2 ? &q : &p));
    TRY(comm_end(c, c->index % 2 ? &p : &q));
    spoil(t, &send);
    TRY(pull(t, &a));
    TRY(pull(t, &b));
    for (int64_t k = 0; k < n; k++) {
        const int i = (int)(k / t->n);
        expect(t, "all_to_all_even", k, a.host[k], word(i, c->index, k % t->n));
        expect(t, "all_gather_even", k, b.host[k], word(i, 0, k % t->n));
    }
    GIVE(t, &send, &a, &b);
    return OK;
}

static enum status case_broadcast(const struct comm_case *t) {
    struct buffer data = buffer_take(t, t->n);
    for (int root = 0; root < t->c->size; root++) {
        struct pending p = {0};
        for (int64_t k = 0; k < t->n; k++) data.host[k] = (unsigned char)word(t->c->index, root, k);
        push(t, &data);
        TRY(broadcast_begin(t->c, COMM_CONTROL, root, data.at, t->n, &p));
        TRY(comm_end(t->c, &p));
        TRY(pull(t, &data));
        for (int64_t k = 0; k < t->n; k++) expect(t, "broadcast", k, data.host[k], word(root, root, k));
    }
    GIVE(t, &data);
    return OK;
}

static void put(enum dtype type, void *to, int64_t k, double v) {
    if (type == F32) ((float *)to)[k] = (float)v;
    else ((double *)to)[k] = v;
}
static double get(enum dtype type, const void *from, int64_t k) {
    return type == F32 ? ((const float *)from)[k] : ((const double *)from)[k];
}

/* What member i adds at place k.  In order: large, whole, small and negative terms, so that any other order of summing
 * gives other bits. */
static double term(bool in_order, int i, int64_t k) {
    return in_order ? (i % 2 ? -1.0 : 1.0) * (1.0 + word(i, 3, k)) / (1 + i * i) * (i % 3 == 1 ? 1e6 : 1.0)
                    : word(i, 5, k);
}

/* In the order of members, or in their tree. */
static double sum_of(enum dtype type, bool in_order, bool tree, int size, int64_t k) {
    float f[8];
    double d[8];
    ASSERT(size <= 8);
    for (int i = 0; i < size; i++) d[i] = term(in_order, i, k);
    for (int i = 0; i < size; i++) f[i] = (float)d[i];
    for (int i = 1; !tree && i < size; i++) f[0] += f[i], d[0] += d[i];
    for (int step = 1; tree && step < size; step *= 2)
        for (int i = 0; i + step < size; i += 2 * step) f[i] += f[i + step], d[i] += d[i + step];
    return type == F32 ? f[0] : d[0];
}

static enum status case_reduce_scatter(const struct comm_case *t, enum dtype type, bool in_order, bool tree) {
    struct comm *c = t->c;
    int64_t at[9] = {0};
    for (int i = 0; i < c->size; i++) at[i + 1] = at[i] + part(t->n, i, 1);
    const int64_t mine = part(t->n, c->index, 1), unit = dtype_bytes(type);
    struct reduction r = {.use = COMM_GRADS, .dtype = type, .at = at, .tree = tree};
    struct buffer in = buffer_take(t, at[c->size] * unit), out = buffer_take(t, mine * unit);
    struct buffer scratch = buffer_take(t, reduce_scatter_scratch(c, type, at));
    r.scratch = scratch.at;
    r.in = in.at;
    for (int in_place = 0; in_place < 2; in_place++) {
        r.out = in_place ? in.at + at[c->index] * unit : out.at;
        for (int64_t k = 0; k < at[c->size]; k++) put(type, in.host, k, term(in_order, c->index, k));
        push(t, &in);
        TRY(reduce_scatter_begin(c, &r));
        TRY(reduce_scatter_end(c, &r));
        TRY(pull(t, in_place ? &in : &out));
        const void *sum = in_place ? in.host + at[c->index] * unit : out.host;
        for (int64_t k = 0; k < mine; k++)
            expect(t, in_place ? "reduce_scatter in place" : "reduce_scatter", k, get(type, sum, k),
                   sum_of(type, in_order, tree, c->size, at[c->index] + k));
        spoil(t, &in);
    }
    GIVE(t, &in, &out, &scratch);
    return OK;
}

static enum status case_all_reduce(const struct comm_case *t, enum dtype type, bool in_order, bool tree) {
    struct reduction r = {.use = COMM_GRADS, .dtype = type, .n = t->n, .tree = tree};
    const int64_t bytes = t->n * dtype_bytes(type);
    struct buffer in = buffer_take(t, bytes), out = buffer_take(t, bytes);
    struct buffer scratch = buffer_take(t, all_reduce_scratch(t->c, type, t->n));
    r.scratch = scratch.at;
    r.in = in.at;
    for (int in_place = 0; in_place < 2; in_place++) {
        const struct buffer *sum = in_place ? &in : &out;
        r.out = sum->at;
        for (int64_t k = 0; k < t->n; k++) put(type, in.host, k, term(in_order, t->c->index, k));
        push(t, &in);
        TRY(all_reduce_begin(t->c, &r));
        TRY(all_reduce_end(t->c, &r));
        TRY(pull(t, sum));
        for (int64_t k = 0; k < t->n; k++)
            expect(t, in_place ? "all_reduce in place" : "all_reduce", k, get(type, sum->host, k),
                   sum_of(type, in_order, tree, t->c->size, k));
        spoil(t, &in);
    }
    GIVE(t, &in, &out, &scratch);
    return OK;
}

/* Six messages each way to the next member, all in flight, and one more list that holds two for the same member. */
static enum status case_order(const struct comm_case *t) {
    struct comm *c = t->c;
    const int to = (c->index + 1) % c->size, from = (c->index + c->size - 1) % c->size;
    const int64_t n = t->n;
    struct pending p[6] = {{0}}, q = {0};
    struct buffer send = buffer_take(t, 8 * n), recv = buffer_take(t, 8 * n);
    for (int64_t k = 0; k < 8 * n; k++) send.host[k] = (unsigned char)word(c->index, to, k);
    push(t, &send);
    for (int i = 0; i < 6; i++) {
        const struct transfer list[] = {
            {.peer = to, .send = send.at + i * n, .send_bytes = n},
            {.peer = from, .recv = recv.at + i * n, .recv_bytes = n},
        };
        if (c->size > 1) TRY(comm_begin(c, COMM_CARRY, list, 2, &p[i]));
    }
    const struct transfer pair[] = {
        {.peer = to, .send = send.at + 6 * n, .send_bytes = n},
        {.peer = from, .recv = recv.at + 6 * n, .recv_bytes = n},
        {.peer = to, .send = send.at + 7 * n, .send_bytes = n},
        {.peer = from, .recv = recv.at + 7 * n, .recv_bytes = n},
    };
    if (c->size > 1) {
        TRY(comm_begin(c, COMM_CARRY, pair, 4, &q));
        TRY(comm_end(c, &q));
        for (int i = 5; i >= 0; i--) TRY(comm_end(c, &p[i]));
        spoil(t, &send);
        TRY(pull(t, &recv));
        for (int64_t k = 0; k < 8 * n; k++) expect(t, "order", k, recv.host[k], word(from, c->index, k));
    }
    GIVE(t, &send, &recv);
    return OK;
}

static enum status case_counts(const struct comm_case *t) {
    struct comm *c = t->c;
    const int64_t others = c->size - 1;
    struct pending p = {0};
    struct buffer b = buffer_take(t, t->n * c->size);
    const struct comm untouched = *c;
    push(t, &b);
    comm_count_reset(c);
    TRY(all_gather_even_begin(c, COMM_KEYS, b.at + c->index * t->n, t->n, b.at, &p));
    TRY(comm_end(c, &p));
    expect(t, "messages", 0, (double)c->count[COMM_KEYS].messages, (double)(t->n ? others : 0));
    expect(t, "bytes sent", 0, (double)c->count[COMM_KEYS].bytes_sent, (double)(others * t->n));
    expect(t, "bytes received", 0, (double)c->count[COMM_KEYS].bytes_received, (double)(others * t->n));
    expect(t, "bytes of all uses", 0, (double)comm_total(c).bytes_sent, (double)(others * t->n));
    memcpy(c->count, untouched.count, sizeof c->count);
    TRY(pull(t, &b));
    GIVE(t, &b);
    return OK;
}

static enum status comm_cases(struct comm *c, const char *why, int64_t n, const struct case_memory *memory) {
    const struct comm_case t = {.c = c, .why = why, .n = n, .memory = memory};
    TRY(case_all_gather(&t));
    TRY(case_all_to_all(&t));
    TRY(case_even(&t));
    TRY(case_broadcast(&t));
    const enum dtype types[] = {F64, F32};
    for (int tree = 0; tree < 2; tree++)
        for (int in_order = 0; in_order < 2; in_order++)
            for (int k = 0; k < 2; k++) {
                TRY(case_reduce_scatter(&t, types[k], in_order, tree));
                TRY(case_all_reduce(&t, types[k], in_order, tree));
            }
    TRY(case_order(&t));
    TRY(case_counts(&t));
    return barrier(c);
}

/* All groups that a world of this size has: the whole, and where it is even, data x seq, tensor and pipe of two. */
static enum status comm_groups_in(struct rank *r, const char *why, int64_t n, const struct case_memory *memory) {
    const int size = rank_size(r), half = size % 2 ? 1 : 2;
    const bool few = memory && memory->few;
    const struct mesh_sizes shapes[] = {{1, 1, size, 1, 1},
                                        {1, half, size / half, 1, half},
                                        {1, 1, size / half, half, 1},
                                        {half, 1, size / half, 1, 1}};
    for (int s = 0; s < (half == 2 ? few ? 2 : 4 : 1); s++) {
        struct mesh m;
        struct comm c[N_MESH_AXES] = {{0}};
        enum status st = mesh_place(&m, &shapes[s], size, rank_index(r));
        for (int axis = 0; axis < N_MESH_AXES && st == OK; axis++)
            if (!few || axis == MESH_SEQ || (s > 0 && axis == MESH_DATA))
                st = comm_init(&c[axis], r, &m, (enum mesh_axis)axis, memory ? memory->limits : NULL);
        for (int axis = 0; axis < N_MESH_AXES && st == OK; axis++) {
            rank_phase(r, "axis", axis);
            if (c[axis].size && (s > 0 || axis == MESH_SEQ)) st = comm_cases(&c[axis], why, n, memory);
        }
        for (int axis = 0; axis < N_MESH_AXES; axis++) comm_term(&c[axis]);
        if (st != OK) return st;
    }
    return OK;
}

#endif
