/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_EMULATOR_INSIDE_H
#define BATON_TESTS_EMULATOR_INSIDE_H
/* inside.h - what the files of the emulator share. */
#include <stdbool.h>
#include <stddef.h>
#include "tests/emulator/cuda_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { EMULATED_THREADS = 1024 };

/* The one lock of the device: whatever else stands here and reads or writes what threads share is called under it. */
void device_lock(void);
void device_unlock(void);
unsigned device_dice(void); /* the next throw; EMULATED_DICE=n begins another row of them */

/* ---- memory.cpp ---- */
void memory_open(void); /* to kernels and copies; to nobody after memory_close */
void memory_close(void);
bool memory_of_device(const void *p);
bool memory_pinned(const void *p);
/* A copy out of pinned memory is enqueued and gets a number, or 0: nothing to check; it runs; the host has waited for
 * those of a stream up to a number. */
unsigned long sends_note(const void *from, size_t n, cudaStream_t stream);
void sends_check(unsigned long number);
void sends_settle(cudaStream_t stream, unsigned long number);
unsigned long sends_number(void); /* of the last one */

/* ---- streams.cpp ---- */
void streams_finish(void); /* runs all that is enqueued */

/* ---- emulator.cpp: of the thread of a kernel that runs ---- */
unsigned thread_index(void);
char *thread_stack_end(void);
extern unsigned char *shared_seen; /* dynamic shared memory as products see it: emulated_shared, but for plain writes
                                      behind the last fence */
extern size_t shared_bytes;        /* of both */
void shared_settle(void);          /* the last one has come to a barrier */

/* ---- products.cpp, bulk.cpp: a block begins; a thread of it ends ---- */
void products_begin(unsigned n_threads);
void products_end(void);
void bulk_begin(void);
void bulk_end(void);

#ifdef __cplusplus
}
#endif
#endif
