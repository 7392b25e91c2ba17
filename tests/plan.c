/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* baton plan against runs: the bytes that communicators count in a step of real ranks, sent and received, by use, for
 * every rank; and the memory that the run has planned, row by row. */
#define _DEFAULT_SOURCE /* mkdtemp */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "launch/plan.h"
#include "tests/small_run.h"

enum { RANKS_MAX = 8, STEPS = 3, SEQUENCE = 52 };
struct seen {
    struct comm_count moved[N_COMM_USES];
    struct ledger ledger;
};
struct job {
    const struct config *config;
    struct seen seen[RANKS_MAX];
};

/* One document over all sequences: rehearsed steps are of such. */
static void write_tokens(const char *prefix) {
    struct token_writer *w = NULL;
    static int32_t ids[64 * SEQUENCE];
    for (int64_t i = 0; i < 64 * SEQUENCE; i++) ids[i] = (int32_t)(rng_bits(2, 7, (uint64_t)i) % 31);
    MUST(token_writer_open(&w, prefix, 31));
    MUST(token_writer_add(w, ids, 64 * SEQUENCE));
    MUST(token_writer_close(w, true));
}

static enum status count_steps(struct trainer *t, struct seen *s) {
    struct comm_count before[N_COMM_USES];
    struct step_report r;
    for (int i = 0; i < STEPS; i++) {
        trainer_moved(t, before);
        TRY(train_step(t, &r));
    }
    trainer_moved(t, s->moved);
    for (int use = 0; use < N_COMM_USES; use++) {
        s->moved[use].messages -= before[use].messages;
        s->moved[use].bytes_sent -= before[use].bytes_sent;
        s->moved[use].bytes_received -= before[use].bytes_received;
    }
    s->ledger = t->run.ledger;
    return sharding_settle(&t->run.shards);
}

static enum status run_rank(struct rank *rank, void *arg) {
    struct job *j = arg;
    struct trainer t;
    TRY(trainer_open(&t, j->config, rank, NULL, &small_run_never));
    const enum status st = count_steps(&t, &j->seen[rank_index(rank)]);
    trainer_close(&t);
    return st;
}

static void compare(const struct job *j, const char *why, int rank) {
    const struct seen *s = &j->seen[rank];
    struct rank_plan p;
    MUST(plan_rank(j->config, false, true, rank, &p));
    for (int use = 0; use < N_COMM_USES; use++) {
        const struct comm_count *plan = &p.moved[use], *run = &s->moved[use];
        CHECK(plan->bytes_received == run->bytes_received && plan->bytes_sent == run->bytes_sent &&
                  plan->messages == run->messages,
              "%s, rank %d: %s: planned %" PRId64 " bytes received, %" PRId64 " sent in %" PRId64
              " messages; the run has %" PRId64 ", %" PRId64 ", %" PRId64,
              why, rank, comm_use_name((enum comm_use)use), plan->bytes_received, plan->bytes_sent, plan->messages,
              run->bytes_received, run->bytes_sent, run->messages);
    }
    CHECK(p.ledger.n == s->ledger.n && !p.refused[0], "%s, rank %d: %d rows of memory planned, the run has %d %s", why,
          rank, p.ledger.n, s->ledger.n, p.refused);
    for (int i = 0; i < p.ledger.n && i < s->ledger.n; i++)
        CHECK(!strcmp(p.ledger.row[i].what, s->ledger.row[i].what) && p.ledger.row[i].bytes == s->ledger.row[i].bytes,
              "%s, rank %d: %s %" PRId64 " bytes planned, the run has %s %" PRId64, why, rank, p.ledger.row[i].what,
              p.ledger.row[i].bytes, s->ledger.row[i].what, s->ledger.row[i].bytes);
}

static const struct {
    const char *why;
    int data, seq, tensor;
    bool carries, attends; /* what such a run must send, so that the comparison is of something */
    const char *keys[6];
} cases[] = {
    {"one rank", 1, 1, 1, false, false, {NULL}},
    {"heads for tokens", 1, 2, 1, true, true, {NULL}},
    {"three ranks, uneven: gathered keys", 1, 3, 1, true, true, {"mesh.carry=scan", NULL}},
    {"zigzag, in turn", 1, 4, 1, true, true, {"mesh.layout=zigzag", "mesh.carry=chain", "mesh.attention=keys", NULL}},
    {"more ranks than a short stretch has", 1, 8, 1, true, true, {"mesh.carry=gather", "mesh.attention=keys", NULL}},
    {"two micro-batches, gradients whole", 2, 2, 1, true, true, {"mesh.shard=none", NULL}},
    {"gradients in slices, computed again", 2, 2, 1, true, true, {"mesh.shard=gradients", "train.keep=gemm", NULL}},
    {"parameters in slices, groups computed again",
     1,
     4,
     1,
     true,
     true,
     {"mesh.shard=parameters", "train.keep=inputs", "train.keep_every=2", NULL}},
    {"half of the inputs in the host's memory", 1, 2, 1, true, true, {"train.keep=inputs", "train.offload=0.5", NULL}},
    {"data alone, f32", 4, 1, 1, false, false, {"mesh.shard=parameters", "train.precision=f32", NULL}},
    {"prediction heads, two of data",
     2,
     3,
     1,
     true,
     true,
     {"model.mtp.pattern=*m", "model.mtp.depths=2", "model.mtp.shared=true", "mesh.shard=parameters", NULL}},
    {"exact", 1, 4, 1, true, true, {"numerics=rank_invariant", NULL}},
    {"exact, tied, two of data", 2, 2, 1, true, true, {"numerics=rank_invariant", "model.tied=true", NULL}},
    {"experts over two, every token to all", /* so that loads are even, as planned */
     1,
     2,
     1,
     true,
     true,
     {"mesh.expert=2", "model.layers.E.top_k=6", "model.mtp.pattern=E", "model.mtp.shared=true", "model.mtp.depths=2"}},
    {"exact, experts over two of four",
     2,
     2,
     1,
     true,
     true,
     {"mesh.expert=2", "model.layers.E.top_k=6", "numerics=rank_invariant", "mesh.shard=parameters"}},
    {"two of tensor", 1, 1, 2, false, false, {"mesh.shard=parameters", NULL}},
    {"four of tensor, by parts", 1, 1, 4, false, false, {"mesh.tensor_part=1", "mesh.shard=none", NULL}},
    {"two of seq, two of tensor, by parts", 1, 2, 2, true, true, {"mesh.tensor_part=1", "train.keep=gemm", NULL}},
    {"two of tensor, computed again", 1, 1, 2, false, false, {"train.keep=inputs", NULL}},
    {"two of tensor, groups computed again",
     1,
     2,
     2,
     true,
     true,
     {"model.mtp.pattern=*M", "train.keep=inputs", "train.keep_every=3", NULL}},
    {"two of seq, two of tensor, heads", 1, 2, 2, true, true, {"model.mtp.pattern=*M", "train.keep=gemm", NULL}},
    {"exact, two of seq, two of tensor", 1, 2, 2, true, true, {"numerics=rank_invariant", NULL}},
};

#define MODEL                                                                                                          \
    "model.layers.m.kind=mamba1", "model.layers.m.inner=24", "model.layers.m.state=4", "model.layers.m.dt_rank=3",     \
        "model.layers.m.conv=4", "model.layers.m.chunk=4", "model.layers.M.chunk=4", "model.layers.m.norms=learned",   \
        "model.layers.E.kind=moe", "model.layers.E.experts=6", "model.layers.E.top_k=2", "model.layers.E.hidden=8",    \
        "model.layers.E.aux_loss=0.01", "model.pattern=M-*mE*M"

static void run_case(const char *folder, size_t at) {
    static const char *const common[] = {MODEL, "model.vocab=32", "train.tokens_per_sequence=52", "train.threads=1",
                                         "data.valid="};
    const char *overrides[40];
    char mesh[3][40];
    int n = 0;
    struct config c;
    struct job j = {.config = &c};
    struct world *world = NULL;
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) overrides[n++] = common[i];
    for (int i = 0; cases[at].keys[i]; i++) overrides[n++] = cases[at].keys[i];
    snprintf(mesh[0], sizeof mesh[0], "mesh.data=%d", cases[at].data);
    snprintf(mesh[1], sizeof mesh[1], "mesh.seq=%d", cases[at].seq);
    snprintf(mesh[2], sizeof mesh[2], "mesh.tensor=%d", cases[at].tensor);
    for (int i = 0; i < 3; i++) overrides[n++] = mesh[i];
    const int ranks = cases[at].data * cases[at].seq * cases[at].tensor;
    small_run_config(&c, folder, n, overrides);
    MUST(world_open(&world, &(struct world_spec){.n_ranks = ranks, .deadline_s = 100}));
    MUST(world_run(world, run_rank, &j));
    world_close(world);
    for (int r = 0; r < ranks; r++) compare(&j, cases[at].why, r);
    config_term(&c);
    const struct comm_count *last = j.seen[ranks - 1].moved;
    CHECK((last[COMM_CARRY].bytes_received > 0) == cases[at].carries &&
              (last[COMM_KEYS].bytes_received + last[COMM_SWAP].bytes_received > 0) == cases[at].attends &&
              (last[COMM_GRADS].bytes_received > 0) == (ranks > 1) &&
              (last[COMM_TENSOR].bytes_received > 0) == (cases[at].tensor > 1),
          "%s: nothing was compared", cases[at].why);
}

/* Ranks that nothing could start here: every one is planned alike, and what all send all receive. */
static void check_large(const char *folder) {
    const char *const overrides[] = {MODEL, "train.tokens_per_sequence=4096", "mesh.seq=64", "data.valid="};
    int64_t received = 0, out = 0;
    struct config c;
    struct rank_plan p;
    small_run_config(&c, folder, sizeof overrides / sizeof *overrides, overrides);
    for (int r = 0; r < 64; r++) {
        MUST(plan_rank(&c, false, true, r, &p));
        for (int use = 0; use < N_COMM_USES; use++) {
            received += p.moved[use].bytes_received;
            out += p.moved[use].bytes_sent;
        }
    }
    CHECK(received == out && out > 0, "64 ranks: %" PRId64 " bytes received, %" PRId64 " sent", received, out);
    config_term(&c);
}

static void check_refused(const char *folder) {
    const char *const overrides[] = {MODEL, "mesh.seq=5000", "data.valid="};
    struct config c;
    struct rank_plan p;
    small_run_config(&c, folder, sizeof overrides / sizeof *overrides, overrides);
    CHECK(plan_rank(&c, false, true, 0, &p) == ERR_CONFIG, "5,000 ranks were planned");
    status_clear();
    config_term(&c);
}

int main(void) {
    char folder[] = "/tmp/baton_plan_XXXXXX", prefix[PATH_BYTES];
    if (!mkdtemp(folder)) SKIP("no temporary folder can be made");
    MUST(path_print(prefix, "%s/tokens", folder));
    write_tokens(prefix);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(folder, i);
    check_large(folder);
    check_refused(folder);
    MUST(file_remove_tree(folder));
    return check_end();
}
