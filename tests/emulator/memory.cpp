// SPDX-License-Identifier: Apache-2.0
// Memory of the device, closed to the host but while kernels and copies run, and pinned memory of the host.
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "base/arena.h"
#include "tests/emulator/inside.h"

enum { REGIONS = 4096, PINNED = 256, SENDS = 4096, PAGE = 4096 };
struct region {
    char *base;
    size_t bytes;     // of the device: whole pieces of 16
    bool from_copies; // pinned, and written by copies alone
};
static struct region regions[REGIONS], pinned[PINNED];
static int n_regions;
static size_t n_taken;

// Memory of the device ends where a page does, before one that is never open: who reads behind its end ends there.
static size_t pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }
static char *first_page(const struct region *r) { return r->base + r->bytes - pages(r->bytes); }
static void protect_all(int protection) {
    for (int i = 0; i < n_regions; i++)
        if (regions[i].base) mprotect(first_page(&regions[i]), pages(regions[i].bytes), protection);
}
void memory_open(void) { protect_all(PROT_READ | PROT_WRITE); }
void memory_close(void) { protect_all(PROT_NONE); }

static const struct region *find(const struct region *r, int n, const void *p) {
    for (int i = 0; i < n; i++)
        if (r[i].base && (const char *)p >= r[i].base && (const char *)p < r[i].base + r[i].bytes) return &r[i];
    return NULL;
}
bool memory_of_device(const void *p) { return find(regions, n_regions, p) != NULL; }
bool memory_pinned(const void *p) { return find(pinned, PINNED, p) != NULL; }

static size_t device_bytes() {
    const char *gib = getenv("EMULATED_GIB");
    return (size_t)((gib ? atof(gib) : 8.0) * (1 << 30));
}

static cudaError_t take_region(void **out, size_t bytes) {
    int i = 0;
    bytes = (bytes + 15) / 16 * 16;
    const size_t taken = pages(bytes);
    while (i < n_regions && regions[i].base) i++;
    if (bytes == 0 || i == REGIONS || n_taken + taken > device_bytes()) return cudaErrorMemoryAllocation;
    void *first = mmap(NULL, taken + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (first == MAP_FAILED) return cudaErrorMemoryAllocation;
    if (mprotect(first, taken, PROT_READ | PROT_WRITE) != 0) {
        munmap(first, taken + PAGE);
        return cudaErrorMemoryAllocation;
    }
    memset(first, 0xff, taken < (1 << 20) ? taken : 1 << 20); // what is read before it is written is NaN
    mprotect(first, taken, PROT_NONE);
    regions[i] = {(char *)first + taken - bytes, bytes, false};
    if (i == n_regions) n_regions++;
    n_taken += taken;
    *out = regions[i].base;
    return cudaSuccess;
}

static void drop_region(void *p) {
    for (int i = 0; i < n_regions; i++) {
        if (regions[i].base != p) continue;
        n_taken -= pages(regions[i].bytes);
        munmap(first_page(&regions[i]), pages(regions[i].bytes) + PAGE);
        regions[i] = {NULL, 0, false};
        return;
    }
    ASSERT(!"memory that is not the device's was given back to it");
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    device_lock();
    const cudaError_t e = take_region(out, bytes);
    device_unlock();
    return e;
}
cudaError_t cudaFree(void *p) {
    device_lock();
    streams_finish();
    if (p) drop_region(p);
    device_unlock();
    return cudaSuccess;
}
static void pin(void *p, size_t bytes, bool from_copies) {
    int i = 0;
    device_lock();
    while (i < PINNED && pinned[i].base) i++;
    ASSERT(i < PINNED);
    pinned[i] = {(char *)p, bytes, from_copies};
    device_unlock();
}
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned) { return pin(p, bytes, true), cudaSuccess; }
cudaError_t cudaHostUnregister(void *p) {
    device_lock();
    streams_finish();
    for (int i = 0; i < PINNED; i++)
        if (pinned[i].base == p) pinned[i] = {NULL, 0, false};
    device_unlock();
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **out, size_t bytes) {
    if (mem_take((int64_t)bytes, out) != OK) return cudaErrorMemoryAllocation;
    return pin(*out, bytes, false), cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) {
    (void)cudaHostUnregister(p);
    return mem_free(p), cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) {
    *total = device_bytes() + (64 << 20); // a context takes some of it
    *unused = device_bytes() - n_taken;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int) {
    snprintf(p->name, sizeof p->name, "emulated GPU");
    p->totalGlobalMem = device_bytes();
    return cudaSuccess;
}

// ---- copies out of pinned memory: a GPU reads it some time before a wait behind the copy, and until then it must not
// change ----

struct send {
    const void *from;
    void *was; // what it held
    size_t n;
    cudaStream_t stream;
    unsigned long number;
};
static struct send sends[SENDS];
static int n_sends;
static unsigned long n_numbers;

unsigned long sends_number(void) { return n_numbers; }

static void check_send(const struct send *s) {
    if (memcmp(s->from, s->was, s->n) != 0)
        status_assert("memory of the host stays as it is until a copy out of it has been waited for", __FILE__,
                      __LINE__);
}
void sends_check(unsigned long number) {
    for (int i = 0; i < n_sends; i++)
        if (sends[i].number == number) check_send(&sends[i]);
}

unsigned long sends_note(const void *from, size_t n, cudaStream_t stream) {
    if (find(pinned, PINNED, from)->from_copies) return 0; // streams put in order who writes it
    ASSERT(n_sends < SENDS);
    struct send *s = &sends[n_sends++];
    *s = {from, mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), n, stream, ++n_numbers};
    ASSERT(s->was != MAP_FAILED);
    memcpy(s->was, from, n);
    return s->number;
}

void sends_settle(cudaStream_t stream, unsigned long number) {
    for (int i = n_sends - 1; i >= 0; i--) {
        struct send *s = &sends[i];
        if (s->stream != stream || s->number > number) continue;
        check_send(s);
        munmap(s->was, s->n);
        *s = sends[--n_sends];
    }
}
