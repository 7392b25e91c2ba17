/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* Layers of experts: gradients of whole models with auxiliary losses against central differences, the choice where
 * scores are equal, and layers that must equal an mlp: one expert, equal experts that all are chosen, all tokens sent
 * to one of many. */
#include "kernels/fill/fill.h"
#include "kernels/ops.h"
#include "kernels/route/route.h"
#include "tests/small_model.h"

/* ---- gradients ---- */

static const char *const symbols[] = {
    "*=attention heads=2 kv_heads=1 head_width=4",
    "-=mlp hidden=12 activation=swiglu",
    "j=moe experts=4 top_k=2 hidden=7",
    "a=moe experts=5 top_k=2 hidden=6 aux_loss=0.7 z_loss=0.05 aux_over=batch shared=9 activation=relu2",
    "n=moe experts=6 top_k=3 hidden=5 activation=relu2 scores=sigmoid renormalise=true scale=2.5 bias=true shared=8 "
    "aux_loss=0.6",
    "l=moe experts=8 top_k=3 hidden=6 latent=5 scores=sigmoid scale=5 bias=true groups=4 top_groups=2 shared=4 "
    "z_loss=0.1 aux_loss=0.5",
    "g=moe experts=6 top_k=4 hidden=5 activation=gelu renormalise=true latent=3",
    "c=moe experts=4 top_k=2 hidden=7 capacity=6 shared=4 aux_loss=0.3",
    "d=moe experts=4 top_k=2 hidden=7 activation=relu2 latent=5 capacity=3",
    "1=moe experts=1 top_k=1 hidden=5 aux_loss=1",
    "k=moe experts=3 top_k=3 hidden=5 scores=sigmoid renormalise=true",
    NULL};

static const struct {
    const char *why, *pattern;
    int64_t sequences, tokens;
    bool tied;
} grads[] = {{"softmax, two of four", "j*j", 2, 37, false},
             {"auxiliary losses over the batch", "a*a", 3, 20, true},
             {"sigmoid, renormalised, by sequence", "n*n", 3, 20, false},
             {"latent, groups", "l*l", 2, 31, false},
             {"latent without shared experts", "g*-", 2, 19, true},
             {"one expert; all experts", "1*k", 2, 17, false},
             {"experts that take some tokens of a sequence", "cd*c", 2, 23, false},
             {"one token a sequence", "anl", 3, 1, false}};

static double loss_of(struct runner *r) {
    double *aux = r->aux.data; /* there are experts, and this is the CPU */
    r->total = *aux = 0.0;
    MUST(runner_pass(r, true));
    return r->total * r->scale + *aux;
}

/* A direction of length about 1. */
static double direction(const struct param *p, int64_t i) {
    return rng_normal(11, rng_stream(p->name), (uint64_t)i) / sqrt((double)param_count(p));
}

static void move(struct param *p, double h) {
    for (int64_t i = 0; i < param_count(p); i++) ((double *)p->w.data)[i] += h * direction(p, i);
}

static double difference(struct runner *r, struct param *p, double h) {
    move(p, h);
    const double up = loss_of(r);
    move(p, -2.0 * h);
    const double down = loss_of(r);
    move(p, h);
    return (up - down) / (2.0 * h);
}

/* g: the gradient, before differences added to it. */
static void check_param(struct runner *r, struct param *p, const double *g, const char *why) {
    double along = 0.0, size = 0.0;
    for (int64_t i = 0; i < param_count(p); i++) {
        along += g[i] * direction(p, i);
        size += fabs(g[i] * direction(p, i));
    }
    if (p->kind == PARAM_STATE) {
        CHECK(size == 0.0, "%s: %s has a gradient", why, p->name);
        return;
    }
    const double h = 2e-5, numeric = difference(r, p, h), bound = 1e-7 * size + 1e-10;
    CHECK(fabs(numeric - along) <= bound, "%s: %s: differences %.12g, backward %.12g", why, p->name, numeric, along);
}

static void open_model(struct runner *r, struct model_config *c, const char *pattern, int64_t sequences, int64_t tokens,
                       bool tied) {
    small_model(c, pattern, 10, 13, tied, symbols);
    const struct runner_spec spec = {.precision = PRECISION_F64,
                                     .threads = 2,
                                     .n_sequences = sequences,
                                     .tokens = tokens,
                                     .tile = 16,
                                     .gradients = true};
    MUST(runner_init(r, c, &spec, false));
    small_params(r, 5);
    small_batch(r, 7);
}

static void gradient(struct runner *r) {
    MUST(r->ctx.ops->fill_fwd(&r->ctx, &(struct fill){.x = r->grads, .value = 0.0}));
    r->total = 0.0;
    if (r->aux.data) *(double *)r->aux.data = 0.0;
    MUST(runner_load_begin(r));
    MUST(runner_pass(r, true));
}

static void check_gradients(void) {
    for (size_t i = 0; i < sizeof grads / sizeof *grads; i++) {
        struct model_config c;
        struct runner r;
        void *mem = NULL;
        open_model(&r, &c, grads[i].pattern, grads[i].sequences, grads[i].tokens, grads[i].tied);
        gradient(&r);
        const double aux = *(const double *)r.aux.data;
        CHECK((aux > 0.0) == (strpbrk(grads[i].pattern, "anlc1") != NULL), "%s: auxiliary losses %g", grads[i].why,
              aux);
        MUST(mem_take(tensor_bytes(r.grads), &mem));
        memcpy(mem, r.grads.data, (size_t)tensor_bytes(r.grads));
        for (int p = 0; p < r.model.params.n; p++) {
            struct param *param = &r.model.params.list[p];
            const int64_t at = (const double *)param->g.data - (const double *)r.grads.data;
            check_param(&r, param, (const double *)mem + at, grads[i].why);
        }
        mem_free(mem);
        runner_term(&r);
        model_config_term(&c);
    }
}

/* ---- equal scores ---- */

enum { E = 8 };
struct tie {
    const char *why;
    enum route_scores scores;
    int64_t k, groups, top_groups;
    double logits[E], bias[E];
    int32_t ids[E];
};
static const struct tie ties[] = {
    {"all equal: the lowest indices", ROUTE_SOFTMAX, 3, 1, 1, {0}, {0}, {0, 1, 2}},
    {"two pairs", ROUTE_SIGMOID, 3, 1, 1, {0, 1, 0, 2, 1, 2, 0, 0}, {0}, {3, 5, 1}},
    {"sigmoids that saturate are equal", ROUTE_SIGMOID, 2, 1, 1, {0, 0, 0, 90, 0, 80, 95, 0}, {0}, {3, 5}},
    {"softmax that underflows", ROUTE_SOFTMAX, 4, 1, 1, {-900, 0, -800, 0, -900, 0, -900, -900}, {0}, {1, 3, 5, 0}},
    {"a bias decides", ROUTE_SIGMOID, 2, 1, 1, {0}, {0, 0, 0, 0, 0, 0, .1, .2}, {7, 6}},
    {"equal groups: the first", ROUTE_SIGMOID, 2, 4, 1, {0}, {0}, {0, 1}},
    {"groups by their two largest", ROUTE_SIGMOID, 2, 2, 1, {9, 0, 0, 0, 2, 2, 0, 0}, {0}, {4, 5}},
    {"below 0 the masked ones win, which count as 0",
     ROUTE_SIGMOID,
     3,
     2,
     1,
     {0},
     {-2, -2, -2, -2, -3, -3, -3, -3},
     {4, 5, 6}},
    {"all of them", ROUTE_SOFTMAX, 8, 1, 1, {0, 1, 2, 3, 3, 2, 1, 0}, {0}, {3, 4, 2, 5, 1, 6, 0, 7}},
};

static void check_ties(void) {
    for (size_t i = 0; i < sizeof ties / sizeof *ties; i++) {
        const struct tie *t = &ties[i];
        struct ctx c = {.ops = &ops_ref64, .real = F64, .space = HOST};
        double w[E], logits[E], bias[E];
        int32_t ids[E];
        memcpy(logits, t->logits, sizeof logits);
        memcpy(bias, t->bias, sizeof bias);
        const struct route a = {.scores = t->scores,
                                .groups = t->groups,
                                .top_groups = t->top_groups,
                                .scale = 1.0,
                                .logits = tensor_2d(logits, F64, 1, E),
                                .bias = tensor_1d(bias, F64, E),
                                .ids = tensor_2d(ids, I32, 1, t->k),
                                .w = tensor_2d(w, F64, 1, t->k)};
        MUST(c.ops->route_fwd(&c, &a));
        for (int64_t j = 0; j < t->k; j++)
            CHECK(ids[j] == t->ids[j], "%s: choice %d is %d, not %d", t->why, (int)j, ids[j], t->ids[j]);
    }
}

/* Numbers that are none must not lead out of the table. */
static void check_nan(void) {
    struct ctx c = {.ops = &ops_ref64, .real = F64, .space = HOST};
    double logits[E], w[E];
    int32_t ids[E];
    bool seen[E] = {false};
    for (int e = 0; e < E; e++) logits[e] = NAN;
    const struct route a = {.groups = 4,
                            .top_groups = 2,
                            .scale = 1.0,
                            .logits = tensor_2d(logits, F64, 1, E),
                            .ids = tensor_2d(ids, I32, 1, 5),
                            .w = tensor_2d(w, F64, 1, 5)};
    MUST(c.ops->route_fwd(&c, &a));
    for (int j = 0; j < 5; j++) {
        CHECK(ids[j] >= 0 && ids[j] < E && !seen[ids[j]], "choice %d of nothing but NaN is %d", j, ids[j]);
        seen[ids[j]] = true;
    }
}

/* ---- layers that are an mlp ---- */

static struct param *param_of(struct runner *r, const char *name) {
    const int i = param_find(&r->model.params, name);
    CHECK(i >= 0, "no parameter %s", name);
    return &r->model.params.list[i];
}

static void copy_rows(double *to, const double *from, int64_t n) { memcpy(to, from, (size_t)n * sizeof(double)); }

/* The mlp's weights into expert e of the layer in the same place: gate | up, and down. */
static void to_expert(struct runner *moe, struct runner *mlp, int64_t e, int64_t F) {
    const double *up = param_of(mlp, "layers.0.up.weight")->w.data;
    const int64_t D = moe->model.config->width, n = F * D;
    copy_rows((double *)param_of(moe, "layers.0.experts.gate.weight")->w.data + e * n, up, n);
    copy_rows((double *)param_of(moe, "layers.0.experts.up.weight")->w.data + e * n, up + n, n);
    copy_rows((double *)param_of(moe, "layers.0.experts.down.weight")->w.data + e * n,
              param_of(mlp, "layers.0.down.weight")->w.data, n);
}

static double apart(const double *a, const double *b, int64_t n) {
    double worst = 0.0;
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(a[i] - b[i]) <= worst)) worst = fabs(a[i] - b[i]);
    return worst;
}

/* Of all experts together: sum over e of the gradient, against the mlp's. */
static void same_gradient(struct runner *moe, const char *ours, const double *theirs, int64_t n, const char *why) {
    const struct param *p = param_of(moe, ours);
    double sum[1024] = {0};
    for (int64_t i = 0; i < param_count(p); i++) sum[i % n] += ((const double *)p->g.data)[i];
    CHECK(apart(sum, theirs, n) < 1e-14, "%s: gradients of %s differ by %g", why, ours, apart(sum, theirs, n));
}

static void check_equal(const char *why, const char *symbol, int64_t experts, int64_t favourite) {
    const char *const table[] = {"-=mlp hidden=12 activation=swiglu", symbol, NULL};
    struct model_config c[2];
    struct runner r[2];
    const int64_t F = 12, D = 10;
    for (int i = 0; i < 2; i++) {
        small_model(&c[i], i ? "x" : "-", D, 13, false, table);
        const struct runner_spec spec = {
            .precision = PRECISION_F64, .threads = 1, .n_sequences = 2, .tokens = 23, .tile = 16, .training = true};
        MUST(runner_init(&r[i], &c[i], &spec, false));
        small_params(&r[i], 5); /* by name: what both have is equal */
        small_batch(&r[i], 7);
    }
    for (int64_t e = 0; e < experts; e++)
        if (favourite < 0 || e == favourite) to_expert(&r[1], &r[0], e, F);
    if (favourite >= 0) ((double *)param_of(&r[1], "layers.0.router.bias")->w.data)[favourite] = 10.0;
    for (int i = 0; i < 2; i++) gradient(&r[i]);
    CHECK(fabs(r[0].total - r[1].total) < 1e-13 * r[0].total, "%s: losses %.17g and %.17g", why, r[1].total,
          r[0].total);
    const double *up = param_of(&r[0], "layers.0.up.weight")->g.data;
    same_gradient(&r[1], "layers.0.experts.gate.weight", up, F * D, why);
    same_gradient(&r[1], "layers.0.experts.up.weight", up + F * D, F * D, why);
    same_gradient(&r[1], "layers.0.experts.down.weight", param_of(&r[0], "layers.0.down.weight")->g.data, F * D, why);
    const struct param *a = param_of(&r[0], "embedding.weight"), *b = param_of(&r[1], "embedding.weight");
    CHECK(apart(a->g.data, b->g.data, param_count(a)) < 1e-14, "%s: gradients of the embedding differ", why);
    for (int64_t e = 0; favourite >= 0 && e < experts; e++) {
        const double *g = (const double *)param_of(&r[1], "layers.0.experts.up.weight")->g.data + e * F * D;
        const double load = ((const double *)r[1].load.data)[e];
        double size = 0.0;
        for (int64_t i = 0; i < F * D; i++) size += fabs(g[i]);
        CHECK((size == 0.0) == (e != favourite), "%s: the gradient of expert %d has the size %g", why, (int)e, size);
        CHECK(load == (e == favourite ? 46.0 : 0.0), "%s: expert %d got %g tokens", why, (int)e, load);
    }
    for (int i = 0; i < 2; i++) {
        runner_term(&r[i]);
        model_config_term(&c[i]);
    }
}

/* All tokens want one expert: it takes the first ones of each sequence.  A capacity that is never reached changes no
 * bit. */
static void check_capacity(void) {
    static const struct {
        const char *symbol;
        double dropped;
    } rows[] = {{"x=moe experts=3 top_k=1 hidden=6 scores=sigmoid bias=true capacity=5", 2 * (23 - 5)},
                {"x=moe experts=3 top_k=1 hidden=6 scores=sigmoid bias=true capacity=23", 0},
                {"x=moe experts=3 top_k=1 hidden=6 scores=sigmoid bias=true", 0}};
    double loss[3];
    for (int i = 0; i < 3; i++) {
        const char *const table[] = {rows[i].symbol, NULL};
        struct model_config c;
        struct runner r;
        small_model(&c, "x", 10, 13, false, table);
        const struct runner_spec spec = {
            .precision = PRECISION_F64, .threads = 1, .n_sequences = 2, .tokens = 23, .tile = 16, .training = true};
        MUST(runner_init(&r, &c, &spec, false));
        small_params(&r, 5);
        small_batch(&r, 7);
        ((double *)param_of(&r, "layers.0.router.bias")->w.data)[1] = 10.0;
        gradient(&r);
        loss[i] = r.total;
        CHECK(((const double *)r.load.data)[1] == 46.0, "%s: %g tokens chose the expert", rows[i].symbol,
              ((const double *)r.load.data)[1]);
        CHECK(((const double *)r.load.data)[3] == rows[i].dropped, "%s: %g choices were dropped", rows[i].symbol,
              ((const double *)r.load.data)[3]);
        runner_term(&r);
        model_config_term(&c);
    }
    CHECK(loss[1] == loss[2] && loss[0] != loss[2], "losses %.17g, %.17g, %.17g", loss[0], loss[1], loss[2]);
}

int main(void) {
    check_gradients();
    check_ties();
    check_nan();
    check_equal("one expert", "x=moe experts=1 top_k=1 hidden=12", 1, -1);
    check_equal("equal experts, all chosen", "x=moe experts=4 top_k=4 hidden=12", 4, -1);
    check_equal("equal experts, two chosen, renormalised", "x=moe experts=4 top_k=2 hidden=12 renormalise=true", 4, -1);
    check_equal("all tokens to one of four",
                "x=moe experts=4 top_k=1 hidden=12 scores=sigmoid renormalise=true bias=true", 4, 2);
    check_capacity();
    return check_end();
}
