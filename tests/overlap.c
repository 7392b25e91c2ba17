/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* overlap.c - products stand in the exchanges that can hide behind them: between the begin and the end of every carry
 * of the scans and of attention's gradients, over two ranks of seq; over two of tensor, in both exchanges of a layer.
 */
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "model/seams.h"
#include "tests/small_model.h"

static const char *const symbols[] = {"M=mamba2 heads=4 head_width=6 state=5 groups=2 conv=4 chunk=8",
                                      "S=mamba1 inner=20 state=5 conv=3 chunk=8",
                                      "*=attention heads=4 kv_heads=2 head_width=8", "-=mlp hidden=20", NULL};

enum what { WHAT_HALO, WHAT_STATE, WHAT_ATTEND_DO, WHAT_ENTER, WHAT_LEAVE, N_WHATS };
static const char *const names[N_WHATS] = {"last(k)", "affine", "attention's gradient", "enter", "leave"};
struct seen {
    int64_t n, least; /* exchanges, and products in the emptiest of them */
};

struct watched {
    struct runner r; /* first: the step is found in it */
    struct team team;
    struct seams seams;
    struct ops ops;
    const struct ops *real_ops;
    int64_t products, at[N_WHATS];
    bool backward;
    struct seen seen[2][N_WHATS];
};

static struct watched *by_ctx(struct ctx *c) { return (struct watched *)((char *)c - offsetof(struct runner, ctx)); }
static struct watched *by_step(struct step *s) { return by_ctx(s->ctx); }

static void begins(struct watched *w, enum what what) { w->at[what] = w->products; }

static void ends(struct watched *w, enum what what) {
    struct seen *s = &w->seen[w->backward][what];
    const int64_t n = w->products - w->at[what];
    if (s->n++ == 0 || n < s->least) s->least = n;
}

static enum status linear_fwd(struct ctx *c, const struct linear *a) {
    by_ctx(c)->products++;
    return by_ctx(c)->real_ops->linear_fwd(c, a);
}
static enum status linear_bwd(struct ctx *c, const struct linear *a) {
    by_ctx(c)->products++;
    return by_ctx(c)->real_ops->linear_bwd(c, a);
}

static enum status carry_begin(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    by_step(s)->backward = c->to == CARRY_BACKWARD;
    begins(by_step(s), c->op == CARRY_LAST ? WHAT_HALO : WHAT_STATE);
    return seams_mesh.carry_begin(s, l, f, c);
}
static enum status carry_end(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    by_step(s)->backward = c->to == CARRY_BACKWARD;
    ends(by_step(s), c->op == CARRY_LAST ? WHAT_HALO : WHAT_STATE);
    return seams_mesh.carry_end(s, l, f, c);
}
static enum status attend_begin(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                                enum attend_when when) {
    begins(by_step(s), WHAT_ATTEND_DO);
    return seams_mesh.attend_begin(s, l, f, a, when);
}
static enum status attend_end(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                              enum attend_when when) {
    by_step(s)->backward = true;
    if (when == ATTEND_DO) ends(by_step(s), WHAT_ATTEND_DO);
    return seams_mesh.attend_end(s, l, f, a, when);
}

/* Exchanges of the frame's rows that have work, of both passes. */
static enum status enter(struct step *s, struct tensor own, struct tensor all, const struct row_work *work) {
    by_step(s)->backward = false;
    begins(by_step(s), WHAT_ENTER);
    TRY(seams_mesh.enter(s, own, all, work));
    if (work) ends(by_step(s), WHAT_ENTER);
    return OK;
}
static enum status leave(struct step *s, struct tensor all, struct tensor own, const struct row_work *work) {
    by_step(s)->backward = false;
    begins(by_step(s), WHAT_LEAVE);
    TRY(seams_mesh.leave(s, all, own, work));
    if (work) ends(by_step(s), WHAT_LEAVE);
    return OK;
}

static void watch(struct watched *w) {
    w->real_ops = w->r.ctx.ops;
    w->ops = *w->real_ops;
    w->ops.linear_fwd = linear_fwd;
    w->ops.linear_bwd = linear_bwd;
    w->r.ctx.ops = &w->ops;
    w->seams = seams_mesh;
    w->seams.carry_begin = carry_begin, w->seams.carry_end = carry_end;
    w->seams.attend_begin = attend_begin, w->seams.attend_end = attend_end;
    w->seams.enter = enter, w->seams.leave = leave;
    w->r.step.seams = &w->seams;
}

struct job {
    const char *pattern;
    struct mesh_config mesh;
    struct seen seen[2][N_WHATS]; /* of rank 0: forward, backward */
};

static enum status one_rank(struct rank *rank, void *arg) {
    struct job *job = arg;
    struct model_config model;
    struct watched *w = NULL;
    void *mem = NULL;
    enum status st = OK;
    int transfers = 0;
    struct runner_spec spec = {.precision = PRECISION_F64,
                               .threads = 1,
                               .n_sequences = 1,
                               .tokens = 40,
                               .tile = 16,
                               .gradients = true,
                               .policy = POLICY_ALL,
                               .mesh = &job->mesh};
    small_model(&model, job->pattern, 10, 14, false, symbols);
    TRY(mem_take((int64_t)sizeof *w, &mem));
    w = mem;
    TRY_OUT(runner_transfers(&model, &spec, &transfers));
    TRY_OUT(team_open(&w->team, rank, &job->mesh, transfers, NULL));
    spec.team = &w->team;
    TRY_OUT(runner_init(&w->r, &model, &spec, false));
    small_params(&w->r, 5);
    small_batch(&w->r, 40);
    TRY_OUT(sharding_step_begin(&w->r.shards, &w->r.step));
    watch(w);
    TRY_OUT(runner_pass(&w->r, true));
    if (rank_index(rank) == 0) memcpy(job->seen, w->seen, sizeof job->seen);
out:
    runner_term(&w->r);
    team_close(&w->team);
    model_config_term(&model);
    mem_free(w);
    return st;
}

static void check(const struct job *j, enum what what, bool backward, int64_t n, int64_t least) {
    const struct seen *s = &j->seen[backward][what];
    CHECK(s->n == n && s->least >= least, "%s, %s, %s: %lld exchanges, %lld products in the emptiest; %lld and %lld",
          j->pattern, names[what], backward ? "backward" : "forward", (long long)s->n, (long long)s->least,
          (long long)n, (long long)least);
}

static void run(struct job *j) {
    struct world *world = NULL;
    MUST(world_open(&world, &(struct world_spec){.n_ranks = 2, .deadline_s = 60}));
    MUST(world_run(world, one_rank, j));
    world_close(world);
}

#define MESH(s, t, part)                                                                                               \
    { .data = 1, .seq = s, .tensor = t, .expert = 1, .pipe = 1, .tensor_part = part, .deadline = 60 }

int main(void) {
    static const char *const scans[] = {"M", "S"};
    for (int i = 0; i < 2; i++) {
        struct job j = {.pattern = scans[i], .mesh = MESH(2, 1, 0)};
        run(&j);
        for (int backward = 0; backward < 2; backward++) {
            check(&j, WHAT_HALO, backward, 1, 1);
            /* Mamba-1, forward: all its products come before the state is known, and adding it is little work. */
            check(&j, WHAT_STATE, backward, 1, i == 0 || backward);
        }
    }
    struct job attention = {.pattern = "*", .mesh = MESH(2, 1, 0)};
    run(&attention);
    check(&attention, WHAT_ATTEND_DO, true, 1, 1);
    /* Of each layer h and dy enter, y and dh leave: a product each, or two by parts; with dh always two, its own and
     * the weight's gradient. */
    for (int64_t part = 0; part < 2; part++) {
        struct job j = {.pattern = "M-S*", .mesh = MESH(1, 2, part)};
        run(&j);
        check(&j, WHAT_ENTER, false, 8, 1 + part);
        check(&j, WHAT_LEAVE, false, 8, 1 + part);
    }
    return check_end();
}
