/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ranges.h"
#include <inttypes.h>

static enum status positions_check(const char *op, const int64_t *pos, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
        const bool fits = t == begin ? pos[t] >= 0 : pos[t] == 0 || pos[t] == pos[t - 1] + 1;
        FAIL_UNLESS(fits, ERR_ARG, "%s: pos[%" PRId64 "] is %" PRId64 ": expected 0 (a document starts) or %s", op, t,
                    pos[t], t == begin ? "more (one goes on)" : "one more than the row before");
    }
    return OK;
}

enum status ranges_check(const char *op, struct tensor range, struct tensor pos) {
    const int64_t *at = range.data, n_ranges = range.shape[0] - 1, T = pos.shape[0];
    FAIL_UNLESS(n_ranges >= 0 && at[0] == 0 && at[n_ranges] == T, ERR_ARG,
                "%s: range has %" PRId64 " entries: expected the rows where ranges begin, from 0 to %" PRId64, op,
                range.shape[0], T);
    for (int64_t r = 0; r < n_ranges; r++)
        FAIL_UNLESS(at[r] <= at[r + 1], ERR_ARG,
                    "%s: range[%" PRId64 "] is %" PRId64 ", after %" PRId64 ": expected rows in ascending order", op,
                    r + 1, at[r + 1], at[r]);
    for (int64_t r = 0; r < n_ranges; r++) TRY(positions_check(op, pos.data, at[r], at[r + 1]));
    return OK;
}

int64_t spans_max(int64_t n_tokens, int64_t n_ranges, int64_t step) {
    const int64_t most = (n_tokens + n_ranges * (step - 1)) / step;
    return most < n_tokens ? most : n_tokens;
}

static struct span span_make(const int64_t *pos, int64_t range, int64_t begin, int64_t end) {
    struct span s = {.range = range, .begin = begin, .end = end};
    const int64_t n = end - begin;
    while (s.enter < n && pos[begin + s.enter] != 0) s.enter++;
    s.last = s.enter == n ? 0 : n - 1 - pos[end - 1];
    return s;
}

int64_t spans_cut(struct tensor range, struct tensor pos, int64_t step, struct span *out, int64_t *first) {
    const int64_t *at = range.data, n_ranges = range.shape[0] - 1;
    int64_t n = 0;
    for (int64_t r = 0; r < n_ranges; r++) {
        if (first) first[r] = n;
        for (int64_t begin = at[r]; begin < at[r + 1]; begin += step, n++) {
            const int64_t end = begin + step < at[r + 1] ? begin + step : at[r + 1];
            if (out) out[n] = span_make(pos.data, r, begin, end);
        }
    }
    if (first) first[n_ranges] = n;
    return n;
}
