/* SPDX-License-Identifier: Apache-2.0 */
/* labels: gpu1 */
/* timeout: 300 */
/* Steps on a GPU beside the same steps on the CPU; a gradient that is not finite, which skips the step and changes no
 * bit; a checkpoint that comes back to the bit; memory as planned. */
#define _DEFAULT_SOURCE /* mkdtemp */
#include "kernels/space.h"
#include "tests/small_run.h"

enum { STEPS = 3 };
static const struct device_choice gpu = {.cuda = true, .n_devices = 1};
static const char *const overrides[] = {"train.precision=f32", "train.micro_batch=2", "train.tokens_per_sequence=24"};
static int bad_param[2]; /* of each rank */
enum { N_OVERRIDES = sizeof overrides / sizeof *overrides };

static void near(const char *what, int step, double a, double b) {
    CHECK(fabs(a - b) <= 1e-4 * fabs(b), "step %d: %s %.9g on the GPU, %.9g on the CPU", step, what, a, b);
}

static void check_steps(struct rank *rank, const char *folder) {
    struct trainer t, u;
    struct config c, d;
    small_run_open_on(&t, &c, rank, &gpu, folder, N_OVERRIDES, overrides);
    small_run_open(&u, &d, rank, folder, N_OVERRIDES, overrides);
    for (int i = 1; i <= STEPS; i++) {
        struct step_report a, b;
        double valid_a, valid_b;
        MUST(train_step(&t, &a));
        MUST(train_step(&u, &b));
        near("loss", i, a.loss, b.loss);
        near("gradient norm", i, a.grad_norm, b.grad_norm);
        CHECK(!a.skipped && a.bad_param == -1, "step %d: skipped %d, bad parameter %d", i, a.skipped, a.bad_param);
        MUST(train_validate(&t, &valid_a));
        MUST(train_validate(&u, &valid_b));
        near("validation", i, valid_a, valid_b);
    }
    CHECK(t.run.memory.high == t.run.memory.size && t.run.host.high == t.run.host.size,
          "planned %lld and %lld bytes, in use %lld and %lld", (long long)t.run.memory.size, (long long)t.run.host.size,
          (long long)t.run.memory.high, (long long)t.run.host.high);
    CHECK(t.run.work.high <= t.run.work.size && t.run.work.used == 0, "workspace");
    trainer_close(&t);
    trainer_close(&u);
    config_term(&c);
    config_term(&d);
}

/* Weights, masters and moments, one behind the other. */
static int64_t state_of(struct trainer *t, char *out) {
    int64_t bytes = 0;
    for (int i = 0; i < t->run.model.params.n; i++) {
        const struct sharding_piece *p = &t->run.shards.piece[i];
        const struct tensor all[] = {p->w, p->m, p->v, p->out};
        for (int k = 0; k < 4; k++) {
            if (!tensor_has(all[k])) continue;
            if (out) MUST(space_copy(&t->run.ctx, out + bytes, all[k].data, tensor_bytes(all[k])));
            bytes += tensor_bytes(all[k]);
        }
    }
    return bytes;
}

static char *take_state(struct trainer *t) {
    void *mem = NULL;
    MUST(mem_take(state_of(t, NULL), &mem));
    state_of(t, mem);
    return mem;
}

static void check_skip(struct rank *rank, const char *folder) {
    struct trainer t;
    struct config c;
    struct step_report r;
    const float huge = 1e30f; /* its square is not finite */
    small_run_open_on(&t, &c, rank, &gpu, folder, N_OVERRIDES, overrides);
    MUST(train_step(&t, &r));
    MUST(space_copy(&t.run.ctx, t.run.shards.piece[0].w.data, &huge, sizeof huge));
    char *const before = take_state(&t);
    MUST(train_step(&t, &r));
    CHECK(r.skipped && t.step == 2 && r.bad_param >= 0, "skipped %d, step %d, bad parameter %d, loss %g, norm %g",
          r.skipped, (int)t.step, r.bad_param, r.loss, r.grad_norm);
    char *const after = take_state(&t);
    CHECK(!memcmp(before, after, (size_t)state_of(&t, NULL)), "a step without finite numbers changed the state");
    mem_free(before);
    mem_free(after);
    trainer_close(&t);
    config_term(&c);
}

/* A weight of one rank alone is no number: all ranks skip that step, name the same parameter and keep their bits. */
static enum status check_skip_of_all(struct rank *rank, void *configs) {
    struct trainer t;
    struct step_report r;
    const struct device_choice all = {.cuda = true, .n_devices = device_count()};
    MUST(trainer_open(&t, (struct config *)configs + rank_index(rank), rank, &all, &small_run_never));
    MUST(train_step(&t, &r));
    CHECK(!r.skipped, "a good step is skipped");
    const int norm = param_find(&t.run.model.params, "layers.0.norm.weight");
    ASSERT(norm >= 0);
    if (rank_index(rank) == 1)
        MUST(space_copy(&t.run.ctx, t.run.model.params.list[norm].w.data, &(float){NAN}, sizeof(float)));
    char *const before = take_state(&t);
    MUST(train_step(&t, &r));
    CHECK(r.skipped && t.step == 2 && r.bad_param >= 0, "rank %d: skipped %d, step %d, bad parameter %d",
          rank_index(rank), r.skipped, (int)t.step, r.bad_param);
    bad_param[rank_index(rank)] = r.bad_param;
    char *const after = take_state(&t);
    CHECK(!memcmp(before, after, (size_t)state_of(&t, NULL)), "rank %d: a skipped step changed the state",
          rank_index(rank));
    mem_free(before);
    mem_free(after);
    trainer_close(&t);
    return OK;
}

static void check_ranks(const char *folder) {
    static const char *const two[] = {"train.precision=f32", "train.micro_batch=2", "train.tokens_per_sequence=24",
                                      "mesh.seq=2", "mesh.shard=none"};
    struct config configs[2];
    struct world *w = NULL;
    for (int i = 0; i < 2; i++) small_run_config(&configs[i], folder, 5, two);
    MUST(world_open(&w, &(struct world_spec){.n_ranks = 2, .deadline_s = 60}));
    MUST(world_run(w, check_skip_of_all, configs));
    world_close(w);
    for (int i = 0; i < 2; i++) config_term(&configs[i]);
    CHECK(bad_param[0] == bad_param[1], "one rank names parameter %d, the other %d", bad_param[0], bad_param[1]);
}

static void check_checkpoint(struct rank *rank, const char *folder) {
    struct trainer t;
    struct config c;
    struct step_report r, again;
    char path[PATH_BYTES];
    small_run_open_on(&t, &c, rank, &gpu, folder, N_OVERRIDES, overrides);
    t.run_dir = folder;
    MUST(report_open(&t.report, &(struct report_spec){.run_dir = folder, .first_step = 1, .n_steps = 2}));
    MUST(train_step(&t, &r));
    MUST(trainer_save(&t));
    char *const saved = take_state(&t);
    MUST(train_step(&t, &r));
    MUST(trainer_find(&t, folder, false, path));
    MUST(trainer_load(&t, path));
    char *const loaded = take_state(&t);
    CHECK(t.step == 1 && !memcmp(saved, loaded, (size_t)state_of(&t, NULL)), "the state of step %d", (int)t.step);
    MUST(train_step(&t, &again));
    CHECK(!memcmp(&r.loss, &again.loss, 8) && !memcmp(&r.grad_norm, &again.grad_norm, 8),
          "step 2: loss %.17g and %.17g", r.loss, again.loss);
    mem_free(saved);
    mem_free(loaded);
    trainer_close(&t);
    config_term(&c);
}

static enum status check_all(struct rank *rank, void *folder) {
    check_steps(rank, folder);
    check_skip(rank, folder);
    check_checkpoint(rank, folder);
    check_ranks(folder);
    return OK;
}

int main(void) {
    if (device_count() == 0) SKIP("there is no GPU");
    return small_run_main(check_all);
}
