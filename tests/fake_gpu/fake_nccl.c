/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "tests/fake_gpu/nccl.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/arena.h"
#include "tests/fake_gpu/fake_gpu.h"

/* Communicators that never block.  A group is launched a few questions after it was ended; its op is done when each of
 * its messages has met the other side's, first in, first out.  Sizes that differ never meet.  All under the lock of the
 * fake GPU. */
enum { RANKS = 8, CLIQUES = 4096, ITEMS = 64, JOBS = 1024 };

struct item {
    bool is_send, done;
    int peer;
    void *at;
    size_t bytes;
};
struct job {          /* one group, from its end to the end of its op */
    bool taken, runs; /* runs: at the head of its stream, where others may meet it */
    struct fake_comm *comm;
    cudaStream_t stream;
    int n, delay; /* delay: questions until it is launched */
    int64_t number;
    struct item items[ITEMS];
};
struct clique {
    int n, n_here;
    struct fake_comm *members[RANKS];
};
struct fake_comm {
    struct clique *clique;
    int rank, n_jobs;
    ncclResult_t state;
    bool aborted;
    int64_t n_groups;
    struct job *launching;
};
static struct clique cliques[CLIQUES];
static struct job jobs[JOBS];
static int n_cliques, version = 22809, broken = -1;
static _Thread_local struct job *open_group;
static _Thread_local bool in_group;

void fake_nccl_version(int v) { version = v; }
void fake_nccl_break(int rank) {
    fake_lock();
    broken = rank;
    fake_unlock();
}

ncclResult_t ncclGetVersion(int *v) { return *v = version, ncclSuccess; }
const char *ncclGetErrorString(ncclResult_t e) {
    return e == ncclRemoteError ? "remote process exited or there was a network error" : "an error of the fake NCCL";
}
const char *ncclGetLastError(ncclComm_t c) { return (void)c, ""; }

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    fake_lock();
    if (n_cliques == CLIQUES) abort();
    *(int *)id->internal = n_cliques++;
    fake_unlock();
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n, ncclUniqueId id, int rank, ncclConfig_t *config) {
    void *mem = NULL;
    if (config->blocking || n > RANKS || mem_take(sizeof **out, &mem) != OK) return ncclInvalidArgument;
    fake_lock();
    struct clique *q = &cliques[*(int *)id.internal];
    *out = mem;
    **out = (struct fake_comm){.clique = q, .rank = rank, .state = ncclInProgress};
    q->n = n;
    q->members[rank] = *out;
    q->n_here++;
    fake_unlock();
    return ncclInProgress;
}

/* The oldest message between two members that waits on this side. */
static struct item *waiting(struct fake_comm *c, int peer, bool is_send) {
    struct job *oldest = NULL;
    struct item *found = NULL;
    for (int k = 0; c && k < JOBS; k++) {
        struct job *j = &jobs[k];
        if (!j->taken || !j->runs || j->comm != c || (oldest && oldest->number < j->number)) continue;
        for (int i = 0; i < j->n; i++)
            if (!j->items[i].done && j->items[i].peer == peer && j->items[i].is_send == is_send) {
                oldest = j;
                found = &j->items[i];
                break;
            }
    }
    return found;
}

static bool turn(struct fake_op *op) {
    struct job *j = op->arg;
    bool all = true;
    j->runs = true;
    for (int i = 0; i < j->n && !j->comm->aborted; i++) {
        struct item *mine = &j->items[i];
        if (!mine->done && !mine->is_send && mine == waiting(j->comm, mine->peer, false)) {
            struct item *theirs = waiting(j->comm->clique->members[mine->peer], j->comm->rank, true);
            if (theirs && theirs->bytes == mine->bytes) {
                memcpy(mine->at, theirs->at, mine->bytes);
                mine->done = theirs->done = true;
            }
        }
        all &= mine->done;
    }
    if (!all && !j->comm->aborted) return false;
    j->comm->n_jobs--;
    j->taken = false;
    return true;
}

static void launch(struct fake_comm *c) {
    struct fake_access used[ITEMS];
    struct job *j = c->launching;
    for (int i = 0; i < j->n; i++)
        used[i] = (struct fake_access){j->items[i].at, (int64_t)j->items[i].bytes, !j->items[i].is_send};
    c->launching = NULL;
    fake_enqueue(j->stream, &(struct fake_op){.turn = turn, .arg = j}, used, j->n);
    c->state = ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *e) {
    fake_lock();
    if (c->launching && c->launching->delay-- == 0) launch(c);
    else if (!c->launching && c->state == ncclInProgress && c->clique->n_here == c->clique->n) c->state = ncclSuccess;
    if (broken == c->rank) c->state = ncclRemoteError;
    *e = c->state;
    fake_unlock();
    return ncclSuccess;
}

static ncclResult_t let_go(ncclComm_t c, bool abort) {
    fake_lock();
    c->aborted = abort;
    if (c->launching) { /* its thread is stopped before it could launch */
        c->launching->taken = false;
        c->launching = NULL;
        c->n_jobs--;
    }
    while (c->n_jobs > 0) {
        fake_unlock();
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        fake_lock();
    }
    c->clique->members[c->rank] = NULL;
    fake_unlock();
    mem_free(c);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t c) { return let_go(c, true); }
ncclResult_t ncclCommDestroy(ncclComm_t c) { return let_go(c, false); }

ncclResult_t ncclGroupStart(void) {
    in_group = true;
    open_group = NULL;
    return ncclSuccess;
}

static ncclResult_t add(struct item item, ncclComm_t c, cudaStream_t s) {
    ncclResult_t e = ncclSuccess;
    fake_lock();
    if (!in_group || c->state != ncclSuccess || item.peer == c->rank) e = ncclInvalidArgument;
    if (e == ncclSuccess && !open_group) {
        int i = 0;
        while (i < JOBS && jobs[i].taken) i++;
        if (i == JOBS) abort();
        open_group = &jobs[i];
        *open_group = (struct job){.taken = true, .comm = c, .stream = s, .number = ++c->n_groups};
        c->launching = open_group;
        c->n_jobs++;
    }
    if (e == ncclSuccess) {
        if (open_group->comm != c || open_group->n == ITEMS) abort();
        open_group->items[open_group->n++] = item;
    }
    fake_unlock();
    return e;
}

ncclResult_t ncclSend(const void *p, size_t n, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s) {
    (void)type;
    return add((struct item){.is_send = true, .peer = peer, .at = (void *)(uintptr_t)p, .bytes = n}, c, s);
}

ncclResult_t ncclRecv(void *p, size_t n, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s) {
    (void)type;
    return add((struct item){.peer = peer, .at = p, .bytes = n}, c, s);
}

ncclResult_t ncclGroupEnd(void) {
    ncclResult_t e = ncclSuccess;
    fake_lock();
    if (open_group) {
        open_group->delay = (int)(fake_random() % 4);
        open_group->comm->state = e = ncclInProgress;
    }
    in_group = false;
    open_group = NULL;
    fake_unlock();
    return e;
}
