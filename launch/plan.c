/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/plan.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- one rank ---- */

struct job {
    const struct config *config;
    bool cuda, wire;
    struct rank_plan *out;
};

static enum status plan_memory(const struct job *j, struct rank *rank) {
    struct runner r;
    struct team team;
    TRY(trainer_team(&team, j->config, rank, NULL));
    struct runner_spec spec = trainer_spec(j->config, &team);
    spec.paper = true;
    spec.plan_cuda = j->cuda;
    const enum status st = runner_init(&r, &j->config->model, &spec, true);
    if (st == OK) {
        j->out->ledger = r.ledger;
        j->out->beside = r.beside;
        j->out->n_plain = r.plain.n_notes;
        memcpy(j->out->plain, r.plain.note, sizeof j->out->plain);
        memcpy(j->out->refused, r.paper.refused, sizeof j->out->refused);
        runner_term(&r);
    }
    team_close(&team);
    return st;
}

/* Steps are alike from the second on. */
static enum status rehearse(const struct job *j, struct trainer *t) {
    struct step_report r = {.step = 1};
    struct comm_count before[N_COMM_USES];
    TRY(train_passes(t, &r, true));
    trainer_moved(t, before);
    TRY(train_passes(t, &r, true));
    trainer_moved(t, j->out->moved);
    for (int use = 0; use < N_COMM_USES; use++) {
        j->out->moved[use].messages -= before[use].messages;
        j->out->moved[use].bytes_sent -= before[use].bytes_sent;
        j->out->moved[use].bytes_received -= before[use].bytes_received;
    }
    j->out->way = t->run.mesh.spec.way;
    j->out->sliced = t->run.shards.sliced;
    return OK;
}

static enum status plan_exchanges(const struct job *j, struct rank *rank) {
    struct trainer t;
    TRY(trainer_open_paper(&t, j->config, rank));
    const enum status st = rehearse(j, &t);
    trainer_close(&t);
    return st;
}

static enum status alone(struct rank *rank, void *arg) {
    const struct job *j = arg;
    TRY(plan_memory(j, rank));
    return j->wire ? plan_exchanges(j, rank) : OK;
}

static int64_t n_ranks(const struct config *c) { return c->mesh.data * c->mesh.seq * c->mesh.tensor * c->mesh.pipe; }

enum status plan_rank(const struct config *c, bool cuda, bool wire, int rank, struct rank_plan *out) {
    struct world *world = NULL;
    struct job j = {.config = c, .cuda = cuda, .wire = wire, .out = out};
    *out = (struct rank_plan){.rank = rank};
    FAIL_UNLESS(n_ranks(c) <= 4096, ERR_CONFIG, "mesh: %" PRId64 " ranks are more than the 4096 that can be planned",
                n_ranks(c));
    TRY(world_open(&world, &(struct world_spec){.n_ranks = (int)n_ranks(c), .paper = true, .alone = rank}));
    const enum status st = world_run(world, alone, &j);
    world_close(world);
    return st;
}

/* ---- for people ---- */

static double mib(int64_t bytes) { return (double)bytes / (1 << 20); }

enum status plan_print_model(const struct config *c, const struct model *m, struct text *out) {
    const double flops = model_flops_per_token(m, c->train.tokens_per_sequence);
    TRY(config_print_stack(c, out));
    return text_print(out, "parameters: %" PRId64 ", %.3f MFLOP a trained token\n", m->params.n_elements, 1e-6 * flops);
}

static enum status print_work(const struct config *c, const struct model *m, struct text *out) {
    const int64_t head = param_count(&m->params.list[m->head]), active = model_active(m);
    const int64_t tokens = c->train.sequences_per_step * c->train.tokens_per_sequence;
    const double flops = (double)tokens * model_flops_per_token(m, c->train.tokens_per_sequence);
    int64_t later = 0;
    for (int i = m->mtp.first; i < m->params.n; i++) later += param_count(&m->params.list[i]);
    if (later > 0)
        TRY(text_print(out, "  of them %" PRId64 " in prediction heads, %" PRId64 " without\n", later,
                       m->params.n_elements - later));
    TRY(text_print(out, "  embedding %" PRId64 ", head %s%" PRId64 "; one token meets %" PRId64 "\n",
                   param_count(&m->params.list[m->embedding]), c->model.tied ? "the same " : "", head, active));
    return text_print(
        out, "a step: %" PRId64 " tokens, %.6g FLOP forward and backward, %.6g of them on each of %" PRId64 " ranks\n",
        tokens, flops, flops / (double)n_ranks(c), n_ranks(c));
}

static enum status print_model(const struct config *c, struct text *out) {
    struct model m;
    enum status st = model_init(&m, &c->model, NULL);
    if (st == OK) st = plan_print_model(c, &m, out);
    if (st == OK) st = print_work(c, &m, out);
    model_term(&m);
    return st;
}

enum { COLUMNS = 3 };

static enum status print_row(const struct rank_plan *p, int n, const char *name, const char *what,
                             int64_t (*value)(const struct rank_plan *, int), int use, struct text *out) {
    char head[60];
    snprintf(head, sizeof head, "  %-8s %s", name, what);
    TRY(text_print(out, "%-46s", head));
    for (int i = 0; i < n; i++) TRY(text_print(out, " %18" PRId64, value(&p[i], use)));
    return text_print(out, "\n");
}

static int64_t rank_of(const struct rank_plan *p, int use) { return (void)use, p->rank; }
static int64_t memory_of(const struct rank_plan *p, int use) { return (void)use, ledger_total(&p->ledger); }
static int64_t received_of(const struct rank_plan *p, int use) { return p->moved[use].bytes_received; }
static int64_t all_received(const struct rank_plan *p, int use) {
    (void)use;
    int64_t sum = 0;
    for (int i = 0; i < N_COMM_USES; i++) sum += p->moved[i].bytes_received;
    return sum;
}
static int64_t all_sent(const struct rank_plan *p, int use) {
    (void)use;
    int64_t sum = 0;
    for (int i = 0; i < N_COMM_USES; i++) sum += p->moved[i].bytes_sent;
    return sum;
}

static const char *what_of(const struct rank_plan *p, enum comm_use use) {
    static const char *const ways[] = {"states between ranges: gather", "states between ranges: chain",
                                       "states between ranges: scan"};
    switch (use) {
    case COMM_CARRY:
        return ways[p->way];
    case COMM_HALO:
        return "last rows before a range";
    case COMM_KEYS:
        return "keys, values, their gradients";
    case COMM_SWAP:
        return "heads for tokens";
    case COMM_EXPERT:
        return "tokens to experts and back";
    case COMM_TENSOR:
        return "rows entering and leaving layers";
    case COMM_PARAMS:
        return "weights: all_gather";
    case COMM_GRADS:
        return p->sliced ? "gradients: reduce_scatter" : "gradients: all_reduce";
    case COMM_CONTROL:
        return "sums of numbers, agreement";
    case N_COMM_USES:
        break;
    }
    return "";
}

static enum status print_exchanges(const struct rank_plan *p, int n, struct text *out) {
    TRY(print_row(p, n, "rank", "", rank_of, 0, out));
    TRY(print_row(p, n, "memory", "planned, bytes", memory_of, 0, out));
    TRY(text_print(out, "bytes that a rank receives in a step\n"));
    for (int use = 0; use < N_COMM_USES; use++)
        TRY(print_row(p, n, comm_use_name((enum comm_use)use), what_of(p, (enum comm_use)use), received_of, use, out));
    TRY(print_row(p, n, "total", "", all_received, 0, out));
    return print_row(p, n, "sent", "by the rank, in all", all_sent, 0, out);
}

enum status plan_print(const struct config *c, bool cuda, struct text *out) {
    const int last = (int)n_ranks(c) - 1, ranks[COLUMNS] = {0, last / 2, last};
    struct rank_plan p[COLUMNS];
    int n = 0;
    TRY(print_model(c, out));
    for (int i = 0; i < COLUMNS; i++)
        if (i == 0 || ranks[i] != ranks[i - 1]) TRY(plan_rank(c, cuda, true, ranks[i], &p[n++]));
    TRY(ledger_print(&p[0].ledger, "memory plan", 1, out));
    TRY(ledger_print(&p[0].beside, "memory of the host beside it", 1, out));
    TRY(plain_print(p[0].plain, p[0].n_plain, out));
    if (p[0].refused[0])
        TRY(text_print(out, "without workspace of ops: %s of this program would be refused: %s\n",
                       cuda ? "a run on a GPU" : "a run", p[0].refused));
    return print_exchanges(p, n, out);
}

/* ---- what would fit ---- */

struct way {
    int keep;
    int64_t every;
    double offload; /* of a GPU alone */
    const char *text;
};
static const struct way ways[] = {{POLICY_ALL, 1, 0.0, "train.keep=all"},
                                  {POLICY_GEMM, 1, 0.0, "train.keep=gemm"},
                                  {POLICY_INPUTS, 1, 0.0, "train.keep=inputs"},
                                  {POLICY_INPUTS, 1, 0.5, "train.keep=inputs train.offload=0.5"},
                                  {POLICY_INPUTS, 1, 1.0, "train.keep=inputs train.offload=1"},
                                  {POLICY_INPUTS, 2, 0.0, "train.keep=inputs train.keep_every=2"},
                                  {POLICY_INPUTS, 4, 0.0, "train.keep=inputs train.keep_every=4"}};
enum { N_WAYS = sizeof ways / sizeof *ways, DOUBLINGS = 8 };

/* Bytes of a rank, and of the host beside it; a mesh that cannot be has no bytes. */
static enum status need_of(const struct config *c, bool cuda, int64_t *need, int64_t *beside) {
    struct rank_plan p;
    *need = INT64_MAX;
    if (n_ranks(c) > 4096) return OK;
    const enum status st = plan_rank(c, cuda, false, 0, &p);
    if (st == ERR_CONFIG) status_clear();
    if (st != OK) return st == ERR_CONFIG ? OK : st;
    *need = ledger_total(&p.ledger);
    *beside = ledger_total(&p.beside);
    return OK;
}

/* Of one mesh, the first way that fits. */
static enum status try_ways(const struct config *c, bool cuda, int64_t bytes, struct text *out) {
    struct config try = *c;
    int64_t need = 0, beside = 0;
    for (int i = 0; i < N_WAYS; i++) {
        if (ways[i].keep < c->train.keep || ways[i].every < c->train.keep_every) continue;
        if (ways[i].offload > 0.0 && !cuda) continue;
        try.train.keep = ways[i].keep;
        try.train.keep_every = ways[i].every;
        try.train.offload = ways[i].offload;
        TRY(need_of(&try, cuda, &need, &beside));
        if (need > bytes) continue;
        TRY(text_print(out, "%s mesh.seq=%" PRId64 "%s would fit: %.1f MiB a rank", ways[i].text, c->mesh.seq,
                       c->mesh.shard == SHARDING_PARAMETERS ? " mesh.shard=parameters" : "", mib(need)));
        if (ways[i].offload > 0.0) TRY(text_print(out, ", and %.1f MiB of the host", mib(beside)));
        return text_print(out, "\n");
    }
    return OK;
}

enum status plan_print_fit(const struct config *c, bool cuda, int64_t bytes, struct text *out) {
    struct config try = *c;
    int64_t need = 0, beside = 0;
    TRY(need_of(c, cuda, &need, &beside));
    if (need <= bytes)
        return text_print(out, "fits: %.1f MiB of %.1f MiB a rank, %.1f MiB are left\n", mib(need), mib(bytes),
                          mib(bytes - need));
    TRY(text_print(out, "does not fit: %.1f MiB a rank, %.1f MiB more than the %.1f MiB it has\n", mib(need),
                   mib(need - bytes), mib(bytes)));
    const int64_t before = out->n;
    for (int k = 0; k <= DOUBLINGS && out->n == before; k++, try.mesh.seq *= 2) {
        try.mesh.shard = c->mesh.shard;
        TRY(try_ways(&try, cuda, bytes, out));
        try.mesh.shard = SHARDING_PARAMETERS;
        if (out->n == before && n_ranks(&try) > 1) TRY(try_ways(&try, cuda, bytes, out));
    }
    if (out->n > before) return OK;
    return text_print(out, "no mesh.seq up to %" PRId64 " fits: fewer tokens_per_sequence, or a smaller model\n",
                      try.mesh.seq / 2);
}
