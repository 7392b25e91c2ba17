/* SPDX-License-Identifier: Apache-2.0
 * What keys must satisfy together, and what this program cannot run yet. */
#include <inttypes.h>
#include <string.h>
#include "launch/config_reading.h"
#include "launch/legal.h"
#include "model/model.h"

static enum status check_train(struct reading *r) {
    const struct train_config *t = &r->c->train;
    const struct optimizer_config *o = &r->c->optimizer;
    struct mistakes *m = &r->tree.mistakes;
    if (t->sequences_per_step % t->micro_batch)
        TRY(mistake_add(m, place_of_key(r, "train", "micro_batch"), "train.micro_batch",
                        "%" PRId64 " does not divide the %" PRId64 " sequences_per_step", t->micro_batch,
                        t->sequences_per_step));
    if (t->keep_every > 1 && t->keep != POLICY_INPUTS)
        TRY(mistake_add(m, place_of_key(r, "train", "keep_every"), "train.keep_every",
                        "%" PRId64 " wants train.keep: inputs, which computes layers again from their inputs",
                        t->keep_every));
    if (o->warmup_steps > t->steps)
        TRY(mistake_add(m, place_of_key(r, "optimizer", "warmup_steps"), "optimizer.warmup_steps",
                        "%" PRId64 " is more than the %" PRId64 " steps of the run", o->warmup_steps, t->steps));
    else if (o->schedule == SCHEDULE_WSD && o->decay_steps > t->steps - o->warmup_steps)
        TRY(mistake_add(m, place_of_key(r, "optimizer", "decay_steps"), "optimizer.decay_steps",
                        "%" PRId64 " is more than the %" PRId64 " steps after the warm-up", o->decay_steps,
                        t->steps - o->warmup_steps));
    return OK;
}

static enum status check_mesh(struct reading *r) {
    const struct mesh_config *mesh = &r->c->mesh;
    if (mesh->data * mesh->seq % mesh->expert == 0) return OK;
    return mistake_add(&r->tree.mistakes, place_of_key(r, "mesh", "expert"), "mesh.expert",
                       "%" PRId64 " does not divide data x seq = %" PRId64, mesh->expert, mesh->data * mesh->seq);
}

enum status check_config(struct reading *r) {
    TRY(check_mesh(r));
    if (r->from->model_only) return OK;
    if (r->c->data.train.n == 0)
        TRY(mistake_add(&r->tree.mistakes, place_of_key(r, "data", "train"), "data.train", "wants at least one path"));
    return check_train(r);
}

enum status config_check_runnable(const struct config *c) { return mesh_check_own(c); }
