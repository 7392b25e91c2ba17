/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_DEVICE_RANKS_H
#define BATON_TESTS_DEVICE_RANKS_H
/* device_ranks.h - ranks as threads, each with a GPU, a stream to compute on and memory, taken once and kept from run
 * to run: cudaFree waits for a whole GPU, and so for the exchanges of ranks that share it. */
#include <cuda_runtime.h>
#include <sched.h>
#include "base/rng.h"
#include "tests/comm_cases.h"
#include "tests/gpu_work.h"

enum { DEVICE_RANKS = 8 };
static const int64_t room_bytes = 128 << 20;

struct device_rank {
    cudaStream_t stream;
    struct comm_device device;
    char *room, *pinned; /* on the GPU, and in host memory that copies need not stage */
    int64_t used, pinned_bytes;
    int card;
    uint64_t n_delays;
};
static struct device_rank device_ranks[DEVICE_RANKS];
static struct {
    int n_devices;  /* rank i computes on GPU i mod n_devices */
    int64_t delays; /* of compute streams, at most, in microseconds: at random, around every exchange */
    uint64_t seed;
} device_plan;

#define CUDA_MUST(call)                                                                                                \
    do {                                                                                                               \
        const cudaError_t e_ = (call);                                                                                 \
        if (e_ != cudaSuccess) {                                                                                       \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_));                     \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static struct device_rank *mine_of(struct rank *r) { return &device_ranks[rank_index(r)]; }

static void device_rank_open(struct rank *r) {
    struct device_rank *d = mine_of(r);
    const int card = rank_index(r) % device_plan.n_devices;
    void *room = d->room, *pinned = d->pinned;
    CUDA_MUST(cudaSetDevice(card));
    if (room && d->card != card) CUDA_MUST(cudaFree(room));
    if (!room || d->card != card) CUDA_MUST(cudaMalloc(&room, (size_t)room_bytes));
    *d = (struct device_rank){.room = (char *)room, .pinned_bytes = 4 << 20, .card = card};
    if (!pinned) CUDA_MUST(cudaMallocHost(&pinned, (size_t)d->pinned_bytes));
    d->pinned = (char *)pinned;
    CUDA_MUST(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking));
    d->device = (struct comm_device){.compute = d->stream, .add = gpu_add, .arg = d->stream};
}

static void device_rank_close(struct rank *r) { CUDA_MUST(cudaStreamDestroy(mine_of(r)->stream)); }

/* After the last run. */
static void device_ranks_free(void) {
    for (int i = 0; i < DEVICE_RANKS; i++) {
        if (!device_ranks[i].room) continue;
        CUDA_MUST(cudaSetDevice(device_ranks[i].card));
        CUDA_MUST(cudaFree(device_ranks[i].room));
        CUDA_MUST(cudaFreeHost(device_ranks[i].pinned));
    }
    memset(device_ranks, 0, sizeof device_ranks);
}

static void *device_take(struct rank *r, int64_t bytes) {
    struct device_rank *d = mine_of(r);
    void *p = d->room + d->used;
    d->used += arena_round(bytes ? bytes : 1);
    ASSERT(d->used <= room_bytes);
    return p;
}
static void device_give_all(struct rank *r) { mine_of(r)->used = 0; }

static void device_delay(struct rank *r) {
    struct device_rank *d = mine_of(r);
    const uint64_t bits = rng_bits(device_plan.seed, (uint64_t)rank_index(r), d->n_delays++);
    if (device_plan.delays > 0 && bits % 3 == 0) gpu_spin(d->stream, (int64_t)(bits >> 8) % device_plan.delays);
}

/* From pageable memory CUDA copies before it returns, which would hide mistakes; from pinned it does not. */
static void device_push(struct rank *r, void *to, const void *from, int64_t bytes) {
    struct device_rank *d = mine_of(r);
    for (int64_t done = 0; done < bytes; done += d->pinned_bytes) {
        const int64_t n = bytes - done < d->pinned_bytes ? bytes - done : d->pinned_bytes;
        CUDA_MUST(cudaStreamSynchronize(d->stream)); /* the room may still be read */
        memcpy(d->pinned, (const char *)from + done, (size_t)n);
        device_delay(r);
        CUDA_MUST(cudaMemcpyAsync((char *)to + done, d->pinned, (size_t)n, cudaMemcpyHostToDevice, d->stream));
    }
}

static enum status device_pull(struct rank *r, void *to, const void *from, int64_t bytes) {
    struct device_rank *d = mine_of(r);
    for (int64_t done = 0; done < bytes; done += d->pinned_bytes) {
        const int64_t n = bytes - done < d->pinned_bytes ? bytes - done : d->pinned_bytes;
        CUDA_MUST(cudaMemcpyAsync(d->pinned, (const char *)from + done, (size_t)n, cudaMemcpyDeviceToHost, d->stream));
        TRY(comm_wait_stream(r, d->stream));
        memcpy((char *)to + done, d->pinned, (size_t)n);
    }
    return comm_wait_stream(r, d->stream);
}

static void device_spoil(struct rank *r, void *p, int64_t bytes) {
    if (bytes > 0) CUDA_MUST(cudaMemsetAsync(p, 0xee, (size_t)bytes, mine_of(r)->stream));
    device_delay(r);
}

/* One communicator over all ranks, in device memory, for fn. */
static enum status over_all(struct rank *r, int flights, enum status (*fn)(struct comm *c, void *arg), void *arg) {
    const struct mesh_sizes sizes = {1, 1, rank_size(r), 1, 1};
    const struct comm_limits limits = {.flights = flights, .device = &mine_of(r)->device};
    struct mesh m;
    struct comm c = {0};
    enum status st = OK;
    device_rank_open(r);
    rank_phase(r, "test", 7);
    TRY_OUT(mesh_place(&m, &sizes, rank_size(r), rank_index(r)));
    TRY_OUT(comm_init(&c, r, &m, MESH_SEQ, &limits));
    TRY_OUT(fn(&c, arg));
out:
    comm_term(&c);
    device_rank_close(r);
    return st;
}

#endif
