/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads long */
/* timeout: 240 */
/* Exact mode: losses, gradients of the first step, parameters and moments after the last have the same bits for every
 * number of ranks of the sequence axis, both ways of carrying states, any number of host threads, any sharding stage
 * and any policy of activations; for two ranks of data too where a step has two sequences and no weight is tied. */
#define _DEFAULT_SOURCE /* mkdtemp */
#include <pthread.h>
#include "base/hash.h"
#include "tests/small_run.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STEPS "3" /* ten times slower, and looked at for other things */
#else
#define STEPS "20"
#endif
static const char yaml[] =
    "model:\n"
    "  width: 12\n"
    "  vocab: 31\n"
    "  pattern: M\n"
    "  layers:\n"
    "    M: {kind: mamba2, heads: 4, head_width: 4, state: 5, groups: 2, conv: 4, chunk: 2}\n"
    "    N: {kind: mamba2, heads: 3, head_width: 6, state: 4, groups: 1, conv: 3, chunk: 3, bias: true}\n"
    "    S: {kind: mamba1, inner: 21, state: 5, conv: 3, chunk: 2, norms: learned, bias: true}\n"
    "    \"*\": {kind: attention, heads: 4, kv_heads: 2, head_width: 4, rope: 1, bias: true}\n"
    "    W: {kind: attention, heads: 6, kv_heads: 3, head_width: 2, window: 9, rope: 1}\n"
    "    \"-\": {kind: mlp, hidden: 20, activation: swiglu, bias: true}\n"
    "    E: {kind: moe, experts: 5, top_k: 2, hidden: 7, shared: 6, bias: true, bias_rate: 0.02, aux_loss: 0.1,\n"
    "        z_loss: 0.01}\n"
    "    L: {kind: moe, experts: 6, top_k: 3, hidden: 5, latent: 7, activation: relu2, scores: sigmoid,\n"
    "        renormalise: true, scale: 2.5, groups: 3, top_groups: 2, bias: true}\n"
    "train: {tokens_per_sequence: 48, sequences_per_step: 3, steps: " STEPS ", valid_sequences: 2, threads: 1}\n"
    "optimizer: {kind: adamw, lr: 1.0e-2, schedule: cosine, warmup_steps: 2, weight_decay: 0.1, clip_norm: 0.5}\n"
    "data: {train: [tokens], valid: [tokens]}\n"
    "checkpoint: {every: 0, keep: 1}\n"
    "mesh: {deadline: 60}\n"
    "numerics: rank_invariant\n"
    "run: {dir: run, seed: 3}\n";

enum { OVERRIDES_MAX = 16 };
struct setting {
    const char *why, *pattern, *tokens;
    const char *more[4]; /* further overrides */
};

/* Segments: the least common multiple of the chunks is 6, without N it is 2, without both it is 1. */
static const struct setting settings[] = {
    {"every kind, 50 segments, the last of 2 tokens", "M*-NW-", "296", {"train.sequences_per_step=1"}},
    {"selective scans, 75 segments", "S*-S", "150", {"train.sequences_per_step=2"}},
    {"both scans, on 8 ranks three hold no segment", "SNM", "54", {"model.tied=true"}},
    {"experts", "ME*L", "150", {"train.sequences_per_step=2"}},
    {"experts alone, tied: segments of one token", "LE", "21", {"model.tied=true"}},
    {"tied, 37 segments", "N-*M", "220", {"model.tied=true"}},
    {"as many segments as the most ranks, and the last ragged", "MN*-", "47", {0}},
    {"9 segments: on 8 ranks three hold none", "NMW-", "54", {"model.tied=true"}},
    {"segments shorter than the convolution and the window", "MW-M", "33", {"train.sequences_per_step=2"}},
    {"without a scan: segments of one token", "W-*", "19", {"model.tied=true"}},
    {"without attention: segments of several chunks", "NM-", "1000", {"train.steps=3", "train.sequences_per_step=1"}},
};

/* Tensors that ranks put together, each its part: where it is whole on several, they must agree. */
struct whole {
    char *data;
    int64_t bytes;
    bool seen[512];
};
/* What must be equal. */
struct outcome {
    struct config *config;
    pthread_mutex_t lock;
    struct whole gradients_of, states_of;
    char losses[SHA256_HEX], gradients[SHA256_HEX], states[SHA256_HEX];
    double loss; /* of the last step */
};

static void open_whole(struct whole *w, int64_t bytes) {
    void *mem = NULL;
    if (w->data) return;
    MUST(mem_take(bytes, &mem));
    w->data = mem;
    w->bytes = bytes;
}

static void put(struct whole *w, int64_t tensor, char *to, const void *from, int64_t bytes, int64_t all,
                const char *name) {
    if (w->seen[tensor] && bytes == all) CHECK(!memcmp(to, from, (size_t)bytes), "ranks differ in %s", name);
    else if (bytes > 0) memcpy(to, from, (size_t)bytes);
    w->seen[tensor] |= bytes == all;
}

static int64_t whole_bytes(const struct state_tensor *s) {
    return s->global[0] * s->global[1] * s->global[2] * s->global[3] * dtype_bytes(s->t.dtype);
}

static void put_states(struct whole *w, const struct trainer *t) {
    int64_t at = 0;
    for (int64_t i = 0; i < t->n_state; i++) at += whole_bytes(&t->state[i]);
    open_whole(w, at);
    at = 0;
    for (int64_t i = 0; i < t->n_state; i++) {
        const struct state_tensor *s = &t->state[i];
        const int64_t all = whole_bytes(s), bytes = s->t.shape[0] > 0 ? tensor_bytes(s->t) : 0;
        put(w, i, w->data + at + all / s->global[0] * s->begin, s->t.data, bytes, all, s->name);
        at += all;
    }
}

static void put_gradients(struct whole *w, const struct trainer *t) {
    const struct params *ps = &t->run.model.params;
    const int64_t real = dtype_bytes(t->run.ctx.real);
    int64_t at = 0;
    open_whole(w, ps->n_elements * real);
    for (int i = 0; i < ps->n; i++) {
        const struct sharding_piece *mine = &t->run.shards.piece[i];
        const int64_t all = param_count(&ps->list[i]) * real;
        put(w, i, w->data + at + mine->begin * real, mine->g.data, mine->n * real, all, ps->list[i].name);
        at += all;
    }
}

static enum status steps(struct outcome *o, struct trainer *t) {
    struct hash_stream *h = NULL;
    struct step_report r;
    double valid = 0.0;
    MUST(hash_open_sha256(&h));
    enum status st = OK;
    for (int64_t i = 0; st == OK && i < o->config->train.steps; i++) {
        st = train_step(t, &r);
        hash_add(h, &r.loss, sizeof r.loss);
        hash_add(h, &r.grad_norm, sizeof r.grad_norm);
        if (st != OK || i > 0) continue;
        pthread_mutex_lock(&o->lock);
        put_gradients(&o->gradients_of, t);
        pthread_mutex_unlock(&o->lock);
    }
    if (st == OK) st = train_validate(t, &valid);
    hash_add(h, &valid, sizeof valid);
    if (t->team.leader) o->loss = r.loss;
    hash_close(h, t->team.leader ? o->losses : NULL);
    return st;
}

static enum status run_rank(struct rank *rank, void *arg) {
    static const int never = 0;
    struct outcome *o = arg;
    struct trainer t;
    TRY(trainer_open(&t, o->config, rank, NULL, &never));
    const enum status st = steps(o, &t);
    pthread_mutex_lock(&o->lock);
    if (st == OK) put_states(&o->states_of, &t);
    pthread_mutex_unlock(&o->lock);
    trainer_close(&t);
    return st;
}

static void run_case(struct outcome *o, const struct setting *s, int data, int seq, const char *more) {
    char mesh_seq[32], mesh_data[32], tokens[64], pattern[64], words[240];
    const char *overrides[OVERRIDES_MAX] = {mesh_seq, mesh_data, tokens, pattern};
    struct config c;
    struct text errors = {0};
    struct world *world = NULL;
    int n = 4;
    snprintf(mesh_seq, sizeof mesh_seq, "mesh.seq=%d", seq);
    snprintf(mesh_data, sizeof mesh_data, "mesh.data=%d", data);
    snprintf(tokens, sizeof tokens, "train.tokens_per_sequence=%s", s->tokens);
    snprintf(pattern, sizeof pattern, "model.pattern=%s", s->pattern);
    for (int i = 0; i < 4 && s->more[i]; i++) overrides[n++] = s->more[i];
    snprintf(words, sizeof words, "%s", more);
    for (char *item = strtok(words, " "); item; item = strtok(NULL, " ")) {
        ASSERT(n < OVERRIDES_MAX);
        overrides[n++] = item;
    }
    const struct config_source from = {.path = "config.yaml", .n_overrides = n, .overrides = overrides};
    const enum status st = config_read(&c, &from, &errors);
    CHECK(st == OK, "%s: %s", s->why, errors.s ? errors.s : status_text());
    MUST(st);
    text_term(&errors);
    *o = (struct outcome){.config = &c, .lock = PTHREAD_MUTEX_INITIALIZER};
    MUST(world_open(&world, &(struct world_spec){.n_ranks = data * seq, .deadline_s = 60}));
    MUST(world_run(world, run_rank, o));
    world_close(world);
    MUST(hash_sha256(o->gradients_of.data, o->gradients_of.bytes, o->gradients));
    MUST(hash_sha256(o->states_of.data, o->states_of.bytes, o->states));
    mem_free(o->gradients_of.data);
    mem_free(o->states_of.data);
    config_term(&c);
}

/* Against the run on one rank. */
static void same(const struct setting *s, const struct outcome *one, int data, int seq, const char *more) {
    struct outcome o;
    run_case(&o, s, data, seq, more);
    CHECK(!strcmp(o.gradients, one->gradients), "%s: data %d, seq %d, %s: gradients of step 1", s->why, data, seq,
          more);
    CHECK(!strcmp(o.losses, one->losses), "%s: data %d, seq %d, %s: losses; the last is %.17g, on one rank %.17g",
          s->why, data, seq, more, o.loss, one->loss);
    CHECK(!strcmp(o.states, one->states), "%s: data %d, seq %d, %s: parameters and moments", s->why, data, seq, more);
}

static void check_setting(const struct setting *s, const char *precision) {
    static const char *const ways[] = {"mesh.carry=gather", "mesh.carry=scan"};
    char more[160];
    struct outcome one;
    snprintf(more, sizeof more, "train.precision=%s", precision);
    run_case(&one, s, 1, 1, more);
    CHECK(isfinite(one.loss), "%s: the loss is %g", s->why, one.loss);
    for (int seq = 1; seq <= 8; seq *= 2)
        for (int way = seq == 1; way < 2; way++) {
            snprintf(more, sizeof more, "train.precision=%s %s", precision, ways[way]);
            same(s, &one, 1, seq, more);
        }
}

/* What else may not matter: threads of the host, ranks of data for two sequences, what is kept for backward. */
static void check_free(void) {
    static const struct setting s = {"free keys", "M*-NEW-L", "100", {"train.sequences_per_step=2"}};
    static const struct {
        int data, seq;
        const char *more;
    } rows[] = {
        {1, 1, "train.threads=2"},
        {1, 2, "train.threads=3"},
        {1, 4, "train.threads=2 mesh.carry=scan"},
        {2, 1, "train.threads=1"},
        {2, 2, "train.threads=1 mesh.carry=scan"},
        {2, 4, "train.threads=2"},
        {1, 2, "train.keep=gemm"},
        {1, 4, "train.keep=inputs mesh.carry=scan"},
        {2, 2, "train.keep=inputs train.keep_every=3"},
        {1, 1, "train.keep=inputs train.keep_every=4"},
        {1, 2, "train.head_tile=5"},
        {1, 4, "mesh.shard=none"},
        {1, 8, "mesh.shard=gradients"},
        {1, 4, "mesh.shard=parameters train.keep=inputs"},
        {2, 2, "mesh.shard=parameters mesh.carry=scan"},
    };
    for (int wide = 0; wide < 2; wide++) {
        const char *precision = wide ? "train.precision=f64" : "train.precision=f32";
        char more[160];
        struct outcome one;
        run_case(&one, &s, 1, 1, precision);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            snprintf(more, sizeof more, "%s %s", precision, rows[i].more);
            same(&s, &one, rows[i].data, rows[i].seq, more);
        }
    }
}

static uint64_t pick(uint64_t seed, uint64_t what, uint64_t n) { return rng_bits(seed, 77, what) % n; }

/* The smallest multiple of the chunks that is at least a 64th of the tokens. */
static int64_t segments_of(const char *pattern, int64_t chunk_m, int64_t chunk_n, int64_t tokens) {
    int64_t segment = 1;
    while (segment * 64 < tokens || (strchr(pattern, 'M') && segment % chunk_m) ||
           (strchr(pattern, 'N') && segment % chunk_n))
        segment++;
    return (tokens + segment - 1) / segment;
}

/* Random models, lengths and meshes, each against one rank. */
static void check_random(uint64_t seed) {
    static const int64_t chunks[] = {1, 2, 3, 4, 8, 12};
    static const char *const keep[] = {"all", "gemm", "inputs"};
    static const char *const shard[] = {"none", "optimizer", "gradients", "parameters"};
    char pattern[5] = "", tokens[24], why[48], chunk_m[48], chunk_n[48], rest[64], one_rank[160], more[240];
    const int64_t m = chunks[pick(seed, 1, 6)], n = chunks[pick(seed, 2, 6)];
    const int64_t T = 1 + (int64_t)pick(seed, 3, pick(seed, 4, 2) ? 40 : 300);
    for (uint64_t i = 0; i <= pick(seed, 5, 4); i++) pattern[i] = "MN*W-EL"[pick(seed, 10 + i, 7)];
    const bool tied = pick(seed, 9, 2); /* the order in which two uses of two sequences are added is not promised */
    const int sequences = 1 + (int)pick(seed, 6, 3), data = sequences == 2 && !tied ? 1 + (int)pick(seed, 7, 2) : 1;
    snprintf(why, sizeof why, "random %d: %s", (int)seed, pattern);
    snprintf(tokens, sizeof tokens, "%d", (int)T);
    snprintf(chunk_m, sizeof chunk_m, "model.layers.M.chunk=%d", (int)m);
    snprintf(chunk_n, sizeof chunk_n, "model.layers.N.chunk=%d", (int)n);
    snprintf(rest, sizeof rest, "train.sequences_per_step=%d", sequences);
    const struct setting s = {why, pattern, tokens, {chunk_m, chunk_n, rest, "train.steps=2"}};
    snprintf(one_rank, sizeof one_rank, "train.precision=%s model.tied=%s", pick(seed, 8, 2) ? "f32" : "f64",
             tied ? "true" : "false");
    struct outcome one;
    run_case(&one, &s, 1, 1, one_rank);
    for (int seq = 2; seq <= 16 && seq <= segments_of(pattern, m, n, T); seq *= 2) {
        const uint64_t at = 100 * (uint64_t)seq;
        snprintf(more, sizeof more, "%s mesh.carry=%s train.keep=%s train.threads=%d mesh.shard=%s", one_rank,
                 pick(seed, at, 2) ? "scan" : "gather", keep[pick(seed, at + 1, 3)], 1 + (int)pick(seed, at + 2, 2),
                 shard[pick(seed, at + 3, 4)]);
        same(&s, &one, data, seq, more);
    }
}

/* The hashes do see a last bit: without the mode, two ranks differ from one. */
static void check_control(void) {
    static const struct setting s = {"control", "M*-NW-", "100", {"numerics=fast"}};
    struct outcome one, two;
    run_case(&one, &s, 1, 1, "");
    run_case(&two, &s, 1, 2, "");
    CHECK(strcmp(one.gradients, two.gradients) && strcmp(one.states, two.states), "fast and yet equal: %s",
          one.gradients);
}

static void write_inputs(void) {
    MUST(file_replace("config.yaml", yaml, (int64_t)sizeof yaml - 1));
    small_run_tokens("tokens");
}

int main(void) {
    char folder[] = "/tmp/baton_exact_XXXXXX";
    if (!mkdtemp(folder) || chdir(folder) != 0) SKIP("no temporary folder can be made");
    write_inputs();
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        check_setting(&settings[i], "f64");
        check_setting(&settings[i], "f32");
    }
    check_free();
    check_control();
    const char *first = getenv("BATON_SEED"), *n = getenv("BATON_ROUNDS");
    for (int i = 0; i < (n ? atoi(n) : 20); i++) check_random((uint64_t)(i + (first ? atoi(first) : 1)));
    MUST(file_remove_tree(folder));
    return check_end();
}
