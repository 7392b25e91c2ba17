/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_NUDGE_H
#define BATON_KERNELS_NUDGE_H
/* nudge.h - one step of a router's selection bias towards even load.
 *
 *   b_e += rate sign(mean over all experts of load - load_e), unless the step is skipped; sign(0) = 0
 *   part       b holds experts [begin, begin + n) of E
 *   types      load F64 (E), knobs F64 (adamw.h: KNOB_SKIP), b wide
 *   errors     ERR_ARG: shapes or types disagree
 *   source     Wang et al. 2024, loss-free balancing; DeepSeek-AI 2024 */
#include "base/ctx.h"
struct nudge {
    double rate;
    int64_t begin;
    struct tensor load, knobs, b; /* (E) (N_KNOBS) in;  (n) += */
};
#endif
