/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_TRIAL_CHECKS_H
#define BATON_TESTS_TRIAL_CHECKS_H
/* trial_checks.h - what the tests of the ops share: claims about a trial whose memory lies on the host. */
#include "kernels/cases.h"
#include "kernels/ops.h"
#include "tests/check.h"

/* Copies of all blocks of a trial. */
struct shot {
    char *block[TRIAL_TENSORS];
    int n;
};

static inline void shot_take(struct shot *s, const struct trial *t) {
    s->n = t->n_tensors;
    for (int i = 0; i < s->n; i++) {
        void *p = NULL;
        MUST(mem_take(trial_block_bytes(&t->tensor[i]), &p));
        memcpy(p, t->tensor[i].block, (size_t)trial_block_bytes(&t->tensor[i]));
        s->block[i] = (char *)p;
    }
}

static inline void shot_restore(const struct shot *s, struct trial *t) {
    for (int i = 0; i < s->n; i++) memcpy(t->tensor[i].block, s->block[i], (size_t)trial_block_bytes(&t->tensor[i]));
}

static inline void shot_drop(struct shot *s) {
    for (int i = 0; i < s->n; i++) mem_free(s->block[i]);
    s->n = 0;
}

static inline unsigned in_role(enum pass p) { return p == FORWARD ? F_IN : B_IN; }
static inline unsigned out_role(enum pass p) { return p == FORWARD ? F_OUT : B_OUT; }
static inline enum pass last_pass(const struct trial *t) { return t->op->flags & BWD ? BACKWARD : FORWARD; }
static inline bool is_real(const struct case_tensor *x) {
    return x->at->dtype == F64 || x->at->dtype == F32 || x->at->dtype == BF16;
}

/* The bytes of x that are not its elements must be as they were: put the old elements into a copy and compare. */
static inline bool only_elements_changed(const struct case_tensor *x, const char *before) {
    const int64_t bytes = trial_block_bytes(x), e = dtype_bytes(x->at->dtype);
    const int64_t width = x->at->shape[1] * x->at->shape[2] * x->at->shape[3];
    const int64_t at = (char *)x->at->data - x->block;
    struct case_tensor now = *x;
    void *copy = NULL;
    MUST(mem_take(bytes, &copy));
    now.block = (char *)copy;
    memcpy(copy, x->block, (size_t)bytes);
    for (int64_t t = 0; t < x->at->shape[0]; t++)
        memcpy(now.block + at + t * x->at->pitch * e, before + at + t * x->at->pitch * e, (size_t)(width * e));
    const bool same = memcmp(copy, before, (size_t)bytes) == 0;
    mem_free(copy);
    return same;
}

/* After a pass: what is no output has not changed, outputs are whole and finite, nothing around them is written. */
static inline void guard_check(const struct trial *t, const struct shot *before, enum pass p) {
    for (int i = 0; i < t->n_tensors; i++) {
        const struct case_tensor *x = &t->tensor[i];
        if (!(x->roles & out_role(p))) {
            CHECK(!memcmp(x->block, before->block[i], (size_t)trial_block_bytes(x)), "%s, %s, pass %d: %s has changed",
                  t->op->name, t->why, p, x->name);
            continue;
        }
        CHECK(only_elements_changed(x, before->block[i]), "%s, %s, pass %d: bytes outside %s are written", t->op->name,
              t->why, p, x->name);
        for (int64_t k = 0; k < tensor_count(*x->at) && !x->between; k++)
            if (!isfinite(trial_get(x, k))) {
                CHECK(false, "%s, %s, pass %d: %s element %lld is %g", t->op->name, t->why, p, x->name, (long long)k,
                      trial_get(x, k));
                break;
            }
    }
}

static inline void compare_bits(const struct trial *t, const struct shot *a, const struct shot *b, const char *what) {
    for (int i = 0; i < t->n_tensors; i++)
        CHECK(!memcmp(a->block[i], b->block[i], (size_t)trial_block_bytes(&t->tensor[i])), "%s, %s: %s differs: %s",
              t->op->name, t->why, t->tensor[i].name, what);
}

/* |x - y|2 / |y|2, y of the F64 trial; 0 where both vanish. */
static inline double apart(const struct case_tensor *x, const struct case_tensor *y) {
    double apart = 0.0, size = 0.0;
    for (int64_t k = 0; k < tensor_count(*x->at); k++) {
        const double a = trial_get(x, k), b = trial_get(y, k);
        apart += (a - b) * (a - b);
        size += b * b;
    }
    return apart == 0.0 ? 0.0 : sqrt(apart / size);
}

/* How far an output may be from the F64 one.  BF16 keeps 8 bits of a number: rounding to nearest is off by at most 2^-8
 * of it, by 2^-9.2 in the root mean square over numbers of any size.  So one rounding is bounded by 2^-9 where many
 * numbers are summed, by 2^-8 where there are few; n independent ones by sqrt(n) times that.  What F32 computes before
 * is added to it. */
static inline double bound_of(const struct trial *t, const struct case_tensor *x) {
    if (t->real != BF16) return t->bound;
    if (x->at->dtype != BF16 || t->bound == 0.0) return t->wide_bound;
    return t->bound + sqrt(t->roundings) * (tensor_count(*x->at) < 500 ? 0x1p-8 : 0x1p-9);
}

/* Every output of the pass against the F64 trial's; returns the worst. */
static inline double match_outputs(const struct trial *t, const struct trial *t64, enum pass p) {
    double worst = 0.0;
    for (int i = 0; i < t->n_tensors; i++) {
        const struct case_tensor *x = &t->tensor[i];
        if (!(x->roles & out_role(p)) || x->between) continue;
        const double off = apart(x, &t64->tensor[i]);
        CHECK(off <= bound_of(t, x), "%s, %s, pass %d: %s: |%s - F64| = %.3g |F64|, bound %.3g", t->op->name, t->why, p,
              x->name, dtype_name(x->at->dtype), off, bound_of(t, x));
        worst = off > worst ? off : worst;
    }
    return worst;
}

static inline void must_fail(struct trial *t, struct ctx *c, enum pass p, enum status want, const char *field,
                             const char *what) {
    status_clear();
    const enum status st = trial_run(t, c, p);
    CHECK(st == want, "%s, %s, pass %d: %s %s gives %s, not %s", t->op->name, t->why, p, field, what, status_name(st),
          status_name(want));
    CHECK(strstr(status_text(), t->op->name), "%s: the text names no op: %s", t->op->name, status_text());
}

/* Everything that can be wrong with one tensor of a pass. */
static inline void wrong_tensor(struct trial *t, struct ctx *c, enum pass p, struct case_tensor *x) {
    const struct tensor right = *x->at;
    const int64_t n = tensor_count(right);
    if (!(x->roles & (in_role(p) | out_role(p)))) return;
    x->at->dtype = I8;
    must_fail(t, c, p, ERR_ARG, x->name, "of another type");
    *x->at = right;
    for (int d = 0; d < 4; d++) {
        const bool unseen = x->any_rows || (x->rows_by_elements && c->space == DEVICE);
        if (x->any_shape || (d == 0 && unseen)) continue;
        x->at->shape[d]++;
        must_fail(t, c, p, ERR_ARG, x->name, "of another shape");
        *x->at = right;
    }
    x->at->data = NULL;
    if (n > 0 && !(x->roles & OPTIONAL)) must_fail(t, c, p, ERR_ARG, x->name, "absent");
    *x->at = right;
    x->at->space = c->space == HOST ? DEVICE : HOST;
    if (n > 0) must_fail(t, c, p, ERR_ARG, x->name, "in the other space");
    *x->at = right;
    if (x->bad_status == OK || n == 0 || c->space == DEVICE) return; /* elements on a device are not looked at */
    const double good = trial_get(x, n - 1);
    trial_set(x, n - 1, (double)x->bad_value);
    must_fail(t, c, p, x->bad_status, x->name, "with a bad element");
    trial_set(x, n - 1, good);
}
#endif
