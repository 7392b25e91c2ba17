/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/arena.h"
#include "dist/collectives.h"
#include "dist/lane.h"

/* Which GPUs the ranks have, told to all by all; every rank draws the same conclusion from the same table. */
#ifdef BATON_CUDA
struct card {
    char host[64], bus[32]; /* a GPU is known by where it sits */
    int device;             /* as its process counts */
    int nccl;
    int way;
};

static bool same_card(const struct card *a, const struct card *b) {
    return !strcmp(a->host, b->host) && !strcmp(a->bus, b->bus);
}

/* Two ranks that share a GPU (or, if not share, two that do not). */
static bool find_pair(const struct card *cards, int n, bool share, int *a, int *b) {
    for (*a = 0; *a < n; ++*a)
        for (*b = *a + 1; *b < n; ++*b)
            if (same_card(&cards[*a], &cards[*b]) == share) return true;
    return false;
}

static enum status check_alike(const struct card *cards, int n) {
    for (int i = 1; i < n; i++) {
        FAIL_UNLESS(cards[i].way == cards[0].way, ERR_CONFIG,
                    "mesh.transport differs between ranks 0 and %d: start all ranks with the same configuration", i);
        FAIL_UNLESS(cards[i].nccl == cards[0].nccl, ERR_CONFIG,
                    "NCCL differs between ranks: rank 0 has %d, rank %d has %d (0: a build without): start all ranks "
                    "with the same program and libraries",
                    cards[0].nccl, i, cards[i].nccl);
    }
    return OK;
}

static enum status choose(const struct card *cards, int n, bool threads, enum device_way *way) {
    int a = 0, b = 0;
    TRY(check_alike(cards, n));
    *way = (enum device_way)cards[0].way;
    if (n == 1) *way = DEVICE_WAY_COPIES;
    if (n == 1) return OK;
    const bool share = find_pair(cards, n, true, &a, &b);
    if (*way == DEVICE_WAY_AUTO) {
        *way = share ? DEVICE_WAY_COPIES : DEVICE_WAY_NCCL;
        FAIL_UNLESS(!share || threads, ERR_CONFIG,
                    "ranks %d and %d are processes that share the GPU %s of %s: start one process a GPU, or all ranks "
                    "of a GPU as threads of one process (--ranks N, without mpirun)",
                    a, b, cards[a].bus, cards[a].host);
    }
    FAIL_UNLESS(*way == DEVICE_WAY_NCCL || threads, ERR_CONFIG,
                "mesh.transport: copies is for ranks that are threads of one process, and these are processes: set it "
                "to auto, or start the ranks with --ranks N, without mpirun");
    if (*way == DEVICE_WAY_NCCL)
        FAIL_UNLESS(cards[0].nccl != NCCL_NONE, ERR_CONFIG,
                    "%d ranks are to exchange over NCCL, and this build has none: configure with -DNCCL_ROOT=DIR (a "
                    "folder with nccl.h and libnccl)%s",
                    n, threads ? ", or set mesh.transport: copies" : "");
    return OK;
}

static enum status meet(struct rank *r, const struct mesh *m, struct card *cards) {
    enum status st = OK;
    struct comm all = {0};
    struct pending p = {0};
    TRY_OUT(comm_init(&all, r, m, MESH_WORLD, NULL));
    TRY_OUT(all_gather_even_begin(&all, COMM_CONTROL, &cards[r->index], sizeof *cards, cards, &p));
    TRY_OUT(comm_end(&all, &p));
out:
    comm_term(&all);
    return st;
}

static enum status settle(struct rank *r, const struct mesh *m, struct card *cards) {
    struct card *mine = &cards[r->index];
    const bool threads = r->world->kind == &world_threads;
    *mine = (struct card){.nccl = nccl_version(), .way = (int)r->world->spec.device_way};
    FAIL_UNLESS(gethostname(mine->host, sizeof mine->host - 1) == 0, ERR_IO, "the name of this host is not to be had");
    TRY(card_name(&mine->device, mine->bus, sizeof mine->bus));
    r->card = mine->device;
    TRY(meet(r, m, cards));
    TRY(choose(cards, r->world->size, threads, &r->device_way));
    if (r->device_way == DEVICE_WAY_NCCL) return nccl_check_version(r->index == 0);
    for (int i = 0; i < r->world->size; i++)
        if (threads) TRY(card_reach(cards[i].device));
    return OK;
}

enum status way_choose(struct rank *r, const struct mesh *m) {
    void *cards = NULL;
    if (r->device_way != DEVICE_WAY_AUTO) return OK;
    TRY(mem_take(r->world->size * (int64_t)sizeof(struct card), &cards));
    const enum status st = settle(r, m, cards);
    if (st != OK) r->device_way = DEVICE_WAY_AUTO;
    mem_free(cards);
    return st;
}
#endif

const struct transport transport_copies = {
    .name = "copies",
    .join = threads_join,
    .leave = threads_leave,
    .begin = threads_begin,
    .end = threads_end,
};

#ifndef BATON_NCCL
int nccl_version(void) { return NCCL_NONE; }
enum status nccl_check_version(bool speaks) { return (void)speaks, OK; }
enum status nccl_verdict(struct rank *r) { return (void)r, OK; }
void nccl_stop(struct world *w) { ASSERT(!w->nccl); }
#endif
