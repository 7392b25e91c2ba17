/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_EMBEDDING_CASES_H
#define BATON_KERNELS_EMBEDDING_CASES_H
#include "kernels/cases.h"
#include "kernels/embedding/embedding.h"

struct embedding_case {
    const char *why;
    int64_t T, V, D, gap;
    double bound;
    int64_t first, vocab;
};
static const struct embedding_case embedding_cases[] = {
    {"one token", 1, 5, 16, 0, 1e-7, 0, 0},
    {"every row picked many times", 300, 3, 7, 0, 1e-6, 0, 0},
    {"a row of one channel", 5, 4, 1, 0, 1e-6, 0, 0},
    {"rows with a pitch", 9, 17, 33, 4, 1e-6, 0, 0},
    {"no tokens", 0, 17, 33, 0, 1e-6, 0, 0},
    {"several strips of columns", 150, 40, 515, 0, 1e-6, 0, 0},
    {"vectors", 1000, 600, 264, 8, 1e-6, 0, 0},
    {"vectors: one row picked by most tokens", 65, 2, 64, 0, 1e-6, 0, 0},
    {"a shard in the middle of the vocabulary", 90, 7, 33, 0, 1e-6, 5, 21},
    {"vectors: the last shard", 300, 100, 264, 0, 1e-6, 300, 400},
};
static const struct embedding_case embedding_bench[] = {
    {"T 8192, V 32768, D 1024", 8192, 32768, 1024, 0, 1e-6, 0, 0},
    {"T 65537, V 4096, D 64", 65537, 4096, 64, 0, 1e-6, 0, 0},
    {"T 32768, V 131072, D 4096", 32768, 131072, 4096, 0, 1e-6, 0, 0},
};

static inline void embedding_build(struct trial *t, struct embedding *a, const struct embedding_case *k) {
    const double picked = (double)(k->T * k->D), real = (double)dtype_bytes(t->real);
    const int64_t all = k->vocab > 0 ? k->vocab : k->V;
    a->first = k->first;
    a->vocab = k->vocab;
    t->bound = k->bound;
    t->bytes[FORWARD] = 2.0 * picked * real;
    t->bytes[BACKWARD] = picked * (real + 2.0 * (double)dtype_bytes(dtype_wide(t->real)));
    struct case_tensor *ids = TENSOR(ids, IN, UNIFORM(0.0, (double)(all - 1)), I32, k->T);
    ids->bad_status = ERR_DATA;
    ids->bad_value = all;
    struct case_tensor *w = REALS(w, F_IN, NORMAL(1.0), k->V, k->D);
    w->gap = k->gap;
    w->any_rows = true; /* V is what each pass finds */
    REALS(y, F_OUT, NORMAL(1.0), k->T, k->D)->gap = k->gap;
    REALS(dy, B_IN, NORMAL(1.0), k->T, k->D)->gap = k->gap;
    struct case_tensor *dw = WIDES(dw, B_ADD, NORMAL(1.0), k->V, k->D);
    dw->gap = k->gap;
    dw->any_rows = true;
}
#endif
