/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_ARENA_H
#define BATON_BASE_ARENA_H
/* arena.h - all host memory comes from here: the only file that calls malloc.
 *
 * Arenas serve what is planned: sized once, handed out in order, released back to a mark, sealed after start-up.
 * mem_* serves what cannot be planned: parsers, names, lists at start-up.  Both count, and both can be told to fail
 * at the k-th call from now, so that tests walk every failure path. */
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ARENA_ALIGN 256 /* bytes: a cache-line multiple that also suits device copies */

struct arena {
    const char *name;
    char *base;
    int64_t size, used, high; /* bytes; high: the most that was ever in use       */
    bool sealed;              /* no permanent take any more: only between marks   */
    int open_marks;
};

enum status arena_init(struct arena *a, const char *name, int64_t bytes);
void arena_term(struct arena *a); /* accepts the empty arena */
/* Addresses alone, of any size, for plans: no memory is behind them, and a touch ends the process. */
enum status arena_reserve(struct arena *a, const char *name, int64_t bytes);
void arena_unreserve(struct arena *a); /* accepts the empty arena */
/* bytes rounded up to ARENA_ALIGN; content is NaN-filled in debug use, undefined otherwise.
 * ERR_OOM: the plan was too small; the text says by how much. */
enum status arena_take(struct arena *a, int64_t bytes, void **out);
int64_t arena_mark(struct arena *a);
void arena_release(struct arena *a, int64_t mark);
void arena_seal(struct arena *a);
int64_t arena_round(int64_t bytes);

/* Zeroed memory.  mem_grow keeps the first old_bytes and zeroes the rest; *p may be NULL. */
enum status mem_take(int64_t bytes, void **out);
enum status mem_grow(void **p, int64_t old_bytes, int64_t new_bytes);
/* Zeroed memory by large pages where the system has them, none of which is there before it is touched. */
enum status mem_pages_take(int64_t bytes, void **out);
void mem_pages_free(void *p, int64_t bytes); /* accepts NULL */
enum status mem_copy_text(const char *text, char **out);
void mem_free(void *p);

struct mem_stats {
    int64_t n_calls; /* allocations this thread made so far, arenas included */
};
struct mem_stats mem_stats(void);
/* Test hook: the k-th allocation from now fails once (k >= 1); 0 turns it off. */
void mem_fail_at(int64_t k);
/* For allocators of other memory (a GPU's): counts a call; true: it is the one that must fail. */
bool mem_call(void);

#ifdef __cplusplus
}
#endif
#endif
