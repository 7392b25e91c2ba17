/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_EMULATOR_WGMMA_H
#define BATON_TESTS_EMULATOR_WGMMA_H
/* wgmma.h - kernels/wgmma.cuh, emulated: included by device.h.  A product is computed when it is waited for; until then
 * its registers are NaN. */
#ifdef __cplusplus
#include "tests/emulator/cuda_runtime.h"

/* Of one lane: its two rows of D, and what it holds of A if that lies in registers. */
struct emulated_product {
    float *d, sum[32];
    uint32_t a[16]; /* of the four lanes of the rows */
    uint64_t a_at, b_at;
    bool a_shared, a_cols, b_cols;
};
void emulated_product_add(const emulated_product *p, bool add);
void emulated_products_commit();
void emulated_products_wait(int n_open);
void emulated_barrier_of(int id, unsigned n);
uint32_t emulated_address(const void *p);

static inline uint32_t shared_address(const void *p) { return emulated_address(p); }
static inline void wgmma_see() {}
static inline void wgmma_begin() {}
static inline void wgmma_commit() { emulated_products_commit(); }
template <int n> static inline void wgmma_wait() { emulated_products_wait(n); }
template <int n> static inline void wgmma_ended(float (&)[n]) {}
static inline void barrier_of(int id, int n) { emulated_barrier_of(id, (unsigned)n); }

template <bool a_cols, bool b_cols> static inline void wgmma(float (&d)[32], uint64_t a, uint64_t b, bool add) {
    emulated_product p = {d, {}, {}, a, b, true, a_cols, b_cols};
    emulated_product_add(&p, add);
}
template <bool b_cols> static inline void wgmma(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool add) {
    emulated_product p = {d, {}, {}, 0, b, false, false, b_cols};
    const char(*lanes)[32] = emulated_exchange(a, sizeof a);
    for (int i = 0; i < 4; i++) memcpy(&p.a[4 * i], lanes[emulated_lane() / 4 * 4 + i], 16);
    emulated_product_add(&p, add);
}
#endif
#endif
