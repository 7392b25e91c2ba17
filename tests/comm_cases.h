/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_COMM_CASES_H
#define BATON_TESTS_COMM_CASES_H
/* comm_cases.h - what every world must do, run by each of its ranks: comm_threads.c in the thread world, comm_world.c
 * also under mpirun.  Contents are a function of (who sends, to whom, place), so a wrong one tells where it is from. */
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

struct comm_case {
    struct comm *c;
    const char *why;
    int64_t n; /* elements or bytes of the largest block */
};

static void expect(const struct comm_case *t, const char *what, int64_t k, double got, double want) {
    CHECK(got == want, "%s, %s of %d ranks, n %lld: rank %d, index %lld: %.17g is not %.17g", t->why, what, t->c->size,
          (long long)t->n, t->c->index, (long long)k, got, want);
}

/* Block i of a message between members: uneven, some of them empty. */
static int64_t part(int64_t n, int from, int to) {
    return (from + 2 * to) % 3 == 0 ? n : (from + to) % 3 == 1 ? n / 2 : 0;
}

static enum status case_all_gather(const struct comm_case *t) {
    struct comm *c = t->c;
    struct pending p = {0};
    int64_t at[9] = {0};
    for (int i = 0; i < c->size; i++) at[i + 1] = at[i] + part(t->n, i, 0);
    unsigned char *recv = take(at[c->size]), *send = take(part(t->n, c->index, 0));
    for (int64_t k = 0; k < part(t->n, c->index, 0); k++) send[k] = (unsigned char)word(c->index, 0, k);
    TRY(all_gather_begin(c, COMM_PARAMS, send, recv, at, &p));
    TRY(comm_end(c, &p));
    for (int i = 0; i < c->size; i++)
        for (int64_t k = at[i]; k < at[i + 1]; k++) expect(t, "all_gather", k, recv[k], word(i, 0, k - at[i]));
    memset(recv, 0xee, (size_t)at[c->size]);
    if (part(t->n, c->index, 0)) memcpy(recv + at[c->index], send, (size_t)part(t->n, c->index, 0));
    TRY(all_gather_begin(c, COMM_PARAMS, recv + at[c->index], recv, at, &p));
    TRY(comm_end(c, &p));
    for (int i = 0; i < c->size; i++)
        for (int64_t k = at[i]; k < at[i + 1]; k++) expect(t, "all_gather in place", k, recv[k], word(i, 0, k - at[i]));
    mem_free(send);
    mem_free(recv);
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
    unsigned char *send = take(send_at[c->size]), *recv = take(recv_at[c->size]);
    for (int i = 0; i < c->size; i++)
        for (int64_t k = send_at[i]; k < send_at[i + 1]; k++)
            send[k] = (unsigned char)word(c->index, i, k - send_at[i]);
    TRY(all_to_all_begin(c, COMM_SWAP, send, send_at, recv, recv_at, &p));
    TRY(comm_end(c, &p));
    for (int i = 0; i < c->size; i++)
        for (int64_t k = recv_at[i]; k < recv_at[i + 1]; k++)
            expect(t, "all_to_all", k, recv[k], word(i, c->index, k - recv_at[i]));
    mem_free(send);
    mem_free(recv);
    return OK;
}

static enum status case_even(const struct comm_case *t) {
    struct comm *c = t->c;
    struct pending p = {0}, q = {0};
    unsigned char *send = take(t->n * c->size), *a = take(t->n * c->size), *b = take(t->n * c->size);
    for (int64_t k = 0; k < t->n * c->size; k++) send[k] = (unsigned char)word(c->index, (int)(k / t->n), k % t->n);
    TRY(all_to_all_even_begin(c, COMM_SWAP, send, t->n, a, &p));
    TRY(all_gather_even_begin(c, COMM_PARAMS, send, t->n, b, &q));
    /* Odd ranks end them in the other order: the waits of one must not hold up the other. */
    TRY(comm_end(c, c->index % 2 ? &q : &p));
    TRY(comm_end(c, c->index % 2 ? &p : &q));
    for (int64_t k = 0; k < t->n * c->size; k++) {
        const int i = (int)(k / t->n);
        expect(t, "all_to_all_even", k, a[k], word(i, c->index, k % t->n));
        expect(t, "all_gather_even", k, b[k], word(i, 0, k % t->n));
    }
    mem_free(send);
    mem_free(a);
    mem_free(b);
    return OK;
}

static enum status case_broadcast(const struct comm_case *t) {
    unsigned char *data = take(t->n);
    for (int root = 0; root < t->c->size; root++) {
        struct pending p = {0};
        for (int64_t k = 0; k < t->n; k++) data[k] = (unsigned char)word(t->c->index, root, k);
        TRY(broadcast_begin(t->c, COMM_CONTROL, root, data, t->n, &p));
        TRY(comm_end(t->c, &p));
        for (int64_t k = 0; k < t->n; k++) expect(t, "broadcast", k, data[k], word(root, root, k));
    }
    mem_free(data);
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

static double sum_of(enum dtype type, bool in_order, int size, int64_t k) {
    float f = 0;
    double d = 0;
    for (int i = 0; i < size; i++) {
        f = i ? f + (float)term(in_order, i, k) : (float)term(in_order, i, k);
        d = i ? d + term(in_order, i, k) : term(in_order, i, k);
    }
    return type == F32 ? f : d;
}

static enum status case_reduce_scatter(const struct comm_case *t, enum dtype type, bool in_order) {
    struct comm *c = t->c;
    int64_t at[9] = {0};
    for (int i = 0; i < c->size; i++) at[i + 1] = at[i] + part(t->n, i, 1);
    const int64_t mine = part(t->n, c->index, 1);
    struct reduction r = {.use = COMM_GRADS, .dtype = type, .at = at};
    void *in = take(at[c->size] * 8), *out = take(mine * 8);
    r.scratch = take(reduce_scatter_scratch(c, type, at));
    r.in = in;
    r.out = out;
    for (int64_t k = 0; k < at[c->size]; k++) put(type, in, k, term(in_order, c->index, k));
    TRY(reduce_scatter_begin(c, &r));
    TRY(reduce_scatter_end(c, &r));
    for (int64_t k = 0; k < mine; k++)
        expect(t, "reduce_scatter", k, get(type, out, k), sum_of(type, in_order, c->size, at[c->index] + k));
    mem_free(in);
    mem_free(out);
    mem_free(r.scratch);
    return OK;
}

static enum status case_all_reduce(const struct comm_case *t, enum dtype type, bool in_order) {
    struct reduction r = {.use = COMM_GRADS, .dtype = type, .n = t->n};
    void *in = take(t->n * 8), *out = take(t->n * 8);
    r.scratch = take(all_reduce_scratch(t->c, type, t->n));
    for (int in_place = 0; in_place < 2; in_place++) {
        r.in = in;
        r.out = in_place ? in : out;
        for (int64_t k = 0; k < t->n; k++) put(type, in, k, term(in_order, t->c->index, k));
        TRY(all_reduce_begin(t->c, &r));
        TRY(all_reduce_end(t->c, &r));
        for (int64_t k = 0; k < t->n; k++)
            expect(t, in_place ? "all_reduce in place" : "all_reduce", k, get(type, r.out, k),
                   sum_of(type, in_order, t->c->size, k));
    }
    mem_free(in);
    mem_free(out);
    mem_free(r.scratch);
    return OK;
}

/* Six messages each way to the next member, all in flight, and one more list that holds two for the same member. */
static enum status case_order(const struct comm_case *t) {
    struct comm *c = t->c;
    const int to = (c->index + 1) % c->size, from = (c->index + c->size - 1) % c->size;
    struct pending p[6] = {{0}};
    unsigned char *send = take(8 * t->n), *recv = take(8 * t->n);
    for (int64_t k = 0; k < 8 * t->n; k++) send[k] = (unsigned char)word(c->index, to, k);
    for (int i = 0; i < 6; i++) {
        const struct transfer list[] = {
            {.peer = to, .send = send + i * t->n, .send_bytes = t->n},
            {.peer = from, .recv = recv + i * t->n, .recv_bytes = t->n},
        };
        if (c->size > 1) TRY(comm_begin(c, COMM_CARRY, list, 2, &p[i]));
    }
    const struct transfer pair[] = {
        {.peer = to, .send = send + 6 * t->n, .send_bytes = t->n},
        {.peer = from, .recv = recv + 6 * t->n, .recv_bytes = t->n},
        {.peer = to, .send = send + 7 * t->n, .send_bytes = t->n},
        {.peer = from, .recv = recv + 7 * t->n, .recv_bytes = t->n},
    };
    struct pending q = {0};
    if (c->size > 1) {
        TRY(comm_begin(c, COMM_CARRY, pair, c->size > 1 ? 4 : 0, &q));
        TRY(comm_end(c, &q));
        for (int i = 5; i >= 0; i--) TRY(comm_end(c, &p[i]));
        for (int64_t k = 0; k < 8 * t->n; k++) expect(t, "order", k, recv[k], word(from, c->index, k));
    }
    mem_free(send);
    mem_free(recv);
    return OK;
}

static enum status case_counts(const struct comm_case *t) {
    struct comm *c = t->c;
    const int64_t others = c->size - 1;
    struct pending p = {0};
    unsigned char *buf = take(t->n * c->size);
    const struct comm untouched = *c;
    comm_count_reset(c);
    TRY(all_gather_even_begin(c, COMM_KEYS, buf + c->index * t->n, t->n, buf, &p));
    TRY(comm_end(c, &p));
    expect(t, "messages", 0, (double)c->count[COMM_KEYS].messages, (double)(t->n ? others : 0));
    expect(t, "bytes sent", 0, (double)c->count[COMM_KEYS].bytes_sent, (double)(others * t->n));
    expect(t, "bytes received", 0, (double)c->count[COMM_KEYS].bytes_received, (double)(others * t->n));
    expect(t, "bytes of all uses", 0, (double)comm_total(c).bytes_sent, (double)(others * t->n));
    memcpy(c->count, untouched.count, sizeof c->count);
    mem_free(buf);
    return OK;
}

static enum status comm_cases(struct comm *c, const char *why, int64_t n) {
    const struct comm_case t = {.c = c, .why = why, .n = n};
    TRY(case_all_gather(&t));
    TRY(case_all_to_all(&t));
    TRY(case_even(&t));
    TRY(case_broadcast(&t));
    const enum dtype types[] = {F64, F32};
    for (int in_order = 0; in_order < 2; in_order++)
        for (int k = 0; k < 2; k++) {
            TRY(case_reduce_scatter(&t, types[k], in_order));
            TRY(case_all_reduce(&t, types[k], in_order));
        }
    TRY(case_order(&t));
    TRY(case_counts(&t));
    return barrier(c);
}

/* All groups that a world of this size has: the whole, and where it is even, data x seq, tensor and pipe of two. */
static enum status comm_groups(struct rank *r, const char *why, int64_t n) {
    const int size = rank_size(r), half = size % 2 ? 1 : 2;
    const struct mesh_sizes shapes[] = {{1, 1, size, 1, 1},
                                        {1, half, size / half, 1, half},
                                        {1, 1, size / half, half, 1},
                                        {half, 1, size / half, 1, 1}};
    for (int s = 0; s < (half == 2 ? 4 : 1); s++) {
        struct mesh m;
        struct comm c[N_MESH_AXES] = {{0}};
        enum status st = mesh_place(&m, &shapes[s], size, rank_index(r));
        for (int axis = 0; axis < N_MESH_AXES && st == OK; axis++)
            st = comm_init(&c[axis], r, &m, (enum mesh_axis)axis, NULL);
        for (int axis = 0; axis < N_MESH_AXES && st == OK; axis++) {
            rank_phase(r, "axis", axis);
            if (s > 0 || axis == MESH_SEQ) st = comm_cases(&c[axis], why, n);
        }
        for (int axis = 0; axis < N_MESH_AXES; axis++) comm_term(&c[axis]);
        if (st != OK) return st;
    }
    return OK;
}

#endif
