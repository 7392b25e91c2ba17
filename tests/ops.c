/* SPDX-License-Identifier: Apache-2.0 */
/* timeout: 240 */
/* Every op on its cases: guard (nothing outside an output is written, everything inside is), same (bits do not depend
 * on the run nor on the number of threads), match (F32 against F64), grad (finite differences in F64), and errors.  The
 * arguments name the ops to run; none: all. */
#include "kernels/cases.h"
#include "base/pool.h"
#include "base/rng.h"
#include "kernels/ops.h"
#include "tests/trial_checks.h"

static struct ctx context(const struct ops *ops, struct pool *pool) {
    return (struct ctx){.ops = ops, .pool = pool, .real = ops == &ops_ref64 ? F64 : F32, .space = HOST};
}

static void run(struct trial *t, struct ctx *c, enum pass p) {
    const enum status st = trial_hook(t, c, p);
    const enum status ran = st == OK ? trial_run(t, c, p) : st;
    CHECK(ran == OK, "%s, %s, pass %d: %s (%s)", t->op->name, t->why, p, status_text(), status_trace());
}

static void guard_pass(struct trial *t, struct ctx *c, enum pass p) {
    struct shot before;
    MUST(trial_hook(t, c, p));
    shot_take(&before, t);
    const enum status st = trial_run(t, c, p);
    CHECK(st == OK, "%s, %s, pass %d: %s", t->op->name, t->why, p, status_text());
    guard_check(t, &before, p);
    shot_drop(&before);
}

static void guard(const struct case_op *op, int row, const struct ops *ops) {
    struct trial t;
    struct ctx c = context(ops, NULL);
    MUST(trial_open(&t, op, row, c.real));
    trial_fill(&t);
    for (enum pass p = FORWARD; p <= last_pass(&t); p++) guard_pass(&t, &c, p);
    trial_close(&t);
}

static void same(const struct case_op *op, int row, struct pool *three) {
    static const char *const what[] = {"", "one run and another", "1 thread and 3"};
    struct trial t;
    struct shot shots[3];
    MUST(trial_open(&t, op, row, F32));
    for (int i = 0; i < 3; i++) {
        struct ctx c = context(&ops_ref, i == 2 ? three : NULL);
        trial_fill(&t);
        for (enum pass p = FORWARD; p <= last_pass(&t); p++) run(&t, &c, p);
        shot_take(&shots[i], &t);
        if (i > 0) compare_bits(&t, &shots[0], &shots[i], what[i]);
    }
    for (int i = 0; i < 3; i++) shot_drop(&shots[i]);
    trial_close(&t);
}

static void match(const struct case_op *op, int row) {
    struct trial t, t64;
    struct ctx c = context(&ops_ref, NULL), c64 = context(&ops_ref64, NULL);
    MUST(trial_open(&t, op, row, F32));
    MUST(trial_open(&t64, op, row, F64));
    trial_fill(&t);
    trial_fill(&t64);
    for (enum pass p = FORWARD; p <= last_pass(&t); p++) {
        run(&t, &c, p);
        run(&t64, &c64, p);
        match_outputs(&t, &t64, p);
    }
    trial_close(&t);
    trial_close(&t64);
}

/* ---- grad ---- */

#define STEP       1e-5 /* of the central difference; its rounding is some 2^-52 / STEP of the sum of |terms| */
#define DIRECTIONS 2

static struct case_tensor *gradient_of(struct trial *t, const struct case_tensor *x) {
    char name[64] = "d";
    if (!x->gradient) strncat(name, x->name, sizeof name - 2);
    return trial_find(t, x->gradient ? x->gradient : name);
}

static double *elements_of(const struct case_tensor *x) {
    void *p = NULL;
    MUST(mem_take(tensor_count(*x->at) * (int64_t)sizeof(double), &p));
    for (int64_t i = 0; i < tensor_count(*x->at); i++) ((double *)p)[i] = trial_get(x, i);
    return p;
}

/* The scalar that backward differentiates: outputs times their gradients, or times weights.  Right after forward, when
 * the gradients still hold their initial values.  *size: the sum of the terms' absolute values. */
static double scalar(struct trial *t, double *size) {
    double sum = 0.0;
    *size = 0.0;
    for (int i = 0; i < t->n_tensors; i++) {
        const struct case_tensor *y = &t->tensor[i], *dy = gradient_of(t, y);
        if (!(y->roles & F_OUT) || !(y->weight || (dy && dy->roles & B_IN))) continue;
        for (int64_t k = 0; k < tensor_count(*y->at); k++) {
            const double term = trial_get(y, k) * (y->weight ? y->weight[k] : trial_get(dy, k));
            sum += term;
            *size += fabs(term);
        }
    }
    return sum;
}

static double scalar_at(struct trial *t, struct ctx *c, const struct shot *filled, struct case_tensor *x, double step,
                        uint64_t direction, double *size) {
    shot_restore(filled, t);
    for (int64_t i = 0; i < tensor_count(*x->at); i++)
        trial_set(x, i, trial_get(x, i) + step * rng_normal(direction, 1, (uint64_t)i));
    run(t, c, FORWARD);
    return scalar(t, size);
}

/* backward's gradient of x, as it left it in dx: what `before` says was there is subtracted where backward adds. */
static double *gradient(const struct case_tensor *x, const struct case_tensor *dx, const double *before) {
    const bool adds = dx->roles & B_IN && !(x->roles & F_OUT);
    double *g = elements_of(dx);
    for (int64_t i = 0; adds && i < tensor_count(*dx->at); i++) g[i] -= before[i];
    return g;
}

static void grad_input(struct trial *t, struct ctx *c, const struct shot *filled, struct case_tensor *x,
                       const double *g) {
    const int64_t n = tensor_count(*x->at);
    double norm = 0.0;
    for (int64_t i = 0; i < n; i++) norm += g[i] * g[i];
    norm = sqrt(norm);
    for (uint64_t way = 1; way <= DIRECTIONS; way++) {
        double slope = 0.0, size = 0.0;
        const double up = scalar_at(t, c, filled, x, STEP, way, &size);
        const double down = scalar_at(t, c, filled, x, -STEP, way, &size);
        const double difference = (up - down) / (2 * STEP);
        for (int64_t i = 0; i < n; i++) slope += g[i] * rng_normal(way, 1, (uint64_t)i);
        /* The slope is of the size of |g|, and the difference cannot resolve its own rounding. */
        const double allowed = t->grad_bound * norm + 4 * 0x1p-52 / STEP * size;
        CHECK(fabs(difference - slope) <= allowed,
              "%s, %s: along d%s the slope is %.12g, finite differences %.12g: %.3g |g|", t->op->name, t->why, x->name,
              slope, difference, fabs(difference - slope) / norm);
    }
}

/* Every output of backward must be the gradient of some input, so that none goes untested. */
static void all_gradients_named(struct trial *t) {
    for (int i = 0; i < t->n_tensors; i++) {
        const struct case_tensor *dx = &t->tensor[i];
        bool found = dx->roles & F_OUT || (dx->gradient && !*dx->gradient);
        for (int k = 0; k < t->n_tensors; k++)
            found |= t->tensor[k].roles & F_IN && gradient_of(t, &t->tensor[k]) == dx;
        CHECK(found || !(dx->roles & B_OUT), "%s, %s: %s is the gradient of no input", t->op->name, t->why, dx->name);
    }
}

/* Where backward leaves the gradient of x, if it has one. */
static const struct case_tensor *left_by_backward(struct trial *t, const struct case_tensor *x) {
    const struct case_tensor *dx = gradient_of(t, x);
    return x->roles & F_IN && is_real(x) && dx && dx->roles & B_OUT ? dx : NULL;
}

static void grad(const struct case_op *op, int row) {
    struct trial t;
    struct ctx c = context(&ops_ref64, NULL);
    double *g[TRIAL_TENSORS] = {NULL};
    struct shot filled;
    MUST(trial_open(&t, op, row, F64));
    all_gradients_named(&t);
    trial_fill(&t);
    shot_take(&filled, &t); /* random numbers take longer than most ops */
    for (int i = 0; i < t.n_tensors; i++)
        if (left_by_backward(&t, &t.tensor[i])) g[i] = elements_of(left_by_backward(&t, &t.tensor[i]));
    for (enum pass p = FORWARD; p <= last_pass(&t); p++) run(&t, &c, p);
    for (int i = 0; i < t.n_tensors; i++) {
        double *before = g[i];
        if (!before) continue;
        g[i] = gradient(&t.tensor[i], left_by_backward(&t, &t.tensor[i]), before);
        mem_free(before);
    }
    for (int i = 0; i < t.n_tensors; i++)
        if (g[i]) grad_input(&t, &c, &filled, &t.tensor[i], g[i]), mem_free(g[i]);
    shot_drop(&filled);
    trial_close(&t);
}

/* ---- errors ---- */

static void errors(const struct case_op *op, int row) {
    struct trial t;
    struct ctx c = context(&ops_ref, NULL);
    MUST(trial_open(&t, op, row, F32));
    trial_fill(&t);
    for (enum pass p = FORWARD; p <= last_pass(&t); p++) {
        MUST(trial_hook(&t, &c, p));
        for (int i = 0; i < t.n_tensors; i++) wrong_tensor(&t, &c, p, &t.tensor[i]);
        MUST(trial_run(&t, &c, p));
    }
    if (last_pass(&t) == FORWARD) must_fail(&t, &c, BACKWARD, ERR_ARG, "the backward", "that does not exist");
    trial_close(&t);
}

/* A plan is made before there is memory: the bytes of workspace must not depend on data. */
static void plan(const struct case_op *op, int row) {
    struct trial t;
    struct ctx c = context(&ops_ref, NULL);
    MUST(trial_open(&t, op, row, F32));
    const int64_t bytes = op->work(&c, t.args);
    for (int i = 0; i < t.n_tensors; i++) t.tensor[i].at->data = NULL;
    const int64_t planned = op->work(&c, t.args);
    CHECK(planned == bytes, "%s, %s: %lld bytes of workspace planned without data, %lld with", op->name, t.why,
          (long long)planned, (long long)bytes);
    trial_close(&t);
}

static bool wanted(const char *name, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], name)) return true;
    return argc < 2;
}

int main(int argc, char **argv) {
    struct pool *three = NULL;
    MUST(pool_init(&three, 3));
    for (int i = 0; i < n_case_ops; i++) {
        const struct case_op *op = &case_ops[i];
        if (!wanted(op->name, argc, argv)) continue;
        for (int row = 0; row < op->n_cases; row++) {
            guard(op, row, &ops_ref);
            guard(op, row, &ops_ref64);
            same(op, row, three);
            match(op, row);
            if (op->flags & GRAD) grad(op, row);
            errors(op, row);
            plan(op, row);
        }
    }
    pool_term(three);
    return check_end();
}
