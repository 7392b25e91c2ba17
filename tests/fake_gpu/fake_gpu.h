/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_FAKE_GPU_FAKE_GPU_H
#define BATON_TESTS_FAKE_GPU_FAKE_GPU_H
/* fake_gpu.h - streams and events without a GPU, and what tests ask of them.
 *
 * One thread executes the heads of all streams in an order drawn from the seed, honouring events, so that what is not
 * ordered happens in many orders.  Beside that, every access to memory is checked when it is enqueued: two of one
 * place, one of them a write, that neither a stream nor events put in order are a race, whatever order they ran in. */
#include <stdbool.h>
#include <stdint.h>
#include "tests/fake_gpu/cuda_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

enum fake_pace { FAKE_EAGER, FAKE_RANDOM, FAKE_LAZY }; /* lazy: nothing runs before somebody asks whether it has */

void fake_open(uint64_t seed, int n_devices, enum fake_pace pace);
void fake_close(void);
int fake_races(void); /* each was told on stderr */

/* Enqueue an op: turn is called, under the lock of the fake, until it returns true. */
struct fake_access {
    const void *at;
    int64_t bytes;
    bool writes;
};
struct fake_op {
    bool (*turn)(struct fake_op *op);
    void *arg;
    void *to;
    const void *from;
    int64_t bytes, value;
    struct fake_event *event;
    struct fake_op *next;
};
void fake_enqueue(cudaStream_t s, const struct fake_op *op, const struct fake_access *accesses, int n);
void fake_lock(void);
void fake_unlock(void);
uint64_t fake_random(void);

/* NCCL: what ncclGetVersion says; every communicator of this rank reports an error from now on (-1: none). */
void fake_nccl_version(int version);
void fake_nccl_break(int rank);

#ifdef __cplusplus
}
#endif
#endif
