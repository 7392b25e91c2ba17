// SPDX-License-Identifier: Apache-2.0
// Products of wgmma.cuh, one lane at a time: a thread's products wait in a list of its own until they are asked for.
#include "base/arena.h"
#include "tests/emulator/cuda_runtime.h"

enum { THREADS_MAX = 1024, PRODUCTS = 128, GROUPS = 16 };
struct pending {
    int n, n_groups, ends[GROUPS]; // products [0, ends[0]) are of the oldest open group
    emulated_product product[PRODUCTS];
};
static struct pending *threads;

static struct pending *mine() {
    if (!threads) {
        void *mem = NULL;
        ASSERT(mem_take((int64_t)sizeof *threads * THREADS_MAX, &mem) == OK);
        threads = (struct pending *)mem;
        memset(mem, 0, sizeof *threads * THREADS_MAX);
    }
    return &threads[emulated_thread()];
}

// Element (i, k) of an operand: PTX ISA, "Matrix descriptor" and "Strides", with the swizzle of 128 bytes.
static float element(uint64_t at, bool cols, int i, int k) {
    const uint32_t begin = (uint32_t)(at & 0x3fff) << 4, leading = (uint32_t)(at >> 16 & 0x3fff) << 4,
                   stride = (uint32_t)(at >> 32 & 0x3fff) << 4;
    ASSERT(at >> 62 == 1 && (at >> 49 & 7) == 0);
    const uint32_t plain = cols ? begin + i / 64 * leading + i % 64 * 2 + k / 8 * stride + k % 8 * 128
                                : begin + i / 8 * stride + i % 8 * 128 + k * 2;
    const uint32_t where = plain ^ (plain >> 7 & 7) << 4;
    uint16_t bits;
    memcpy(&bits, emulated_shared + where, 2);
    return __uint_as_float((uint32_t)bits << 16);
}

static float of_registers(const emulated_product *p, int half, int k) {
    const uint32_t pair = p->a[k % 8 / 2 * 4 + half + k / 8 * 2];
    return __uint_as_float(k % 2 ? pair & 0xffff0000u : pair << 16);
}

static void compute(emulated_product *p) {
    const unsigned thread = emulated_thread();
    const int row = (int)(thread % 128 / 32 * 16 + thread % 32 / 4), col = (int)(thread % 4 * 2);
    float a[2][16];
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 16; k++)
            a[half][k] = p->a_shared ? element(p->a_at, p->a_cols, row + 8 * half, k) : of_registers(p, half, k);
    for (int j = 0; j < 16; j++) {
        const int n = j / 2 * 8 + col + j % 2, at = j / 2 * 4 + j % 2;
        for (int k = 0; k < 16; k++) {
            const float b = element(p->b_at, p->b_cols, n, k);
            p->sum[at] += a[0][k] * b;
            p->sum[at + 2] += a[1][k] * b;
        }
    }
}

void emulated_product_add(const emulated_product *p, bool add) {
    struct pending *m = mine();
    ASSERT(m->n < PRODUCTS);
    emulated_product *to = &m->product[m->n++];
    *to = *p;
    bool follows = false;
    for (int i = 0; i + 1 < m->n; i++) follows = follows || m->product[i].d == p->d;
    to->a_shared = p->a_shared;
    for (int i = 0; i < 32; i++) {
        to->sum[i] = !add ? 0.0f : follows ? INFINITY : p->d[i]; // INFINITY: comes from the product before
        p->d[i] = NAN;
    }
    ASSERT(!follows || add);
}

void emulated_products_commit() {
    struct pending *m = mine();
    ASSERT(m->n_groups < GROUPS);
    m->ends[m->n_groups++] = m->n;
}

void emulated_products_wait(int n_open) {
    struct pending *m = mine();
    const int done = m->n_groups > n_open ? m->n_groups - n_open : 0, n = done > 0 ? m->ends[done - 1] : 0;
    for (int i = 0; i < n; i++) {
        emulated_product *p = &m->product[i];
        int next = i + 1;
        compute(p);
        while (next < m->n && m->product[next].d != p->d) next++;
        memcpy(next < m->n ? m->product[next].sum : p->d, p->sum, sizeof p->sum);
    }
    m->n -= n;
    m->n_groups -= done;
    memmove(m->product, m->product + n, (size_t)m->n * sizeof *m->product);
    for (int i = 0; i < m->n_groups; i++) m->ends[i] = m->ends[i + done] - n;
}
