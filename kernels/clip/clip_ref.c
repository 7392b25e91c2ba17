/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/clip/clip.h"
#include <math.h>
#include "kernels/check.h"
#include "kernels/ref.h"

enum status REF(clip_fwd)(struct ctx *c, const struct clip *a) {
    const int64_t m = a->squares.shape[0];
    CHECK_SHAPE(clip, squares, F64, m);
    CHECK_SHAPE(clip, total, F64, 1);
    CHECK_SHAPE(clip, scale, F64, 1);
    CHECK_SHAPE(clip, knobs, F64, N_KNOBS);
    CHECK_SHAPE(clip, report, F64, N_REPORT);
    const double *squares = a->squares.data;
    double *knobs = a->knobs.data, *report = a->report.data, sum = 0.0, bad = -1.0;
    for (int64_t i = 0; i < m; i++) {
        sum += squares[i];
        if (!isfinite(squares[i]) && bad < 0.0) bad = (double)i;
    }
    const double norm = sqrt(sum), loss = *(const double *)a->total.data * *(const double *)a->scale.data;
    knobs[KNOB_SKIP] = isfinite(norm) && isfinite(loss) ? 0.0 : 1.0;
    knobs[KNOB_CLIP] = a->limit > 0.0 && norm > a->limit ? a->limit / norm : 1.0;
    report[REPORT_NORM] = norm;
    report[REPORT_LOSS] = loss;
    report[REPORT_SKIP] = knobs[KNOB_SKIP];
    report[REPORT_BAD] = bad;
    return OK;
}
NO_BACKWARD(clip)
NO_WORK(clip)
