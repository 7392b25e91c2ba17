/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_RANGES_CUH
#define BATON_KERNELS_RANGES_CUH
/* ranges.cuh - ranges.h on the device: every block of threads finds its own span from range and pos, so there is no
 * table of spans to make or copy.  Kernels are started for spans_max spans; those that do not exist leave at once.
 * Within a range pos tells all about documents: row t is of the document of row s < t where pos_t >= t - s. */
#include "kernels/device.cuh"
#include "kernels/ranges.h"

struct device_span {
    int64_t range, begin, end; /* rows [begin, end), all of one range */
    bool through;              /* no document starts in it            */
    int64_t last;              /* first row of the document of the last row, or begin */
};

/* The range that holds row t. */
static inline __device__ int64_t range_of(const struct tensor &range, int64_t t) {
    int64_t low = 0, high = range.shape[0] - 2;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (long_at(range, middle + 1) > t) high = middle;
        else low = middle + 1;
    }
    return low;
}

static inline __device__ struct device_span span_at(const struct tensor &pos, int64_t r, int64_t begin, int64_t end) {
    struct device_span s = {r, begin, end, long_at(pos, end - 1) >= end - begin, 0};
    s.last = s.through ? begin : end - 1 - long_at(pos, end - 1);
    return s;
}

/* Spans of `step` rows of the ranges before r. */
static inline __device__ int64_t spans_before(const struct tensor &range, int64_t r, int64_t step) {
    int64_t n = 0;
    for (int64_t i = 0; i < r; i++) n += ceil_div(long_at(range, i + 1) - long_at(range, i), step);
    return n;
}

/* Span i of `step` rows, counted over all ranges; false: there is none. */
static inline __device__ bool span_find(const struct tensor &range, const struct tensor &pos, int64_t step, int64_t i,
                                        struct device_span *out) {
    for (int64_t r = 0; r < range.shape[0] - 1; r++) {
        const int64_t begin = long_at(range, r), end = long_at(range, r + 1), n = ceil_div(end - begin, step);
        if (i < n) {
            *out = span_at(pos, r, begin + i * step, least(end, begin + (i + 1) * step));
            return true;
        }
        i -= n;
    }
    return false;
}
#endif
