/* SPDX-License-Identifier: Apache-2.0 */
/* The formulas of the basic ops' headers, written down once more as plainly as can be, against the F64 twin on every
 * case: the other checks of an op (tests/ops.c) would not see a twin that computes something else, forward and backward
 * alike. */
#include "kernels/activation/activation.h"
#include "kernels/adamw/adamw.h"
#include "kernels/add/add.h"
#include "kernels/affine/affine.h"
#include "kernels/balance/balance.h"
#include "kernels/cases.h"
#include "kernels/cast/cast.h"
#include "kernels/clip/clip.h"
#include "kernels/combine/combine.h"
#include "kernels/embedding/embedding.h"
#include "kernels/fill/fill.h"
#include "kernels/gated_norm/gated_norm.h"
#include "kernels/group/group.h"
#include "kernels/grouped_linear/grouped_linear.h"
#include "kernels/head/head.h"
#include "kernels/limit/limit.h"
#include "kernels/linear/linear.h"
#include "kernels/nudge/nudge.h"
#include "kernels/ops.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/route/route.h"
#include "kernels/sum_squares/sum_squares.h"
#include "kernels/token_loss/token_loss.h"
#include "kernels/tree_sum/tree_sum.h"
#include "tests/check.h"

/* What the tensors of a trial held before the op ran. */
struct before {
    const struct trial *t;
    double *values[TRIAL_TENSORS];
};

static const struct case_tensor *named(const struct trial *t, const char *name) {
    for (int i = 0; i < t->n_tensors; i++)
        if (!strcmp(t->tensor[i].name, name)) return &t->tensor[i];
    return NULL;
}

/* Element i of the tensor as it was before the op. */
static double was(const struct before *b, const char *name, int64_t i) {
    const struct case_tensor *x = named(b->t, name);
    if (!x) {
        fprintf(stderr, "%s, %s: no tensor %s\n", b->t->op->name, b->t->why, name);
        exit(1);
    }
    return b->values[x - b->t->tensor][i];
}

static int64_t count(const struct before *b, const char *name) { return tensor_count(*named(b->t, name)->at); }
static int64_t width(const struct before *b, const char *name) { return named(b->t, name)->at->shape[1]; }

/* The element of the output must be `want`, to some roundings of the terms' size. */
static void expect(const struct before *b, const char *name, int64_t i, double want, double size) {
    const double got = trial_get(named(b->t, name), i);
    CHECK(fabs(got - want) <= 1e-14 * (size + fabs(want)), "%s, %s: %s element %lld is %.17g, by the formula %.17g",
          b->t->op->name, b->t->why, name, (long long)i, got, want);
}

static double silu(double x) { return x / (1.0 + exp(-x)); }

static void mean_activation(const struct before *b, const void *args) {
    const struct activation *a = args;
    const int64_t F = a->y.shape[1];
    for (int64_t i = 0; i < count(b, "y"); i++) {
        const double h = was(b, "h", a->kind == ACT_SWIGLU ? i / F * 2 * F + i % F : i);
        double y = 0.0;
        switch (a->kind) {
        case ACT_RELU2:
            y = h > 0.0 ? h * h : 0.0;
            break;
        case ACT_SWIGLU:
            y = silu(h) * was(b, "h", i / F * 2 * F + F + i % F);
            break;
        case ACT_GELU:
            y = 0.5 * h * (1.0 + erf(h / sqrt(2.0)));
            break;
        case ACT_GELU_TANH:
            y = 0.5 * h * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (h + 0.044715 * h * h * h)));
            break;
        }
        expect(b, "y", i, y, fabs(h));
    }
}

static void mean_adamw(const struct before *b, const void *args) {
    const struct adamw *a = args;
    for (int64_t i = 0; i < count(b, "w"); i++) {
        const double g = was(b, "g", i) * was(b, "knobs", KNOB_CLIP), w = was(b, "w", i);
        const double m = a->beta1 * was(b, "m", i) + (1.0 - a->beta1) * g;
        const double v = a->beta2 * was(b, "v", i) + (1.0 - a->beta2) * g * g;
        const double step = m * was(b, "knobs", KNOB_FIX1) / (sqrt(v * was(b, "knobs", KNOB_FIX2)) + a->eps);
        const bool skip = was(b, "knobs", KNOB_SKIP) != 0.0;
        const double rate = was(b, "knobs", KNOB_LR) * a->lr_scale;
        expect(b, "m", i, skip ? was(b, "m", i) : m, 1.0);
        expect(b, "v", i, skip ? was(b, "v", i) : v, 1.0);
        expect(b, "w", i, skip ? w : w - rate * (step + a->decay * w), 1.0);
    }
}

static void mean_add(const struct before *b, const void *args) {
    const struct add *a = args;
    const char *out = named(b->t, "out") ? "out" : "x";
    for (int64_t i = 0; i < count(b, out); i++) expect(b, out, i, was(b, "x", i) + a->scale * was(b, "y", i), 1.0);
}

static void mean_affine(const struct before *b, const void *args) {
    const char *out = named(b->t, "out") ? "out" : "in";
    (void)args;
    for (int64_t i = 0; i < count(b, out); i++) {
        double keep = was(b, "decay", i / width(b, "in"));
        if (named(b->t, "log_rate")) keep = keep >= AFFINE_FOREVER ? 0.0 : exp(-exp(was(b, "log_rate", i)) * keep);
        expect(b, out, i, keep * was(b, "in", i) + was(b, "state", i), 1.0);
    }
}

/* Probabilities of token t, or sigmoids. */
static void mean_scores(const struct before *b, int64_t t, int64_t E, bool softmax, double *s) {
    double sum = 0.0;
    for (int64_t e = 0; e < E; e++) sum += exp(was(b, "logits", t * E + e));
    for (int64_t e = 0; e < E; e++) {
        const double power = exp(was(b, "logits", t * E + e));
        s[e] = softmax ? power / sum : power / (1.0 + power);
    }
}

static int64_t sequence_of(const struct before *b, int64_t t, int64_t G) {
    const int64_t R = count(b, "range") - 1;
    for (int64_t r = 0; r < R; r++)
        if (t >= was(b, "range", r) && t < was(b, "range", r + 1)) return r / (R / G);
    return -1;
}

static void mean_balance(const struct before *b, const void *args) {
    const struct balance *a = args;
    const int64_t T = a->logits.shape[0], E = a->logits.shape[1];
    double loss = was(b, "loss", 0), s[64];
    for (int64_t t = 0; t < T; t++) {
        const int64_t g = sequence_of(b, t, a->load.shape[0]);
        double all = 0.0, powers = 0.0, sum = 0.0;
        mean_scores(b, t, E, a->scores == ROUTE_SOFTMAX, s);
        for (int64_t e = 0; e < E; e++) {
            all += was(b, "load", g * E + e);
            powers += exp(was(b, "logits", t * E + e));
            sum += s[e];
        }
        for (int64_t e = 0; e < E && all > 0.0; e++)
            loss += a->aux * (double)E * was(b, "load", g * E + e) / all * s[e] / sum;
        loss += a->z * log(powers) * log(powers);
    }
    expect(b, "loss", 0, loss, 10.0);
}

static void mean_combine(const struct before *b, const void *args) {
    const struct combine *a = args;
    const int64_t D = a->y.shape[1], k = a->row.shape[1];
    for (int64_t i = 0; i < count(b, "y"); i++) {
        double y = a->add ? was(b, "y", i) : 0.0;
        for (int64_t j = i / D * k; j < (i / D + 1) * k; j++)
            y += (named(b->t, "w") ? was(b, "w", j) : 1.0) * was(b, "x", (int64_t)was(b, "row", j) * D + i % D);
        expect(b, "y", i, y, (double)k);
    }
}

static void mean_embedding(const struct before *b, const void *args) {
    const struct embedding *a = args;
    const int64_t D = width(b, "y"), V = a->w.shape[0];
    for (int64_t i = 0; i < count(b, "y"); i++) {
        const int64_t id = (int64_t)was(b, "ids", i / D) - a->first;
        expect(b, "y", i, id >= 0 && id < V ? was(b, "w", id * D + i % D) : 0.0, 0.0);
    }
}

static void mean_fill(const struct before *b, const void *args) {
    for (int64_t i = 0; i < count(b, "x"); i++) expect(b, "x", i, ((const struct fill *)args)->value, 0.0);
}

static void mean_gated_norm(const struct before *b, const void *args) {
    const struct gated_norm *a = args;
    const int64_t C = a->y.shape[1];
    for (int64_t i = 0; i < count(b, "out"); i++) {
        const int64_t begin = i - i % C % a->group;
        double sum = 0.0;
        for (int64_t k = begin; k < begin + a->group; k++) {
            const double u = was(b, "y", k) * (a->norm_first ? 1.0 : silu(was(b, "z", k)));
            sum += u * u;
        }
        const double r = 1.0 / sqrt(sum / (double)a->group + a->eps);
        expect(b, "r", i / a->group, r, 0.0);
        expect(b, "out", i, was(b, "w", i % C) * was(b, "y", i) * silu(was(b, "z", i)) * r, 0.0);
    }
}

/* Each choice's row: those of its section before it that have a smaller expert, or the same and come first. */
static void mean_group(const struct before *b, const void *args) {
    const struct group *a = args;
    const int64_t k = a->ids.shape[1], S = a->offset.shape[0], E = a->offset.shape[1] - 1;
    for (int64_t s = 0; s < S; s++) {
        const int64_t begin = named(b->t, "range") ? (int64_t)was(b, "range", s) * k : 0;
        const int64_t end = named(b->t, "range") ? (int64_t)was(b, "range", s + 1) * k : count(b, "ids");
        int64_t below[64] = {0};
        for (int64_t i = begin; i < end; i++) {
            int64_t row = begin;
            for (int64_t j = begin; j < end; j++)
                row += was(b, "ids", j) < was(b, "ids", i) || (was(b, "ids", j) == was(b, "ids", i) && j < i);
            expect(b, "row", i, (double)row, 0.0);
            for (int64_t e = (int64_t)was(b, "ids", i) + 1; e <= E; e++) below[e]++;
        }
        for (int64_t e = 0; e <= E; e++) expect(b, "offset", s * (E + 1) + e, (double)(begin + below[e]), 0.0);
    }
}

static void mean_grouped_linear(const struct before *b, const void *args) {
    const struct grouped_linear *a = args;
    const int64_t E = a->w.shape[0], O = a->w.shape[1], I = a->w.shape[2];
    for (int64_t g = 0; g < a->offset.shape[0] * E; g++) {
        const int64_t at = g / E * (E + 1) + g % E;
        for (int64_t i = (int64_t)was(b, "offset", at); i < was(b, "offset", at + 1); i++)
            for (int64_t o = 0; o < O; o++) {
                double y = 0.0;
                for (int64_t k = 0; k < I; k++) y += was(b, "x", i * I + k) * was(b, "w", (g % E * O + o) * I + k);
                expect(b, "y", i * O + o, y, (double)I);
            }
    }
}

static void mean_head(const struct before *b, const void *args) {
    const struct head *a = args;
    const int64_t D = a->x.shape[1], V = a->w.shape[0];
    for (int64_t t = 0; t < a->x.shape[0]; t++) {
        const int64_t target = (int64_t)was(b, "targets", t);
        double sum = 0.0, picked = 0.0;
        for (int64_t v = 0; v < V; v++) {
            double l = 0.0;
            for (int64_t d = 0; d < D; d++) l += a->logit_scale * was(b, "x", t * D + d) * was(b, "w", v * D + d);
            expect(b, "logits", t * V + v, l, (double)D);
            sum += exp(l);
            if (a->first + v == target) picked = l;
        }
        expect(b, "lse", t, log(sum), (double)D);
        expect(b, "picked", t, picked, (double)D);
    }
}

/* Every choice against those of its range and expert that come before it. */
static void mean_limit(const struct before *b, const void *args) {
    const struct limit *a = args;
    const int64_t k = a->ids.shape[1], R = a->count.shape[0], E = a->count.shape[1];
    double dropped = 0.0;
    for (int64_t r = 0; r < R; r++)
        for (int64_t e = 0; e < E; e++) {
            const double first = named(b->t, "entering") ? was(b, "entering", r * E + e) : 0.0;
            double n = 0.0;
            for (int64_t i = (int64_t)was(b, "range", r) * k; i < (int64_t)was(b, "range", r + 1) * k; i++) {
                if (was(b, "ids", i) != (double)e) continue;
                const bool in = first + n < (double)a->capacity;
                if (named(b->t, "taken")) expect(b, "taken", i, (double)(in ? e : E), 0.0);
                dropped += !in;
                n += 1.0;
            }
            expect(b, "count", r * E + e, n, 0.0);
        }
    if (named(b->t, "dropped")) expect(b, "dropped", 0, was(b, "dropped", 0) + dropped, 0.0);
}

static void mean_linear(const struct before *b, const void *args) {
    const struct linear *a = args;
    const int64_t I = a->x.shape[1], O = a->w.shape[0];
    for (int64_t i = 0; i < count(b, "y"); i++) {
        double y = (named(b->t, "b") ? was(b, "b", i % O) : 0.0) + (a->add ? was(b, "y", i) : 0.0);
        for (int64_t k = 0; k < I; k++) y += was(b, "x", i / O * I + k) * was(b, "w", i % O * I + k);
        expect(b, "y", i, y, (double)I);
    }
}

static void mean_nudge(const struct before *b, const void *args) {
    const struct nudge *a = args;
    double mean = 0.0;
    for (int64_t e = 0; e < count(b, "load"); e++) mean += was(b, "load", e) / (double)count(b, "load");
    for (int64_t i = 0; i < count(b, "b"); i++) {
        const double load = was(b, "load", a->begin + i), step = load < mean ? a->rate : load > mean ? -a->rate : 0.0;
        expect(b, "b", i, was(b, "b", i) + (was(b, "knobs", KNOB_SKIP) != 0.0 ? 0.0 : step), 1.0);
    }
}

/* v with its rule for groups, where each group is ranked among all. */
static void mean_values(const struct before *b, const struct route *a, const double *s, double *v) {
    const int64_t E = a->logits.shape[1], size = E / a->groups;
    double score[64];
    for (int64_t e = 0; e < E; e++) v[e] = s[e] + (named(b->t, "bias") ? was(b, "bias", e) : 0.0);
    for (int64_t g = 0; g < a->groups; g++) {
        double pair = size == 1 ? v[g] : -INFINITY;
        for (int64_t i = g * size; i < (g + 1) * size; i++)
            for (int64_t j = g * size; j < i; j++) pair = fmax(pair, v[i] + v[j]);
        score[g] = pair;
    }
    for (int64_t g = 0; g < a->groups; g++) {
        int64_t better = 0;
        for (int64_t h = 0; h < a->groups; h++) better += score[h] > score[g] || (score[h] == score[g] && h < g);
        for (int64_t i = g * size; better >= a->top_groups && i < (g + 1) * size; i++) v[i] = 0.0;
    }
}

/* An expert's place is the number of better ones; the first k places are chosen. */
static void mean_route(const struct before *b, const void *args) {
    const struct route *a = args;
    const int64_t T = a->logits.shape[0], E = a->logits.shape[1], k = a->ids.shape[1];
    double load[64] = {0}, s[64], v[64];
    for (int64_t t = 0; t < T; t++) {
        double sum = 0.0;
        mean_scores(b, t, E, a->scores == ROUTE_SOFTMAX, s);
        mean_values(b, a, s, v);
        for (int pass = 0; pass < 2; pass++)
            for (int64_t e = 0; e < E; e++) {
                int64_t place = 0;
                for (int64_t o = 0; o < E; o++) place += v[o] > v[e] || (v[o] == v[e] && o < e);
                if (place >= k) continue;
                if (pass == 0) sum += s[e], load[e] += 1.0;
                if (pass == 1) expect(b, "ids", t * k + place, (double)e, 0.0);
                if (pass == 1) expect(b, "w", t * k + place, a->scale * s[e] / (a->renormalise ? sum : 1.0), 1.0);
            }
    }
    if (!named(b->t, "load")) return;
    for (int64_t e = 0; e < E; e++) {
        double all = 0.0;
        for (int64_t g = 0; g < a->count.shape[0]; g++) all += trial_get(named(b->t, "count"), g * E + e);
        expect(b, "load", e, was(b, "load", e) + load[e], 0.0);
        CHECK(all == load[e], "%s: %g tokens counted of expert %d, not %g", b->t->why, all, (int)e, load[e]);
    }
}

static void mean_rmsnorm(const struct before *b, const void *args) {
    const struct rmsnorm *a = args;
    const int64_t D = a->x.shape[1];
    for (int64_t t = 0; t < a->x.shape[0]; t++) {
        double sum = 0.0;
        for (int64_t d = 0; d < D; d++) sum += was(b, "x", t * D + d) * was(b, "x", t * D + d);
        const double r = 1.0 / sqrt(sum / (double)D + a->eps);
        expect(b, "r", t, r, 0.0);
        for (int64_t d = 0; d < D; d++)
            expect(b, "y", t * D + d, was(b, "x", t * D + d) * r * (named(b->t, "w") ? was(b, "w", d) : 1.0), 0.0);
    }
}

static void mean_sum_squares(const struct before *b, const void *args) {
    const int64_t n = count(b, "x"), size = SUM_SQUARES_BLOCK;
    (void)args;
    for (int64_t k = 0; named(b->t, "sums") && k < count(b, "sums"); k++) {
        double sum = 0.0;
        for (int64_t i = k * size; i < n && i < (k + 1) * size; i++) sum += was(b, "x", i) * was(b, "x", i);
        expect(b, "sums", k, sum, 100.0 * fabs(sum));
    }
    if (!named(b->t, "out")) return;
    double sum = was(b, "out", 0);
    for (int64_t i = 0; i < n; i++) sum += was(b, "x", i) * was(b, "x", i);
    expect(b, "out", 0, sum, 100.0 * fabs(sum)); /* two orders of summation */
}

static void mean_token_loss(const struct before *b, const void *args) {
    const struct token_loss *a = args;
    const int64_t T = count(b, "lse");
    double total = was(b, "total", 0);
    for (int64_t t = 0; t < T; t++) {
        double sum = 0.0;
        for (int64_t i = 0; i < a->parts.shape[0]; i++) sum += exp(was(b, "parts", i * T + t));
        const double lse = sum > 0.0 ? log(sum) : was(b, "lse", t);
        if (sum > 0.0) expect(b, "lse", t, lse, 0.0);
        const double loss = was(b, "targets", t) < 0.0 ? 0.0 : lse - was(b, "picked", t);
        if (named(b->t, "loss")) expect(b, "loss", t, loss, 0.0);
        total += loss;
    }
    expect(b, "total", 0, total, 0.0);
}

static void mean_cast(const struct before *b, const void *args) {
    (void)args;
    for (int64_t i = 0; i < count(b, "y"); i++) expect(b, "y", i, was(b, "x", i), 0.0);
}

static void mean_clip(const struct before *b, const void *args) {
    const struct clip *a = args;
    double sum = 0.0, bad = -1.0;
    for (int64_t i = 0; i < count(b, "squares"); i++) {
        sum += was(b, "squares", i);
        if (!isfinite(was(b, "squares", i)) && bad < 0.0) bad = (double)i;
    }
    const double norm = sqrt(sum), loss = was(b, "total", 0) * was(b, "scale", 0);
    const double skip = isfinite(norm) && isfinite(loss) ? 0.0 : 1.0;
    const double want[N_REPORT] = {norm, loss, skip, bad};
    for (int64_t i = 0; i < N_REPORT; i++)
        CHECK(memcmp(&want[i], (const double *)a->report.data + i, sizeof *want) == 0 || isnan(want[i]),
              "clip, %s: report %d is %g, by the formula %g", b->t->why, (int)i, ((const double *)a->report.data)[i],
              want[i]);
    for (int64_t i = 0; i < N_KNOBS; i++) {
        const bool clipped = a->limit > 0.0 && norm > a->limit;
        const double clip = clipped ? a->limit / norm : 1.0;
        expect(b, "knobs", i, i == KNOB_CLIP ? clip : i == KNOB_SKIP ? skip : was(b, "knobs", i), 0.0);
    }
}

static double tree_of(const struct before *b, int64_t begin, int64_t n) { /* the largest power of two below n left */
    int64_t left = 1;
    if (n <= 1) return n == 1 ? was(b, "x", begin) : 0.0;
    while (2 * left < n) left *= 2;
    return tree_of(b, begin, left) + tree_of(b, begin + left, n - left);
}

static void mean_tree_sum(const struct before *b, const void *args) {
    (void)args;
    for (int64_t i = 0; i < count(b, "roots"); i++) {
        const bool named_at = named(b->t, "at") != NULL;
        const int64_t begin = named_at ? (int64_t)was(b, "at", i) : 0;
        const int64_t end = named_at ? (int64_t)was(b, "at", i + 1) : count(b, "x");
        const double got = trial_get(named(b->t, "roots"), i), want = tree_of(b, begin, end - begin);
        CHECK(got == want, "tree_sum, %s: root %d is %.17g, by the formula %.17g", b->t->why, (int)i, got, want);
    }
}

static const struct {
    const char *op;
    void (*mean)(const struct before *b, const void *args);
} meanings[] = {
    {"activation", mean_activation},
    {"adamw", mean_adamw},
    {"add", mean_add},
    {"affine", mean_affine},
    {"balance", mean_balance},
    {"cast", mean_cast},
    {"clip", mean_clip},
    {"combine", mean_combine},
    {"embedding", mean_embedding},
    {"fill", mean_fill},
    {"gated_norm", mean_gated_norm},
    {"group", mean_group},
    {"grouped_linear", mean_grouped_linear},
    {"head", mean_head},
    {"limit", mean_limit},
    {"linear", mean_linear},
    {"nudge", mean_nudge},
    {"rmsnorm", mean_rmsnorm},
    {"route", mean_route},
    {"sum_squares", mean_sum_squares},
    {"token_loss", mean_token_loss},
    {"tree_sum", mean_tree_sum},
};

static void hold(const struct case_op *op, int row, void (*mean)(const struct before *, const void *)) {
    struct trial t;
    struct ctx c = {.ops = &ops_ref64, .real = F64, .space = HOST};
    struct before b = {.t = &t};
    MUST(trial_open(&t, op, row, F64));
    trial_fill(&t);
    for (int i = 0; i < t.n_tensors; i++) {
        void *p = NULL;
        MUST(mem_take(tensor_count(*t.tensor[i].at) * (int64_t)sizeof(double), &p));
        b.values[i] = p;
        for (int64_t k = 0; k < tensor_count(*t.tensor[i].at); k++) b.values[i][k] = trial_get(&t.tensor[i], k);
    }
    MUST(trial_run(&t, &c, FORWARD));
    mean(&b, t.args);
    for (int i = 0; i < t.n_tensors; i++) mem_free(b.values[i]);
    trial_close(&t);
}

int main(void) {
    for (size_t m = 0; m < sizeof meanings / sizeof *meanings; m++) {
        int held = 0;
        for (int i = 0; i < n_case_ops; i++)
            for (int row = 0; !strcmp(case_ops[i].name, meanings[m].op) && row < case_ops[i].n_cases; row++, held++)
                hold(&case_ops[i], row, meanings[m].mean);
        CHECK(held > 0, "no op %s has cases", meanings[m].op);
    }
    return check_end();
}
