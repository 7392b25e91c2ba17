/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_POOL_H
#define BATON_BASE_POOL_H
/* pool.h - host threads for the CPU path.  Work is cut into items by its size alone, never by the number of threads,
 * and every item writes its own outputs: so results do not depend on the number of cores. */
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pool; /* NULL is a pool of one: everything runs in the caller */

/* n_threads counts the caller, which works too. */
enum status pool_init(struct pool **out, int n_threads);
void pool_term(struct pool *p);
int pool_size(const struct pool *p);
/* Cores this process may use (affinity mask and cgroup quota). */
int pool_cores(void);
/* fn(arg, item, worker) for every item in [0, n_items), any order, worker in [0, pool_size).  Returns when all ended.
 * One caller at a time; items are handed out one by one, so make an item worth 10 us or more. */
void pool_run(struct pool *p, int64_t n_items, void (*fn)(void *arg, int64_t item, int worker), void *arg);

#ifdef __cplusplus
}
#endif
#endif
