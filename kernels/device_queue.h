/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_DEVICE_QUEUE_H
#define BATON_KERNELS_DEVICE_QUEUE_H
/* device_queue.h - copies and marks on a device's compute stream, memory of the host that they use, and what the device
 * is; for space.c and launch/. */
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status device_send(struct device *d, void *to, const void *from, int64_t bytes); /* enqueued */
enum status device_mark(struct device *d);
enum status device_reach(struct device *d);  /* waits for the mark */
enum status device_settle(struct device *d); /* waits for the stream */
/* Pinned memory of the host. */
enum status device_pinned_take(int64_t bytes, void **out);
void device_pinned_free(void *p); /* accepts NULL */
/* The same, that copies alone touch, of many GiB. */
enum status device_store_take(int64_t bytes, void **out);
void device_store_free(void *p, int64_t bytes); /* accepts NULL */

/* OK: there is a GPU that this program can use.  ERR_CUDA: no GPU, a driver too old (which, and which is wanted), or a
 * GPU that the kernels were not compiled for; says to run with --device cpu. */
enum status device_usable(void);
bool device_compiled(void); /* this program has kernels, wherever the GPUs are */
/* What a GPU is; asking takes none of its memory, as a context would. */
struct device_facts {
    char name[96];
    int64_t bytes;
};
enum status device_facts(int index, struct device_facts *out);
/* Its name on the PCI bus, by which other libraries know it. */
#define DEVICE_BUS 32
enum status device_bus(const struct device *d, char out[DEVICE_BUS]);
/* Bytes of an open one that are free now, and in all. */
enum status device_memory(const struct device *d, int64_t *unused, int64_t *all);

/* A stretch of the stream, timed by events: begin, end, and after device_settle the milliseconds between. */
struct device_timer {
    void *begin, *end;
};
enum status device_timer_init(struct device_timer *t);
void device_timer_term(struct device_timer *t); /* accepts the empty one */
enum status device_timer_begin(struct device *d, struct device_timer *t);
enum status device_timer_end(struct device *d, struct device_timer *t);
enum status device_timer_read(struct device_timer *t, double *ms); /* waits for its end */

#ifdef __cplusplus
}
#endif
#endif
