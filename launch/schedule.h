/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_SCHEDULE_H
#define BATON_LAUNCH_SCHEDULE_H
/* schedule.h - the learning rate of a step, a pure function of the configuration and the step's number.
 *
 * Step s counts from 1; N = train.steps, W = optimizer.warmup_steps, M = lr * lr_min_ratio.
 *   warm-up    s <= W:         lr s / W                          (step W has the full rate)
 *   constant   s >  W:         lr
 *   cosine     s >  W:         M + (lr - M) (1 + cos(pi p)) / 2,   p = (s - 1 - W) / (N - W)
 *   wsd        W < s <= N - L: lr                                (warm-up, stable, decay)
 *              s > N - L:      M + (lr - M) (1 - p),               p = (s - 1 - (N - L)) / L
 *              where L = optimizer.decay_steps, at most N - W; 0: no decay
 * A decay starts from the full rate in its first step and would reach M in step N + 1, so that no step is spent at a
 * rate of zero; steps beyond N have M (constant, and wsd without decay: lr). */
#include "launch/config.h"

double schedule_lr(const struct optimizer_config *o, int64_t n_steps, int64_t step);

#endif
