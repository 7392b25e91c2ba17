/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_SSD_CHUNK_H
#define BATON_KERNELS_SSD_CHUNK_H
/* ssd_chunk.h - what both halves of the SSD scan on the CPU say of a time step and of a chunk. */
#include <math.h>
#include "kernels/ranges.h"
#include "kernels/ref.h"

/* clamp(softplus(v)), v = dt + bias, and its derivative. */
static inline double ssd_dt(double v, double least, double most) {
    const double s = v > 20 ? v : log1p(exp(v));
    return s < least ? least : s > most ? most : s;
}
static inline double ssd_dt_slope(double v, double least, double most) {
    const double s = v > 20 ? v : log1p(exp(v));
    if (s < least || s > most) return 0;
    return v > 20 ? 1 : 1 / (1 + exp(-v));
}

/* The factor that a state keeps through a chunk: 0 where a document starts in it. */
static inline real ssd_chunk_decay(const struct span *chunk, struct tensor cum, int64_t head) {
    return chunk->enter == chunk->end - chunk->begin ? (real)exp((double)row(cum, chunk->end - 1)[head]) : 0;
}
#endif
