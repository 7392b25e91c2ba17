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
    const char *heads; /* of prediction: layers of one; NULL: none */
    int64_t depths;
    bool shared;
} cases[] = {{"every kind once, untied", "M-*gSN+eP", 2, 37, 16, false, NULL, 0, false},
             {"tied, one tile", "M*-", 1, 50, 4096, true, NULL, 0, false},
             {"one token a sequence", "M*-", 3, 1, 2, false, NULL, 0, false},
             {"no layer at all would be a bigram: one mlp", "-", 2, 9, 5, true, NULL, 0, false},
             {"selective scans alone", "SPS", 2, 33, 7, true, NULL, 0, false},
             {"mixers next to each other", "MM**", 2, 33, 7, false, NULL, 0, false},
             {"one prediction head", "M-", 2, 33, 7, false, "*-", 1, false},
             {"three, with weights of their own, tied", "*-", 2, 33, 16, true, "M", 3, false},
             {"three with the same weights", "MS", 2, 33, 7, false, "+g", 3, true},
             {"two with the same weights, tied, fewer tokens than depths", "M", 4, 2, 5, true, "-", 2, true}};

/* Prediction heads run where a backward follows. */
static double loss_of(struct runner *r) {
    const bool heads = r->model.mtp.depths > 0;
    MUST(runner_zero_total(r));
    MUST(runner_pass(r, heads));
    return r->total * r->scale + (heads ? r->model.config->mtp.weight * runner_later_loss(r) : 0.0);
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

/* grads: as one backward left them. */
static void check_param(struct runner *r, const double *grads, struct param *p, const char *why) {
    const double *g = grads + ((double *)p->g.data - (double *)r->grads.data);
    double along = 0.0, size = 0.0;
    for (int64_t i = 0; i < param_count(p); i++) {
        along += g[i] * direction(p, i);
        size += fabs(g[i] * direction(p, i));
    }
    CHECK(size > 0.0 || r->map.spec.tokens < 3, "%s: %s has no gradient", why, p->name);
    /* A small step: relu2 and the limits of dt bend inside a wide one.  Rounding leaves 1e-16 / h. */
    const double h = 2e-5, numeric = difference(r, p, h), bound = 1e-7 * size + 1e-10;
    CHECK(fabs(numeric - along) <= bound, "%s: %s: differences %.12g, backward %.12g", why, p->name, numeric, along);
}

static void check_case(size_t i) {
    struct model_config c;
    struct runner r;
    void *grads = NULL;
    small_model(&c, cases[i].pattern, 10, 13, cases[i].tied, symbols);
    c.mtp = (struct mtp_config){.depths = cases[i].depths, .shared = cases[i].shared, .weight = 0.7};
    if (cases[i].heads) MUST(mem_copy_text(cases[i].heads, &c.mtp.pattern));
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
    MUST(runner_zero_total(&r));
    MUST(runner_pass(&r, true));
    MUST(mem_take(tensor_bytes(r.grads), &grads));
    memcpy(grads, r.grads.data, (size_t)tensor_bytes(r.grads));
    for (int p = 0; p < r.model.params.n; p++) check_param(&r, grads, &r.model.params.list[p], cases[i].why);
    mem_free(grads);
    runner_term(&r);
    model_config_term(&c);
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(i);
    return check_end();
}
