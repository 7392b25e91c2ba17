/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_RANGES_CASES_H
#define BATON_KERNELS_RANGES_CASES_H
/* ranges_cases.h - ranges and documents of a test row, for the ops that read range and pos. */
#include "kernels/cases.h"

struct layout {
    int64_t n_ranges, range[6]; /* n_ranges + 1 rows where ranges begin; the last is T             */
    int64_t older;              /* tokens of its document that lie before a range's first one      */
    int64_t starts[6];          /* rows above 0 where a document starts; the first 0 ends the list */
};
#define ONE_RANGE(tokens) ((struct layout){1, {0, (tokens)}, 0, {0}})

static inline int64_t layout_tokens(const struct layout *l) { return l->range[l->n_ranges]; }

static inline struct values layout_range(const struct layout *l) { return LISTED(l->range); }

static inline struct values layout_pos(struct trial *t, const struct layout *l) {
    int64_t *pos = (int64_t *)case_memory(t, layout_tokens(l) * (int64_t)sizeof(int64_t));
    for (int64_t r = 0; r < l->n_ranges; r++)
        for (int64_t i = l->range[r]; i < l->range[r + 1]; i++) {
            pos[i] = i == l->range[r] ? l->older : pos[i - 1] + 1;
            for (const int64_t *s = l->starts; *s; s++)
                if (*s == i) pos[i] = 0;
        }
    return LISTED(pos);
}
#endif
