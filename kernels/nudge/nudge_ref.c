/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/nudge/nudge.h"
#include <inttypes.h>
#include "kernels/adamw/adamw.h"
#include "kernels/check.h"
#include "kernels/rows.h"

enum status REF(nudge_fwd)(struct ctx *c, const struct nudge *a) {
    const int64_t E = a->load.shape[0], n = a->b.shape[0];
    const double *load = a->load.data, *knobs = a->knobs.data;
    real *b = a->b.data;
    double sum = 0.0;
    CHECK_SHAPE(nudge, load, F64, E);
    CHECK_SHAPE(nudge, knobs, F64, N_KNOBS);
    CHECK_SHAPE(nudge, b, REAL, n);
    CHECK_THAT(nudge, a->begin >= 0 && a->begin + n <= E, "b has the experts %" PRId64 " to %" PRId64 " of %" PRId64,
               a->begin, a->begin + n, E);
    if (knobs[KNOB_SKIP] != 0.0) return OK;
    for (int64_t e = 0; e < E; e++) sum += load[e];
    for (int64_t i = 0; i < n; i++) {
        const double over = load[a->begin + i] * (double)E - sum; /* integers: no rounding below 2^53 */
        b[i] += (real)(over < 0.0 ? a->rate : over > 0.0 ? -a->rate : 0.0);
    }
    return OK;
}
NO_BACKWARD(nudge)
NO_WORK(nudge)
