// SPDX-License-Identifier: Apache-2.0
// A kernel's blocks, one after another, and their threads in turns.
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include "base/status.h"
#include "tests/emulator/inside.h"

enum { THREADS_MAX = EMULATED_THREADS, STACK = 128 << 10, SHARED = 227 << 10, COPIES = 2048, GROUPS = 64 };

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
    int n_unfenced; // what has arrived since this thread's last shared_fence
    struct copy unfenced[COPIES];
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
static const char *kernel_name;
static void (*kernel)(void *);
static void *kernel_arg;
static bool fenced; // somebody fenced plain writes, and nobody has come out of a barrier behind that
alignas(1024) static unsigned char shared_memory[SHARED], seen_memory[SHARED];

unsigned char *emulated_shared = shared_memory, *shared_seen = seen_memory;
size_t shared_bytes;
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
    products_end();
    bulk_end();
    now->ended = true;
    n_alive--;
    if (n_alive > 0 && n_waiting == n_alive) n_waiting = 0, turn++;
    give_way();
}

void emulated_pause(const void *number) { give_way_for((const unsigned long *)number); }
int emulated_lane(void) { return (int)(now->id % 32); }
unsigned thread_index(void) { return now->id; }
char *thread_stack_end(void) { return stacks + (size_t)(now->id + 1) * STACK; }

void emulated_shared_fence(void) {
    fenced = true;
    now->n_unfenced = 0;
}

// Unless somebody has written there since, it is not what products see.
static void unsee(const struct copy *c) {
    const size_t at = (size_t)((unsigned char *)c->to - shared_memory);
    if (at >= shared_bytes || memcmp(c->to, c->from, c->n) != 0) return;
    for (size_t i = 0; i < c->n; i++) seen_memory[at + i] = (unsigned char)~shared_memory[at + i];
}

// The last one has come to a barrier: what was written before a fence before it is there for products.  Of copies it
// is known whose fence that must be; of plain stores it is not: where some threads that write fence and others do not,
// nothing shows.
void shared_settle(void) {
    if (!fenced) return;
    fenced = false;
    memcpy(seen_memory, shared_memory, shared_bytes);
    for (unsigned i = 0; i < n_threads; i++)
        for (int k = 0; k < fibers[i].n_unfenced; k++) unsee(&fibers[i].unfenced[k]);
}

void emulated_barrier(void) {
    const unsigned long mine = turn;
    if (++n_waiting == n_alive) {
        n_waiting = 0;
        turn++;
        shared_settle();
        return;
    }
    while (turn == mine) give_way_for(&turn);
}

void emulated_arrive(int id, unsigned n) {
    struct named *b = &named[id];
    if (++b->n < n) return;
    b->n = 0;
    b->turn++;
    shared_settle();
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
    if (now->n_unfenced + n > COPIES) now->n_unfenced = 0; // a kernel without such fences
    memcpy(now->unfenced + now->n_unfenced, now->copies, (size_t)n * sizeof *now->copies);
    now->n_unfenced += n;
    now->n_copies -= n;
    now->n_groups -= done;
    memmove(now->copies, now->copies + n, (size_t)now->n_copies * sizeof *now->copies);
    for (int i = 0; i < now->n_groups; i++) now->ends[i] = now->ends[i + done] - n;
}

void emulated_stop(const char *why) {
    fprintf(stderr, "%s: %s (block %u %u %u, thread %u)\n", kernel_name, why, emulated_blockIdx.x, emulated_blockIdx.y,
            emulated_blockIdx.z, now ? now->id : 0);
    abort();
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
    memset(named, 0, sizeof named);
    memset(shared_memory, 0xff, shared_bytes);
    memset(seen_memory, 0xff, shared_bytes);
    fenced = false;
    products_begin(n_threads);
    bulk_begin();
    for (unsigned i = 0; i < n_threads; i++) {
        struct fiber *f = &fibers[i];
        f->id = i;
        f->begun = f->ended = false;
        f->watched = NULL;
        f->n_copies = f->n_groups = f->n_unfenced = 0;
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

void emulate(const struct emulated_kernel *k, void (*f)(void *), void *arg) {
    const emulated_dim3 grid = k->grid;
    if (!fibers) {
        fibers = (struct fiber *)take_pages(THREADS_MAX * sizeof *fibers);
        stacks = (char *)take_pages((size_t)THREADS_MAX * STACK);
        dice = device_dice();
    }
    kernel = f;
    kernel_arg = arg;
    kernel_name = k->name;
    emulated_gridDim = grid;
    emulated_blockDim = k->block;
    n_threads = k->block.x * k->block.y * k->block.z;
    shared_bytes = k->shared;
    ASSERT(n_threads > 0 && n_threads <= THREADS_MAX && shared_bytes <= SHARED);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                emulated_blockIdx = {x, y, z};
                run_block();
            }
}
