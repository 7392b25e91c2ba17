// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include "base/arena.h"
#include "tests/emulator/cuda_runtime.h"

enum { THREADS_MAX = 1024, STACK = 128 << 10, SHARED = 227 << 10, COPIES = 2048, GROUPS = 64 };

struct copy {
    void *to;
    const void *from;
    size_t n;
};
struct fiber {
    jmp_buf place; // where it goes on; swapcontext would ask the kernel for signal masks each time
    unsigned id;
    bool begun, ended;
    const unsigned long *watched; // not NULL: it runs again when that number is no longer `seen`
    unsigned long seen;
    int n_copies, n_groups, ends[GROUPS]; // copies [0, ends[0]) are of the oldest open group
    struct copy copies[COPIES];
};
struct warp {
    char in[32][32], out[2][32][32];
    unsigned n;
    unsigned long turn;
};

struct named {
    unsigned n;
    unsigned long turn;
};

static struct named named[16];
static struct fiber *fibers;
static char *stacks;
static struct warp warps[THREADS_MAX / 32];
static jmp_buf home;
static struct fiber *now;
static unsigned n_threads, n_alive, n_waiting, dice = 1;
static unsigned long turn;
static void (*kernel)(void *);
static void *kernel_arg;
alignas(1024) static unsigned char shared_memory[SHARED];

unsigned char *emulated_shared = shared_memory;
emulated_dim3 emulated_threadIdx, emulated_blockIdx, emulated_blockDim, emulated_gridDim;

static void give_way() {
    if (!_setjmp(now->place)) _longjmp(home, 1);
}
static void give_way_for(const unsigned long *number) {
    now->watched = number;
    now->seen = *number;
    give_way();
    now->watched = NULL;
}

static void enter() {
    kernel(kernel_arg);
    now->ended = true;
    n_alive--;
    if (n_alive > 0 && n_waiting == n_alive) n_waiting = 0, turn++;
    give_way();
}

void emulated_pause(const void *number) { give_way_for((const unsigned long *)number); }
int emulated_lane(void) { return (int)(now->id % 32); }

void emulated_barrier(void) {
    const unsigned long mine = turn;
    if (++n_waiting == n_alive) {
        n_waiting = 0;
        turn++;
        return;
    }
    while (turn == mine) give_way_for(&turn);
}

void emulated_arrive(int id, unsigned n) {
    struct named *b = &named[id];
    if (++b->n < n) return;
    b->n = 0;
    b->turn++;
}

void emulated_barrier_of(int id, unsigned n) {
    struct named *b = &named[id];
    const unsigned long mine = b->turn;
    emulated_arrive(id, n);
    while (b->turn == mine) give_way_for(&b->turn);
}

const char (*emulated_exchange(const void *mine, size_t n))[32] {
    struct warp *w = &warps[now->id / 32];
    const unsigned first = now->id / 32 * 32, size = n_threads - first < 32 ? n_threads - first : 32;
    const unsigned long t = w->turn;
    ASSERT(n <= sizeof w->in[0]);
    memcpy(w->in[now->id % 32], mine, n);
    if (++w->n == size) {
        w->n = 0;
        memcpy(w->out[t % 2], w->in, sizeof w->in);
        w->turn++;
    } else
        while (w->turn == t) give_way_for(&w->turn);
    return w->out[t % 2];
}

void emulated_copy(void *to, const void *from, size_t n) {
    ASSERT((uintptr_t)to % n == 0 && (uintptr_t)from % n == 0 && now->n_copies < COPIES);
    now->copies[now->n_copies++] = {to, from, n};
    memset(to, 0xff, n);
}

void emulated_commit(void) {
    ASSERT(now->n_groups < GROUPS);
    now->ends[now->n_groups++] = now->n_copies;
}

void emulated_wait(int n_open) {
    const int done = now->n_groups > n_open ? now->n_groups - n_open : 0, n = done > 0 ? now->ends[done - 1] : 0;
    for (int i = 0; i < n; i++) memcpy(now->copies[i].to, now->copies[i].from, now->copies[i].n);
    now->n_copies -= n;
    now->n_groups -= done;
    memmove(now->copies, now->copies + n, (size_t)now->n_copies * sizeof *now->copies);
    for (int i = 0; i < now->n_groups; i++) now->ends[i] = now->ends[i + done] - n;
}

void emulated_stop(const char *why) {
    fprintf(stderr, "%s\n", why);
    abort();
}

// ---- memory of the device ----

enum { REGIONS = 4096 };
struct region {
    char *base;
    size_t bytes; // whole pages
};
static struct region regions[REGIONS];
static int n_regions;
static size_t n_taken;
static pthread_mutex_t device_lock = PTHREAD_MUTEX_INITIALIZER; // one kernel or copy at a time, of all threads

static void open_all(int protection) {
    for (int i = 0; i < n_regions; i++)
        if (regions[i].base) mprotect(regions[i].base, regions[i].bytes, protection);
}

void emulated_enter(void) {
    pthread_mutex_lock(&device_lock);
    open_all(PROT_READ | PROT_WRITE);
}

void emulated_leave(void) {
    open_all(PROT_NONE);
    pthread_mutex_unlock(&device_lock);
}

static size_t device_bytes() {
    const char *gib = getenv("EMULATED_GIB");
    return (size_t)((gib ? atof(gib) : 8.0) * (1 << 30));
}

static cudaError_t take_region(void **out, size_t bytes) {
    int i = 0;
    bytes = (bytes + 4095) / 4096 * 4096;
    while (i < n_regions && regions[i].base) i++;
    if (i == REGIONS || n_taken + bytes > device_bytes()) return cudaErrorMemoryAllocation;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return cudaErrorMemoryAllocation;
    memset(base, 0xff, bytes < (1 << 20) ? bytes : 1 << 20); // what is read before it is written is NaN
    mprotect(base, bytes, PROT_NONE);
    regions[i] = {(char *)base, bytes};
    if (i == n_regions) n_regions++;
    n_taken += bytes;
    *out = base;
    return cudaSuccess;
}

static void drop_region(void *p) {
    for (int i = 0; i < n_regions; i++) {
        if (regions[i].base != p) continue;
        munmap(p, regions[i].bytes);
        n_taken -= regions[i].bytes;
        regions[i] = {NULL, 0};
        return;
    }
    ASSERT(!"memory that is not the device's was given back to it");
}

// ---- threads ----

static void *take_pages(size_t bytes) { // not counted: a GPU has its threads
    void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT(mem != MAP_FAILED);
    return mem;
}

static void start_threads() {
    n_waiting = 0;
    n_alive = n_threads;
    memset(warps, 0, sizeof warps);
    memset(shared_memory, 0xff, sizeof shared_memory);
    for (unsigned i = 0; i < n_threads; i++) {
        struct fiber *f = &fibers[i];
        f->id = i;
        f->begun = f->ended = false;
        f->watched = NULL;
        f->n_copies = f->n_groups = 0;
    }
}

static void begin(struct fiber *f) {
    ucontext_t context;
    f->begun = true;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks + (size_t)f->id * STACK;
    context.uc_stack.ss_size = STACK;
    context.uc_link = NULL;
    makecontext(&context, enter, 0);
    setcontext(&context);
}

static bool run_thread(struct fiber *f) {
    const unsigned x = emulated_blockDim.x, y = emulated_blockDim.y;
    if (f->ended || (f->watched && *f->watched == f->seen)) return false;
    now = f;
    emulated_threadIdx = {f->id % x, f->id / x % y, f->id / x / y};
    if (_setjmp(home)) return true;
    if (f->begun) _longjmp(f->place, 1);
    begin(f);
    return true;
}

// An odd step through a number of threads that is a power of two, or none that they share, comes to each of them once.
static void run_round() {
    dice = dice * 1664525u + 1013904223u;
    const bool power = (n_threads & (n_threads - 1)) == 0;
    const unsigned first = (dice >> 8) % n_threads, step = power ? dice >> 20 | 1u : 1u;
    unsigned ran = 0;
    for (unsigned k = 0; k < n_threads; k++) ran += run_thread(&fibers[(first + k * step) % n_threads]);
    if (ran == 0) emulated_stop("a deadlock: every thread of a block waits for another");
}

static void run_block() {
    for (start_threads(); n_alive > 0;) run_round();
}

void emulate(emulated_dim3 grid, emulated_dim3 block, void (*f)(void *), void *arg) {
    emulated_enter();
    if (!fibers) {
        fibers = (struct fiber *)take_pages(THREADS_MAX * sizeof *fibers);
        stacks = (char *)take_pages((size_t)THREADS_MAX * STACK);
    }
    kernel = f;
    kernel_arg = arg;
    emulated_gridDim = grid;
    emulated_blockDim = block;
    n_threads = block.x * block.y * block.z;
    ASSERT(n_threads > 0 && n_threads <= THREADS_MAX);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                emulated_blockIdx = {x, y, z};
                run_block();
            }
    emulated_leave();
}

// ---- the runtime ----

const char *cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : "an error"; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *n) { return *n = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaMalloc(void **out, size_t bytes) {
    pthread_mutex_lock(&device_lock);
    const cudaError_t e = take_region(out, bytes);
    pthread_mutex_unlock(&device_lock);
    return e;
}
cudaError_t cudaFree(void *p) {
    pthread_mutex_lock(&device_lock);
    if (p) drop_region(p);
    pthread_mutex_unlock(&device_lock);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, int) {
    emulated_enter();
    memmove(to, from, bytes);
    emulated_leave();
    return cudaSuccess;
}
// ---- copies out of the host's pinned memory: a GPU reads it some time before a wait behind the copy, and until then
// it must not change ----

enum { SENDS = 4096, PINNED = 256 };
struct send {
    const void *from;
    void *was; // what it held
    size_t n;
    cudaStream_t stream;
    unsigned long number;
};
struct event {
    double ms;
    cudaStream_t stream;
    unsigned long number; // of the last copy before it
};
static struct send sends[SENDS];
static int n_sends;
static unsigned long n_numbers;
static struct region pinned[PINNED];

static bool is_pinned(const void *p) {
    for (int i = 0; i < PINNED; i++)
        if (pinned[i].base && (const char *)p >= pinned[i].base && (const char *)p < pinned[i].base + pinned[i].bytes)
            return true;
    return false;
}

static void note_send(const void *from, size_t n, cudaStream_t stream) {
    if (!is_pinned(from) || n == 0) return;
    ASSERT(n_sends < SENDS);
    struct send *s = &sends[n_sends++];
    *s = {from, mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), n, stream, ++n_numbers};
    ASSERT(s->was != MAP_FAILED);
    memcpy(s->was, from, n);
}

// The host has waited for copies of the stream up to this number.
static void settle_sends(cudaStream_t stream, unsigned long number) {
    pthread_mutex_lock(&device_lock);
    for (int i = n_sends - 1; i >= 0; i--) {
        struct send *s = &sends[i];
        if (s->stream != stream || s->number > number) continue;
        if (memcmp(s->from, s->was, s->n) != 0)
            status_assert("memory of the host stays as it is until a copy out of it has been waited for", __FILE__,
                          __LINE__);
        munmap(s->was, s->n);
        *s = sends[--n_sends];
    }
    pthread_mutex_unlock(&device_lock);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, cudaStream_t stream) {
    cudaMemcpy(to, from, bytes, kind);
    pthread_mutex_lock(&device_lock);
    note_send(from, bytes, stream);
    pthread_mutex_unlock(&device_lock);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *p, int byte, size_t bytes) {
    emulated_enter();
    memset(p, byte, bytes);
    emulated_leave();
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    return mem_take(1, stream) == OK ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return settle_sends(stream, ~0ul), cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    settle_sends(stream, ~0ul);
    mem_free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char *out, int room, int) {
    snprintf(out, (size_t)room, "emulated");
    return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) { return *can = 0, cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return mem_take(sizeof(struct event), event) == OK ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    pthread_mutex_lock(&device_lock);
    *(struct event *)event = {1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec, stream, n_numbers};
    pthread_mutex_unlock(&device_lock);
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const struct event *e = (const struct event *)event;
    return settle_sends(e->stream, e->number), cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
    return *ms = (float)(((struct event *)end)->ms - ((struct event *)begin)->ms), cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return mem_free(event), cudaSuccess; }

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    int i = 0;
    if (mem_take((int64_t)bytes, out) != OK) return cudaErrorMemoryAllocation;
    pthread_mutex_lock(&device_lock);
    while (i < PINNED && pinned[i].base) i++;
    ASSERT(i < PINNED);
    pinned[i] = {(char *)*out, bytes};
    pthread_mutex_unlock(&device_lock);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) {
    pthread_mutex_lock(&device_lock);
    for (int i = 0; i < PINNED; i++)
        if (pinned[i].base == p) pinned[i] = {NULL, 0};
    pthread_mutex_unlock(&device_lock);
    return mem_free(p), cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) {
    *total = device_bytes() + (64 << 20); // a context takes some of it
    *unused = device_bytes() - n_taken;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int *value, int, int) { return *value = 9, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int) {
    snprintf(p->name, sizeof p->name, "emulated GPU");
    p->totalGlobalMem = device_bytes();
    return cudaSuccess;
}
