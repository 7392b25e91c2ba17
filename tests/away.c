/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* Layers whose memory leaves for the host's and comes back: every backward finds what its forward wrote.  Built twice:
 * over the CPU, and with BATON_FAKE_GPU over streams that run in an order drawn from a seed, where two uses of one
 * place that nothing puts in order are a failure. */
#include "model/away.h"
#include <string.h>
#include "base/rng.h"
#include "tests/check.h"

#ifdef BATON_FAKE_GPU
#include "tests/fake_gpu/fake_gpu.h"

static void op_fill(struct ctx *c, void *to, int byte, int64_t bytes) {
    (void)cudaMemsetAsync(to, byte, (size_t)bytes, c->stream);
}
static void op_copy(struct ctx *c, void *to, const void *from, int64_t bytes) {
    (void)cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToDevice, c->stream);
}
#else
static void op_fill(struct ctx *c, void *to, int byte, int64_t bytes) { (void)c, memset(to, byte, (size_t)bytes); }
static void op_copy(struct ctx *c, void *to, const void *from, int64_t bytes) {
    (void)c, memcpy(to, from, (size_t)bytes);
}
#endif

enum { LAYERS_MOST = 60, PASSES = 3, BYTES_MOST = 4 * 256 };
struct stack {
    int n_layers, group;
    struct saved layer[LAYERS_MOST];
    struct away away;
    char *memory[LAYERS_MOST];
    char *found; /* (PASSES, LAYERS_MOST, BYTES_MOST): what the backward of each pass read */
};

static int64_t bytes_of(const struct stack *k, int layer) { return saved_bytes(&k->layer[layer], HOME_OWN); }
static int byte_of(int pass, int layer) { return 1 + (pass * LAYERS_MOST + layer) % 250; }
static char *found_of(const struct stack *k, int pass, int layer) {
    return k->found + (int64_t)(pass * LAYERS_MOST + layer) * BYTES_MOST;
}

/* Layers of a group keep an input in the first alone; some have more, as attention does. */
static void draw_layers(struct stack *k, uint64_t seed) {
    for (int i = 0; i < k->n_layers; i++) {
        struct saved *v = &k->layer[i];
        *v = (struct saved){.kept = 1u << KEEP_BOUNDARY | (i % k->group == 0 ? 1u << KEEP_INPUT : 0)};
        v->bytes[KEEP_INPUT] = v->bytes[KEEP_GEMM] = 256;
        v->bytes[KEEP_BOUNDARY] =
            256 * (int64_t)(rng_bits(seed, 1, (uint64_t)i) % 8 ? 0 : 1 + rng_bits(seed, 2, 0) % 3);
    }
}

/* Their own memory where they take no turns; the window's where they do. */
static void place(struct stack *k, char *own) {
    char *in_window = NULL;
    for (int i = 0; i < k->n_layers; i++) {
        const int turn = away_turn_of(&k->away, i);
        char **at = turn < 0 ? &own : &in_window;
        if (turn >= 0 && i % k->group == 0) in_window = k->away.window + k->away.turn[turn].at;
        k->memory[i] = *at;
        *at += bytes_of(k, i);
    }
}

/* The last layer of a unit writes the input of the next. */
static enum status forward(struct stack *k, struct step *s, int pass) {
    TRY(away_open(&k->away, s, 0));
    for (int i = 0; i < k->n_layers; i++) {
        if (i + 1 < k->n_layers) TRY(away_open(&k->away, s, i + 1));
        op_fill(s->ctx, k->memory[i], byte_of(pass, i), bytes_of(k, i));
        if (i + 1 < k->n_layers) op_fill(s->ctx, k->memory[i + 1], byte_of(pass, i + 1), bytes_of(k, i + 1));
        TRY(away_close(&k->away, s, i));
    }
    return OK;
}

static enum status backward(struct stack *k, struct step *s, int pass) {
    for (int i = k->n_layers - 1; i >= 0; i--) {
        TRY(away_need(&k->away, s, i));
        op_copy(s->ctx, found_of(k, pass, i), k->memory[i], bytes_of(k, i));
        op_fill(s->ctx, k->memory[i], 0xff, bytes_of(k, i)); /* done with */
        TRY(away_done(&k->away, s, i));
    }
    return OK;
}

static int count_wrong(const struct stack *k) {
    int wrong = 0;
    for (int pass = 0; pass < PASSES; pass++)
        for (int i = 0; i < k->n_layers; i++)
            for (int64_t b = 0; b < bytes_of(k, i); b++) wrong += found_of(k, pass, i)[b] != (char)byte_of(pass, i);
    return wrong;
}

/* Window and store, by hand: three turns that follow each other lie apart, all but the last three leave. */
static void check_plan(const struct stack *k, double share) {
    const struct away *w = &k->away;
    const int units = (k->n_layers + k->group - 1) / k->group;
    int n = (int)(share * units + 0.5), members = 0;
    int64_t store = 0, largest = 0;
    if (n > units - 3) n = units > 3 ? units - 3 : 0;
    for (int i = 0; i < k->n_layers; i += k->group) members += away_turn_of(w, i) >= 0;
    CHECK(w->n_away == n && members == (n ? n + 3 : 0), "%d units, share %g: %d leave, %d take turns", units, share,
          w->n_away, members);
    for (int a = 0; a < w->n_turns; a++) {
        const struct away_turn *t = &w->turn[a];
        CHECK(t->at >= 0 && t->at + t->bytes <= w->window_bytes, "turn %d is not in the window", a);
        for (int b = a + 1; b < w->n_turns && b < a + 3; b++)
            CHECK(t->at + t->bytes <= w->turn[b].at || w->turn[b].at + w->turn[b].bytes <= t->at,
                  "turns %d and %d overlap", a, b);
        if (a < n) store += t->bytes;
        if (t->bytes > largest) largest = t->bytes;
    }
    CHECK(w->store_bytes == store, "%lld bytes in the store, by hand %lld", (long long)w->store_bytes,
          (long long)store);
    CHECK(w->window_bytes <= 4 * largest, "a window of %lld bytes, the largest unit %lld", (long long)w->window_bytes,
          (long long)largest);
}

struct job {
    int n_layers, group;
    double share;
    bool spoil; /* the store, between the passes */
};

static void run_passes(struct stack *k, struct ctx *c, const struct job *j) {
    struct step s = {.ctx = c};
    for (int pass = 0; pass < PASSES; pass++) {
        MUST(forward(k, &s, pass));
        if (j->spoil) op_fill(c, k->away.store, 0xee, k->away.store_bytes);
        MUST(backward(k, &s, pass));
    }
}

static void run_job(const struct job *j, struct ctx *c, uint64_t seed) {
    static struct stack k;
    static char own[LAYERS_MOST * BYTES_MOST], window[28 * BYTES_MOST], store[LAYERS_MOST * BYTES_MOST],
        found[PASSES * LAYERS_MOST * BYTES_MOST];
    k = (struct stack){.n_layers = j->n_layers, .group = j->group, .found = found};
    memset(found, 0, sizeof found);
    draw_layers(&k, seed);
    MUST(away_plan(&k.away, k.layer, k.n_layers, k.group, j->share));
    check_plan(&k, j->share);
    MUST(away_place(&k.away, c, window, store));
    place(&k, own);
    run_passes(&k, c, j);
    const int n_away = k.away.n_away;
    away_term(&k.away);
#ifdef BATON_FAKE_GPU
    (void)cudaStreamSynchronize(c->stream);
#endif
    const int wrong = count_wrong(&k);
    CHECK((wrong > 0) == (j->spoil && n_away > 0), "%d layers in groups of %d, share %g%s, seed %llu: %d bytes wrong",
          j->n_layers, j->group, j->share, j->spoil ? ", store spoiled" : "", (unsigned long long)seed, wrong);
}

static const struct job jobs[] = {{52, 1, 1.0, false}, {52, 1, 0.5, false},  {52, 1, 0.1, false}, {52, 2, 1.0, false},
                                  {51, 4, 0.7, false}, {4, 1, 1.0, false},   {3, 1, 1.0, false},  {1, 1, 1.0, false},
                                  {60, 7, 1.0, false}, {59, 1, 0.33, false}, {52, 1, 0.0, false}, {0, 1, 1.0, false}};
enum { N_JOBS = sizeof jobs / sizeof *jobs };

#ifdef BATON_FAKE_GPU
int main(void) {
    for (int pace = FAKE_EAGER; pace <= FAKE_LAZY; pace++) {
        for (int i = 0; i < N_JOBS; i++) {
            cudaStream_t stream;
            fake_open(7 + (uint64_t)i, 1, (enum fake_pace)pace);
            (void)cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
            struct ctx c = {.space = DEVICE, .stream = stream};
            run_job(&jobs[i], &c, (uint64_t)(100 * pace + i));
            (void)cudaStreamDestroy(stream);
            fake_close();
        }
    }
    CHECK(fake_races() == 0, "%d races", fake_races());
    return check_end();
}
#else
int main(void) {
    struct ctx c = {.space = HOST};
    for (int i = 0; i < N_JOBS; i++) {
        struct job spoiled = jobs[i];
        spoiled.spoil = true;
        for (uint64_t seed = 0; seed < 8; seed++) run_job(&jobs[i], &c, seed);
        run_job(&spoiled, &c, 1);
    }
    return check_end();
}
#endif
