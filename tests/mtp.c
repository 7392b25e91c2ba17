/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* Multi-token prediction: which tokens a head is given and which it predicts; its loss against plain loops; the same
 * training over ranks, layouts, slices and policies; what is refused; how many parameters there are. */
#define _DEFAULT_SOURCE /* mkdtemp */
#include <inttypes.h>
#include "tests/small_model.h"
#include "tests/small_run.h"

/* ---- documents ---- */

/* Two sequences of 5 tokens, in documents of 3, 2 and 5, whose last target goes on; - is none. */
static void test_targets(void) {
    static const int64_t pos[10] = {0, 1, 2, 0, 1, 0, 1, 2, 3, 4};
    static const int32_t targets[10] = {11, 12, -1, 14, -1, 16, -1, 18, 19, 20};
    static const int32_t wanted[3][10] = {{12, -1, -1, -1, -1, -1, 18, 19, 20, -1},
                                          {-1, -1, -1, -1, -1, 18, 19, 20, -1, -1},
                                          {-1, -1, -1, -1, -1, 19, 20, -1, -1, -1}};
    for (int j = 0; j < 3; j++)
        for (int64_t t = 0; t < 10; t++) {
            const int32_t got = runner_later_target(targets, pos, 5, t, j + 1);
            CHECK(got == wanted[j][t], "depth %d, token %" PRId64 ": target %d, not %d", j + 1, t, got, wanted[j][t]);
        }
}

/* ---- meaning ---- */

enum { D = 8, V = 13, S = 17, B = 2, T = B * S, DEPTHS = 3 };

static const double *weight(const struct runner *r, const char *name) {
    const int i = param_find(&r->model.params, name);
    CHECK(i >= 0, "no parameter %s", name);
    return (const double *)r->model.params.list[i].w.data;
}

static void norm(const double *x, const double *w, double *y) {
    double sum = 0.0;
    for (int d = 0; d < D; d++) sum += x[d] * x[d];
    for (int d = 0; d < D; d++) y[d] = x[d] / sqrt(sum / D + 1e-5) * w[d];
}

static double cross_entropy(const double *head, const double *h, int32_t target) {
    double sum = 0.0, picked = 0.0;
    for (int v = 0; v < V; v++) {
        double logit = 0.0;
        for (int d = 0; d < D; d++) logit += head[v * D + d] * h[d];
        sum += exp(logit);
        if (v == target) picked = logit;
    }
    return log(sum) - picked;
}

/* h becomes that of the next depth.  The layer of a head adds nothing: its last matrix is zero. */
static double next_depth(const struct runner *r, int j, int set, double h[T][D]) {
    char name[4][64];
    static const char *const of[4] = {"enorm.weight", "hnorm.weight", "eh_proj.weight", "final_layernorm.weight"};
    for (int i = 0; i < 4; i++) snprintf(name[i], sizeof name[i], "mtp.layers.%d.%s", set, of[i]);
    const double *embedding = weight(r, "embedding.weight"), *head = weight(r, "head.weight");
    const double *project = weight(r, name[2]);
    double loss = 0.0;
    int64_t valid = 0;
    for (int t = 0; t < T; t++) {
        const bool inside = t % S + j < S && r->pos[t + j] == r->pos[t] + j;
        double both[2 * D], u[D];
        norm(&embedding[(inside ? r->ids[t + j] : 0) * D], weight(r, name[0]), both);
        norm(h[t], weight(r, name[1]), both + D);
        for (int d = 0; d < D; d++) {
            u[d] = 0.0;
            for (int k = 0; k < 2 * D; k++) u[d] += project[d * 2 * D + k] * both[k];
        }
        norm(u, weight(r, name[3]), h[t]);
        const int32_t target = inside ? r->targets[t + j] : -1;
        if (target < 0) continue;
        loss += cross_entropy(head, h[t], target);
        valid++;
    }
    return loss / (double)valid;
}

static void test_meaning(bool shared) {
    static const char *const symbols[] = {"M=mamba2 heads=2 head_width=4 state=4 groups=1 conv=2 chunk=8",
                                          "-=mlp hidden=6 activation=relu2", NULL};
    struct model_config c;
    struct runner r;
    double h[T][D], wanted = 0.0;
    small_model(&c, "M", D, V, false, symbols);
    c.mtp = (struct mtp_config){.depths = DEPTHS, .shared = shared, .weight = 0.3};
    MUST(mem_copy_text("-", &c.mtp.pattern));
    MUST(runner_init(
        &r, &c,
        &(struct runner_spec){
            .precision = PRECISION_F64, .threads = 1, .n_sequences = B, .tokens = S, .tile = 5, .gradients = true},
        false));
    small_params(&r, 5);
    small_batch(&r, 7);
    for (int set = 0; set < (shared ? 1 : DEPTHS); set++) {
        char name[64];
        snprintf(name, sizeof name, "mtp.layers.%d.down.weight", set);
        const struct param *p = &r.model.params.list[param_find(&r.model.params, name)];
        memset(p->w.data, 0, (size_t)tensor_bytes(p->w));
    }
    MUST(runner_zero_total(&r));
    MUST(runner_pass(&r, true));
    memcpy(h, r.act.ends.slot[1].t.data, sizeof h); /* ENDS_H */
    for (int j = 1; j <= DEPTHS; j++) wanted += next_depth(&r, j, shared ? 0 : j - 1, h) / DEPTHS;
    CHECK(fabs(runner_later_loss(&r) - wanted) < 1e-12, "%s weights: the heads' loss is %.15g, by loops %.15g",
          shared ? "shared" : "own", runner_later_loss(&r), wanted);
    runner_term(&r);
    model_config_term(&c);
}

/* ---- training ---- */

enum { STEPS = 4, RANKS_MAX = 6 };
struct run {
    double loss[STEPS], later[STEPS], norm[STEPS], valid;
};
struct job {
    const struct config *config;
    struct run run;
};

static enum status train_rank(struct rank *rank, void *arg) {
    struct job *j = arg;
    struct trainer t;
    struct run run = {{0}, {0}, {0}, 0.0};
    TRY(trainer_open(&t, j->config, rank, NULL, &small_run_never));
    enum status st = OK;
    for (int i = 0; i < STEPS && st == OK; i++) {
        struct step_report r;
        st = train_step(&t, &r);
        run.loss[i] = r.loss, run.later[i] = r.mtp_loss, run.norm[i] = r.grad_norm;
        CHECK(st != OK || (r.later && !r.skipped), "step %d: no loss of heads", i);
    }
    if (st == OK) st = train_validate(&t, &run.valid);
    if (rank_index(rank) == 0) j->run = run;
    CHECK(t.run.memory.used == t.run.memory.size, "%" PRId64 " bytes used of %" PRId64 " planned", t.run.memory.used,
          t.run.memory.size);
    trainer_close(&t);
    return st;
}

static const struct train_case {
    const char *why;
    int ranks, like; /* like: the row whose bits it must have; -1: only close to the first */
    const char *keys[6];
} cases[] = {
    {"one rank", 1, -1, {NULL}},
    {"computed again", 1, 0, {"train.keep=gemm", NULL}},
    {"from the layers' inputs", 1, 0, {"train.keep=inputs", NULL}},
    {"in groups", 1, 0, {"train.keep=inputs", "train.keep_every=2", NULL}},
    {"a sequence on two", 2, -1, {"mesh.seq=2", NULL}},
    {"on three, gathered keys", 3, -1, {"mesh.seq=3", NULL}},
    {"zigzag, parameters in slices", 3, -1, {"mesh.seq=3", "mesh.layout=zigzag", "mesh.shard=parameters", NULL}},
    {"the same with nothing in slices, computed again",
     3,
     6,
     {"mesh.seq=3", "mesh.layout=zigzag", "mesh.shard=none", "train.keep=inputs", NULL}},
    {"two of data", 2, -1, {"mesh.data=2", "mesh.shard=gradients", NULL}},
    {"two of tensor", 2, -1, {"mesh.tensor=2", NULL}},
    {"two of seq, two of tensor, computed again", 4, -1, {"mesh.seq=2", "mesh.tensor=2", "train.keep=gemm", NULL}},
    {"two of seq, experts over both", 2, -1, {"mesh.seq=2", "mesh.expert=2", NULL}},
    {"two of data, two of seq, experts over two, parameters in slices",
     4,
     -1,
     {"mesh.data=2", "mesh.seq=2", "mesh.expert=2", "mesh.shard=parameters", "train.keep=inputs"}},
    {"two of data, three of seq", 6, -1, {"mesh.data=2", "mesh.seq=3", NULL}},
};

static void train_case(const char *folder, const char *depths, const char *shared, size_t at, struct run *out) {
    const char *keys[24] = {"model.mtp.pattern=*EM",
                            "model.mtp.weight=0.3",
                            "model.layers.E.kind=moe",
                            "model.layers.E.experts=6",
                            "model.layers.E.top_k=2",
                            "model.layers.E.hidden=8",
                            "model.layers.E.bias=true",
                            "model.layers.E.aux_loss=0.01",
                            "train.threads=1",
                            "model.vocab=32",
                            depths,
                            shared};
    int n = 12;
    struct config c;
    struct job j = {.config = &c};
    struct world *world = NULL;
    for (int i = 0; cases[at].keys[i]; i++) keys[n++] = cases[at].keys[i];
    small_run_config(&c, folder, n, keys);
    MUST(world_open(&world, &(struct world_spec){.n_ranks = cases[at].ranks, .deadline_s = 100}));
    MUST(world_run(world, train_rank, &j));
    world_close(world);
    config_term(&c);
    *out = j.run;
}

static bool close_to(double a, double b) { return fabs(a - b) <= 1e-10 * fabs(b); }

static void test_training(const char *folder, const char *depths, const char *shared) {
    struct run run[sizeof cases / sizeof *cases];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        train_case(folder, depths, shared, k, &run[k]);
        const struct run *a = &run[k], *first = &run[0], *same = cases[k].like < 0 ? a : &run[cases[k].like];
        for (int i = 0; i < STEPS; i++) {
            CHECK(close_to(a->loss[i], first->loss[i]) && close_to(a->later[i], first->later[i]) &&
                      close_to(a->norm[i], first->norm[i]),
                  "%s, %s, %s, step %d: loss %.15g, of heads %.15g, norm %.15g; on one rank %.15g, %.15g, %.15g",
                  cases[k].why, depths, shared, i, a->loss[i], a->later[i], a->norm[i], first->loss[i], first->later[i],
                  first->norm[i]);
            CHECK(a->loss[i] == same->loss[i] && a->later[i] == same->later[i] && a->norm[i] == same->norm[i],
                  "%s, %s, %s, step %d: other bits than: %s", cases[k].why, depths, shared, i,
                  cases[cases[k].like < 0 ? 0 : cases[k].like].why);
        }
        CHECK(close_to(a->valid, first->valid), "%s: validation %.15g, not %.15g", cases[k].why, a->valid,
              first->valid);
    }
    CHECK(run[0].later[0] > 0.0 && run[0].later[0] != run[0].loss[0] && run[0].later[0] != run[0].later[1],
          "%s: the heads' loss is %g, then %g", depths, run[0].later[0], run[0].later[1]);
}

/* ---- what is refused, and counted ---- */

static enum status open_one(struct rank *rank, void *arg) {
    struct trainer t;
    TRY(trainer_open(&t, arg, rank, NULL, &small_run_never));
    trainer_close(&t);
    return OK;
}

static void test_refused(const char *folder) {
    const char *const keys[] = {"model.mtp.pattern=-", "numerics=rank_invariant"};
    struct world *world = NULL;
    struct config c;
    small_run_config(&c, folder, 2, keys);
    MUST(world_open(&world, &(struct world_spec){.n_ranks = 1}));
    CHECK(world_run(world, open_one, &c) == ERR_CONFIG && strstr(status_text(), "model.mtp.depths=0"),
          "exact mode with heads: %s", status_text());
    status_clear();
    world_close(world);
    config_term(&c);
}

/* D 16: a head is 2 norms and the last one of D, D 2 D, and its layer: D norm, three matrices of D x 24. */
static void test_count(const char *folder) {
    static const struct {
        const char *keys[3];
        int64_t more, tensors;
    } rows[] = {{{"model.mtp.pattern=-", "model.mtp.depths=0", "model.mtp.shared=false"}, 0, 0},
                {{"model.mtp.pattern=-", "model.mtp.depths=1", "model.mtp.shared=false"}, 1, 1},
                {{"model.mtp.pattern=-", "model.mtp.depths=3", "model.mtp.shared=false"}, 3, 3},
                {{"model.mtp.pattern=-", "model.mtp.depths=3", "model.mtp.shared=true"}, 1, 1}};
    int64_t before = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;
        struct model m;
        small_run_config(&c, folder, 3, rows[i].keys);
        MUST(model_init(&m, &c.model, NULL));
        if (i == 0) before = m.params.n_elements;
        const int64_t wanted = before + rows[i].more * (3 * 16 + 2 * 16 * 16 + 16 + 3 * 16 * 24);
        CHECK(m.params.n_elements == wanted, "%s: %" PRId64 " parameters, not %" PRId64, rows[i].keys[1],
              m.params.n_elements, wanted);
        CHECK((param_find(&m.params, "mtp.layers.2.final_layernorm.weight") >= 0) == (rows[i].tensors == 3),
              "%s: the third head's norm", rows[i].keys[1]);
        model_term(&m);
        config_term(&c);
    }
}

int main(void) {
    char folder[] = "/tmp/baton_mtp_XXXXXX", prefix[PATH_BYTES];
    if (!mkdtemp(folder)) SKIP("no temporary folder can be made");
    MUST(path_print(prefix, "%s/tokens", folder));
    small_run_tokens(prefix);
    test_targets();
    test_meaning(false);
    test_meaning(true);
    test_training(folder, "model.mtp.depths=1", "model.mtp.shared=false");
    test_training(folder, "model.mtp.depths=2", "model.mtp.shared=false");
    test_training(folder, "model.mtp.depths=2", "model.mtp.shared=true");
    test_refused(folder);
    test_count(folder);
    MUST(file_remove_tree(folder));
    return check_end();
}
