/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* A new mixer is one file and one row: this file is the mixer, add_kind.def the table with its row.  The kind is then
 * known to the configuration, trains, and has the right gradient, with nothing else touched. */
#define KINDS_DEF "tests/add_kind.def"
#include "model/kinds.c"

#include "kernels/fill/fill.h"
#include "kernels/ops.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "launch/config.h"
#include "tests/small_model.h"

/* y = rmsnorm(h) w: the smallest layer with a parameter. */
struct channel_scale_config {
    double eps;
};
enum { W_SCALE };
enum { S_R };

static const struct field channel_scale_fields[] = {
    {"eps", FIELD_REAL, offsetof(struct channel_scale_config, eps), "1e-3", 0, 1, NULL, "epsilon of the norm", false},
    FIELDS_END};

static enum status scale_check(const void *config, int64_t width) {
    (void)config, (void)width;
    return OK;
}

static enum status scale_declare(struct layer *l, struct params *ps) {
    return layer_param(l, ps, W_SCALE,
                       (struct param){.name = "scale", .shape = {l->width}, .n_dims = 1, .init = INIT_ONE});
}

static struct rmsnorm scale_args(const struct step *s, const struct layer *l, const struct flow *f,
                                 const struct saved *v) {
    return (struct rmsnorm){.x = f->h,
                            .w = layer_w(s, l, W_SCALE),
                            .y = f->y,
                            .r = v->slot[S_R].t,
                            .dy = f->dy,
                            .dx = f->dh,
                            .dw = layer_g(s, l, W_SCALE),
                            .eps = ((const struct channel_scale_config *)l->config)->eps};
}

static enum status scale_plan(struct plan *p, const struct layer *l) {
    plan_slot(p, S_R, "r", KEEP_CHEAP, p->n_tokens, 1, 1, 1);
    const struct rmsnorm a = scale_args(p->step, l, p->flow, p->saved);
    plan_work(p, p->ctx->ops->rmsnorm_work(p->ctx, &a));
    return OK;
}

static enum status scale_forward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct rmsnorm a = scale_args(s, l, f, v);
    return s->ctx->ops->rmsnorm_fwd(s->ctx, &a);
}

static enum status scale_backward(struct step *s, const struct layer *l, struct flow *f, struct saved *v) {
    const struct rmsnorm a = scale_args(s, l, f, v);
    return s->ctx->ops->rmsnorm_bwd(s->ctx, &a);
}

static double scale_flops(const struct layer *l, int64_t tokens_per_sequence) {
    (void)l, (void)tokens_per_sequence;
    return 0.0;
}

const struct mixer_kind channel_scale_kind = {.name = "channel_scale",
                                              .fields = channel_scale_fields,
                                              .config_bytes = sizeof(struct channel_scale_config),
                                              .check = scale_check,
                                              .declare = scale_declare,
                                              .plan = scale_plan,
                                              .forward = scale_forward,
                                              .backward = scale_backward,
                                              .flops = scale_flops};

static const char yaml[] = "model:\n"
                           "  width: 12\n"
                           "  vocab: 17\n"
                           "  pattern: \"Ms-s\"\n"
                           "  layers:\n"
                           "    M: {kind: mamba2, heads: 2, head_width: 8, state: 4, chunk: 8}\n"
                           "    s: {kind: channel_scale, eps: 0.5}\n"
                           "    \"-\": {kind: mlp, hidden: 9}\n";

static double loss_of(struct runner *r) {
    r->total = 0.0;
    MUST(runner_pass(r, false));
    return r->total * r->scale;
}

int main(void) {
    struct config c = {0};
    struct text errors = {0};
    struct runner r;
    const struct config_source from = {
        .where = "add_kind", .text = yaml, .text_bytes = sizeof yaml - 1, .model_only = true};
    MUST(config_read(&c, &from, &errors));
    MUST(runner_init(
        &r, &c.model,
        &(struct runner_spec){
            .precision = PRECISION_F64, .threads = 1, .n_sequences = 2, .tokens = 11, .tile = 8, .gradients = true},
        false));
    small_params(&r, 3);
    small_batch(&r, 4);
    MUST(r.ctx.ops->fill_fwd(&r.ctx, &(struct fill){.x = r.grads, .value = 0.0}));
    MUST(runner_pass(&r, true));
    const int index = param_find(&r.model.params, "layers.1.scale");
    CHECK(index >= 0, "the new kind declared no parameter");
    struct param *p = &r.model.params.list[index];
    for (int64_t i = 0; i < param_count(p); i++) {
        const double h = 1e-5, g = ((double *)p->g.data)[i];
        double *w = (double *)p->w.data + i;
        *w += h;
        const double up = loss_of(&r);
        *w -= 2.0 * h;
        const double down = loss_of(&r);
        *w += h;
        CHECK(fabs((up - down) / (2.0 * h) - g) < 1e-8, "channel %d: differences %.12g, backward %.12g", (int)i,
              (up - down) / (2.0 * h), g);
    }
    runner_term(&r);
    config_term(&c);
    text_term(&errors);
    return check_end();
}
