/* SPDX-License-Identifier: Apache-2.0 */
/* Forward of the second half in BF16: out of the chunks that s_in reaches. */
#include "kernels/selective_scan/selective_scan_bf16.h"
#include "kernels/selective_out_bf16.cuh"

enum status selective_scan_fwd_bf16(struct ctx *c, const struct selective_scan *a, const struct reached *reached,
                                    int64_t n_chunks) {
    return out_again(c, a, *reached, a->s_out, n_chunks);
}
