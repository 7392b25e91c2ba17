/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* policies.c - activation policies give the same bits on one mesh, also with a part of what is kept in the host's
 * memory; they send nothing when layers are computed again but for rows that enter and leave over tensor, counted by
 * hand, and take the memory that the plan says.  Before each layer is computed again, all that was not kept is filled
 * with NaN. */
#include "kernels/fill/fill.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
#include "model/block.h"
#include "tests/small_model.h"
#include "tests/policies_model.h" /* its names are parameters there */

enum { RANKS = 8, STEPS = 3, LAYERS = 32 };

static const struct keeping {
    const char *name;
    enum policy policy;
    int64_t every;
    double offload;
} keepings[] = {{"all", POLICY_ALL, 1, 0.0},
                {"gemm", POLICY_GEMM, 1, 0.0},
                {"inputs", POLICY_INPUTS, 1, 0.0},
                {"inputs/2", POLICY_INPUTS, 2, 0.0},
                {"inputs/5", POLICY_INPUTS, 5, 0.0},
                {"inputs/all", POLICY_INPUTS, 100, 0.0},
                {"all, half away", POLICY_ALL, 1, 0.5},
                {"gemm, a third away", POLICY_GEMM, 1, 0.34},
                {"inputs, away", POLICY_INPUTS, 1, 1.0},
                {"inputs/2, away", POLICY_INPUTS, 2, 1.0}};
enum { N_KEEPINGS = sizeof keepings / sizeof *keepings, N_FALLING = 4 /* the first of them, by what a rank keeps */ };

struct setting {
    const char *why;
    bool local; /* without a team: seams_local */
    struct mesh_config mesh;
    int64_t tokens, sequences;
    int precision;
    bool exact;
};

/* ---- one rank under watch ---- */

struct watched {
    struct runner r; /* first: the step is found in it */
    struct team team;
    struct seams seams, real;
    struct ops ops;
    const struct ops *real_ops;
    bool seen[LAYERS], again;
    int n_forward;                                    /* blocks asked for since the pass began */
    int64_t sent, sent_again, crossed, crossed_again; /* messages; crossed: those over tensor */
    int64_t products, attentions;                     /* ops run forward */
};

static struct watched *watched_of(struct ctx *c) {
    return (struct watched *)((char *)c - offsetof(struct runner, ctx));
}

static enum status count_product(struct ctx *c, const struct linear *a) {
    struct watched *w = watched_of(c);
    w->products++;
    return w->real_ops->linear_fwd(c, a);
}

static enum status count_attention(struct ctx *c, const struct attention *a) {
    struct watched *w = watched_of(c);
    w->attentions++;
    return w->real_ops->attention_fwd(c, a);
}

static int64_t messages(const struct watched *w) {
    return w->r.spec.team ? comm_total(&w->team.seq).messages + comm_total(&w->team.tokens).messages : 0;
}

/* NaN into all slots of one home. */
static void spoil(struct watched *w, enum home home) {
    for (int i = 0; i < w->r.act.n_layers; i++) {
        struct saved *v = &w->r.act.layers[i];
        for (int k = 0; k < SAVED_MAX; k++)
            if (v->slot[k].name && saved_home(v, v->slot[k].at) == home)
                memset(v->slot[k].t.data, 0xff, (size_t)tensor_bytes(v->slot[k].t));
    }
}

/* Blocks come in order forward; then for each group in order once more where anything was dropped, and backward. */
static enum status watch_need(struct step *s, int block) {
    struct watched *w = (struct watched *)((char *)s - offsetof(struct runner, step));
    const int64_t sent = messages(w), crossed = comm_total(&w->team.tensor).messages;
    if (w->again) w->sent_again += sent - w->sent, w->crossed_again += crossed - w->crossed;
    w->again = false;
    if (block >= 0 && ++w->n_forward > w->r.act.n_layers) {
        w->again = w->r.act.shared_bytes > 0 && !w->seen[block];
        if (w->again && block % w->r.act.group == 0) spoil(w, HOME_SHARED);
        spoil(w, HOME_SCRATCH);
        w->seen[block] = true;
    }
    w->sent = sent;
    w->crossed = crossed;
    return w->real.need(s, block);
}

static void begin_watch(struct watched *w) {
    w->n_forward = 0;
    memset(w->seen, 0, sizeof w->seen);
    w->real = *w->r.step.seams;
    w->seams = w->real;
    w->seams.need = watch_need;
    w->r.step.seams = &w->seams;
    w->ops = *w->real_ops;
    w->ops.linear_fwd = count_product;
    w->ops.attention_fwd = count_attention;
    w->r.ctx.ops = &w->ops;
}

static void end_watch(struct watched *w) {
    w->r.step.seams = &w->real;
    w->r.ctx.ops = w->real_ops;
}

/* ---- what a run leaves behind ---- */

struct outcome {
    char *bits; /* total, token losses and gradients of each step */
    int64_t n_bits, sent_again, crossed_again, products, attentions, own, shared, boundary, qkv, high, planned;
    struct comm_count count[N_COMM_USES];
    int64_t expected_own, expected_shared; /* by the slots: see expect */
};

static void append(struct outcome *o, int64_t room, const void *data, int64_t bytes) {
    CHECK(o->n_bits + bytes <= room, "room of %lld bytes", (long long)room);
    memcpy(o->bits + o->n_bits, data, (size_t)bytes);
    o->n_bits += bytes;
}

static int64_t step_bytes(const struct runner *r) {
    int64_t sum = 8 + tensor_bytes(r->out.per_token);
    for (int i = 0; i < r->model.params.n; i++) sum += tensor_bytes(r->model.params.list[i].g);
    return sum;
}

static enum status watched_step(struct watched *w, int step, struct outcome *o) {
    struct runner *r = &w->r;
    const int64_t room = STEPS * step_bytes(r);
    small_params(r, 5 + (uint64_t)step);
    small_batch(r, 40 + (uint64_t)step);
    TRY(sharding_step_begin(&r->shards, &r->step));
    r->total = 0.0;
    begin_watch(w);
    const enum status st = runner_pass(r, true);
    end_watch(w);
    TRY(st);
    append(o, room, &r->total, 8);
    append(o, room, r->out.per_token.data, tensor_bytes(r->out.per_token));
    for (int i = 0; i < r->model.params.n; i++) {
        const struct tensor g = r->model.params.list[i].g;
        append(o, room, g.data, tensor_bytes(g));
    }
    o->sent_again = w->sent_again;
    o->crossed_again = w->crossed_again;
    o->products = w->products;
    o->attentions = w->attentions;
    const double total = r->total;
    r->total = 0.0;
    TRY(runner_pass(r, false)); /* validation in the same memory */
    FAIL_UNLESS(memcmp(&total, &r->total, 8) == 0, ERR_DATA, "without backward the loss is %.17g, with it %.17g",
                r->total, total);
    return OK;
}

struct job {
    const struct setting *setting;
    const struct model_config *model;
    struct keeping keeping;
    bool dry;
    struct outcome out[RANKS];
};

/* By hand, from each slot's tag: what the layers keep, and the largest group's rest.  What leaves is no longer here,
 * but for the window (tests/away.c). */
static void expect(const struct activations *a, struct keeping k, struct outcome *o) {
    int64_t group = 0, away = 0;
    o->expected_own = saved_bytes(&a->ends, HOME_OWN) + a->away.window_bytes;
    for (int i = 0; i < a->n_layers; i++) {
        if (i % k.every == 0) group = 0;
        for (int j = 0; j < SAVED_MAX; j++) {
            const struct saved_slot *s = &a->layers[i].slot[j];
            const bool kept = s->tag == KEEP_BOUNDARY || (s->tag == KEEP_INPUT && i % k.every == 0) ||
                              (s->tag == KEEP_GEMM && k.policy != POLICY_INPUTS) || k.policy == POLICY_ALL;
            if (!s->name || s->tag == KEEP_SCRATCH) continue;
            if (kept && !strcmp(s->name, "qkv")) o->qkv += arena_round(tensor_bytes(s->t));
            if (kept && away_turn_of(&a->away, i) >= 0) away += arena_round(tensor_bytes(s->t));
            else *(kept ? &o->expected_own : &group) += arena_round(tensor_bytes(s->t));
        }
        if (group > o->expected_shared) o->expected_shared = group;
    }
    for (int i = 1; i <= AWAY_APART && i <= a->away.n_turns; i++) away -= a->away.turn[a->away.n_turns - i].bytes;
    CHECK(a->away.store_bytes == away && (away > 0) == (k.offload > 0.0), "keep %s: %lld bytes leave, by hand %lld",
          k.name, (long long)a->away.store_bytes, (long long)away);
}

static enum status steps(struct watched *w, struct outcome *o) {
    void *mem = NULL;
    TRY(mem_take(STEPS * step_bytes(&w->r), &mem));
    o->bits = mem;
    w->real_ops = w->r.ctx.ops;
    for (int i = 0; i < STEPS; i++) TRY(watched_step(w, i, o));
    o->high = w->r.memory.high;
    if (w->r.spec.team) memcpy(o->count, w->team.seq.count, sizeof o->count);
    return OK;
}

static enum status one_rank(struct rank *rank, void *arg) {
    struct job *job = arg;
    const struct setting *s = job->setting;
    struct outcome *o = &job->out[rank_index(rank)];
    struct watched *w = NULL;
    void *mem = NULL;
    enum status st = OK;
    int transfers = 0;
    struct runner_spec spec = {.precision = s->precision,
                               .threads = 1,
                               .n_sequences = s->sequences,
                               .tokens = s->tokens,
                               .tile = 16,
                               .gradients = true,
                               .exact = s->exact,
                               .policy = job->keeping.policy,
                               .keep_every = job->keeping.every,
                               .offload = job->keeping.offload,
                               .mesh = &s->mesh};
    TRY(mem_take((int64_t)sizeof *w, &mem));
    w = mem;
    TRY_OUT(runner_transfers(job->model, &spec, &transfers));
    TRY_OUT(team_open(&w->team, rank, &s->mesh, transfers, NULL));
    if (!s->local) spec.team = &w->team;
    TRY_OUT(runner_init(&w->r, job->model, &spec, job->dry));
    o->own = w->r.act.bytes;
    o->shared = w->r.act.shared_bytes;
    o->boundary = w->r.act.by_keep[KEEP_BOUNDARY];
    o->planned = ledger_total(&w->r.ledger) - w->r.act.work_bytes - w->r.act.away.store_bytes;
    expect(&w->r.act, job->keeping, o);
    if (!job->dry) TRY_OUT(steps(w, o));
out:
    runner_term(&w->r);
    team_close(&w->team);
    mem_free(w);
    return st;
}

static enum status run_job(struct job *job) {
    const struct mesh_config *m = &job->setting->mesh;
    struct world *world = NULL;
    MUST(world_open(&world, &(struct world_spec){.n_ranks = (int)(m->data * m->seq * m->tensor), .deadline_s = 60}));
    const enum status st = world_run(world, one_rank, job);
    world_close(world);
    return st;
}

static void end_job(struct job *job) {
    for (int r = 0; r < RANKS; r++) mem_free(job->out[r].bits);
    *job = (struct job){0};
}

static bool same_bits(const struct job *a, const struct job *b) {
    for (int r = 0; r < RANKS; r++)
        if (a->out[r].n_bits != b->out[r].n_bits ||
            (a->out[r].n_bits > 0 && memcmp(a->out[r].bits, b->out[r].bits, (size_t)a->out[r].n_bits) != 0))
            return false;
    return true;
}

static bool finite_total(const struct job *j) {
    double total;
    memcpy(&total, j->out[0].bits, sizeof total);
    return total - total == 0.0 && total > 0.0;
}

/* ---- every policy on a mesh ---- */

static void check_memory(const struct job *j, const struct job *all, const char *where) {
    for (int r = 0; r < RANKS; r++) {
        const struct outcome *o = &j->out[r];
        if (o->n_bits == 0) continue;
        CHECK(o->own == o->expected_own && o->shared == o->expected_shared,
              "%s: rank %d: %lld bytes kept and %lld shared, by the slots %lld and %lld", where, r, (long long)o->own,
              (long long)o->shared, (long long)o->expected_own, (long long)o->expected_shared);
        CHECK(o->high == o->planned, "%s: rank %d: %lld bytes used, %lld planned", where, r, (long long)o->high,
              (long long)o->planned);
        const int64_t saved = all->out[r].own + all->out[r].shared - o->own - o->shared;
        CHECK(all->out[r].planned - o->planned == saved, "%s: rank %d: the ledger falls by %lld, activations by %lld",
              where, r, (long long)(all->out[r].planned - o->planned), (long long)saved);
    }
}

static const char *kinds_of(const struct setting *s) { return s->mesh.tensor > 1 ? split_kinds : every_kind; }

static void model_of(struct model_config *m, const struct setting *s) {
    small_model(m, kinds_of(s), 10, 14, false, s->mesh.tensor > 1 ? split_symbols : symbols);
}

/* Messages: every layer's rows enter again, all but a group's last leave; of each range, to each other rank. */
static int64_t crossings(const struct setting *s, struct keeping k) {
    if (k.policy == POLICY_ALL) return 0;
    const int64_t layers = (int64_t)strlen(kinds_of(s)), groups = (layers + k.every - 1) / k.every;
    const int64_t ranges = s->sequences * (s->mesh.layout == SHARD_ZIGZAG ? 2 : 1);
    return STEPS * (2 * layers - groups) * ranges * (s->mesh.tensor - 1);
}

static void check_setting(const struct setting *s) {
    struct model_config model;
    struct job all = {.setting = s, .model = &model, .keeping = keepings[0]};
    model_of(&model, s);
    MUST(run_job(&all));
    CHECK(finite_total(&all), "%s: no number", s->why);
    check_memory(&all, &all, s->why);
    for (int k = 1; k < N_KEEPINGS; k++) {
        struct job one = {.setting = s, .model = &model, .keeping = keepings[k]};
        char where[160];
        snprintf(where, sizeof where, "%s, keep %s", s->why, keepings[k].name);
        MUST(run_job(&one));
        CHECK(same_bits(&all, &one), "%s: other bits than with keep all", where);
        check_memory(&one, &all, where);
        for (int r = 0; r < RANKS; r++) {
            CHECK(one.out[r].sent_again == 0, "%s: rank %d sent %lld messages when layers were computed again", where,
                  r, (long long)one.out[r].sent_again);
            CHECK(one.out[r].n_bits == 0 || one.out[r].crossed_again == crossings(s, keepings[k]),
                  "%s: rank %d sent %lld messages over tensor again, not %lld", where, r,
                  (long long)one.out[r].crossed_again, (long long)crossings(s, keepings[k]));
            CHECK(one.out[r].attentions == all.out[r].attentions, "%s: rank %d: attention ran again", where, r);
            CHECK(keepings[k].policy != POLICY_GEMM || one.out[r].products == all.out[r].products,
                  "%s: rank %d: %lld products instead of %lld", where, r, (long long)one.out[r].products,
                  (long long)all.out[r].products);
            CHECK(memcmp(one.out[r].count, all.out[r].count, sizeof one.out[r].count) == 0,
                  "%s: rank %d counts other messages than with keep all", where, r);
        }
        end_job(&one);
    }
    if (s->mesh.seq > 1) CHECK(all.out[0].count[COMM_HALO].messages > 0, "%s: ranks were silent", s->why);
    end_job(&all);
    model_config_term(&model);
}

#define MESH(d, s, how, way, form) MESH_OF(d, s, 1, how, way, form)
#define MESH_OF(d, s, t, how, way, form)                                                                               \
    {                                                                                                                  \
        .data = d, .seq = s, .tensor = t, .expert = 1, .pipe = 1, .layout = SHARD_##how, .carry = MESH_CARRY_##way,    \
        .attention = MESH_ATTENTION_##form, .deadline = 60                                                             \
    }

static const struct setting settings[] = {
    {"one rank, local seams", true, MESH(1, 1, CONTIGUOUS, AUTO, AUTO), 37, 2, PRECISION_F64, false},
    {"one rank, local seams, f32", true, MESH(1, 1, CONTIGUOUS, AUTO, AUTO), 37, 2, PRECISION_F32, false},
    {"one rank, mesh seams", false, MESH(1, 1, CONTIGUOUS, GATHER, AUTO), 37, 2, PRECISION_F64, false},
    {"seq 2, swap", false, MESH(1, 2, CONTIGUOUS, GATHER, SWAP), 37, 2, PRECISION_F64, false},
    {"seq 2, keys, chain", false, MESH(1, 2, CONTIGUOUS, CHAIN, KEYS), 37, 1, PRECISION_F32, false},
    {"seq 4, swap, scan", false, MESH(1, 4, CONTIGUOUS, SCAN, SWAP), 37, 1, PRECISION_F32, false},
    {"seq 4, keys, zigzag", false, MESH(1, 4, ZIGZAG, GATHER, KEYS), 41, 2, PRECISION_F64, false},
    {"seq 4, ranges shorter than the convolution", false, MESH(1, 4, ZIGZAG, CHAIN, KEYS), 9, 1, PRECISION_F64, false},
    {"data 2, seq 2", false, MESH(2, 2, CONTIGUOUS, SCAN, SWAP), 23, 1, PRECISION_F64, false},
    {"tensor 2", false, MESH_OF(1, 1, 2, CONTIGUOUS, AUTO, AUTO), 37, 2, PRECISION_F64, false},
    {"seq 2, tensor 2, zigzag", false, MESH_OF(1, 2, 2, ZIGZAG, GATHER, KEYS), 41, 1, PRECISION_F32, false},
    {"exact mode, one rank", false, MESH(1, 1, CONTIGUOUS, AUTO, KEYS), 300, 1, PRECISION_F32, true},
    {"exact mode, seq 4", false, MESH(1, 4, CONTIGUOUS, SCAN, KEYS), 300, 1, PRECISION_F32, true},
};

/* ---- bytes of a rank over the ranks of seq ---- */

static int64_t kept_apart(const struct outcome *o) { return o->own + o->shared - o->boundary - o->qkv; }

/* What every rank keeps but for boundaries falls as 1 / P; the more is dropped, the less there
 * is.  Eight heads: attention swaps them.  q, k and v count as boundaries everywhere: after a swap they are. */
static void check_fall(void) {
    static const char *const wide[] = {"M=mamba2 heads=4 head_width=6 state=5 groups=2 conv=4 chunk=8",
                                       "*=attention heads=8 kv_heads=2 head_width=8 rope=1 window=70",
                                       "+=attention heads=8 kv_heads=1 head_width=8", "-=mlp hidden=20", NULL};
    struct model_config model;
    int64_t one[N_FALLING] = {0};
    small_model(&model, "M-*-M-+-M-M-M-*-M-M-M-M-", 16, 29, false, wide);
    for (int64_t P = 1; P <= RANKS; P *= 2) {
        const struct setting s = {.why = "fall",
                                  .mesh = MESH(1, P, CONTIGUOUS, AUTO, SWAP),
                                  .tokens = 1024,
                                  .sequences = 1,
                                  .precision = PRECISION_F32};
        int64_t before = INT64_MAX;
        for (int k = 0; k < N_FALLING; k++) {
            struct job j = {.setting = &s, .model = &model, .keeping = keepings[k], .dry = true};
            MUST(run_job(&j));
            if (P == 1) one[k] = kept_apart(&j.out[0]);
            for (int r = 0; r < P; r++) {
                const int64_t apart = kept_apart(&j.out[r]);
                const double fall = (double)(apart * P) / (double)one[k];
                CHECK(fall > 0.9 && fall < 1.1, "seq %lld, rank %d, keep %s: %.3f", (long long)P, r, keepings[k].name,
                      fall);
            }
            CHECK(kept_apart(&j.out[0]) < before, "seq %lld: keep %s takes no less than the policy before",
                  (long long)P, keepings[k].name);
            before = kept_apart(&j.out[0]);
            end_job(&j);
        }
    }
    model_config_term(&model);
}

/* ---- mistakes that these checks must find ---- */

static struct {
    const struct mixer_kind *of;
    const char *slot;
    enum keep tag;
} plant;

/* The kind as it is, but for the tag of one slot. */
static enum status planted_plan(struct plan *p, const struct layer *l) {
    struct saved *v = p->saved;
    TRY(plant.of->plan(p, l));
    for (int i = 0; i < SAVED_MAX; i++) {
        struct saved_slot *s = &v->slot[i];
        if (!s->name || strcmp(s->name, plant.slot) != 0) continue;
        s->tag = s->at = plant.tag; /* its old place stays empty */
        s->offset = saved_bytes(v, saved_home(v, plant.tag));
        v->bytes[plant.tag] += arena_round(tensor_bytes(s->t));
        return OK;
    }
    FAIL(ERR_ARG, "%s has no slot %s", l->kind->name, plant.slot);
}

/* Runs the setting with the planted kind and one policy, against the true kind that keeps all. */
static enum status planted_run(const struct setting *s, struct keeping k, char symbol, bool *same) {
    struct model_config model;
    struct job all = {.setting = s, .model = &model, .keeping = keepings[0]}, one = all;
    small_model(&model, every_kind, 10, 13, false, symbols);
    MUST(run_job(&all));
    struct mixer_kind kind = {0};
    for (int i = 0; i < model.n_symbols; i++) {
        if (model.symbol[i].symbol != symbol) continue;
        plant.of = model.symbol[i].kind;
        kind = *plant.of;
        kind.plan = planted_plan;
        model.symbol[i].kind = &kind;
    }
    one.keeping = k;
    const enum status st = run_job(&one);
    *same = st == OK && same_bits(&all, &one);
    end_job(&all);
    end_job(&one);
    model_config_term(&model);
    return st;
}

static void check_plants(void) {
    static const struct {
        char symbol;
        const char *slot;
        enum keep tag;
        int setting, keeping;
        bool right;
    } rows[] = {
        {'M', "s_in", KEEP_CHEAP, 0, 1, false},   {'M', "before", KEEP_CHEAP, 3, 2, false},
        {'M', "s_in", KEEP_CHEAP, 3, 2, false},   {'M', "conv", KEEP_SCRATCH, 0, 0, false},
        {'-', "up", KEEP_SCRATCH, 0, 2, false},   {'-', "act", KEEP_SCRATCH, 0, 3, false},
        {'*', "qkv", KEEP_SCRATCH, 0, 1, false},  {'*', "wide_qkv", KEEP_GEMM, 3, 2, false},
        {'*', "o", KEEP_CHEAP, 0, 2, true},       /* alone on a rank attention may run again */
        {'M', "conv", KEEP_BOUNDARY, 0, 2, true}, /* more than is needed */
        {'-', "up", KEEP_CHEAP, 3, 1, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool same = false;
        plant.slot = rows[i].slot;
        plant.tag = rows[i].tag;
        MUST(planted_run(&settings[rows[i].setting], keepings[rows[i].keeping], rows[i].symbol, &same));
        CHECK(same == rows[i].right, "plant %d: slot %s of %c with tag %d: %s", (int)i, rows[i].slot, rows[i].symbol,
              (int)rows[i].tag, same ? "nobody noticed" : "other bits");
    }
}

/* Attention over ranks that drops its output would have to send again. */
static void check_refusal(void) {
    bool same = false;
    plant.slot = "o";
    plant.tag = KEEP_CHEAP;
    const enum status st = planted_run(&settings[3], keepings[2], '*', &same);
    CHECK(st == ERR_ARG && strstr(status_text(), "would send"), "%s: %s", status_name(st), status_text());
    status_clear();
}

int main(void) {
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) check_setting(&settings[i]);
    check_fall();
    check_plants();
    check_refusal();
    return check_end();
}
