/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_PLAIN_H
#define BATON_KERNELS_PLAIN_H
/* plain.h - kernels.plain: allow.  A table before that of a GPU's ops in BF16: what has no kernel of a shape there runs
 * by the F32 kernels, which take any shape, on F32 copies of its BF16 tensors in the workspace, and is rounded back.
 * Its plan makes room for the copies, and keeps a note of each op with what the detour costs.  Whether an op takes it
 * follows from its arguments' shapes alone, by the rule that refuses them elsewhere (ops.h).  Ops: attention,
 * selective_scan and ssd with their first halves; no other op lacks shapes. */
#include "base/file.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PLAIN_OPS = 5 };
struct plain_note {
    const char *op;
    char why[240];                                    /* what the BF16 kernel says of the shape                      */
    int64_t workspace, forward_bytes, backward_bytes; /* of the copies; moved by them in a call, beside the op's own */
};
struct plain {
    struct ops table; /* what ctx->ops points to, with ctx->plain = this one */
    const struct ops *base;
    int n_notes;
    struct plain_note note[PLAIN_OPS]; /* of the largest call of each op */
};
void plain_init(struct plain *p, const struct ops *base);
/* A line for each note: why, and at what cost. */
enum status plain_print(const struct plain_note *note, int n, struct text *out);

#ifdef __cplusplus
}
#endif
#endif
