/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/legal.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "model/model.h"

static enum status check_axes(const struct mesh_sizes *s) {
    FAIL_UNLESS(s->pipe == 1, ERR_CONFIG, "mesh.pipe: %" PRId64 " ranks do not run yet; set mesh.pipe=1", s->pipe);
    FAIL_UNLESS(s->data * s->seq % s->expert == 0, ERR_CONFIG,
                "mesh.expert: %" PRId64 " does not divide data x seq = %" PRId64, s->expert, s->data * s->seq);
    return OK;
}

static enum status check_tokens(const struct config *c, const struct mesh_sizes *s) {
    const struct train_config *t = &c->train;
    FAIL_UNLESS(t->sequences_per_step == 0 || t->sequences_per_step % (t->micro_batch * s->data) == 0, ERR_CONFIG,
                "mesh.data: %" PRId64 " ranks of micro-batches of %" PRId64 " do not divide the %" PRId64
                " sequences_per_step",
                s->data, t->micro_batch, t->sequences_per_step);
    FAIL_UNLESS(t->tokens_per_sequence == 0 || s->seq <= t->tokens_per_sequence, ERR_CONFIG,
                "mesh.seq: %" PRId64 " ranks share the %" PRId64 " tokens of a sequence: fewer tokens than ranks",
                s->seq, t->tokens_per_sequence);
    FAIL_UNLESS(c->numerics != NUMERICS_RANK_INVARIANT || (s->seq & (s->seq - 1)) == 0, ERR_CONFIG,
                "numerics rank_invariant: mesh.seq %" PRId64 " is not a power of two", s->seq);
    FAIL_UNLESS(c->numerics != NUMERICS_RANK_INVARIANT || s->seq % s->expert == 0, ERR_CONFIG,
                "numerics rank_invariant: mesh.expert %" PRId64 " does not divide mesh.seq %" PRId64
                ": experts' gradients are summed in the tree of one sequence",
                s->expert, s->seq);
    return OK;
}

enum status mesh_check(const struct config *c, const struct mesh_sizes *s) {
    const struct split split = {{(int)s->tensor, (int)s->expert}, {0, 0}};
    TRY(check_axes(s));
    TRY(check_tokens(c, s));
    return model_check_split(&c->model, &split);
}

static bool is_legal(const struct config *c, const struct mesh_sizes *s) {
    const enum status st = mesh_check(c, s);
    status_clear();
    return st == OK;
}

int mesh_legal(const struct config *c, int64_t n, struct mesh_sizes list[LEGAL_MAX]) {
    int found = 0;
    for (int64_t tensor = 1; tensor <= n; tensor++) {
        if (n % tensor) continue;
        const int64_t rest = n / tensor;
        for (int64_t expert = 1; expert <= rest; expert++)
            for (int64_t seq = 1; rest % expert == 0 && seq <= rest; seq++) {
                const struct mesh_sizes s = {1, rest / seq, seq, tensor, expert};
                if (rest % seq == 0 && found < LEGAL_MAX && is_legal(c, &s)) list[found++] = s;
            }
    }
    return found;
}

/* ---- advice ---- */

enum { RANKS_MOST = 4096, NEAR = 3, TRIES = 16 };

static double apart(const struct mesh_sizes *a, const struct mesh_sizes *b) {
    return fabs(log2((double)a->data / (double)b->data)) + fabs(log2((double)a->seq / (double)b->seq)) +
           2.0 * fabs(log2((double)a->tensor / (double)b->tensor)) +
           2.0 * fabs(log2((double)a->expert / (double)b->expert));
}

/* The nearest of a list that is no longer in it afterwards. */
static struct mesh_sizes take_nearest(struct mesh_sizes *list, int *n, const struct mesh_sizes *to) {
    int best = 0;
    for (int i = 1; i < *n; i++)
        if (apart(&list[i], to) < apart(&list[best], to)) best = i;
    const struct mesh_sizes found = list[best];
    list[best] = list[--*n];
    return found;
}

/* Legal meshes of as many ranks, or of the next lower number that has any, if it is not far. */
static void name_nearest(const struct config *c, const struct mesh_sizes *own, char out[256]) {
    struct mesh_sizes list[LEGAL_MAX];
    int64_t ranks = own->data * own->seq * own->tensor * own->pipe;
    int n = 0, at = 0;
    out[0] = '\0';
    for (int k = 0; k < TRIES && ranks >= 1 && ranks <= RANKS_MOST && n == 0; k++) n = mesh_legal(c, ranks--, list);
    for (int i = 0; i < NEAR && n > 0; i++) {
        const struct mesh_sizes s = take_nearest(list, &n, own);
        at += snprintf(out + at, (size_t)(256 - at),
                       "%s{data: %" PRId64 ", seq: %" PRId64 ", tensor: %" PRId64 ", expert: %" PRId64 "}",
                       i ? ", " : "; the nearest legal meshes: ", s.data, s.seq, s.tensor, s.expert);
    }
}

enum status mesh_check_own(const struct config *c) {
    const struct mesh_sizes own = {c->mesh.pipe, c->mesh.data, c->mesh.seq, c->mesh.tensor, c->mesh.expert};
    char reason[512], near[256];
    const enum status st = mesh_check(c, &own);
    if (st != ERR_CONFIG) return st;
    snprintf(reason, sizeof reason, "%s", status_text());
    status_clear();
    const bool few = own.data <= RANKS_MOST && own.seq <= RANKS_MOST && own.tensor <= RANKS_MOST;
    near[0] = '\0';
    if (few && own.pipe == 1) name_nearest(c, &own, near);
    FAIL(ERR_CONFIG, "%s%s", reason, near);
}
