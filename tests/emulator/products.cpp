// SPDX-License-Identifier: Apache-2.0
// Products of kernels/wgmma.cuh, under way from their begin to the wait for their batch, as wgmma.h says: sums are in
// a hidden place meanwhile, operands are read at the wait, and whatever is touched too early ends the program.
#include <sys/mman.h>
#include "base/status.h"
#include "tests/emulator/inside.h"

enum { PRODUCTS = 64, BATCHES = 16, SUMS = 16, N_MOST = 256, PIECES = 1 + N_MOST / 64, STACK_MOST = 128 << 10 };
typedef float v4 __attribute__((vector_size(16)));

// 16 bytes of an operand, which this thread watches for its group.
struct piece {
    const void *at;
    uint64_t was[2];
};
struct product {
    struct emulated_product p;
    struct sums *sums;
    v4 left[16];     // A in registers: a term of the two rows, each twice
    uint32_t own[4]; // and this thread's part of them
    int n_pieces;
    struct piece pieces[PIECES];
};
struct sums {
    float *d; // NULL: unused
    int n, under_way;
    float sum[N_MOST / 2];
};
struct thread {
    int n_products, n_batches, ends[BATCHES]; // products [0, ends[0]) are of the oldest open batch
    bool fenced;                              // since it took sums
    char *fence_at;                           // the stack at the last fence, and what lay there
    struct sums sums[SUMS];
    struct product products[PRODUCTS];
    char stack[STACK_MOST];
};
static struct thread *threads;
static unsigned n_used; // threads that may hold something

static struct thread *own() {
    if (!threads) {
        const size_t bytes = EMULATED_THREADS * sizeof *threads;
        void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        ASSERT(mem != MAP_FAILED);
        threads = (struct thread *)mem;
    }
    if (thread_index() >= n_used) n_used = thread_index() + 1;
    return &threads[thread_index()];
}

void products_begin(unsigned) {
    for (unsigned i = 0; i < n_used; i++) {
        struct thread *t = &threads[i];
        t->n_products = t->n_batches = 0;
        t->fenced = false;
        for (int k = 0; k < SUMS; k++) t->sums[k].d = NULL;
    }
    n_used = 0;
}
void products_end(void) {
    if (thread_index() < n_used && own()->n_products > 0)
        emulated_stop("a thread ends while its products are under way");
}

// ---- operands ----

static const char *panel(const void *at, int row, int64_t bytes) {
    const uintptr_t x = (uintptr_t)at + (uintptr_t)(row * 128) + (uintptr_t)bytes;
    return (const char *)(x ^ (x >> 7 & 7) << 4);
}
static const char *column(const struct emulated_operand *x, int term, int i) {
    return panel(x->at, term, (int64_t)(i / 64) * x->lead * 2 + i % 64 * 2);
}
static float wide(uint32_t half) {
    const uint32_t u = half << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static uint32_t pair_at(const char *p) {
    uint32_t u;
    memcpy(&u, p, sizeof u);
    return u;
}
// The 16 terms of row (A) or column (B) i, and of i + 1 where they lie side by side; i is even.
static void terms_of(const struct emulated_operand *x, int i, int next, float a[16], float b[16]) {
    for (int k = 0; k < 16; k += x->cols ? 1 : 2) {
        const uint32_t u = pair_at(x->cols ? column(x, k, i & ~1) : panel(x->at, i, 2 * k));
        if (x->cols && next == 1) {
            a[k] = wide(u & 0xffff), b[k] = wide(u >> 16);
            continue;
        }
        const uint32_t v = pair_at(x->cols ? column(x, k, (i + next) & ~1) : panel(x->at, i + next, 2 * k));
        if (x->cols) {
            a[k] = wide(i & 1 ? u >> 16 : u & 0xffff), b[k] = wide(i & 1 ? v >> 16 : v & 0xffff);
            continue;
        }
        a[k] = wide(u & 0xffff), a[k + 1] = wide(u >> 16);
        b[k] = wide(v & 0xffff), b[k + 1] = wide(v >> 16);
    }
}

static void watch(struct product *x, const void *at) {
    struct piece *piece = &x->pieces[x->n_pieces++];
    const size_t offset = (size_t)((const unsigned char *)at - emulated_shared);
    ASSERT(offset < shared_bytes);
    piece->at = at;
    memcpy(piece->was, at, sizeof piece->was);
    if (memcmp(shared_seen + offset, at, sizeof piece->was) != 0)
        emulated_stop("a product reads shared memory that no shared_fence and barrier stand behind");
}
// `lines` rows of A or columns of B: this thread's pieces of them.
static void watch_operand(struct product *x, const struct emulated_operand *o, int lines) {
    for (int i = (int)thread_index() % 128; i < 2 * lines; i += 128)
        watch(x, o->cols ? column(o, i / (lines / 8), i % (lines / 8) * 8) : panel(o->at, i / 2, i % 2 * 16));
}

// ---- sums ----

// A NaN that arithmetic turns into another one.
static const uint32_t SIGNAL = 0xffbfffff;

static void hide(float *d, int n) {
    for (int i = 0; i < n / 2; i++) memcpy(d + i, &SIGNAL, sizeof SIGNAL);
}
static bool hidden(const float *d, int n) {
    const uint32_t *u = (const uint32_t *)d;
    uint32_t other = 0;
    for (int i = 0; i < n / 2; i++) other |= u[i] ^ SIGNAL;
    return other == 0;
}
static struct sums *find(struct thread *t, const float *d) {
    for (int i = 0; i < SUMS; i++)
        if (t->sums[i].d == d) return &t->sums[i];
    return NULL;
}

static bool written_since_fence(const struct thread *t, const void *p, size_t bytes) {
    const char *at = (const char *)p;
    ASSERT(at + bytes <= thread_stack_end());
    return at < t->fence_at || memcmp(t->stack + (at - t->fence_at), at, bytes) != 0;
}

static struct sums *sums_of(struct thread *t, const struct emulated_product *p) {
    struct sums *s = find(t, p->d);
    if (s && hidden(p->d, s->n)) {
        if (s->n != p->n) emulated_stop("products of two widths have the same sums");
        return s;
    }
    if (s && s->under_way) emulated_stop("sums are written while a product is under way");
    if (!t->fenced) emulated_stop("no wgmma_fence stands before a product");
    if (p->add && written_since_fence(t, p->d, (size_t)p->n * 2))
        emulated_stop("sums that a product adds to are written behind wgmma_fence");
    if (!s) s = find(t, NULL);
    ASSERT(s && p->n <= N_MOST);
    s->d = p->d;
    s->n = p->n;
    s->under_way = 0;
    memcpy(s->sum, p->d, (size_t)p->n * 2);
    hide(p->d, p->n);
    return s;
}

void emulated_product_begin(const struct emulated_product *p, const float (*left)[16]) {
    struct thread *t = own();
    ASSERT(t->n_products < PRODUCTS);
    struct product *x = &t->products[t->n_products++];
    x->p = *p;
    x->n_pieces = 0;
    if (p->registers) {
        if (!t->fence_at || written_since_fence(t, p->registers, sizeof x->own))
            emulated_stop("registers of A are written behind wgmma_fence");
        memcpy(x->own, p->registers, sizeof x->own);
        for (int k = 0; k < 16; k++) x->left[k] = v4{left[0][k], left[0][k], left[1][k], left[1][k]};
    } else watch_operand(x, &p->a, 64);
    watch_operand(x, &p->b, p->n);
    x->sums = sums_of(t, p);
    x->sums->under_way++;
}

static void multiply(struct product *x) {
    const struct emulated_product *p = &x->p;
    const int lane = emulated_lane();
    v4 *sum = (v4 *)x->sums->sum;
    if (!p->registers) {
        float up[16], down[16];
        terms_of(&p->a, (int)thread_index() % 128 / 32 * 16 + lane / 4, 8, up, down);
        for (int k = 0; k < 16; k++) x->left[k] = v4{up[k], up[k], down[k], down[k]};
    }
    for (int j = 0; j < p->n / 8; j++) {
        float a[16], b[16];
        v4 s = {};
        if (p->add) memcpy(&s, sum + j, sizeof s);
        terms_of(&p->b, 8 * j + lane % 4 * 2, 1, a, b);
        for (int k = 0; k < 16; k++) s += x->left[k] * v4{a[k], b[k], a[k], b[k]};
        memcpy(sum + j, &s, sizeof s);
    }
}

static void finish(struct product *x, const char *stack) {
    for (int i = 0; i < x->n_pieces; i++)
        if (memcmp(x->pieces[i].at, x->pieces[i].was, sizeof x->pieces[i].was) != 0)
            emulated_stop("shared memory changes while a product that reads it is under way");
    // Where the function that had them has returned, nobody can write them.
    if (x->p.registers && (const char *)x->p.registers >= stack && memcmp(x->p.registers, x->own, sizeof x->own) != 0)
        emulated_stop("registers of A change while a product that reads them is under way");
    if (!hidden(x->sums->d, x->sums->n)) emulated_stop("sums are written while a product is under way");
    multiply(x);
    x->sums->under_way--;
}

// ---- the words of wgmma.cuh ----

void emulated_products_fence(void) {
    struct thread *t = own();
    t->fenced = true;
    t->fence_at = (char *)__builtin_frame_address(0);
    ASSERT(thread_stack_end() - t->fence_at <= STACK_MOST);
    memcpy(t->stack, t->fence_at, (size_t)(thread_stack_end() - t->fence_at));
}

void emulated_products_commit(void) {
    struct thread *t = own();
    ASSERT(t->n_batches < BATCHES);
    t->ends[t->n_batches++] = t->n_products;
}

void emulated_products_wait(int n_open) {
    struct thread *t = own();
    const int done = t->n_batches > n_open ? t->n_batches - n_open : 0, n = done > 0 ? t->ends[done - 1] : 0;
    for (int i = 0; i < n; i++) finish(&t->products[i], (const char *)__builtin_frame_address(0));
    t->n_products -= n;
    t->n_batches -= done;
    memmove(t->products, t->products + n, (size_t)t->n_products * sizeof *t->products);
    for (int i = 0; i < t->n_batches; i++) t->ends[i] = t->ends[i + done] - n;
}

void emulated_products_settled(float *d, int n) {
    struct thread *t = own();
    struct sums *s = find(t, d);
    if (!s) return;
    if (s->under_way) emulated_stop("sums are taken before the wait for their products");
    if (s->n != n || !hidden(d, n)) emulated_stop("sums are written, or of another width, before they are settled");
    memcpy(d, s->sum, (size_t)n * 2);
    s->d = NULL;
    t->fenced = false;
}
