/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_SPLIT_H
#define BATON_MODEL_SPLIT_H
/* split.h - how the axes of the mesh split a model: numbers alone, no ranks.
 *
 * An axis of n ranks cuts one dim of a parameter into `parts` even parts, each held by `copies` neighbours: parts x
 * copies = n.  What the axis does not cut has one part and n copies.  A packed matrix is cut section by section along
 * dim 0, or whole along another dim. */
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum split_axis { SPLIT_TENSOR, SPLIT_EXPERT, N_SPLITS };
/* Sizes of the axes and my place on each; the zeros of a model that nothing splits mean one rank. */
struct split {
    int n[N_SPLITS], at[N_SPLITS];
};
struct cut {
    int dim, parts; /* declared; parts 0: one                         */
    int copies;     /* ranks that hold the same part                  */
    int copy;       /* which of them I am                             */
    int64_t begin;  /* of my part, in the whole dim (or its section)  */
};

struct section {
    const char *name;
    int64_t rows, whole; /* of dim 0: held here; of the logical tensor */
    struct cut cut;      /* over tensor, along dim 0                   */
};
static inline struct section section_cut(const char *name, int64_t rows, int parts) {
    return (struct section){.name = name, .rows = rows, .cut = {.parts = parts}};
}
static inline int split_n(const struct split *s, enum split_axis axis) { return s->n[axis] > 1 ? s->n[axis] : 1; }
/* Complete a declared cut of a dim of `whole` entries, and give those of my part. */
int64_t cut_settle(struct cut *c, const struct split *s, enum split_axis axis, int64_t whole);
/* Into how many parts n ranks cut `units` (heads, groups, channels): n, or `units` where each is on several ranks; 0:
 * neither divides the other. */
int cut_parts(int n, int64_t units);

#ifdef __cplusplus
}
#endif
#endif
