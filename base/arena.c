/* SPDX-License-Identifier: Apache-2.0 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "base/arena.h"
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static _Thread_local int64_t n_calls;
static _Atomic int64_t fail_in;

bool mem_call(void) {
    n_calls++;
    return atomic_load(&fail_in) > 0 && atomic_fetch_sub(&fail_in, 1) == 1;
}

void mem_fail_at(int64_t k) { atomic_store(&fail_in, k); }
struct mem_stats mem_stats(void) {
    return (struct mem_stats){.n_calls = n_calls};
}

int64_t arena_round(int64_t bytes) { return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN; }

enum status arena_init(struct arena *a, const char *name, int64_t bytes) {
    *a = (struct arena){.name = name, .size = arena_round(bytes)};
    if (a->size == 0) return OK;
    if (!mem_call()) a->base = aligned_alloc(ARENA_ALIGN, (size_t)a->size);
    FAIL_UNLESS(a->base, ERR_OOM, "cannot allocate %" PRId64 " bytes for %s: this machine has less memory free",
                a->size, name);
    return OK;
}

void arena_term(struct arena *a) {
    free(a->base);
    *a = (struct arena){0};
}

enum status arena_reserve(struct arena *a, const char *name, int64_t bytes) {
    *a = (struct arena){.name = name, .size = arena_round(bytes)};
    if (a->size == 0) return OK;
    void *p = mem_call() ? MAP_FAILED
                         : mmap(NULL, (size_t)a->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    FAIL_UNLESS(p != MAP_FAILED, ERR_OOM,
                "cannot reserve addresses of %" PRId64 " bytes for %s: raise the limit on address space (ulimit -v)",
                a->size, name);
    a->base = p;
    return OK;
}

void arena_unreserve(struct arena *a) {
    if (a->base) munmap(a->base, (size_t)a->size);
    *a = (struct arena){0};
}

enum status mem_pages_take(int64_t bytes, void **out) {
    void *p =
        mem_call() ? MAP_FAILED : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *out = NULL;
    FAIL_UNLESS(p != MAP_FAILED, ERR_OOM, "cannot map %" PRId64 " bytes: this machine has less memory free", bytes);
#ifdef MADV_HUGEPAGE
    (void)madvise(p, (size_t)bytes, MADV_HUGEPAGE); /* without them it is slower to touch, no more */
#endif
    *out = p;
    return OK;
}

void mem_pages_free(void *p, int64_t bytes) {
    if (p) munmap(p, (size_t)bytes);
}

enum status arena_take(struct arena *a, int64_t bytes, void **out) {
    ASSERT(bytes >= 0);
    ASSERT(!a->sealed || a->open_marks > 0);
    bytes = arena_round(bytes);
    FAIL_UNLESS(bytes <= a->size - a->used, ERR_OOM,
                "%s: %" PRId64 " bytes asked for, %" PRId64 " of %" PRId64 " planned bytes left: a plan() is too small",
                a->name, bytes, a->size - a->used, a->size);
    *out = a->base + a->used;
    a->used += bytes;
    if (a->used > a->high) a->high = a->used;
    return OK;
}

int64_t arena_mark(struct arena *a) {
    a->open_marks++;
    return a->used;
}

void arena_release(struct arena *a, int64_t mark) {
    ASSERT(a->open_marks > 0 && mark <= a->used);
    a->open_marks--;
    a->used = mark;
}

void arena_seal(struct arena *a) { a->sealed = true; }

enum status mem_take(int64_t bytes, void **out) {
    *out = NULL;
    ASSERT(bytes >= 0);
    void *p = mem_call() ? NULL : calloc(1, bytes ? (size_t)bytes : 1);
    FAIL_UNLESS(p, ERR_OOM, "cannot allocate %" PRId64 " bytes: this machine has less memory free", bytes);
    *out = p;
    return OK;
}

enum status mem_grow(void **p, int64_t old_bytes, int64_t new_bytes) {
    ASSERT(old_bytes >= 0 && new_bytes >= old_bytes);
    void *q = mem_call() ? NULL : realloc(*p, new_bytes ? (size_t)new_bytes : 1);
    FAIL_UNLESS(q, ERR_OOM, "cannot grow a buffer to %" PRId64 " bytes: this machine has less memory free", new_bytes);
    memset((char *)q + old_bytes, 0, (size_t)(new_bytes - old_bytes));
    *p = q;
    return OK;
}

enum status mem_copy_text(const char *text, char **out) {
    const size_t n = strlen(text) + 1;
    void *p = NULL;
    *out = NULL;
    TRY(mem_take((int64_t)n, &p));
    memcpy(p, text, n);
    *out = p;
    return OK;
}

void mem_free(void *p) { free(p); }
