/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include "base/log.h"
#include "kernels/attention/attention_dnn.h"
#include "kernels/gemm_cuda.h"
#include "kernels/paper.h"
#include "kernels/space.h"
#include "launch/trainer.h"
#include "parallel/quiet.h"

/* Which algorithm computes which product in BF16: chosen by one rank's clock before the first step, kept in the run
 * folder, and the same on all ranks and after a continue, so that a run repeats bit for bit. */

static enum status path_of(const struct trainer *t, char path[PATH_BYTES]) {
    return path_print(path, "%s/products.txt", t->run_dir);
}

static enum status read_kept(const struct trainer *t, char **text) {
    char path[PATH_BYTES];
    int64_t bytes = 0;
    TRY(path_of(t, path));
    return file_exists(path) ? file_read(path, (int64_t)1 << 20, text, &bytes) : OK;
}

/* The leader's text becomes everybody's; NULL stays NULL. */
static enum status tell_all(struct trainer *t, char **text) {
    int64_t bytes = *text ? (int64_t)strlen(*text) + 1 : 0;
    void *mem = NULL;
    TRY(team_agree(&t->team, &bytes, sizeof bytes));
    if (bytes == 0) return OK;
    if (!t->team.leader) {
        TRY(mem_take(bytes, &mem));
        *text = mem;
    }
    return team_agree(&t->team, *text, bytes);
}

/* A pass of nothing in particular; its gradients are thrown away. */
static enum status pass(struct runner *r) {
    const int64_t S = r->spec.tokens;
    for (int64_t i = 0; i < r->spec.n_sequences * S; i++) {
        r->ids[i] = 0;
        r->targets[i] = -1;
        r->pos[i] = i % S;
    }
    r->scale = 0.0;
    TRY(sharding_step_begin(&r->shards, &r->step));
    return runner_pass(r, true);
}

/* On paper, so that all shapes of products have been asked for before the first step, at no step's cost: beside the
 * products only biases and losses of what lies in memory are made, and nobody reads them. */
static enum status rehearse(struct trainer *t) {
    struct runner *r = &t->run;
    const struct ops *const ops = r->ctx.ops;
    paper_init(&r->paper, ops);
    paper_keep_products(&r->paper);
    r->ctx.ops = &r->paper.table;
    r->ctx.paper = &r->paper;
    seams_mesh_quiet(&r->mesh, quiet_kinds[QUIET_KINDS - 1].uses);
    gemm_cuda_list(t->team.device, true);
    const enum status st = pass(r);
    gemm_cuda_list(t->team.device, false);
    seams_mesh_quiet(&r->mesh, 0);
    r->ctx.paper = NULL;
    r->ctx.ops = ops;
    TRY(st);
    TRY(sharding_publish(&r->shards)); /* weights that would have come, and did not */
    TRY(sharding_settle(&r->shards));  /* nothing runs beside what is measured */
    return space_settle(&r->ctx);
}

static enum status measure(struct trainer *t, char **text) {
    char path[PATH_BYTES];
    TRY(rehearse(t));
    if (t->team.leader) {
        TRY(gemm_cuda_measure(t->team.device, t->run.act.region, t->run.act.region_bytes));
        TRY(gemm_cuda_export(t->team.device, text));
        TRY(path_of(t, path));
        TRY(file_replace(path, *text, (int64_t)strlen(*text)));
    }
    TRY(tell_all(t, text));
    return t->team.leader ? OK : gemm_cuda_import(t->team.device, *text);
}

/* What an earlier start of this run chose, unless libraries or GPUs are others now: then all choose anew. */
static enum status take_kept(struct trainer *t, const char *text, bool *taken) {
    int64_t failed = 1;
    if (text) {
        const enum status st = gemm_cuda_import(t->team.device, text);
        if (st != OK && st != ERR_MISSING && st != ERR_DATA) return st;
        failed = st != OK;
        if (failed) log_warn("%s: products are measured again", status_text());
        if (failed) status_clear();
    }
    TRY(team_most(&t->team, &failed));
    *taken = !failed;
    return OK;
}

enum status trainer_choose_products(struct trainer *t) {
    char *kept = NULL, *text = NULL;
    bool taken = false;
    enum status st = OK;
    if (!t->team.device || t->run.ctx.real != BF16) return OK;
    if (t->team.leader)
        fprintf(stderr, "attention: %s\n",
                t->run.spec.exact ? "our own kernels, in exact mode" : attention_dnn_about(t->team.device));
    if (t->run.spec.exact) {
        gemm_cuda_pin(t->team.device);
        return OK;
    }
    rank_phase(t->team.rank, "choosing products", 0);
    if (t->team.leader) TRY(read_kept(t, &kept));
    TRY_OUT(tell_all(t, &kept));
    TRY_OUT(take_kept(t, kept, &taken));
    if (!taken) TRY_OUT(measure(t, &text));
out:
    mem_free(kept);
    mem_free(text);
    return st;
}
