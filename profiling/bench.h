/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PROFILING_BENCH_H
#define BATON_PROFILING_BENCH_H
/* bench.h - timing of one thing against a yardstick.  The two take turns, so that other load on the machine hurts both
 * alike.  Load only ever adds time, so shares compare the best calls of both, out of many; the medians are what a user
 * sees. */
#include <stdint.h>
#include "base/pool.h"

#ifdef __cplusplus
extern "C" {
#endif

struct bench_subject {
    enum status (*begin)(void *arg);   /* before a turn of calls, not timed; NULL: nothing */
    enum status (*prepare)(void *arg); /* before every timed call, not timed; NULL: nothing */
    enum status (*run)(void *arg);
    void *arg;
};
struct bench_result {
    int n_calls;  /* that were timed */
    double run_s; /* median */
    double run_best_s, yardstick_best_s;
};
/* At least 7 turns each and until a second has passed, after one call each that is not counted.  A turn is up to 10
 * calls in a row, as many as begin within 50 ms. */
enum status bench_compare(const struct bench_subject *s, const struct bench_subject *yardstick,
                          struct bench_result *out);

/* The copy yardstick: memcpy over the pool between two buffers larger than caches.  Every byte counts twice. */
struct bench_copy {
    struct pool *pool;
    char *from, *to;
    int64_t bytes;
};
enum status bench_copy_init(struct bench_copy *k, struct pool *pool);
void bench_copy_term(struct bench_copy *k);
enum status bench_copy_run(void *copy); /* struct bench_copy */

#ifdef __cplusplus
}
#endif
#endif
