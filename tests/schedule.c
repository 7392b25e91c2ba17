/* SPDX-License-Identifier: Apache-2.0 */
/* The learning rate at chosen steps, from the definitions in launch/schedule.h worked out by hand. */
#include "launch/schedule.h"
#include "tests/check.h"

struct schedule_case {
    const char *why;
    struct optimizer_config o;
    int64_t n_steps, step;
    double lr;
};
#define CONSTANT .schedule = SCHEDULE_CONSTANT
#define COSINE   .schedule = SCHEDULE_COSINE
#define WSD      .schedule = SCHEDULE_WSD

static const struct schedule_case cases[] = {
    {"warm-up starts above zero", {.lr = 8.0, .warmup_steps = 4, CONSTANT}, 100, 1, 2.0},
    {"warm-up is linear", {.lr = 8.0, .warmup_steps = 4, COSINE}, 100, 3, 6.0},
    {"warm-up ends at the full rate", {.lr = 8.0, .warmup_steps = 4, WSD}, 100, 4, 8.0},
    {"no warm-up", {.lr = 8.0, CONSTANT}, 100, 1, 8.0},
    {"constant at the end", {.lr = 8.0, .lr_min_ratio = 0.5, CONSTANT}, 100, 100, 8.0},
    {"constant beyond the end", {.lr = 8.0, .lr_min_ratio = 0.5, CONSTANT}, 100, 1000, 8.0},
    {"cosine starts from the full rate", {.lr = 8.0, .warmup_steps = 4, COSINE}, 104, 5, 8.0},
    {"cosine half-way", {.lr = 8.0, .lr_min_ratio = 0.25, .warmup_steps = 4, COSINE}, 104, 55, 5.0},
    {"cosine at a third: cos(pi / 3) = 1/2", {.lr = 8.0, .warmup_steps = 1, COSINE}, 31, 12, 6.0},
    {"cosine's least rate is that of step N + 1", {.lr = 8.0, .lr_min_ratio = 0.25, COSINE}, 100, 101, 2.0},
    {"cosine beyond the end", {.lr = 8.0, .lr_min_ratio = 0.25, COSINE}, 100, 5000, 2.0},
    {"wsd is stable", {.lr = 8.0, .warmup_steps = 4, .decay_steps = 10, WSD}, 100, 90, 8.0},
    {"wsd's first decay step has the full rate", {.lr = 8.0, .decay_steps = 10, WSD}, 100, 91, 8.0},
    {"wsd decays linearly", {.lr = 8.0, .decay_steps = 8, WSD}, 100, 95, 6.0},
    {"wsd's last step is above the least rate", {.lr = 8.0, .lr_min_ratio = 0.5, .decay_steps = 4, WSD}, 100, 100, 5.0},
    {"wsd beyond the end", {.lr = 8.0, .lr_min_ratio = 0.5, .decay_steps = 4, WSD}, 100, 101, 4.0},
    {"wsd without decay", {.lr = 8.0, .lr_min_ratio = 0.5, WSD}, 100, 100, 8.0},
    {"wsd decay longer than what warm-up leaves", {.lr = 8.0, .warmup_steps = 6, .decay_steps = 50, WSD}, 10, 9, 4.0},
    {"all steps are warm-up", {.lr = 8.0, .warmup_steps = 10, COSINE}, 10, 10, 8.0},
    {"warm-up longer than the run", {.lr = 8.0, .warmup_steps = 20, COSINE}, 10, 10, 4.0},
};

/* A rate never rises after the warm-up and never leaves [least, lr]. */
static void check_monotone(const struct schedule_case *c) {
    double last = c->o.lr;
    for (int64_t s = c->o.warmup_steps + 1; s <= c->n_steps + 5; s++) {
        const double lr = schedule_lr(&c->o, c->n_steps, s);
        CHECK(lr <= last && lr >= c->o.lr * c->o.lr_min_ratio && lr > -1e-300, "%s: step %d: %.17g after %.17g", c->why,
              (int)s, lr, last);
        last = lr;
    }
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct schedule_case *c = &cases[i];
        const double lr = schedule_lr(&c->o, c->n_steps, c->step);
        CHECK(fabs(lr - c->lr) <= 1e-14 * c->o.lr, "%s: step %d has %.17g, not %.17g", c->why, (int)c->step, lr, c->lr);
        check_monotone(c);
    }
    return check_end();
}
