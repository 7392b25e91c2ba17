/* SPDX-License-Identifier: Apache-2.0 */
/* How a step is cut into micro-batches is no part of its result: loss, gradient norm and weights of steps of 4
 * sequences in passes of 1, 2 and 4 agree to rounding, though the sequences hold different numbers of targets. */
#define _DEFAULT_SOURCE
#include <unistd.h>
#include "tests/small_run.h"

enum { STEPS = 5 };
struct result {
    double loss[STEPS], norm[STEPS], weight, valid;
};

static double weights(const struct trainer *t) {
    double sum = 0.0;
    for (int i = 0; i < t->run.model.params.n; i++) {
        const struct param *p = &t->run.model.params.list[i];
        for (int64_t j = 0; j < param_count(p); j++)
            sum += ((const double *)p->w.data)[j] * rng_normal(5, (uint64_t)i, (uint64_t)j);
    }
    return sum;
}

static void train(struct result *out, struct rank *rank, const char *folder, int micro) {
    struct trainer t;
    struct config c;
    char override[64];
    snprintf(override, sizeof override, "train.micro_batch=%d", micro);
    small_run_open(&t, &c, rank, folder, 1, (const char *const[]){override});
    CHECK(t.n_micro == 4 / micro, "%d micro-batches of %d", (int)t.n_micro, micro);
    for (int i = 0; i < STEPS; i++) {
        struct step_report r;
        MUST(train_step(&t, &r));
        out->loss[i] = r.loss;
        out->norm[i] = r.grad_norm;
    }
    MUST(train_validate(&t, &out->valid));
    out->weight = weights(&t);
    trainer_close(&t);
    config_term(&c);
}

static void same(int micro, const char *what, int step, double a, double b) {
    CHECK(fabs(a - b) <= 1e-12 * fabs(b), "micro_batch %d, %s of step %d: %.17g, at once %.17g", micro, what, step, a,
          b);
}

static void check_parts(struct rank *rank, const char *folder) {
    struct result whole, parts;
    train(&whole, rank, folder, 4);
    CHECK(fabs(whole.loss[0] - log(31.0)) < 0.3 && whole.loss[STEPS - 1] != whole.loss[0], "losses %g to %g",
          whole.loss[0], whole.loss[STEPS - 1]); /* nothing can be learnt, but something must move */
    for (int micro = 1; micro <= 2; micro++) {
        train(&parts, rank, folder, micro);
        for (int i = 0; i < STEPS; i++) {
            same(micro, "loss", i + 1, parts.loss[i], whole.loss[i]);
            same(micro, "gradient norm", i + 1, parts.norm[i], whole.norm[i]);
        }
        /* AdamW divides by the root of squared gradients: where these are near eps, rounding grows. */
        CHECK(fabs(parts.weight - whole.weight) <= 1e-9, "micro_batch %d: weights %.17g, at once %.17g", micro,
              parts.weight, whole.weight);
        same(micro, "validation", STEPS, parts.valid, whole.valid);
    }
}

/* Zeros and ones would hide much: every weight moves a little from where it starts. */
static void open_moved(struct trainer *t, struct config *c, struct rank *rank, const char *folder,
                       const char *override) {
    small_run_open(t, c, rank, folder, 1, &override);
    for (int i = 0; i < t->run.model.params.n; i++) {
        const struct param *p = &t->run.model.params.list[i];
        for (int64_t j = 0; j < param_count(p); j++)
            ((double *)p->w.data)[j] += 0.01 * rng_normal(9, (uint64_t)i, (uint64_t)j);
    }
}

static const double *w_of(const struct trainer *t, int param) { return t->run.model.params.list[param].w.data; }

/* The first step with weight decay and without: w differs by lr * decay * w, or in no bit. */
static void check_decay(struct rank *rank, const char *folder) {
    struct trainer start, with, without;
    struct config c[3];
    struct step_report r;
    int n_decayed = 0;
    open_moved(&start, &c[0], rank, folder, "optimizer.weight_decay=0");
    open_moved(&with, &c[1], rank, folder, "optimizer.weight_decay=0.5");
    open_moved(&without, &c[2], rank, folder, "optimizer.weight_decay=0");
    MUST(train_step(&without, &r));
    MUST(train_step(&with, &r));
    for (int i = 0; i < start.run.model.params.n; i++) {
        const struct param *p = &start.run.model.params.list[i];
        const double *w0 = w_of(&start, i), *a = w_of(&with, i), *b = w_of(&without, i);
        n_decayed += p->decay;
        for (int64_t j = 0; j < param_count(p); j++) {
            const double wanted = p->decay ? -r.lr * 0.5 * w0[j] : 0.0;
            CHECK(b[j] != w0[j] && fabs(a[j] - b[j] - wanted) <= (p->decay ? 1e-15 : 0.0),
                  "%s[%d]: decayed by %g, not %g", p->name, (int)j, a[j] - b[j], wanted);
        }
    }
    CHECK(n_decayed == 11, "%d parameters decay, not 11", n_decayed);
    trainer_close(&start);
    trainer_close(&with);
    trainer_close(&without);
    for (int i = 0; i < 3; i++) config_term(&c[i]);
}

static void check_unchanged(const struct trainer *t, const struct trainer *start, const char *why) {
    for (int i = 0; i < t->run.model.params.n; i++) {
        const struct param *p = &t->run.model.params.list[i], *q = &start->run.model.params.list[i];
        const struct sharding_piece *a = &t->run.shards.piece[i], *b = &start->run.shards.piece[i];
        const size_t bytes = (size_t)tensor_bytes(p->w);
        CHECK(!memcmp(p->w.data, q->w.data, bytes) && !memcmp(a->m.data, b->m.data, bytes) &&
                  !memcmp(a->v.data, b->v.data, bytes),
              "%s: %s changed", why, p->name);
    }
}

static void check_no_step(struct rank *rank, const char *folder) {
    struct trainer start, t;
    struct config c[2];
    struct step_report r;
    int stop = 15;
    open_moved(&start, &c[0], rank, folder, "optimizer.lr=0.01");
    open_moved(&t, &c[1], rank, folder, "optimizer.lr=0.01");
    t.stop = t.run.step.stop = &stop;
    CHECK(train_step(&t, &r) == ERR_STOPPED && t.step == 0, "a stop: %s, step %d", status_text(), (int)t.step);
    check_unchanged(&t, &start, "a stop");
    stop = 0;
    const double huge = 1e308; /* its square is not finite */
    ((double *)start.run.model.params.list[0].w.data)[0] = ((double *)t.run.model.params.list[0].w.data)[0] = huge;
    MUST(train_step(&t, &r));
    CHECK(r.skipped && t.step == 1, "skipped %d, step %d, loss %g, norm %g", r.skipped, (int)t.step, r.loss,
          r.grad_norm);
    check_unchanged(&t, &start, "a step without finite numbers");
    trainer_close(&start);
    trainer_close(&t);
    for (int i = 0; i < 2; i++) config_term(&c[i]);
}

static enum status check_all(struct rank *rank, void *folder) {
    check_parts(rank, folder);
    check_decay(rank, folder);
    check_no_step(rank, folder);
    return OK;
}

int main(void) { return small_run_main(check_all); }
