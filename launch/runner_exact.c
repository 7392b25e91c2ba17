/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include "kernels/add/add.h"
#include "kernels/fill/fill.h"
#include "launch/runner.h"

/* Exact mode: a pass is one sequence, cut into the segments of a grid that the mesh does not change.  Its gradients are
 * summed over segments and ranks in one binary tree, and sequences are added in their order. */

enum status runner_exact_check(const struct runner *r) {
    const struct runner_spec *s = &r->spec;
    const struct mesh_config *mesh = s->mesh;
    const int64_t segment = model_segment(&r->model, s->tokens), n = (s->tokens + segment - 1) / segment;
    FAIL_UNLESS(s->team && mesh, ERR_ARG, "exact mode runs with a team of ranks");
    FAIL_UNLESS(r->model.mtp.depths == 0 || (!s->training && !s->gradients), ERR_CONFIG,
                "numerics rank_invariant: the head's tree has one loss, and prediction heads have more; set "
                "model.mtp.depths=0");
    FAIL_UNLESS((mesh->seq & (mesh->seq - 1)) == 0, ERR_CONFIG,
                "numerics rank_invariant: mesh.seq %" PRId64 " is not a power of two", mesh->seq);
    FAIL_UNLESS(mesh->seq <= n, ERR_CONFIG,
                "numerics rank_invariant: mesh.seq %" PRId64 " is more than the %" PRId64 " segments of %" PRId64
                " tokens that a sequence has",
                mesh->seq, n, segment);
    FAIL_UNLESS(s->n_sequences == 1 || !s->training, ERR_CONFIG,
                "numerics rank_invariant: a pass is one sequence; set train.micro_batch=1");
    FAIL_UNLESS(mesh->layout == SHARD_CONTIGUOUS, ERR_CONFIG, "numerics rank_invariant: wants mesh.layout contiguous");
    FAIL_UNLESS(mesh->carry != MESH_CARRY_CHAIN, ERR_CONFIG,
                "numerics rank_invariant: mesh.carry chain folds in the order of ranks; choose gather or scan");
    FAIL_UNLESS(mesh->attention != MESH_ATTENTION_SWAP, ERR_CONFIG,
                "numerics rank_invariant: wants mesh.attention keys (or auto)");
    return OK;
}

static int64_t head_numbers(const struct runner *r) { return param_count(&r->model.params.list[r->model.head]); }

static bool has_head_tree(const struct runner *r) { return r->spec.training || r->spec.gradients; }

int64_t runner_exact_bytes(const struct runner *r) {
    if (!r->spec.exact) return 0;
    const int64_t losses = arena_round(exact_loss_bytes(&r->exact));
    return losses + (has_head_tree(r) ? exact_head_bytes(&r->exact, head_numbers(r), dtype_wide(r->ctx.real)) : 0);
}

enum status runner_exact_place(struct runner *r) {
    const enum dtype wide = dtype_wide(r->ctx.real);
    void *head = NULL, *losses = NULL;
    if (!r->spec.exact) return OK;
    TRY(arena_take(&r->memory, exact_loss_bytes(&r->exact), &losses));
    exact_place_losses(&r->exact, losses, r->ctx.space);
    if (!has_head_tree(r)) return OK;
    TRY(arena_take(&r->memory, exact_head_bytes(&r->exact, head_numbers(r), wide), &head));
    exact_place(&r->exact, head, head_numbers(r), wide);
    return OK;
}

/* The ranks of one sequence alone: those of data have others. */
static enum status sum_over_seq(struct runner *r) {
    if (r->spec.team->seq.size == 1) return OK;
    struct reduction sum = {.use = COMM_CONTROL,
                            .dtype = F64,
                            .in = r->out.total.data,
                            .out = r->out.total.data,
                            .n = 1,
                            .tree = true,
                            .scratch = r->mesh.scratch};
    TRY(all_reduce_begin(&r->spec.team->seq, &sum));
    return all_reduce_end(&r->spec.team->seq, &sum);
}

static enum status zero(struct runner *r, struct tensor x) {
    return r->ctx.ops->fill_fwd(&r->ctx, &(struct fill){.x = x, .value = 0.0});
}

/* Every rank of seq has the whole loss of its sequences: one of them stands for all. */
enum status runner_exact_total(struct runner *r) {
    if (r->seq_index != 0) TRY(zero(r, r->sum));
    return r->step.seams->total(&r->step, r->sum, AXIS_DATA | AXIS_SEQ);
}

/* The loss of the pass alone, over its ranks by the tree, then added to what earlier passes left. */
enum status runner_exact_forward(struct runner *r) {
    TRY(exact_begin(&r->ctx));
    TRY(zero(r, r->out.total));
    TRY(model_forward(&r->step, &r->model, &r->act, &r->batch, &r->out));
    TRY(sum_over_seq(r));
    return r->ctx.ops->add_fwd(&r->ctx, &(struct add){.x = r->sum, .y = r->out.total, .out = r->sum, .scale = 1.0});
}
