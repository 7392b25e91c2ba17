/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* The gradient of every parameter of whole models, against central differences along random directions, in F64. */
#include "kernels/fill/fill.h"
#include "kernels/ops.h"
#include "tests/small_model.h"

/* norm_eps: norms of B and C, which begin small, bend within its root; differences across that have an error of h^2
 * that exceeds the bound. */
static const char *const symbols[] = {"M=mamba2 heads=4 head_width=6 state=5 groups=2 conv=4 chunk=8",
                                      "N=mamba2 heads=3 head_width=4 state=4 groups=3 conv=1 chunk=64 conv_bias=false "
                                      "bias=true norm_group=12 dt_max=0.05",
                                      "S=mamba1 inner=20 state=5 conv=3 chunk=8 norms=learned norm_eps=0.01 bias=true",
                                      "P=mamba1 inner=9 state=4 dt_rank=3 conv=1 chunk=64 norms=plain conv_bias=false",
                                      "*=attention heads=4 kv_heads=2 head_width=8 rope=0.5 window=7",
                                      "+=attention heads=2 kv_heads=1 head_width=8 bias=true",
                                      "-=mlp hidden=20 activation=relu2",
                                      "g=mlp hidden=12 activation=swiglu bias=true",
                                      "e=mlp hidden=12 activation=gelu",
                                      NULL};

static const struct {
    const char *why, *pattern;
    int64_t sequences, tokens, tile;
    bool tied;
} cases[] = {{"every kind once, untied", "M-*gSN+eP", 2, 37, 16, false},
             {"tied, one tile", "M*-", 1, 50, 4096, true},
             {"one token a sequence", "M*-", 3, 1, 2, false},
             {"no layer at all would be a bigram: one mlp", "-", 2, 9, 5, true},
             {"selective scans alone", "SPS", 2, 33, 7, true},
             {"mixers next to each other", "MM**", 2, 33, 7, false}};

static double loss_of(struct runner *r) {
    r->total = 0.0;
    MUST(runner_pass(r, false));
    return r->total * r->scale;
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

static void check_param(struct runner *r, struct param *p, const char *why) {
    double along = 0.0, size = 0.0;
    for (int64_t i = 0; i < param_count(p); i++) {
        along += ((double *)p->g.data)[i] * direction(p, i);
        size += fabs(((double *)p->g.data)[i] * direction(p, i));
    }
    /* A small step: relu2 and the limits of dt bend inside a wide one.  Rounding leaves 1e-16 / h. */
    const double h = 2e-5, numeric = difference(r, p, h), bound = 1e-7 * size + 1e-10;
    CHECK(fabs(numeric - along) <= bound, "%s: %s: differences %.12g, backward %.12g", why, p->name, numeric, along);
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c;
        struct runner r;
        small_model(&c, cases[i].pattern, 10, 13, cases[i].tied, symbols);
        MUST(runner_init(&r, &c,
                         &(struct runner_spec){.precision = PRECISION_F64,
                                               .threads = 2,
                                               .n_sequences = cases[i].sequences,
                                               .tokens = cases[i].tokens,
                                               .tile = cases[i].tile,
                                               .gradients = true},
                         false));
        small_params(&r, 5);
        small_batch(&r, 7 + i);
        MUST(r.ctx.ops->fill_fwd(&r.ctx, &(struct fill){.x = r.grads, .value = 0.0}));
        r.total = 0.0;
        MUST(runner_pass(&r, true));
        for (int p = 0; p < r.model.params.n; p++) check_param(&r, &r.model.params.list[p], cases[i].why);
        runner_term(&r);
        model_config_term(&c);
    }
    return check_end();
}
