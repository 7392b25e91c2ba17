/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_EMULATOR_WGMMA_H
#define BATON_TESTS_EMULATOR_WGMMA_H
/* wgmma.h - the words of kernels/wgmma.cuh on the CPU.  A product is under way from its word until wgmma_wait for its
 * batch: sums are NaN until wgmma_settled behind that, and operands are read at the wait.  The program ends where
 *   sums, registers of A or shared memory of an operand change meanwhile, or a thread ends
 *   no wgmma_fence stands before a product on new sums, or A or what is added to was written behind it
 *   an operand was written by plain stores or cp.async, and no shared_fence and no barrier behind it came since: of
 *   the thread that copied; of any thread for stores, which are not seen one by one
 * A wait is a whole warp's, as on the hardware: none of its lanes frees a stage that another one still reads. */

#ifdef __cplusplus
#include "tests/emulator/device.h"

struct emulated_operand {
    const void *at;
    int lead;
    bool cols;
};
struct emulated_product {
    float *d; /* (n / 8, 4) of this thread */
    int n;
    bool add;
    struct emulated_operand a, b;
    const uint32_t *registers; /* A, where it is not in shared memory */
};
/* left: A's terms of the thread's two rows, with registers. */
void emulated_product_begin(const struct emulated_product *p, const float (*left)[16]);
void emulated_products_fence(void);
void emulated_products_commit(void);
void emulated_products_wait(int n_open);
void emulated_products_settled(float *d, int n);
void emulated_shared_fence(void);

static inline void wgmma_fence() { emulated_products_fence(); }
static inline void wgmma_commit() { emulated_products_commit(); }
template <int n> static inline void wgmma_wait() {
    emulated_products_wait(n);
    __syncwarp();
}
template <int n> static inline void wgmma_settled(float (*d)[4]) { emulated_products_settled(d[0], 8 * n); }
static inline void shared_fence() { emulated_shared_fence(); }
template <int n> static inline void registers_up() {}
template <int n> static inline void registers_down() {}
static inline void barrier_of(int id, int n) { emulated_barrier_of(id, (unsigned)n); }
static inline void barrier_arrive(int id, int n) { emulated_arrive(id, (unsigned)n); }

template <int N, bool a_cols, bool b_cols, typename operand>
static inline void wgmma_shared(float d[N / 8][4], operand a, operand b, bool add) {
    const struct emulated_product p = {d[0], N, add, {a.at, a.lead, a_cols}, {b.at, b.lead, b_cols}, NULL};
    emulated_product_begin(&p, NULL);
}

template <int N, bool b_cols, typename operand>
static inline void wgmma_registers(float d[N / 8][4], const uint32_t a[4], operand b, bool add = true) {
    const struct emulated_product p = {d[0], N, add, {}, {b.at, b.lead, b_cols}, a};
    const uint4 own = {a[0], a[1], a[2], a[3]};
    const char(*lanes)[32] = emulated_exchange(&own, sizeof own);
    float left[2][16];
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 16; k++) {
            uint32_t r[4];
            memcpy(r, lanes[emulated_lane() / 4 * 4 + k % 8 / 2], sizeof r);
            const uint32_t x = r[half + k / 8 * 2];
            left[half][k] = __uint_as_float(k % 2 ? x & 0xffff0000u : x << 16);
        }
    emulated_product_begin(&p, left);
}
#define DYNAMIC_PANELS(name) unsigned char *name = emulated_shared
#endif
#endif
