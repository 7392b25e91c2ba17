/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_EMULATOR_WGMMA_H
#define BATON_TESTS_EMULATOR_WGMMA_H
/* wgmma.h - the words of kernels/wgmma.cuh on the CPU.  A product is done at once, from what shared memory holds then;
 * a wait is a whole warp's, as on the hardware: none of its lanes frees a stage that another one still reads. */

#ifdef __cplusplus
#include "tests/emulator/device.h"

static inline void wgmma_fence() {}
static inline void wgmma_commit() {}
template <int n> static inline void wgmma_wait() { __syncwarp(); }
template <int n> static inline void wgmma_settled(float (*)[4]) {}
static inline void shared_fence() {}
template <int n> static inline void registers_up() {}
template <int n> static inline void registers_down() {}
static inline void barrier_of(int id, int n) { emulated_barrier_of(id, (unsigned)n); }
static inline void barrier_arrive(int id, int n) { emulated_arrive(id, (unsigned)n); }

static inline float emulated_panel(const void *at, int row, int64_t col_bytes) {
    const uintptr_t x = (uintptr_t)at + (uintptr_t)(row / 8 * 1024 + row % 8 * 128) + (uintptr_t)col_bytes;
    return __uint_as_float((uint32_t) * (const uint16_t *)(x ^ (x >> 7 & 7) << 4) << 16);
}
/* Term k of row (A) or column (B) i. */
template <bool cols> static inline float emulated_term(const void *at, int lead, int i, int k) {
    return cols ? emulated_panel(at, k, (int64_t)(i / 64) * lead * 2 + i % 64 * 2) : emulated_panel(at, i, k * 2);
}
/* A lane's two rows times its columns. */
template <int N, bool b_cols, typename operand>
static inline void emulated_products(float d[N / 8][4], const float left[2][16], operand b, bool add) {
    for (int j = 0; j < N / 8; j++)
        for (int col = 0; col < 2; col++) {
            float right[16];
            for (int k = 0; k < 16; k++)
                right[k] = emulated_term<b_cols>(b.at, b.lead, 8 * j + emulated_lane() % 4 * 2 + col, k);
            for (int half = 0; half < 2; half++) {
                float sum = add ? d[j][2 * half + col] : 0.0f;
                for (int k = 0; k < 16; k++) sum += left[half][k] * right[k];
                d[j][2 * half + col] = sum;
            }
        }
}

template <int N, bool a_cols, bool b_cols, typename operand>
static inline void wgmma_shared(float d[N / 8][4], operand a, operand b, bool add) {
    const int row = (int)threadIdx.x % 128 / 32 * 16 + emulated_lane() / 4;
    float left[2][16];
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 16; k++) left[half][k] = emulated_term<a_cols>(a.at, a.lead, row + 8 * half, k);
    emulated_products<N, b_cols>(d, left, b, add);
}

template <int N, bool b_cols, typename operand>
static inline void wgmma_registers(float d[N / 8][4], const uint32_t a[4], operand b, bool add = true) {
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
    emulated_products<N, b_cols>(d, left, b, add);
}
#define DYNAMIC_PANELS(name) unsigned char *name = emulated_shared
#endif
#endif
