/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_DEVICE_H
#define BATON_KERNELS_DEVICE_H
/* device.h - memory of the GPU, for code that is not itself CUDA.  Everything here waits for the device; nothing here
 * belongs into a training step. */
#include "base/arena.h"

#ifdef __cplusplus
extern "C" {
#endif

/* GPUs that this program can use; 0 where it was built without CUDA. */
int device_count(void);
/* ERR_OOM: the device has less memory free; ERR_CUDA: there is no device. */
enum status device_take(int64_t bytes, void **out);
void device_free(void *p); /* accepts NULL */
/* Between any two memories, host or device. */
enum status device_copy(void *to, const void *from, int64_t bytes);
enum status device_fill(void *p, int byte, int64_t bytes);
/* Waits for all work; the failure of a kernel shows here. */
enum status device_wait(void);
/* One rank's GPU: its compute stream and the handles of the libraries that ops call.  Opened by the thread that
 * computes; ranks of one process may open the same GPU, each for itself. */
struct device;
enum status device_open(struct device **out, int index);
void device_close(struct device *d); /* accepts NULL; waits for what is enqueued */
void *device_stream(struct device *d);
int device_index(const struct device *d);
/* An arena whose memory lies on the device. */
enum status device_arena_init(struct arena *a, const char *name, int64_t bytes);
void device_arena_term(struct arena *a); /* accepts the empty arena */

#ifdef __cplusplus
}
#endif
#endif
