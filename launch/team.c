/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/team.h"
#include <gnu/libc-version.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/hash.h"
#include "dist/agree.h"
#include "kernels/add/add.h"
#include "kernels/gemm.h"
#include "kernels/ops.h"

/* to += from, for sums over ranks. */
static enum status add_there(void *arg, enum dtype type, void *to, const void *from, int64_t n) {
    struct ctx *c = arg;
    struct tensor x = tensor_2d(to, type, 1, n), y = x;
    x.space = y.space = c->space;
    memcpy(&y.data, &from, sizeof from);
    return c->ops->add_fwd(c, &(struct add){.x = x, .y = y, .out = x, .scale = 1.0});
}

static enum status open_there(struct team *t, const struct device_choice *device) {
    TRY(device_open_for(device, t->rank, &t->device));
    if (!t->device) return OK;
    t->sums = (struct ctx){
        .ops = &ops_cuda, .device = t->device, .stream = device_stream(t->device), .real = F32, .space = DEVICE};
    t->far = (struct comm_device){.compute = t->sums.stream, .add = add_there, .arg = &t->sums};
    return OK;
}

enum status team_open(struct team *t, struct rank *rank, const struct mesh_config *mesh, int transfers,
                      const struct device_choice *device) {
    enum status st = OK;
    *t = (struct team){.rank = rank, .leader = rank_index(rank) == 0, .totals = &t->tokens};
    const struct mesh_sizes sizes = {mesh->pipe, mesh->data, mesh->seq, mesh->tensor, mesh->expert};
    struct comm_limits limits = {.transfers = transfers};
    TRY_OUT(mesh_place(&t->mesh, &sizes, rank_size(rank), rank_index(rank)));
    if (device) TRY_OUT(open_there(t, device));
    if (device && t->leader) TRY_OUT(device_print(device));
    const bool far = t->device && rank_size(rank) > 1; /* one rank moves nothing */
    if (far) limits.device = &t->far;
    TRY_OUT(comm_init(&t->seq, rank, &t->mesh, MESH_SEQ, transfers > 0 || far ? &limits : NULL));
    limits.flights = mesh->tensor > 8 ? (int)mesh->tensor : 0; /* one for each other member */
    TRY_OUT(comm_init(&t->tensor, rank, &t->mesh, MESH_TENSOR, transfers > 0 || far ? &limits : NULL));
    limits.flights = 0;
    TRY_OUT(comm_init(&t->world, rank, &t->mesh, MESH_WORLD, NULL));
    TRY_OUT(comm_init(&t->tokens, rank, &t->mesh, MESH_TOKENS, NULL));
    if (!far) goto out;
    limits.transfers = 0;
    TRY_OUT(comm_init(&t->tokens_there, rank, &t->mesh, MESH_TOKENS, &limits));
    t->totals = &t->tokens_there;
out:
    if (st != OK) team_close(t);
    return st;
}

void team_leave(struct team *t) {
    comm_term(&t->seq);
    comm_term(&t->tensor);
    comm_term(&t->world);
    comm_term(&t->tokens);
    comm_term(&t->tokens_there);
}

void team_close(struct team *t) {
    team_leave(t);
    device_close(t->device);
    *t = (struct team){0};
}

enum status team_agree(struct team *t, void *data, int64_t bytes) {
    struct pending p = {0};
    TRY(broadcast_begin(&t->world, COMM_CONTROL, 0, data, bytes, &p));
    return comm_end(&t->world, &p);
}

enum status team_most(struct team *t, int64_t *number) {
    enum { MOST_RANKS = 4096 };
    int64_t all[MOST_RANKS] = {0};
    struct pending p = {0};
    ASSERT(t->world.size <= MOST_RANKS);
    TRY(all_gather_even_begin(&t->world, COMM_CONTROL, number, 8, all, &p));
    TRY(comm_end(&t->world, &p));
    for (int i = 0; i < t->world.size; i++)
        if (all[i] > *number) *number = all[i];
    return OK;
}

enum status team_sum(struct team *t, struct tensor x, enum comm_use use, bool tree, void *scratch) {
    struct reduction r = {.use = use,
                          .dtype = x.dtype,
                          .in = x.data,
                          .out = x.data,
                          .n = tensor_count(x),
                          .tree = tree,
                          .scratch = scratch};
    TRY(all_reduce_begin(&t->world, &r));
    return all_reduce_end(&t->world, &r);
}

static enum status count_of(const char *text, int64_t *n) {
    char *end = NULL;
    *n = strtoll(text, &end, 10);
    FAIL_UNLESS(end != text && !*end && *n >= 1 && *n <= 4096, ERR_CONFIG, "--ranks %s: wants a number from 1 to 4096",
                text);
    return OK;
}

/* Ranks without a mesh mean seq: N; a mesh without ranks starts its product as threads. */
static enum status settle_mesh(const struct team_spec *spec, int64_t n) {
    struct mesh_config *m = spec->mesh;
    const int64_t product = m->data * m->seq * m->tensor * m->pipe;
    if (product == 1 && !spec->mesh_given) m->seq = n;
    else
        FAIL_UNLESS(product == n, ERR_CONFIG,
                    "mesh: data %" PRId64 " x seq %" PRId64 " x tensor %" PRId64 " x pipe %" PRId64 " is %" PRId64
                    " ranks, and %" PRId64 " were started",
                    m->data, m->seq, m->tensor, m->pipe, product, n);
    return OK;
}

struct start {
    const struct team_spec *spec;
    bool settled;
    enum status (*fn)(struct rank *, void *);
    void *arg;
};

/* Ranks that compute with other libraries, or on other processors, train all the same, with other roundings. */
static enum status agree_libraries(struct comm *world) {
    char text[AGREE_BYTES];
    snprintf(text, sizeof text, "%s", REF(gemm_library)());
    TRY(agree_warn(world, "the matrix library", text));
    snprintf(text, sizeof text, "%s", gnu_get_libc_version());
    return agree_warn(world, "glibc", text);
}

/* The mesh itself may be what differs, so this asks over all ranks in one row. */
static enum status agree(struct rank *rank, const struct text *same) {
    const struct mesh_sizes row = {1, 1, rank_size(rank), 1, 1};
    char hex[SHA256_HEX];
    struct mesh mesh;
    struct comm world = {0};
    enum status st = OK;
    TRY_OUT(hash_sha256(same->s, same->n, hex));
    TRY_OUT(mesh_place(&mesh, &row, rank_size(rank), rank_index(rank)));
    TRY_OUT(comm_init(&world, rank, &mesh, MESH_WORLD, NULL));
    TRY_OUT(agree_same(&world, "the configuration", hex));
    TRY_OUT(agree_libraries(&world));
out:
    comm_term(&world);
    return st;
}

static enum status start_rank(struct rank *rank, void *arg) {
    const struct start *s = arg;
    rank_phase(rank, "start", 0);
    TRY(agree(rank, s->spec->same));
    return s->settled ? s->fn(rank, s->arg) : OK;
}

enum status team_run(const struct team_spec *spec, enum status (*fn)(struct rank *, void *), void *arg) {
    const struct mesh_config *m = spec->mesh;
    struct world_spec w = {.launcher = world_launcher(getenv),
                           .deadline_s = spec->deadline_s,
                           .device_way = (enum device_way)m->transport,
                           .hard_exit = _exit};
    struct world *world = NULL;
    int64_t n = m->data * m->seq * m->tensor * m->pipe;
    if (spec->ranks) TRY(count_of(spec->ranks, &n));
    w.n_ranks = spec->ranks || !w.launcher ? (int)n : 0;
    TRY(world_open(&world, &w));
    /* A mesh that does not fit is told after the ranks have agreed: one of them alone must not leave the others. */
    struct start start = {.spec = spec, .fn = fn, .arg = arg};
    start.settled = settle_mesh(spec, world_size(world)) == OK;
    enum status st = world_run(world, start_rank, &start);
    if (st == OK && !start.settled) st = settle_mesh(spec, world_size(world));
    world_close(world);
    return st;
}
