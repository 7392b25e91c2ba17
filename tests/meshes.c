/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads long */
/* timeout: 300 */
/* Every legal mesh of 1, 2, 4 and 8 ranks, as the rule lists them, trains one small model with all kinds of layers:
 * five steps agree with those of one rank to 1e-10 in F64, tied and untied. What the rule refuses says why, and what is
 * near. */
#define _GNU_SOURCE
#include "launch/legal.h"
#include "tests/mesh_run.h"

static const char model_text[] =
    "{width: 24, vocab: 64, init_std: 0.1, tied: %s, pattern: \"M-S*E\", layers: {M: {kind: mamba2, heads: 8, "
    "head_width: 4, state: 6, groups: 2, chunk: 8}, S: {kind: mamba1, inner: 16, state: 4, chunk: 8}, \"*\": {kind: "
    "attention, heads: 8, kv_heads: 2, head_width: 4}, -: {kind: mlp, hidden: 16, activation: swiglu}, E: {kind: moe, "
    "experts: 8, top_k: 2, hidden: 8, shared: 8, aux_loss: 0.01}}}";
static const int ranks[] = {1, 2, 4, 8};
/* Of 2^k ranks without pipe: with r = 0 to k factors 2 beside tensor, (r + 1) of seq by (r + 1) of expert. */
enum { MESHES = 1 + 5 + 14 + 30 };

static void all_legal(const char *tied) {
    static struct mesh_run one, now;
    struct mesh_sizes list[LEGAL_MAX];
    char model[1000], mesh[100];
    int found = 0;
    snprintf(model, sizeof model, model_text, tied);
    mesh_run_read(&one, model, "{data: 1}", "", "fast");
    mesh_run(&one, "one rank");
    for (size_t k = 0; k < sizeof ranks / sizeof *ranks; k++) {
        const int n = mesh_legal(&one.config, ranks[k], list);
        for (int i = 0; i < n; i++, found++) {
            const struct mesh_sizes *s = &list[i];
            snprintf(mesh, sizeof mesh, "{data: %d, seq: %d, tensor: %d, expert: %d}", (int)s->data, (int)s->seq,
                     (int)s->tensor, (int)s->expert);
            mesh_run_read(&now, model, mesh, "", "fast");
            CHECK(mesh_run_ranks(&now) == ranks[k], "%s is listed for %d ranks", mesh, ranks[k]);
            mesh_run(&now, mesh);
            mesh_run_compare(&now, &one, 0, MESH_STEPS, 1e-10, mesh);
            mesh_run_term(&now);
        }
    }
    CHECK(found == MESHES, "tied %s: the rule lists %d meshes, %d are legal", tied, found, MESHES);
    mesh_run_term(&one);
}

/* ---- refusals ---- */

static const struct {
    const char *why, *model, *mesh, *train;
    const char *texts[3]; /* all must be in the message */
} refusals[] = {
    {"a vocabulary",
     "{width: 8, vocab: 63, pattern: \"-\", layers: {-: {kind: mlp, hidden: 8}}}",
     "{tensor: 2}",
     "",
     {"model.vocab 63", "2 ranks of mesh.tensor", "would do: 1, 3, 7, 9, 21, 63"}},
    {"heads",
     "{width: 8, vocab: 64, pattern: \"*\", layers: {\"*\": {kind: attention, heads: 6, kv_heads: 2, "
     "head_width: 4}}}",
     "{tensor: 4}",
     "",
     {"model.layers.* (attention): heads 6", "would do: 1, 2, 3, 6", "{data: 1, seq: 2, tensor: 2, expert: 1}"}},
    {"key heads",
     "{width: 8, vocab: 72, pattern: \"*\", layers: {\"*\": {kind: attention, heads: 12, kv_heads: 4, "
     "head_width: 4}}}",
     "{tensor: 3}",
     "",
     {"kv_heads 4 cannot be spread over the 3", "would do: 1, 2, 4, 8, 12", NULL}},
    {"groups",
     "{width: 8, vocab: 72, pattern: \"M\", layers: {M: {kind: mamba2, heads: 12, groups: 4, head_width: "
     "4}}}",
     "{tensor: 3}",
     "",
     {"model.layers.M (mamba2): groups 4", "would do: 1, 2, 4, 8", NULL}},
    {"norm groups",
     "{width: 8, vocab: 64, pattern: \"M\", layers: {M: {kind: mamba2, heads: 6, head_width: 4, "
     "norm_group: 8}}}",
     "{tensor: 2}",
     "",
     {"norm_group 8 and the 12 channels of one of the 2 ranks", NULL, NULL}},
    {"channels",
     "{width: 8, vocab: 64, pattern: \"S\", layers: {S: {kind: mamba1, inner: 10}}}",
     "{tensor: 4}",
     "",
     {"model.layers.S (mamba1): inner 10", "would do: 1, 2, 5, 10", NULL}},
    {"experts' width",
     "{width: 8, vocab: 64, pattern: \"E\", layers: {E: {kind: moe, experts: 4, top_k: 1, hidden: "
     "8, shared: 6}}}",
     "{tensor: 4}",
     "",
     {"model.layers.E (moe): shared 6", "would do: 1, 2, 3, 6", NULL}},
    {"experts",
     "{width: 8, vocab: 64, pattern: \"E\", layers: {E: {kind: moe, experts: 6, top_k: 1, hidden: 8}}}",
     "{seq: 4, expert: 4}",
     "",
     {"model.layers.E (moe): experts 6 cannot be spread over the 4 ranks of mesh.expert", "would do: 1, 2, 3, 6",
      "{data: 1, seq: 4, tensor: 1, expert: 2}"}},
    {"one expert",
     "{width: 8, vocab: 64, pattern: \"E\", layers: {E: {kind: moe, experts: 1, top_k: 1, hidden: 8}}}",
     "{seq: 2, expert: 2}",
     "",
     {"experts 1 cannot be spread over the 2 ranks", "would do: 1", "{data: 1, seq: 2, tensor: 1, expert: 1}"}},
    {"no experts",
     "{width: 8, vocab: 64, pattern: \"-\", layers: {-: {kind: mlp, hidden: 8}}}",
     "{seq: 2, expert: 2}",
     "",
     {"mesh.expert: 2 ranks share experts, and model.pattern has none", "expert: 1}", NULL}},
    {"sequences",
     "{width: 8, vocab: 64, pattern: \"-\", layers: {-: {kind: mlp, hidden: 8}}}",
     "{data: 3}",
     "",
     {"mesh.data: 3 ranks", "8 sequences_per_step", "{data: 1, seq: 3, tensor: 1, expert: 1}"}},
    {"tokens",
     "{width: 8, vocab: 64, pattern: \"-\", layers: {-: {kind: mlp, hidden: 8}}}",
     "{seq: 25}",
     "",
     {"25 ranks share the 24 tokens", "nearest legal meshes", NULL}},
};

static void refused(void) {
    struct mesh_run j;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        mesh_run_read(&j, refusals[i].model, refusals[i].mesh, refusals[i].train, "fast");
        CHECK(config_check_runnable(&j.config) == ERR_CONFIG, "%s: not refused", refusals[i].why);
        for (int k = 0; k < 3 && refusals[i].texts[k]; k++)
            CHECK(strstr(status_text(), refusals[i].texts[k]), "%s: '%s' is not in '%s'", refusals[i].why,
                  refusals[i].texts[k], status_text());
        status_clear();
        mesh_run_term(&j);
    }
}

int main(void) {
    char dir[] = "/tmp/meshes-XXXXXX";
    if (!mkdtemp(dir) || chdir(dir) != 0) {
        perror(dir);
        return 1;
    }
    mesh_run_tokens("mesh_tokens");
    refused();
    all_legal("false");
    all_legal("true");
    MUST(file_remove_tree(dir));
    return check_end();
}
