/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_ATTENTION_ATTENTION_DNN_H
#define BATON_KERNELS_ATTENTION_ATTENTION_DNN_H
/* attention_dnn.h - attention's forward in BF16 through cuDNN's fused kernels: the one door to cuDNN.
 *
 * Ranges, documents and prefixes become entries of a batch: the queries of one document in one range, and the keys they
 * see, the last beside the last.  Entries lie in device memory, where attention_bf16.cu lists them; there are
 * ATTENTION_ENTRIES at most, of the last documents of a pass, and what lies before them is left to our own kernels.
 * A batch that its caller knows to be plain (attention.h) needs neither entries nor tables, and its kernel is faster:
 * documents are the items of a batch, at fixed distances.  Where cuDNN is used is known from shapes alone: BF16 outside
 * exact mode, ATTENTION_DNN_QUERIES queries or more, and a plan that this version has for the shape.
 *
 * The backward is ours: up to 9.24 cuDNN's adds to dq by atomics, and the one that repeats bit for bit wants two bytes
 * for every (query, key, head) - 4.4 GB at 8,192 tokens of 32 heads. */
#include <stdbool.h>
#include "base/ctx.h"
#include "kernels/attention/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef ATTENTION_ENTRIES
#define ATTENTION_ENTRIES 64
#endif
enum { ATTENTION_DNN_QUERIES = 2048, ATTENTION_DNN_WORKSPACE = 1 << 20 };

/* Of unused entries, which come first: 0 everywhere.  Offsets in elements from the tensor's first. */
struct attention_entries {
    int64_t q[ATTENTION_ENTRIES + 1], k[ATTENTION_ENTRIES + 1], v[ATTENTION_ENTRIES + 1], o[ATTENTION_ENTRIES + 1],
        lse[ATTENTION_ENTRIES + 1];
    int32_t n_queries[ATTENTION_ENTRIES], n_keys[ATTENTION_ENTRIES];
    int64_t rest; /* rows [0, rest) are of no entry */
};

/* Called by device_open and device_close.  A library that is missing or too old is no error: attention_dnn_about says
 * so, and our own kernels do everything. */
enum status attention_dnn_open(struct device *d);
void attention_dnn_close(struct device *d); /* accepts a device without a handle */
/* What the forward runs on, for the log. */
const char *attention_dnn_about(const struct device *d);
/* How the forward of these arguments is done. */
enum dnn_form {
    DNN_NOT,     /* by our own kernels                              */
    DNN_ENTRIES, /* the entries of a list, which may leave some rows */
    DNN_PLAIN    /* all of a plain batch                            */
};
enum dnn_form attention_dnn_form(const struct ctx *c, const struct attention *a);
/* Makes the plans of a shape that are not there, which takes tens of milliseconds: before a step rather than in it. */
void attention_dnn_prepare(const struct ctx *c, const struct attention *a);
/* o and lse, on ctx's stream, of all entries, or with NULL of a plain batch.  Entries lie in device memory, as does
 * `workspace`, at multiples of 256; it has room for ATTENTION_DNN_WORKSPACE. */
enum status attention_dnn_forward(struct ctx *c, const struct attention *a, struct attention_entries *entries,
                                  void *workspace);

#ifdef __cplusplus
}
#endif
#endif
