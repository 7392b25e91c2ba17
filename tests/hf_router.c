/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* Fields of config.json that speak of experts or their router and that this program does not know are refused by name,
 * unless they say nothing; those it knows are read. */
#define _DEFAULT_SOURCE /* mkdtemp */
#include <stdlib.h>
#include <unistd.h>
#include "checkpoints/hf.h"
#include "checkpoints/safetensors.h"
#include "tests/check.h"

static const char nemotron[] =
    "{\"model_type\": \"nemotron_h\", \"hidden_size\": 4, \"vocab_size\": 5, \"hybrid_override_pattern\": \"E\", "
    "\"num_hidden_layers\": 1, \"mlp_hidden_act\": \"relu2\", \"n_routed_experts\": 4, \"num_experts_per_tok\": 2, "
    "\"moe_intermediate_size\": 3, \"routed_scaling_factor\": 2.5%s}";
static const char jamba[] =
    "{\"model_type\": \"jamba\", \"hidden_size\": 4, \"vocab_size\": 5, \"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 2, \"intermediate_size\": 3, \"num_experts\": 4, \"router_aux_loss_coef\": 0.001%s}";

static const struct {
    const char *config, *field, *refused; /* refused: the name in the message; NULL: read */
} cases[] = {
    {nemotron, "", NULL},
    {nemotron, ", \"moe_latent_size\": 2, \"n_group\": 2, \"topk_group\": 1, \"norm_topk_prob\": false", NULL},
    {nemotron, ", \"router_jitter_noise\": 0.0, \"moe_router_fusion\": false, \"moe_layer_freq\": null", NULL},
    {nemotron, ", \"router_jitter_noise\": 0.1", "\"router_jitter_noise\""},
    {nemotron, ", \"moe_router_load_balancing_type\": \"sinkhorn\"", "\"moe_router_load_balancing_type\""},
    {nemotron, ", \"expert_choice\": true", "\"expert_choice\""},
    {nemotron, ", \"scoring_func\": \"softmax\"", "\"scoring_func\": \"softmax\""},
    {nemotron, ", \"topk_method\": \"greedy\"", "\"topk_method\": \"greedy\""},
    {jamba, "", NULL},
    {jamba, ", \"norm_topk_prob\": true", "\"norm_topk_prob\""},
    {jamba, ", \"n_shared_experts\": 1", "\"n_shared_experts\""},
};

int main(void) {
    static float numbers[4];
    const struct shard_item item = {.name = "x", .dtype = F32, .n_dims = 1, .shape = {4, 1, 1, 1}, .data = numbers};
    char dir[] = "/tmp/hf_router-XXXXXX", text[2000];
    struct shard_sum sum;
    if (!mkdtemp(dir) || chdir(dir) != 0) SKIP("no temporary folder can be made");
    MUST(shard_write("model.safetensors", &item, 1, "{\"format\": \"pt\"}", &sum));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hf_folder *f = NULL;
        struct text yaml = {0};
        const int n = snprintf(text, sizeof text, cases[i].config, cases[i].field);
        MUST(file_replace("config.json", text, n));
        enum status st = hf_open(&f, ".");
        if (st == OK) st = hf_model_yaml(f, &yaml);
        if (!cases[i].refused) CHECK(st == OK && strstr(yaml.s, "kind: moe"), "%s: %s", cases[i].field, status_text());
        else
            CHECK(st == ERR_DATA && strstr(status_text(), cases[i].refused), "%s is not refused by name: %s",
                  cases[i].field, status_text());
        status_clear();
        text_term(&yaml);
        hf_close(f);
    }
    MUST(file_remove_tree(dir));
    return check_end();
}
