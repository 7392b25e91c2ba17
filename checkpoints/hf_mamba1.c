/* SPDX-License-Identifier: Apache-2.0 */
/* Families of Mamba-1 layers alone: mamba, and falcon_mamba, whose dt, B and C go through norms without weights. */
#include <inttypes.h>
#include <string.h>
#include "checkpoints/hf_family.h"

struct sizes {
    int64_t inner, state, dt_rank, conv;
    bool conv_bias, bias;
};

/* "auto", or no value: 0, which the layer reads as a sixteenth of the width. */
static enum status dt_rank(const struct hf_source *s, int64_t *out) {
    const json_t *v = json_object_get(s->root, "time_step_rank");
    *out = 0;
    if (!v || (json_is_string(v) && !strcmp(json_string_value(v), "auto"))) return OK;
    return hf_int(s, "time_step_rank", NULL, out);
}

/* The class takes expand times hidden_size where intermediate_size is absent. */
static enum status inner_width(const struct hf_source *s, int64_t *out) {
    int64_t width = 0, expand = 0;
    if (json_object_get(s->root, "intermediate_size")) return hf_int(s, "intermediate_size", NULL, out);
    TRY(hf_int(s, "hidden_size", NULL, &width));
    TRY(json_int_or(s->where, s->root, "expand", 2, &expand));
    FAIL_UNLESS(expand > 0 && expand <= 1024, ERR_DATA, "%s: \"expand\" is %" PRId64, s->where, expand);
    *out = expand * width;
    return OK;
}

static enum status read_sizes(const struct hf_source *s, struct sizes *z) {
    static const char *const silu[] = {"silu", "swish", NULL};
    const char *act = NULL;
    TRY(hf_refuse_other_text(s, "hidden_act", "silu", silu, &act));
    TRY(inner_width(s, &z->inner));
    TRY(hf_int(s, "state_size", NULL, &z->state));
    TRY(hf_int(s, "conv_kernel", NULL, &z->conv));
    TRY(dt_rank(s, &z->dt_rank));
    TRY(json_bool_or(s->where, s->root, "use_conv_bias", true, &z->conv_bias));
    TRY(json_bool_or(s->where, s->root, "use_bias", false, &z->bias));
    z->bias = z->bias || hf_holds(s->folder, ".mixer.in_proj.bias");
    return OK;
}

static enum status describe(const struct hf_source *s, struct hf_model *m, const char *norms, double norm_eps) {
    struct sizes z = {0};
    int64_t layers = 0;
    char eps[32];
    TRY(read_sizes(s, &z));
    TRY(hf_int(s, "num_hidden_layers", NULL, &layers));
    FAIL_UNLESS(layers <= 100000, ERR_DATA, "%s: %" PRId64 " layers", s->where, layers);
    TRY(json_real_or(s->where, s->root, "layer_norm_epsilon", 1e-5, &m->norm_eps));
    m->tied = true;
    for (int64_t i = 0; i < layers; i++) TRY(text_print(&m->pattern, "M"));
    json_print_real(eps, norm_eps);
    return text_print(&m->layers,
                      "    M: {kind: mamba1, inner: %" PRId64 ", state: %" PRId64 ", dt_rank: %" PRId64
                      ", conv: %" PRId64 ", norms: %s, norm_eps: %s, conv_bias: %s, bias: %s}\n",
                      z.inner, z.state, z.dt_rank, z.conv, norms, eps, z.conv_bias ? "true" : "false",
                      z.bias ? "true" : "false");
}

enum status hf_describe_mamba(const struct hf_source *s, struct hf_model *m) { return describe(s, m, "none", 1e-6); }

enum status hf_describe_falcon_mamba(const struct hf_source *s, struct hf_model *m) {
    double eps = 0.0;
    TRY(json_real_or(s->where, s->root, "mixer_rms_eps", 1e-6, &eps));
    return describe(s, m, "plain", eps);
}

const struct hf_row hf_mamba_rows[] = {
    {0, "embedding.weight", "backbone.embeddings.weight", "backbone.embedding.weight"},
    {0, "final_norm.weight", "backbone.norm_f.weight", NULL},
    {0, "head.weight", "lm_head.weight", NULL},
    {'M', "norm.weight", "norm.weight", NULL},
    {'M', "in_proj.weight", "mixer.in_proj.weight", NULL},
    {'M', "in_proj.bias", "mixer.in_proj.bias", NULL},
    {'M', "conv.weight", "mixer.conv1d.weight", NULL},
    {'M', "conv.bias", "mixer.conv1d.bias", NULL},
    {'M', "x_proj.weight", "mixer.x_proj.weight", NULL},
    {'M', "dt_proj.weight", "mixer.dt_proj.weight", NULL},
    {'M', "dt_bias", "mixer.dt_proj.bias", NULL},
    {'M', "A_log", "mixer.A_log", NULL},
    {'M', "D", "mixer.D", NULL},
    {'M', "out_proj.weight", "mixer.out_proj.weight", NULL},
    {'M', "out_proj.bias", "mixer.out_proj.bias", NULL},
    {0, NULL, NULL, NULL},
};
