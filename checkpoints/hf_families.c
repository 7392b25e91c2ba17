/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "checkpoints/hf_family.h"

static const char *yes_no(bool b) { return b ? "true" : "false"; }

/* Biases exist where the configuration's field says so, or the files hold them. */
static enum status bias_of(const struct hf_source *s, const char *key, const char *suffix, bool *out) {
    TRY(json_bool_or(s->where, s->root, key, false, out));
    *out = *out || hf_holds(s->folder, suffix);
    return OK;
}

static enum status repeat_pattern(struct hf_model *m, const char *unit, int64_t times) {
    FAIL_UNLESS(times <= 100000, ERR_DATA, "config.json: %" PRId64 " layers", times);
    for (int64_t i = 0; i < times; i++) TRY(text_print(&m->pattern, "%s", unit));
    return OK;
}

/* ---- llama and mistral: attention, then a gated feed-forward ---- */

static enum status head_sizes(const struct hf_source *s, int64_t *heads, int64_t *kv_heads) {
    TRY(hf_int(s, "num_attention_heads", NULL, heads));
    TRY(json_int_or(s->where, s->root, "num_key_value_heads", *heads, kv_heads));
    FAIL_UNLESS(*kv_heads > 0 && *heads % *kv_heads == 0, ERR_DATA,
                "%s: %" PRId64 " key-value heads do not divide %" PRId64 " heads", s->where, *kv_heads, *heads);
    return OK;
}

static enum status describe_pairs(const struct hf_source *s, struct hf_model *m, int64_t window, bool bias) {
    static const char *const silu[] = {"silu", "swish", NULL};
    int64_t heads = 0, kv_heads = 0, width = 0, head_width = 0, hidden = 0, layers = 0;
    double theta = 0.0;
    bool mlp_bias = false;
    char base[32];
    const char *act = NULL;
    TRY(hf_refuse_other_text(s, "hidden_act", "silu", silu, &act));
    TRY(head_sizes(s, &heads, &kv_heads));
    TRY(hf_int(s, "hidden_size", NULL, &width));
    TRY(json_int_or(s->where, s->root, "head_dim", width / heads, &head_width));
    TRY(hf_int(s, "intermediate_size", NULL, &hidden));
    TRY(hf_int(s, "num_hidden_layers", NULL, &layers));
    TRY(hf_rope_theta(s, &theta));
    TRY(json_real_or(s->where, s->root, "rms_norm_eps", 1e-6, &m->norm_eps));
    TRY(bias_of(s, "mlp_bias", ".mlp.up_proj.bias", &mlp_bias));
    json_print_real(base, theta);
    TRY(repeat_pattern(m, "*-", layers));
    TRY(text_print(&m->layers,
                   "    \"*\": {kind: attention, heads: %" PRId64 ", kv_heads: %" PRId64 ", head_width: %" PRId64
                   ", window: %" PRId64 ", rope: 1.0, rope_theta: %s, bias: %s}\n",
                   heads, kv_heads, head_width, window, base, yes_no(bias)));
    return text_print(&m->layers, "    \"-\": {kind: mlp, hidden: %" PRId64 ", activation: swiglu, bias: %s}\n", hidden,
                      yes_no(mlp_bias));
}

static enum status describe_llama(const struct hf_source *s, struct hf_model *m) {
    bool bias = false;
    TRY(bias_of(s, "attention_bias", ".self_attn.q_proj.bias", &bias));
    return describe_pairs(s, m, 0, bias);
}

/* The class's own default of the window is 4096; null means none. */
static enum status describe_mistral(const struct hf_source *s, struct hf_model *m) {
    int64_t window = 0;
    const json_t *v = json_object_get(s->root, "sliding_window");
    if (!v) window = 4096;
    else TRY(json_int_or(s->where, s->root, "sliding_window", 0, &window));
    FAIL_UNLESS(window >= 0, ERR_DATA, "%s: \"sliding_window\" is %" PRId64, s->where, window);
    return describe_pairs(s, m, window, hf_holds(s->folder, ".self_attn.q_proj.bias"));
}

static const struct hf_row pair_rows[] = {
    {0, "embedding.weight", "model.embed_tokens.weight", NULL},
    {0, "final_norm.weight", "model.norm.weight", NULL},
    {0, "head.weight", "lm_head.weight", NULL},
    {'*', "norm.weight", "input_layernorm.weight", NULL},
    {'*', "qkv.weight.q", "self_attn.q_proj.weight", NULL},
    {'*', "qkv.weight.k", "self_attn.k_proj.weight", NULL},
    {'*', "qkv.weight.v", "self_attn.v_proj.weight", NULL},
    {'*', "qkv.bias.q", "self_attn.q_proj.bias", NULL},
    {'*', "qkv.bias.k", "self_attn.k_proj.bias", NULL},
    {'*', "qkv.bias.v", "self_attn.v_proj.bias", NULL},
    {'*', "out.weight", "self_attn.o_proj.weight", NULL},
    {'*', "out.bias", "self_attn.o_proj.bias", NULL},
    {'-', "norm.weight", "post_attention_layernorm.weight", NULL},
    {'-', "up.weight.gate", "mlp.gate_proj.weight", NULL},
    {'-', "up.weight.up", "mlp.up_proj.weight", NULL},
    {'-', "up.bias.gate", "mlp.gate_proj.bias", NULL},
    {'-', "up.bias.up", "mlp.up_proj.bias", NULL},
    {'-', "down.weight", "mlp.down_proj.weight", NULL},
    {'-', "down.bias", "mlp.down_proj.bias", NULL},
    {0, NULL, NULL, NULL},
};

/* ---- Mamba-2 layers, shared by what follows ---- */

struct mamba_sizes {
    int64_t heads, head_width, state, groups, conv, chunk, norm_group;
    bool bias;
};

static enum status print_mamba(const struct hf_source *s, struct hf_model *m, const struct mamba_sizes *z) {
    double low = 0.0, high = 0.0;
    bool conv_bias = true;
    char eps[32], low_text[32], high_text[32];
    TRY(hf_dt_limit(s, &low, &high));
    TRY(json_bool_or(s->where, s->root, "use_conv_bias", true, &conv_bias));
    TRY(json_bool_or(s->where, s->root, "mamba_conv_bias", conv_bias, &conv_bias));
    TRY(json_real_or(s->where, s->root, "layer_norm_epsilon", 1e-5, &m->norm_eps));
    json_print_real(eps, m->norm_eps);
    json_print_real(low_text, low);
    json_print_real(high_text, high);
    TRY(text_print(&m->layers,
                   "    M: {kind: mamba2, heads: %" PRId64 ", head_width: %" PRId64 ", state: %" PRId64
                   ", groups: %" PRId64 ", conv: %" PRId64 ", chunk: %" PRId64 ", norm_group: %" PRId64
                   ", norm_eps: %s, dt_min: %s, ",
                   z->heads, z->head_width, z->state, z->groups, z->conv, z->chunk, z->norm_group, eps, low_text));
    if (isfinite(high)) TRY(text_print(&m->layers, "dt_max: %s, ", high_text));
    return text_print(&m->layers, "conv_bias: %s, bias: %s}\n", yes_no(conv_bias), yes_no(z->bias));
}

/* The class normalises over all channels of the gated norm, whatever the groups. */
static enum status describe_mamba2(const struct hf_source *s, struct hf_model *m) {
    static const char *const silu[] = {"silu", "swish", NULL};
    struct mamba_sizes z = {0};
    int64_t layers = 0, width = 0;
    double expand = 2.0;
    bool norm = true;
    const char *act = NULL;
    TRY(hf_refuse_other_text(s, "hidden_act", "silu", silu, &act));
    TRY(json_bool_or(s->where, s->root, "rms_norm", true, &norm));
    FAIL_UNLESS(norm, ERR_DATA, "%s: \"rms_norm\": false is not known here", s->where);
    TRY(hf_int(s, "num_heads", NULL, &z.heads));
    TRY(hf_int(s, "head_dim", NULL, &z.head_width));
    TRY(hf_int(s, "state_size", NULL, &z.state));
    TRY(hf_int(s, "n_groups", NULL, &z.groups));
    TRY(hf_int(s, "conv_kernel", NULL, &z.conv));
    TRY(hf_int(s, "chunk_size", NULL, &z.chunk));
    TRY(hf_int(s, "hidden_size", NULL, &width));
    TRY(hf_int(s, "num_hidden_layers", NULL, &layers));
    TRY(json_real_or(s->where, s->root, "expand", 2.0, &expand));
    z.norm_group = z.heads * z.head_width;
    FAIL_UNLESS((int64_t)(expand * (double)width) == z.norm_group, ERR_DATA,
                "%s: \"expand\" times \"hidden_size\" is not \"num_heads\" times \"head_dim\"", s->where);
    TRY(bias_of(s, "use_bias", ".mixer.in_proj.bias", &z.bias));
    TRY(repeat_pattern(m, "M", layers));
    return print_mamba(s, m, &z);
}

#define MAMBA_ROWS                                                                                                     \
    {'M', "norm.weight", "norm.weight", NULL}, {'M', "in_proj.weight", "mixer.in_proj.weight", NULL},                  \
        {'M', "in_proj.bias", "mixer.in_proj.bias", NULL}, {'M', "conv.weight", "mixer.conv1d.weight", NULL},          \
        {'M', "conv.bias", "mixer.conv1d.bias", NULL}, {'M', "A_log", "mixer.A_log", NULL},                            \
        {'M', "D", "mixer.D", NULL}, {'M', "dt_bias", "mixer.dt_bias", NULL},                                          \
        {'M', "gated_norm.weight", "mixer.norm.weight", NULL},                                                         \
        {'M', "out_proj.weight", "mixer.out_proj.weight", NULL}, {                                                     \
        'M', "out_proj.bias", "mixer.out_proj.bias", NULL                                                              \
    }
#define BACKBONE_ROWS                                                                                                  \
    {0, "embedding.weight", "backbone.embeddings.weight", "backbone.embedding.weight"},                                \
        {0, "final_norm.weight", "backbone.norm_f.weight", NULL}, {                                                    \
        0, "head.weight", "lm_head.weight", NULL                                                                       \
    }

static const struct hf_row mamba2_rows[] = {BACKBONE_ROWS, MAMBA_ROWS, {0, NULL, NULL, NULL}};

/* ---- Nemotron-H: one mixer a layer, after a pattern ---- */

static enum status pattern_of_list(const struct hf_source *s, const json_t *list, struct text *pattern) {
    static const struct {
        const char *name;
        char symbol;
    } kinds[] = {{"linear_attention", 'M'}, {"mamba", 'M'}, {"full_attention", '*'},
                 {"attention", '*'},        {"mlp", '-'},   {"moe", 'E'}};
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        char symbol = 0;
        for (size_t k = 0; name && k < sizeof kinds / sizeof *kinds; k++)
            if (!strcmp(kinds[k].name, name)) symbol = kinds[k].symbol;
        FAIL_UNLESS(symbol, ERR_DATA, "%s: \"layers_block_type\": layer %zu is \"%s\", which is not known here",
                    s->where, i, name ? name : "(not a text)");
        TRY(text_add(pattern, &symbol, 1));
    }
    return OK;
}

/* '|' marks pipeline stages, and what follows '/' is not part of the stack. */
static enum status pattern_of_text(const struct hf_source *s, const char *given, struct text *pattern) {
    for (const char *p = given; *p && *p != '/'; p++) {
        if (*p == '|') continue;
        FAIL_UNLESS(strchr("M*-E", *p), ERR_DATA, "%s: \"hybrid_override_pattern\": symbol '%c' is not known here",
                    s->where, *p);
        TRY(text_add(pattern, p, 1));
    }
    return OK;
}

static enum status read_pattern(const struct hf_source *s, struct text *pattern) {
    const json_t *list = json_object_get(s->root, "layers_block_type");
    const char *given = NULL;
    if (!json_is_array(list)) list = json_object_get(s->root, "layer_types");
    if (json_is_array(list)) TRY(pattern_of_list(s, list, pattern));
    else {
        TRY(json_text(s->where, s->root, "hybrid_override_pattern", &given));
        TRY(pattern_of_text(s, given, pattern));
    }
    FAIL_UNLESS(pattern->n > 0, ERR_DATA, "%s: the pattern has no layer", s->where);
    return OK;
}

static enum status nemotron_mamba(const struct hf_source *s, struct hf_model *m) {
    static const char *const silu[] = {"silu", "swish", NULL};
    struct mamba_sizes z = {0};
    const char *act = NULL;
    TRY(hf_refuse_other_text(s, "mamba_hidden_act", "silu", silu, &act));
    TRY(hf_int(s, "mamba_num_heads", NULL, &z.heads));
    TRY(hf_int(s, "mamba_head_dim", NULL, &z.head_width));
    TRY(hf_int(s, "ssm_state_size", NULL, &z.state));
    TRY(hf_int(s, "n_groups", "mamba_n_groups", &z.groups));
    TRY(hf_int(s, "conv_kernel", "mamba_d_conv", &z.conv));
    TRY(hf_int(s, "chunk_size", "mamba_chunk_size", &z.chunk));
    z.norm_group = z.heads * z.head_width / z.groups;
    TRY(bias_of(s, "use_bias", ".mixer.in_proj.bias", &z.bias));
    return print_mamba(s, m, &z);
}

static enum status nemotron_act(const struct hf_source *s, const char **act) {
    static const char *const known[] = {"relu2", "gelu", "gelu_pytorch_tanh", "gelu_new", NULL};
    TRY(hf_refuse_other_text(s, "mlp_hidden_act", "relu2", known, act));
    if (strcmp(*act, "relu2") && strcmp(*act, "gelu")) *act = "gelu_tanh";
    return OK;
}

static enum status nemotron_mlp(const struct hf_source *s, struct hf_model *m) {
    int64_t hidden = 0;
    bool bias = false;
    const char *act = NULL;
    TRY(nemotron_act(s, &act));
    TRY(hf_int(s, "intermediate_size", NULL, &hidden));
    TRY(bias_of(s, "mlp_bias", ".mixer.up_proj.bias", &bias));
    return text_print(&m->layers, "    \"-\": {kind: mlp, hidden: %" PRId64 ", activation: %s, bias: %s}\n", hidden,
                      act, yes_no(bias));
}

/* No positions; the class has no bias here, older ones had. */
static enum status nemotron_attention(const struct hf_source *s, struct hf_model *m) {
    int64_t heads = 0, kv_heads = 0, head_width = 0;
    TRY(head_sizes(s, &heads, &kv_heads));
    TRY(hf_int(s, "head_dim", "attention_head_dim", &head_width));
    return text_print(&m->layers,
                      "    \"*\": {kind: attention, heads: %" PRId64 ", kv_heads: %" PRId64 ", head_width: %" PRId64
                      ", rope: 0.0, bias: %s}\n",
                      heads, kv_heads, head_width, yes_no(hf_holds(s->folder, ".mixer.q_proj.bias")));
}

/* The router takes sigmoids and a selection bias; what balances it in training is no part of config.json. */
static enum status nemotron_moe(const struct hf_source *s, struct hf_model *m) {
    static const char *const known[] = {"n_routed_experts",
                                        "num_experts_per_tok",
                                        "moe_intermediate_size",
                                        "n_shared_experts",
                                        "moe_shared_expert_intermediate_size",
                                        "moe_shared_expert_overlap",
                                        "moe_latent_size",
                                        "topk_group",
                                        "topk_method",
                                        "norm_topk_prob",
                                        "scoring_func",
                                        "routed_scaling_factor",
                                        "router_aux_loss_coef",
                                        "output_router_logits",
                                        NULL};
    static const char *const sigmoid[] = {"sigmoid", NULL}, *const plain[] = {"noaux_tc", NULL};
    int64_t experts = 0, top_k = 0, hidden = 0, shared = 0, latent = 0, groups = 1, top_groups = 1;
    double scale = 1.0;
    bool renormalise = true;
    char factor[32];
    const char *act = NULL;
    TRY(hf_refuse_unknown_router(s, known));
    TRY(hf_refuse_other_text(s, "scoring_func", "sigmoid", sigmoid, &act));
    TRY(hf_refuse_other_text(s, "topk_method", "noaux_tc", plain, &act));
    TRY(nemotron_act(s, &act));
    TRY(hf_int(s, "n_routed_experts", NULL, &experts));
    TRY(hf_int(s, "num_experts_per_tok", NULL, &top_k));
    TRY(hf_int(s, "moe_intermediate_size", NULL, &hidden));
    if (hf_holds(s->folder, ".shared_experts.up_proj.weight"))
        TRY(hf_int(s, "moe_shared_expert_intermediate_size", NULL, &shared));
    TRY(json_int_or(s->where, s->root, "moe_latent_size", 0, &latent));
    TRY(json_int_or(s->where, s->root, "n_group", 1, &groups));
    TRY(json_int_or(s->where, s->root, "topk_group", 1, &top_groups));
    TRY(json_real_or(s->where, s->root, "routed_scaling_factor", 1.0, &scale));
    TRY(json_bool_or(s->where, s->root, "norm_topk_prob", true, &renormalise));
    json_print_real(factor, scale);
    return text_print(&m->layers,
                      "    E: {kind: moe, experts: %" PRId64 ", top_k: %" PRId64 ", hidden: %" PRId64
                      ", activation: %s, shared: %" PRId64 ", latent: %" PRId64 ", scores: sigmoid, renormalise: %s"
                      ", scale: %s, groups: %" PRId64 ", top_groups: %" PRId64 ", bias: true}\n",
                      experts, top_k, hidden, act, shared, latent, yes_no(renormalise), factor, groups, top_groups);
}

static enum status describe_nemotron_h(const struct hf_source *s, struct hf_model *m) {
    TRY(read_pattern(s, &m->pattern));
    TRY(json_real_or(s->where, s->root, "layer_norm_epsilon", 1e-5, &m->norm_eps));
    if (strchr(m->pattern.s, 'M')) TRY(nemotron_mamba(s, m));
    if (strchr(m->pattern.s, '*')) TRY(nemotron_attention(s, m));
    if (strchr(m->pattern.s, '-')) TRY(nemotron_mlp(s, m));
    if (strchr(m->pattern.s, 'E')) TRY(nemotron_moe(s, m));
    return OK;
}

static const struct hf_row nemotron_h_rows[] = {
    BACKBONE_ROWS,
    MAMBA_ROWS,
    {'*', "norm.weight", "norm.weight", NULL},
    {'*', "qkv.weight.q", "mixer.q_proj.weight", NULL},
    {'*', "qkv.weight.k", "mixer.k_proj.weight", NULL},
    {'*', "qkv.weight.v", "mixer.v_proj.weight", NULL},
    {'*', "qkv.bias.q", "mixer.q_proj.bias", NULL},
    {'*', "qkv.bias.k", "mixer.k_proj.bias", NULL},
    {'*', "qkv.bias.v", "mixer.v_proj.bias", NULL},
    {'*', "out.weight", "mixer.o_proj.weight", NULL},
    {'*', "out.bias", "mixer.o_proj.bias", NULL},
    {'-', "norm.weight", "norm.weight", NULL},
    {'-', "up.weight", "mixer.up_proj.weight", NULL},
    {'-', "up.bias", "mixer.up_proj.bias", NULL},
    {'-', "down.weight", "mixer.down_proj.weight", NULL},
    {'-', "down.bias", "mixer.down_proj.bias", NULL},
    {'E', "norm.weight", "norm.weight", NULL},
    {'E', "router.weight", "mixer.gate.weight", NULL},
    {'E', "router.bias", "mixer.gate.e_score_correction_bias", NULL},
    {'E', "experts.up.weight", "mixer.experts.#.up_proj.weight", NULL},
    {'E', "experts.down.weight", "mixer.experts.#.down_proj.weight", NULL},
    {'E', "shared.up.weight", "mixer.shared_experts.up_proj.weight", NULL},
    {'E', "shared.down.weight", "mixer.shared_experts.down_proj.weight", NULL},
    {'E', "latent.in.weight", "mixer.fc1_latent_proj.weight", NULL},
    {'E', "latent.out.weight", "mixer.fc2_latent_proj.weight", NULL},
    {0, NULL, NULL, NULL},
};

/* ---- the table ---- */

static const struct hf_family families[] = {
    {"llama", describe_llama, pair_rows, "model.layers.", 2, ".rotary_emb.inv_freq"},
    {"mistral", describe_mistral, pair_rows, "model.layers.", 2, ".rotary_emb.inv_freq"},
    {"jamba", hf_describe_jamba, hf_jamba_rows, "model.layers.", 2, NULL},
    {"mamba", hf_describe_mamba, hf_mamba_rows, "backbone.layers.", 1, NULL},
    {"falcon_mamba", hf_describe_falcon_mamba, hf_mamba_rows, "backbone.layers.", 1, NULL},
    {"mamba2", describe_mamba2, mamba2_rows, "backbone.layers.", 1, NULL},
    {"nemotron_h", describe_nemotron_h, nemotron_h_rows, "backbone.layers.", 1, NULL},
};

const struct hf_family *hf_family_find(const char *model_type) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (!strcmp(families[i].model_type, model_type)) return &families[i];
    return NULL;
}

enum status hf_family_list(struct text *out) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        TRY(text_print(out, "%s%s", i ? ", " : "", families[i].model_type));
    return OK;
}
