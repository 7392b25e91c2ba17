/* SPDX-License-Identifier: Apache-2.0 */
/* jamba: Mamba-1 or attention, then a gated feed-forward or experts; both by their periods. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "checkpoints/hf_family.h"

static const char *yes_no(bool b) { return b ? "true" : "false"; }

/* Layer i is special where i mod period is offset. */
struct period {
    int64_t period, offset;
};

static enum status read_period(const struct hf_source *s, const char *name, int64_t period, int64_t offset,
                               struct period *out) {
    char key[64];
    snprintf(key, sizeof key, "%s_layer_period", name);
    TRY(json_int_or(s->where, s->root, key, period, &out->period));
    FAIL_UNLESS(out->period > 0, ERR_DATA, "%s: \"%s\" is %" PRId64, s->where, key, out->period);
    snprintf(key, sizeof key, "%s_layer_offset", name);
    TRY(json_int_or(s->where, s->root, key, offset, &out->offset));
    FAIL_UNLESS(out->offset >= 0 && out->offset < out->period, ERR_DATA,
                "%s: \"%s\" is %" PRId64 ", which is not below the period %" PRId64, s->where, key, out->offset,
                out->period);
    return OK;
}

static enum status read_pattern(const struct hf_source *s, int64_t experts, struct text *pattern) {
    struct period attention, expert;
    int64_t layers = 0;
    TRY(hf_int(s, "num_hidden_layers", NULL, &layers));
    FAIL_UNLESS(layers <= 100000, ERR_DATA, "%s: %" PRId64 " layers", s->where, layers);
    TRY(read_period(s, "attn", 8, 4, &attention));
    TRY(read_period(s, "expert", 2, 1, &expert));
    for (int64_t i = 0; i < layers; i++) {
        const char pair[2] = {i % attention.period == attention.offset ? '*' : 'M',
                              experts > 1 && i % expert.period == expert.offset ? 'E' : '-'};
        TRY(text_add(pattern, pair, 2));
    }
    return OK;
}

/* "auto", or no value: 0, which the layer reads as a sixteenth of the width. */
static enum status dt_rank(const struct hf_source *s, int64_t *out) {
    const json_t *v = json_object_get(s->root, "mamba_dt_rank");
    *out = 0;
    if (!v || (json_is_string(v) && !strcmp(json_string_value(v), "auto"))) return OK;
    return hf_int(s, "mamba_dt_rank", NULL, out);
}

static enum status print_mamba(const struct hf_source *s, struct hf_model *m, const char *eps) {
    int64_t width = 0, expand = 0, state = 0, conv = 0, rank = 0;
    bool conv_bias = true, bias = false;
    TRY(hf_int(s, "hidden_size", NULL, &width));
    TRY(json_int_or(s->where, s->root, "mamba_expand", 2, &expand));
    FAIL_UNLESS(expand > 0 && expand <= 1024, ERR_DATA, "%s: \"mamba_expand\" is %" PRId64, s->where, expand);
    TRY(json_int_or(s->where, s->root, "mamba_d_state", 16, &state));
    TRY(json_int_or(s->where, s->root, "mamba_d_conv", 4, &conv));
    TRY(dt_rank(s, &rank));
    TRY(json_bool_or(s->where, s->root, "mamba_conv_bias", true, &conv_bias));
    TRY(json_bool_or(s->where, s->root, "mamba_proj_bias", false, &bias));
    return text_print(&m->layers,
                      "    M: {kind: mamba1, inner: %" PRId64 ", state: %" PRId64 ", dt_rank: %" PRId64
                      ", conv: %" PRId64 ", norms: learned, norm_eps: %s, conv_bias: %s, bias: %s}\n",
                      expand * width, state, rank, conv, eps, yes_no(conv_bias), yes_no(bias));
}

static enum status print_attention(const struct hf_source *s, struct hf_model *m) {
    int64_t width = 0, heads = 0, kv_heads = 0;
    TRY(hf_int(s, "hidden_size", NULL, &width));
    TRY(hf_int(s, "num_attention_heads", NULL, &heads));
    TRY(json_int_or(s->where, s->root, "num_key_value_heads", 8, &kv_heads));
    FAIL_UNLESS(kv_heads > 0 && heads % kv_heads == 0 && width % heads == 0, ERR_DATA,
                "%s: %" PRId64 " heads and %" PRId64 " key-value heads of \"hidden_size\" %" PRId64, s->where, heads,
                kv_heads, width);
    return text_print(&m->layers,
                      "    \"*\": {kind: attention, heads: %" PRId64 ", kv_heads: %" PRId64 ", head_width: %" PRId64
                      ", rope: 0.0}\n",
                      heads, kv_heads, width / heads);
}

/* Probabilities over all experts are the weights, as they are; the loss of balance is a matter of training. */
enum status hf_describe_jamba(const struct hf_source *s, struct hf_model *m) {
    static const char *const known[] = {"num_experts",
                                        "num_experts_per_tok",
                                        "expert_layer_period",
                                        "expert_layer_offset",
                                        "router_aux_loss_coef",
                                        "output_router_logits",
                                        NULL};
    static const char *const silu[] = {"silu", "swish", NULL};
    int64_t experts = 0, top_k = 0, hidden = 0;
    const char *act = NULL;
    char eps[32];
    TRY(hf_refuse_other_text(s, "hidden_act", "silu", silu, &act));
    TRY(json_int_or(s->where, s->root, "num_experts", 16, &experts));
    TRY(json_int_or(s->where, s->root, "num_experts_per_tok", 2, &top_k));
    TRY(hf_int(s, "intermediate_size", NULL, &hidden));
    TRY(json_real_or(s->where, s->root, "rms_norm_eps", 1e-6, &m->norm_eps));
    json_print_real(eps, m->norm_eps);
    TRY(read_pattern(s, experts, &m->pattern));
    if (strchr(m->pattern.s, 'M')) TRY(print_mamba(s, m, eps));
    if (strchr(m->pattern.s, '*')) TRY(print_attention(s, m));
    if (strchr(m->pattern.s, '-'))
        TRY(text_print(&m->layers, "    \"-\": {kind: mlp, hidden: %" PRId64 ", activation: swiglu}\n", hidden));
    if (!strchr(m->pattern.s, 'E')) return OK;
    TRY(hf_refuse_unknown_router(s, known));
    return text_print(&m->layers,
                      "    E: {kind: moe, experts: %" PRId64 ", top_k: %" PRId64 ", hidden: %" PRId64
                      ", activation: swiglu}\n",
                      experts, top_k, hidden);
}

const struct hf_row hf_jamba_rows[] = {
    {0, "embedding.weight", "model.embed_tokens.weight", NULL},
    {0, "final_norm.weight", "model.final_layernorm.weight", NULL},
    {0, "head.weight", "lm_head.weight", NULL},
    {'M', "norm.weight", "input_layernorm.weight", NULL},
    {'M', "in_proj.weight", "mamba.in_proj.weight", NULL},
    {'M', "in_proj.bias", "mamba.in_proj.bias", NULL},
    {'M', "conv.weight", "mamba.conv1d.weight", NULL},
    {'M', "conv.bias", "mamba.conv1d.bias", NULL},
    {'M', "x_proj.weight", "mamba.x_proj.weight", NULL},
    {'M', "dt_norm.weight", "mamba.dt_layernorm.weight", NULL},
    {'M', "B_norm.weight", "mamba.b_layernorm.weight", NULL},
    {'M', "C_norm.weight", "mamba.c_layernorm.weight", NULL},
    {'M', "dt_proj.weight", "mamba.dt_proj.weight", NULL},
    {'M', "dt_bias", "mamba.dt_proj.bias", NULL},
    {'M', "A_log", "mamba.A_log", NULL},
    {'M', "D", "mamba.D", NULL},
    {'M', "out_proj.weight", "mamba.out_proj.weight", NULL},
    {'M', "out_proj.bias", "mamba.out_proj.bias", NULL},
    {'*', "norm.weight", "input_layernorm.weight", NULL},
    {'*', "qkv.weight.q", "self_attn.q_proj.weight", NULL},
    {'*', "qkv.weight.k", "self_attn.k_proj.weight", NULL},
    {'*', "qkv.weight.v", "self_attn.v_proj.weight", NULL},
    {'*', "out.weight", "self_attn.o_proj.weight", NULL},
    {'-', "norm.weight", "pre_ff_layernorm.weight", NULL},
    {'-', "up.weight.gate", "feed_forward.gate_proj.weight", NULL},
    {'-', "up.weight.up", "feed_forward.up_proj.weight", NULL},
    {'-', "down.weight", "feed_forward.down_proj.weight", NULL},
    {'E', "norm.weight", "pre_ff_layernorm.weight", NULL},
    {'E', "router.weight", "feed_forward.router.weight", NULL},
    {'E', "experts.gate.weight", "feed_forward.experts.#.gate_proj.weight", NULL},
    {'E', "experts.up.weight", "feed_forward.experts.#.up_proj.weight", NULL},
    {'E', "experts.down.weight", "feed_forward.experts.#.down_proj.weight", NULL},
    {0, NULL, NULL, NULL},
};
