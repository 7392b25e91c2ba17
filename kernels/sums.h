/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SUMS_H
#define BATON_KERNELS_SUMS_H
/* sums.h - F64 sums along a row.  Element i goes to lane i mod 16 and the lanes are added in a binary tree, so the
 * order is fixed by the length and the loop vectorises. */
#include "kernels/ref.h"

#define LANES 16

static inline double lanes_sum(double lane[LANES]) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

static inline double sum_plain(const real *x, int64_t n) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j];
    for (; i < n; i++) lane[i % LANES] += (double)x[i];
    return lanes_sum(lane);
}

static inline double sum_products(const real *x, const real *y, int64_t n) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * (double)y[i + j];
    for (; i < n; i++) lane[i % LANES] += (double)x[i] * (double)y[i];
    return lanes_sum(lane);
}

static inline double sum_triples(const real *x, const real *y, const real *z, int64_t n) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * (double)y[i + j] * (double)z[i + j];
    for (; i < n; i++) lane[i % LANES] += (double)x[i] * (double)y[i] * (double)z[i];
    return lanes_sum(lane);
}
#endif
