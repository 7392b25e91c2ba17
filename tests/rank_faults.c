/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* A rank that fails in the middle of training steps: late ranks change no bit; one that fails, falls silent or loses a
 * message ends the run on all ranks, by its name, and with the exit code for it.  Any message may be the one. */
#define _DEFAULT_SOURCE
#include <inttypes.h>
#include <unistd.h>
#include "launch/command.h"
#include "tests/small_run.h"

enum { RANKS = 4, STEPS = 3, RUNS = 80 };

struct run {
    struct config config;
    double loss[STEPS], norm[STEPS];
    double weights[RANKS];
    int64_t messages[RANKS];
    char text[2000];
};

static double sum_of_weights(const struct trainer *t) {
    double sum = 0.0;
    for (int i = 0; i < t->run.model.params.n; i++) {
        const struct param *p = &t->run.model.params.list[i];
        const int64_t n = tensor_has(p->w) ? param_count(p) : 0;
        for (int64_t j = 0; j < n; j++) sum += ((const double *)p->w.data)[j] * rng_normal(5, (uint64_t)i, (uint64_t)j);
    }
    return sum;
}

static enum status train_rank(struct rank *rank, void *arg) {
    static const int never = 0;
    struct run *run = arg;
    struct trainer t;
    const int me = rank_index(rank);
    TRY(trainer_open(&t, &run->config, rank, NULL, &never));
    enum status st = OK;
    for (int i = 0; i < STEPS && st == OK; i++) {
        struct step_report r;
        st = train_step(&t, &r);
        if (st != OK || me > 0) continue;
        run->loss[i] = r.loss;
        run->norm[i] = r.grad_norm;
    }
    if (st == OK) st = sharding_settle(&t.run.shards); /* the last step's weights are on their way */
    if (st == OK) run->weights[me] = sum_of_weights(&t);
    run->messages[me] = comm_total(&t.team.seq).messages + comm_total(&t.team.tokens).messages +
                        comm_total(&t.run.shards.comm).messages;
    trainer_close(&t);
    return st;
}

static enum status train(struct run *run, const struct fault *fault, double deadline_s) {
    struct world *world = NULL;
    MUST(world_open(
        &world,
        &(struct world_spec){.n_ranks = RANKS, .deadline_s = deadline_s, .faults = fault, .n_faults = fault ? 1 : 0}));
    const enum status st = world_run(world, train_rank, run);
    snprintf(run->text, sizeof run->text, "%s", st == OK ? "" : status_text());
    world_close(world);
    return st;
}

/* Does the text lay this fault at this rank's door, and not just mention it? */
static bool blames(const char *text, const struct fault *f) {
    const char *const forms[3][3] = {
        {"was lost on its way from rank %d", "from rank %d was lost", "rank %d has ended without it"},
        {"injected fault: rank %d fails", "injected fault: rank %d fails", "injected fault: rank %d fails"},
        {"rank %d is in no wait", "rank %d went silent", "rank %d went silent"}};
    char says[80];
    for (int i = 0; i < 3; i++) {
        snprintf(says, sizeof says, forms[f->kind - FAULT_LOST][i], f->rank);
        if (strstr(text, says)) return true;
    }
    return false;
}

static void check_run(struct run *run, const struct run *clean, const struct fault *f) {
    static const char *const kinds[] = {"late", "lost", "error", "stop"};
    const bool waits = f->kind == FAULT_LOST || f->kind == FAULT_STOP;
    enum status st = train(run, f, waits ? 0.3 : 60.0);
    if (waits && !blames(run->text, f)) st = train(run, f, 10.0); /* a loaded machine held up another rank */
    if (f->kind == FAULT_LATE) {
        CHECK(st == OK && !memcmp(run->loss, clean->loss, sizeof run->loss) &&
                  !memcmp(run->norm, clean->norm, sizeof run->norm) &&
                  !memcmp(run->weights, clean->weights, sizeof run->weights),
              "rank %d late at message %" PRId64 ": other results, or %s", f->rank, f->k, run->text);
        return;
    }
    const int code = status_exit_code(st), want = waits ? EXIT_LOST : EXIT_FAILED;
    CHECK(code == want, "%s, rank %d, message %" PRId64 ": exit code %d, not %d: %s", kinds[f->kind], f->rank, f->k,
          code, want, run->text);
    CHECK(blames(run->text, f), "%s, rank %d, message %" PRId64 ": the text blames another: %s", kinds[f->kind],
          f->rank, f->k, run->text);
}

static void read_config(struct config *c, const char *folder, const char *const overrides[4]) {
    char path[PATH_BYTES];
    struct text errors = {0};
    MUST(path_print(path, "%s/config.yaml", folder));
    MUST(file_replace(path, small_run_yaml, (int64_t)sizeof small_run_yaml - 1));
    const struct config_source from = {.path = path, .n_overrides = 4, .overrides = overrides};
    const enum status st = config_read(c, &from, &errors);
    CHECK(st == OK, "%s", errors.s ? errors.s : status_text());
    text_term(&errors);
}

int main(void) {
    static const char *const overrides[2][4] = {
        {"mesh.seq=4", "mesh.carry=gather", "mesh.layout=zigzag", "train.threads=1"},
        {"mesh.seq=2", "mesh.data=2", "mesh.carry=chain", "train.threads=1"},
    };
    static struct run clean[2], run;
    char folder[] = "/tmp/baton_rank_faults_XXXXXX", prefix[PATH_BYTES];
    if (!mkdtemp(folder)) SKIP("no temporary folder can be made");
    MUST(path_print(prefix, "%s/tokens", folder));
    small_run_tokens(prefix);
    for (int k = 0; k < 2; k++) {
        read_config(&clean[k].config, folder, overrides[k]);
        MUST(train(&clean[k], NULL, 60));
        CHECK(clean[k].weights[1] == clean[k].weights[0], "ranks differ after a run without faults");
    }
    for (int i = 0; i < RUNS; i++) {
        const struct run *like = &clean[i % 2];
        const uint64_t bits = rng_bits(6, 1, (uint64_t)i);
        struct fault f = {.rank = (int)(bits % RANKS), .ms = (int)(bits >> 8) & 7};
        f.kind = bits >> 16 & 1 ? FAULT_LATE : (enum fault_kind)(FAULT_LATE + 1 + (int)((bits >> 20) % 3));
        f.k = 1 + (int64_t)(rng_bits(6, 2, (uint64_t)i) % (uint64_t)like->messages[f.rank]);
        memset(&run, 0, sizeof run);
        run.config = like->config;
        check_run(&run, like, &f);
    }
    for (int k = 0; k < 2; k++) config_term(&clean[k].config);
    MUST(file_remove_tree(folder));
    return check_end();
}
