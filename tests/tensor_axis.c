/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads long */
/* timeout: 300 */
/* Every mixer and both ends over the tensor axis: five steps agree with those of one rank to 1e-10 in F64, alone and
 * with seq and data, kept, computed again and in slices; checkpoints go from any mesh to any; exact mode has the same
 * bits for every mesh.seq. */
#define _GNU_SOURCE
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "tests/mesh_run.h"

struct axis_case {
    const char *why, *model;
};
#define ENDS "width: 24, vocab: 64, init_std: 0.1, "
static const struct axis_case models[] = {
    {"attention, key heads on several ranks", "{" ENDS "tied: false, pattern: \"aa\", layers: {a: {kind: attention, "
                                              "heads: 8, kv_heads: 2, head_width: 4, rope: 1, bias: true}}}"},
    {"attention with a window, tied", "{" ENDS "tied: true, pattern: \"a\", layers: {a: {kind: attention, "
                                      "heads: 4, kv_heads: 4, head_width: 6, window: 5}}}"},
    {"mamba2, one group: its norm on all ranks", "{" ENDS "tied: true, pattern: \"MM\", layers: {M: {kind: mamba2, "
                                                 "heads: 8, head_width: 4, state: 6, groups: 1, chunk: 8}}}"},
    {"mamba2, two groups, biases", "{" ENDS "tied: false, pattern: \"MM\", layers: {M: {kind: mamba2, heads: 8, "
                                   "head_width: 4, state: 6, groups: 2, chunk: 8, bias: true, dt_min: 0.01}}}"},
    {"mamba2, norm groups smaller than a rank's", "{" ENDS "tied: true, pattern: \"M\", layers: {M: {kind: mamba2, "
                                                  "heads: 8, head_width: 4, groups: 4, state: 6, norm_group: 4, "
                                                  "chunk: 8, conv_bias: false}}}"},
    {"mamba1, learned norms, biases", "{" ENDS "tied: false, pattern: \"SS\", layers: {S: {kind: mamba1, inner: 32, "
                                      "state: 4, norms: learned, bias: true, chunk: 8}}}"},
    {"mamba1, plain norms", "{" ENDS "tied: true, pattern: \"S\", layers: {S: {kind: mamba1, inner: 32, state: 4, "
                            "dt_rank: 3, norms: plain, chunk: 8}}}"},
    {"mlp, packed and with biases", "{" ENDS "tied: true, pattern: \"-g\", layers: {-: {kind: mlp, hidden: 20, "
                                    "activation: swiglu, bias: true}, g: {kind: mlp, hidden: 12, activation: gelu, "
                                    "bias: true}}}"},
    {"experts of Jamba's rule", "{" ENDS "tied: false, pattern: \"E-E\", layers: {E: {kind: moe, experts: 4, top_k: 2, "
                                "hidden: 12, aux_loss: 0.02, z_loss: 0.001}, -: {kind: mlp, hidden: 12}}}"},
    {"experts of Nemotron's rule, shared and latent",
     "{" ENDS "tied: true, pattern: \"EE\", layers: {E: {kind: moe, experts: 8, top_k: 3, hidden: 12, shared: 8, "
     "latent: 12, scores: sigmoid, renormalise: true, scale: 2.5, bias: true, activation: relu2, aux_loss: 0.01, "
     "aux_over: sequence}}}"},
};
static const char every[] =
    "{" ENDS "tied: %s, pattern: \"M-S*E\", layers: {M: {kind: mamba2, heads: 4, head_width: 8, state: 6, groups: 2, "
    "chunk: 8}, S: {kind: mamba1, inner: 16, state: 4, chunk: 8}, \"*\": {kind: attention, heads: 4, kv_heads: 2, "
    "head_width: 6}, -: {kind: mlp, hidden: 20, activation: swiglu}, E: {kind: moe, experts: 4, top_k: 2, hidden: 8, "
    "shared: 8}}}";

struct axis_mesh {
    const char *mesh, *train;
};
static const struct axis_mesh meshes[] = {
    {"{tensor: 2}", ""},
    {"{tensor: 4}", ", keep: gemm"},
    {"{tensor: 2}", ", keep: inputs, keep_every: 2"},
    {"{seq: 2, tensor: 2}", ", keep: inputs"},
    {"{data: 2, tensor: 2, shard: parameters}", ", micro_batch: 2"},
};

static void against_one_rank(const struct axis_case *c) {
    static struct mesh_run one, now;
    char why[300];
    mesh_run_read(&one, c->model, "{data: 1}", "", "fast");
    mesh_run(&one, c->why);
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++) {
        snprintf(why, sizeof why, "%s, %s%s", c->why, meshes[i].mesh, meshes[i].train);
        mesh_run_read(&now, c->model, meshes[i].mesh, meshes[i].train, "fast");
        mesh_run(&now, why);
        mesh_run_compare(&now, &one, 0, MESH_STEPS, 1e-10, why);
        mesh_run_term(&now);
    }
    mesh_run_term(&one);
}

/* ---- work by parts ---- */

/* Products of one row at a time: the matrix library's rows of a product may depend on how many there are. */
static enum status forward_by_rows(struct ctx *c, const struct linear *a) {
    for (int64_t t = 0; t < a->x.shape[0]; t++) {
        struct linear b = *a;
        b.x = tensor_rows(a->x, t, 1), b.y = tensor_rows(a->y, t, 1);
        TRY(ops_ref64.linear_fwd(c, &b));
    }
    return OK;
}

static enum status backward_by_rows(struct ctx *c, const struct linear *a) {
    const struct tensor none = {0};
    for (int64_t t = 0; t < a->dy.shape[0] && tensor_has(a->dx); t++) {
        struct linear b = *a;
        b.dw = b.db = none;
        b.dy = tensor_rows(a->dy, t, 1), b.dx = tensor_rows(a->dx, t, 1);
        TRY(ops_ref64.linear_bwd(c, &b));
    }
    struct linear rest = *a;
    rest.dx = none;
    return ops_ref64.linear_bwd(c, &rest);
}

static struct ops row_ops; /* made before ranks begin */

static enum status multiply_by_rows(struct trainer *t) {
    t->run.ctx.ops = &row_ops;
    return OK;
}

/* A layer's outer products by parts, or whole. */
static void run_parts(struct mesh_run *j, const char *mesh, const char *train, int64_t part, bool rows,
                      const char *why) {
    char model[1000];
    snprintf(model, sizeof model, every, "false");
    mesh_run_read(j, model, mesh, train, "fast");
    j->config.mesh.tensor_part = part;
    if (rows) j->prepare = multiply_by_rows;
    mesh_run(j, why);
}

/* Parts change no bit where the products do not, and the library's by roundings alone. */
static void by_parts(const char *mesh, const char *train) {
    static struct mesh_run whole, parts;
    char why[300];
    snprintf(why, sizeof why, "by parts, %s%s", mesh, train);
    run_parts(&whole, mesh, train, 0, true, why);
    run_parts(&parts, mesh, train, 1, true, why);
    for (int i = 0; i < MESH_STEPS; i++)
        CHECK(parts.out[0].loss[i] == whole.out[0].loss[i] && parts.out[0].norm[i] == whole.out[0].norm[i],
              "%s, step %d: loss %.17g, %.17g whole, norm %.17g, %.17g", why, i, parts.out[0].loss[i],
              whole.out[0].loss[i], parts.out[0].norm[i], whole.out[0].norm[i]);
    CHECK(parts.out[0].valid == whole.out[0].valid, "%s: validation", why);
    mesh_run_term(&parts);
    run_parts(&parts, mesh, train, 1, false, why);
    mesh_run_compare(&parts, &whole, 0, MESH_STEPS, 1e-12, why);
    mesh_run_term(&whole);
    mesh_run_term(&parts);
}

/* ---- checkpoints ---- */

static const char *const places[] = {"{data: 1}", "{tensor: 2}", "{tensor: 4}",
                                     "{data: 2, seq: 2, tensor: 2, shard: gradients}"};

static void from_any_to_any(const char *tied) {
    char model[1000], why[40];
    snprintf(model, sizeof model, every, tied);
    snprintf(why, sizeof why, "tied %s, ", tied);
    mesh_run_places(model, places, sizeof places / sizeof *places, why);
}

/* ---- exact mode ---- */

static void exact_bits(int tensor) {
    static struct mesh_run first, now;
    char model[1000], mesh[100];
    snprintf(model, sizeof model, every, tensor == 2 ? "true" : "false");
    for (int seq = 1; seq <= 2; seq *= 2) {
        snprintf(mesh, sizeof mesh, "{seq: %d, tensor: %d}", seq, tensor);
        mesh_run_read(&now, model, mesh, "", "rank_invariant");
        mesh_run(&now, mesh);
        if (seq == 1) first = now;
        for (int i = 0; i < MESH_STEPS; i++)
            CHECK(now.out[0].loss[i] == first.out[0].loss[i] && now.out[0].norm[i] == first.out[0].norm[i],
                  "exact, %s, step %d: loss %.17g, %.17g, norm %.17g, %.17g", mesh, i, now.out[0].loss[i],
                  first.out[0].loss[i], now.out[0].norm[i], first.out[0].norm[i]);
        CHECK(now.out[0].valid == first.out[0].valid, "exact, %s: validation", mesh);
        if (seq > 1) mesh_run_term(&now);
    }
    mesh_run_term(&first);
}

int main(void) {
    char dir[] = "/tmp/tensor_axis-XXXXXX";
    if (!mkdtemp(dir) || chdir(dir) != 0) {
        perror(dir);
        return 1;
    }
    mesh_run_tokens("mesh_tokens");
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) against_one_rank(&models[i]);
    row_ops = ops_ref64;
    row_ops.linear_fwd = forward_by_rows;
    row_ops.linear_bwd = backward_by_rows;
    by_parts("{tensor: 2}", "");
    by_parts("{tensor: 4}", ", keep: inputs, keep_every: 2");
    by_parts("{seq: 2, tensor: 2, layout: zigzag, shard: parameters}", ", keep: gemm, micro_batch: 2");
    from_any_to_any("false");
    from_any_to_any("true");
    exact_bits(2);
    exact_bits(4);
    MUST(file_remove_tree(dir));
    return check_end();
}
