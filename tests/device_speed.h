/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_DEVICE_SPEED_H
#define BATON_TESTS_DEVICE_SPEED_H
/* device_speed.h - what the programs that time ops on a GPU share: random inputs, and medians. */
#include <stdlib.h>
#include <string.h>
#include "base/tensor.h"
#include "kernels/device.h"
#include "tests/check.h"

/* Random numbers in memory of the device: a block of them, over and over. */
static inline void fill(struct tensor t, double low, double high) {
    enum { BLOCK = 1 << 20 };
    static uint16_t half[BLOCK];
    static float whole[BLOCK];
    static uint64_t state = 1;
    const int64_t n = tensor_count(t), e = dtype_bytes(t.dtype);
    for (int64_t i = 0; i < BLOCK && i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        whole[i] = (float)(low + (high - low) * (double)(state >> 11) / 9007199254740992.0);
        uint32_t u;
        memcpy(&u, &whole[i], sizeof u);
        half[i] = (uint16_t)(u >> 16);
    }
    for (int64_t i = 0; i < n; i += BLOCK)
        MUST(device_copy((char *)t.data + i * e, e == 2 ? (const void *)half : (const void *)whole,
                         (n - i < BLOCK ? n - i : (int64_t)BLOCK) * e));
}

static inline int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
#endif
