/* SPDX-License-Identifier: Apache-2.0 */
#include "dist/collectives.h"
#include <string.h>
#include "dist/lane.h"

enum {
    SMALL = 4096, /* bytes up to which a sum is gathered whole: one round instead of two */
    TILE = 256,   /* elements summed at a time, in the stack */
    LEVELS = 14   /* of a tree over 4,096 members             */
};

void comm_split(int size, int64_t n, int64_t *at) {
    at[0] = 0;
    for (int i = 0; i < size; i++) at[i + 1] = at[i] + n / size + (i < n % size);
}

static int64_t *even(struct comm *c, int64_t bytes) {
    for (int i = 0; i <= c->size; i++) c->inside->at[i] = i * bytes;
    return c->inside->at;
}

/* Member k steps after mine: so that not all ranks send to the same one first. */
static int after(const struct comm *c, int k) { return (c->index + k) % c->size; }

static enum status gather(struct comm *c, enum comm_use use, enum comm_op op, const void *send, void *recv,
                          const int64_t *at, struct pending *p) {
    for (int k = 0; k < c->size; k++) {
        const int i = after(c, k);
        c->inside->list[k] = (struct transfer){
            .peer = i,
            .send = send,
            .send_bytes = at[c->index + 1] - at[c->index],
            .recv = (char *)recv + at[i],
            .recv_bytes = at[i + 1] - at[i],
        };
    }
    return comm_post(c, use, op, c->inside->list, c->size, p);
}

static enum status exchange(struct comm *c, enum comm_use use, enum comm_op op, const void *send,
                            const int64_t *send_at, void *recv, const int64_t *recv_at, struct pending *p) {
    for (int k = 0; k < c->size; k++) {
        const int i = after(c, k);
        c->inside->list[k] = (struct transfer){
            .peer = i,
            .send = (const char *)send + send_at[i],
            .send_bytes = send_at[i + 1] - send_at[i],
            .recv = (char *)recv + recv_at[i],
            .recv_bytes = recv_at[i + 1] - recv_at[i],
        };
    }
    return comm_post(c, use, op, c->inside->list, c->size, p);
}

enum status all_gather_begin(struct comm *c, enum comm_use use, const void *send, void *recv, const int64_t *at,
                             struct pending *p) {
    return gather(c, use, OP_ALL_GATHER, send, recv, at, p);
}

enum status all_gather_even_begin(struct comm *c, enum comm_use use, const void *send, int64_t bytes, void *recv,
                                  struct pending *p) {
    return gather(c, use, OP_ALL_GATHER, send, recv, even(c, bytes), p);
}

enum status all_to_all_begin(struct comm *c, enum comm_use use, const void *send, const int64_t *send_at, void *recv,
                             const int64_t *recv_at, struct pending *p) {
    return exchange(c, use, OP_ALL_TO_ALL, send, send_at, recv, recv_at, p);
}

enum status all_to_all_even_begin(struct comm *c, enum comm_use use, const void *send, int64_t bytes, void *recv,
                                  struct pending *p) {
    const int64_t *at = even(c, bytes);
    return exchange(c, use, OP_ALL_TO_ALL, send, at, recv, at, p);
}

enum status broadcast_begin(struct comm *c, enum comm_use use, int root, void *data, int64_t bytes, struct pending *p) {
    struct transfer *list = c->inside->list;
    ASSERT(root >= 0 && root < c->size);
    if (c->index != root) {
        list[0] = (struct transfer){.peer = root, .recv = data, .recv_bytes = bytes};
        return comm_post(c, use, OP_BROADCAST, list, 1, p);
    }
    for (int k = 1; k < c->size; k++)
        list[k - 1] = (struct transfer){.peer = after(c, k), .send = data, .send_bytes = bytes};
    return comm_post(c, use, OP_BROADCAST, list, c->size - 1, p);
}

enum status barrier(struct comm *c) {
    static const char here = 1;
    if (c->inside->lane) return barrier(&c->inside->lane->control);
    char *heard = (char *)c->inside->at; /* one byte a member */
    struct pending p = {0};
    for (int k = 1; k < c->size; k++) {
        const int i = after(c, k);
        c->inside->list[k - 1] =
            (struct transfer){.peer = i, .send = &here, .send_bytes = 1, .recv = heard + i, .recv_bytes = 1};
    }
    TRY(comm_post(c, COMM_CONTROL, OP_BARRIER, c->inside->list, c->size - 1, &p));
    return comm_end(c, &p);
}

/* scratch holds the other members' blocks, in order: member i is at place i, or i - 1 above mine. */
static int place(const struct comm *c, int i) { return i - (i > c->index); }

#define SUM_IN_ORDER(name, real)                                                                                       \
    static void name(const struct comm *c, const real *own, const real *others, real *out, int64_t n) {                \
        for (int64_t begin = 0; begin < n; begin += TILE) {                                                            \
            const int64_t m = n - begin < TILE ? n - begin : TILE;                                                     \
            real sum[TILE];                                                                                            \
            for (int i = 0; i < c->size; i++) {                                                                        \
                const real *x = (i == c->index ? own : others + place(c, i) * n) + begin;                              \
                for (int64_t k = 0; k < m; k++) sum[k] = i == 0 ? x[k] : sum[k] + x[k];                                \
            }                                                                                                          \
            memcpy(out + begin, sum, (size_t)m * sizeof(real));                                                        \
        }                                                                                                              \
    }
SUM_IN_ORDER(sum_f32, float)
SUM_IN_ORDER(sum_f64, double)

/* Level l holds the sum of 2^l members where bit l of the number seen is set; what is left is folded from below. */
#define SUM_BY_TREE(name, real)                                                                                        \
    static void name(const struct comm *c, const real *own, const real *others, real *out, int64_t n) {                \
        for (int64_t begin = 0; begin < n; begin += TILE) {                                                            \
            const int64_t m = n - begin < TILE ? n - begin : TILE;                                                     \
            real level[LEVELS][TILE], sum[TILE];                                                                       \
            for (int i = 0; i < c->size; i++) {                                                                        \
                const real *x = (i == c->index ? own : others + place(c, i) * n) + begin;                              \
                memcpy(sum, x, (size_t)m * sizeof(real));                                                              \
                int l = 0;                                                                                             \
                for (; i >> l & 1; l++)                                                                                \
                    for (int64_t k = 0; k < m; k++) sum[k] = level[l][k] + sum[k];                                     \
                memcpy(level[l], sum, (size_t)m * sizeof(real));                                                       \
            }                                                                                                          \
            bool any = false;                                                                                          \
            for (int l = 0; c->size >> l; l++) {                                                                       \
                if (!(c->size >> l & 1)) continue;                                                                     \
                for (int64_t k = 0; k < m; k++) sum[k] = any ? level[l][k] + sum[k] : level[l][k];                     \
                any = true;                                                                                            \
            }                                                                                                          \
            memcpy(out + begin, sum, (size_t)m * sizeof(real));                                                        \
        }                                                                                                              \
    }
SUM_BY_TREE(tree_f32, float)
SUM_BY_TREE(tree_f64, double)

/* The same sums by the lane's add, enqueued on the compute stream.  x[i] is member i's block, and so is room to add to:
 * mine becomes out where something is added to it. */
struct blocks {
    const struct comm *c;
    const struct reduction *r;
    const void *own;
    void *out;
    int64_t n;
    bool own_moved; /* own is in out */
};

static void *block_at(const struct blocks *b, int i) {
    if (i != b->c->index) return (char *)b->r->scratch + place(b->c, i) * b->n * dtype_bytes(b->r->dtype);
    return b->own_moved ? b->out : (void *)(uintptr_t)b->own;
}

static enum status add_block(struct blocks *b, int to, int from) {
    const struct lane *l = b->c->inside->lane;
    if (to == b->c->index && !b->own_moved) {
        TRY(lane_copy_compute(b->c->inside, b->out, b->own, b->n * dtype_bytes(b->r->dtype)));
        b->own_moved = true;
    }
    return l->spec.add(l->spec.arg, b->r->dtype, block_at(b, to), block_at(b, from), b->n);
}

static enum status sum_on_device(const struct comm *c, const struct reduction *r, const void *own, void *out,
                                 int64_t n) {
    struct blocks b = {.c = c, .r = r, .own = own, .out = out, .n = n};
    if (n == 0) return OK;
    for (int i = 1; !r->tree && i < c->size; i++) TRY(add_block(&b, 0, i));
    for (int step = 1; r->tree && step < c->size; step *= 2)
        for (int i = 0; i + step < c->size; i += 2 * step) TRY(add_block(&b, i, i + step));
    return lane_copy_compute(c->inside, out, block_at(&b, 0), n * dtype_bytes(r->dtype));
}

static enum status sum_in_order(const struct comm *c, const struct reduction *r, const void *own, void *out,
                                int64_t n) {
    if (comm_on_paper(c->inside)) return OK;
    if (c->inside->lane) return sum_on_device(c, r, own, out, n);
    if (r->dtype == F32) (r->tree ? tree_f32 : sum_f32)(c, own, r->scratch, out, n);
    else (r->tree ? tree_f64 : sum_f64)(c, own, r->scratch, out, n);
    return OK;
}

static enum status check_type(enum dtype t) {
    FAIL_UNLESS(t == F32 || t == F64, ERR_ARG, "sums over ranks are of F32 or F64, not %s", dtype_name(t));
    return OK;
}

/* Everybody sends everybody a block, [at[i], at[i + 1]) to member i, and mine_n elements come from each. */
static enum status send_blocks(struct comm *c, struct reduction *r, const int64_t *at, int64_t mine_n) {
    const int64_t unit = dtype_bytes(r->dtype);
    ASSERT(r->scratch || mine_n == 0 || c->size == 1);
    for (int k = 1; k < c->size; k++) {
        const int i = after(c, k);
        c->inside->list[k - 1] = (struct transfer){
            .peer = i,
            .send = (const char *)r->in + (at ? at[i] * unit : 0),
            .send_bytes = (at ? at[i + 1] - at[i] : mine_n) * unit,
            .recv = mine_n ? (char *)r->scratch + place(c, i) * mine_n * unit : NULL,
            .recv_bytes = mine_n * unit,
        };
    }
    return comm_post(c, r->use, OP_SUM, c->inside->list, c->size - 1, &r->pending);
}

static int64_t block(const struct comm *c, const int64_t *at) { return at[c->index + 1] - at[c->index]; }

int64_t reduce_scatter_scratch(const struct comm *c, enum dtype t, const int64_t *at) {
    return (c->size - 1) * block(c, at) * dtype_bytes(t);
}

enum status reduce_scatter_begin(struct comm *c, struct reduction *r) {
    TRY(check_type(r->dtype));
    return send_blocks(c, r, r->at, block(c, r->at));
}

enum status reduce_scatter_end(struct comm *c, struct reduction *r) {
    TRY(comm_end(c, &r->pending));
    const char *own = (const char *)r->in + r->at[c->index] * dtype_bytes(r->dtype);
    return sum_in_order(c, r, own, r->out, block(c, r->at));
}

static bool is_small(const struct comm *c, enum dtype t, int64_t n) {
    return n < c->size || n * dtype_bytes(t) <= SMALL;
}

static int64_t *split(struct comm *c, int64_t n) {
    comm_split(c->size, n, c->inside->at);
    return c->inside->at;
}

int64_t all_reduce_scratch(const struct comm *c, enum dtype t, int64_t n) {
    const int64_t most = is_small(c, t, n) ? n : (n + c->size - 1) / c->size;
    return (c->size - 1) * most * dtype_bytes(t);
}

enum status all_reduce_begin(struct comm *c, struct reduction *r) {
    TRY(check_type(r->dtype));
    if (is_small(c, r->dtype, r->n)) return send_blocks(c, r, NULL, r->n);
    const int64_t *at = split(c, r->n);
    return send_blocks(c, r, at, block(c, at));
}

enum status all_reduce_end(struct comm *c, struct reduction *r) {
    TRY(comm_end(c, &r->pending));
    if (is_small(c, r->dtype, r->n)) return sum_in_order(c, r, r->in, r->out, r->n);
    const int64_t unit = dtype_bytes(r->dtype);
    int64_t *at = split(c, r->n);
    char *mine = (char *)r->out + at[c->index] * unit;
    TRY(sum_in_order(c, r, (const char *)r->in + at[c->index] * unit, mine, block(c, at)));
    for (int i = 0; i <= c->size; i++) at[i] *= unit;
    TRY(gather(c, r->use, OP_SUM, mine, r->out, at, &r->pending));
    return comm_end(c, &r->pending);
}
