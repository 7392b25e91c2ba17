/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ATTENTION_CASES_H
#define BATON_KERNELS_ATTENTION_CASES_H
#include <math.h>
#include "kernels/attention/attention.h"
#include "kernels/ranges_cases.h"

struct attention_case {
    const char *why;
    struct layout l;
    int64_t keys[10], U; /* [begin, end) of each range, and rows of k */
    int64_t H, J, P, window, gap;
};
static const struct attention_case attention_cases[] = {
    {"one token", {1, {0, 1}, 3, {0}}, {0, 6}, 6, 1, 1, 4, 0, 0},
    {"several tiles of keys", {1, {0, 300}, 0, {0}}, {0, 300}, 300, 2, 1, 5, 0, 0},
    {"documents at, before and after tile edges, a pitch",
     {1, {0, 140}, 0, {63, 64, 65, 130}},
     {0, 140},
     140,
     4,
     2,
     4,
     0,
     3},
    {"a window", {1, {0, 140}, 0, {100}}, {0, 140}, 140, 2, 2, 4, 17, 0},
    {"heads that no power of two divides", {1, {0, 70}, 0, {0}}, {0, 70}, 70, 6, 2, 4, 0, 0},
    {"keys before the queries", {1, {0, 40}, 200, {33}}, {0, 110}, 110, 2, 1, 4, 0, 0},
    {"two ranges share keys, rows that no range names",
     {2, {0, 40, 100}, 37, {0}},
     {3, 43, 3, 103},
     110,
     4,
     2,
     4,
     0,
     0},
    {"an empty range", {3, {0, 40, 40, 60}, 0, {0}}, {0, 40, 40, 40, 40, 60}, 60, 2, 1, 4, 0, 0},
    {"no queries", {1, {0, 0}, 0, {0}}, {0, 5}, 5, 2, 1, 4, 0, 0},
    {"tensor cores, one token", {1, {0, 1}, 3, {0}}, {0, 6}, 6, 1, 1, 64, 0, 0},
    {"tensor cores, 63 tokens, a width of 40", {1, {0, 63}, 0, {0}}, {0, 63}, 63, 2, 1, 40, 0, 8},
    {"tensor cores, documents", {1, {0, 140}, 0, {63, 64, 65, 130}}, {0, 140}, 140, 4, 2, 64, 0, 8},
    {"tensor cores, a window", {1, {0, 300}, 0, {100}}, {0, 300}, 300, 2, 2, 32, 17, 0},
    {"tensor cores, 65 queries behind other keys", {1, {0, 65}, 200, {33}}, {0, 170}, 170, 2, 1, 128, 0, 0},
    {"tensor cores, two ranges share keys, rows that no range names",
     {2, {0, 40, 100}, 37, {0}},
     {3, 43, 3, 103},
     110,
     4,
     2,
     16,
     0,
     0},
    {"tensor cores, an empty range", {3, {0, 40, 40, 60}, 0, {0}}, {0, 40, 40, 40, 40, 60}, 60, 2, 1, 64, 0, 0},
    {"tensor cores, no queries", {1, {0, 0}, 0, {0}}, {0, 5}, 5, 2, 1, 8, 0, 0},
    {"tensor cores, the widest heads", {1, {0, 70}, 0, {0}}, {0, 70}, 70, 1, 1, 256, 0, 0},
    {"tensor cores, grouped keys, 32 heads of 128 to 8", {1, {0, 70}, 0, {50}}, {0, 70}, 70, 32, 8, 128, 0, 0},
    {"tensor cores, a window behind other keys", {1, {0, 130}, 300, {}}, {0, 300}, 300, 2, 1, 128, 150, 8},
    {"tensor cores, 1000 tokens", {1, {0, 1000}, 0, {500}}, {0, 1000}, 1000, 1, 1, 16, 0, 0},
};
static const struct attention_case attention_bench[] = {
    {"T 256, H 16, J 4, P 64", {1, {0, 256}, 0, {0}}, {0, 256}, 256, 16, 4, 64, 0, 0},
    {"T 1024, H 16, J 4, P 64", {1, {0, 1024}, 0, {0}}, {0, 1024}, 1024, 16, 4, 64, 0, 0},
    {"T 4096, H 8, J 2, P 128", {1, {0, 4096}, 0, {0}}, {0, 4096}, 4096, 8, 2, 128, 0, 0},
    {"T 2304, documents behind keys, P 64",
     {2, {0, 1000, 2304}, 200, {900, 1024, 2300}},
     {30, 1230, 0, 2504},
     2504,
     4,
     2,
     64,
     0,
     8},
    {"T 8192, H 32, J 8, P 128", {1, {0, 8192}, 0, {0}}, {0, 8192}, 8192, 32, 8, 128, 0, 0},
    {"T 32768, H 32, J 8, P 128", {1, {0, 32768}, 0, {0}}, {0, 32768}, 32768, 32, 8, 128, 0, 0},
    {"T 131072, H 8, J 2, P 128", {1, {0, 131072}, 0, {0}}, {0, 131072}, 131072, 8, 2, 128, 0, 0},
    {"T 65537, a window of 256", {1, {0, 65537}, 0, {40000}}, {0, 65537}, 65537, 2, 1, 64, 256, 0},
    {"T 2048, 65536 keys, 512 blocks in line", {1, {0, 2048}, 63488, {}}, {0, 65536}, 65536, 2, 1, 16, 0, 0},
};

/* What attention.h calls plain. */
static inline bool attention_case_plain(const struct attention_case *k, const int64_t *pos) {
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges, n = T / R;
    bool plain = k->U == T && n * R == T;
    for (int64_t r = 0; r < R; r++)
        plain &= k->l.range[r] == r * n && k->keys[2 * r] == r * n && k->keys[2 * r + 1] == (r + 1) * n;
    for (int64_t t = 0; t < T && plain; t++) plain = pos[t] == t % n;
    return plain;
}

/* (query, key) that see each other, of one head. */
static inline double attention_case_visible(const struct attention_case *k, const int64_t *pos) {
    double sum = 0.0;
    for (int64_t r = 0; r < k->l.n_ranges; r++)
        for (int64_t t = k->l.range[r]; t < k->l.range[r + 1]; t++) {
            const int64_t before = k->keys[2 * r + 1] - k->keys[2 * r] - (k->l.range[r + 1] - t);
            int64_t seen = (before < pos[t] ? before : pos[t]) + 1;
            if (k->window > 0 && k->window < seen) seen = k->window;
            sum += (double)seen;
        }
    return sum;
}

static inline void attention_build(struct trial *t, struct attention *a, const struct attention_case *k) {
    const int64_t T = layout_tokens(&k->l), R = k->l.n_ranges, HP = k->H * k->P, JP = k->J * k->P;
    const struct values pos = layout_pos(t, &k->l);
    a->heads = k->H;
    a->key_heads = k->J;
    a->head_width = k->P;
    a->window = k->window;
    a->scale = k->P <= 5 ? 0.5 : 1.0 / sqrt((double)k->P);
    a->plain = attention_case_plain(k, pos.list);
    /* Two products of what is seen, and five. */
    t->flops[FORWARD] = 4.0 * attention_case_visible(k, pos.list) * (double)HP;
    t->flops[BACKWARD] = 2.5 * t->flops[FORWARD];
    t->bf16_only = t->flops[FORWARD] > 1e11;
    t->bound = 3e-6;
    /* In BF16 weights, scores' gradients and results are rounded; scores of this scale amplify none of it. */
    t->no_bf16 = k->P % 8 != 0 || k->gap % 8 != 0;
    t->roundings = 4.0;
    t->wide_bound = 1e-5;
    TENSOR(range, IN, layout_range(&k->l), I64, R + 1)->rows_by_elements = true;
    TENSOR(pos, IN, pos, I64, T);
    TENSOR(keys, IN, LISTED(k->keys), I64, R, 2);
    REALS(q, IN, NORMAL(1.0), T, HP)->gap = k->gap;
    REALS(k, IN, NORMAL(1.0), k->U, JP)->gap = k->gap;
    REALS(v, IN, NORMAL(1.0), k->U, JP)->gap = k->gap;
    struct case_tensor *o = REALS(o, KEPT, NORMAL(1.0), T, HP);
    o->gap = k->gap;
    o->gradient = "dout";
    WIDES(lse, KEPT, NORMAL(1.0), T, k->H);
    REALS(dout, B_IN, NORMAL(1.0), T, HP)->gap = k->gap;
    REALS(dq, B_OUT, NORMAL(1.0), T, HP)->gap = k->gap;
    REALS(dk, B_OUT, NORMAL(1.0), k->U, JP)->gap = k->gap;
    REALS(dv, B_OUT, NORMAL(1.0), k->U, JP)->gap = k->gap;
}
#endif
