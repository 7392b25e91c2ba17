/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/schedule.h"
#include <math.h>

/* How much of the way from the full rate down to the least one is left: 1 at the first of `length` steps. */
static double way_left(enum schedule kind, int64_t done, int64_t length) {
    if (done >= length) return 0.0;
    const double p = (double)done / (double)length;
    return kind == SCHEDULE_COSINE ? 0.5 * (1.0 + cos(acos(-1.0) * p)) : 1.0 - p;
}

double schedule_lr(const struct optimizer_config *o, int64_t n_steps, int64_t step) {
    ASSERT(step >= 1);
    if (step <= o->warmup_steps) return o->lr * (double)step / (double)o->warmup_steps;
    const int64_t after_warmup = n_steps > o->warmup_steps ? n_steps - o->warmup_steps : 0;
    int64_t length = 0;
    if (o->schedule == SCHEDULE_COSINE) length = after_warmup;
    else if (o->schedule == SCHEDULE_WSD) length = o->decay_steps < after_warmup ? o->decay_steps : after_warmup;
    const int64_t done = step - 1 - (n_steps - length);
    if (o->schedule == SCHEDULE_CONSTANT || (o->schedule == SCHEDULE_WSD && o->decay_steps == 0) || done < 0)
        return o->lr;
    const double least = o->lr * o->lr_min_ratio;
    return least + (o->lr - least) * way_left((enum schedule)o->schedule, done, length);
}
