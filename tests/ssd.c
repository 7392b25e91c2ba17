/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* The chunked scan (ssd_local, ssd) against the recurrence taken token by token, forward and backward, in F64: any
 * chunk, any cut of a sequence into ranges whose states are folded as a carry would, documents anywhere.  Then finite
 * differences of the pair. */
#include <inttypes.h>
#include "base/rng.h"
#include "tests/check.h"
#include "kernels/ops.h"
#include "kernels/ssd/ssd.h"
#include "kernels/ssd_local/ssd_local.h"
#include "base/pool.h"

#define MAX_RANGES 16
#define BOUND      1e-12 /* of a tensor's largest element: some hundred roundings of 1e-16 */

/* Inputs, gradients of outputs included, and outputs. */
enum { X, DT, B, C, A_LOG, DT_BIAS, D, S_IN, DY, DS_OUT, N_INS };
enum { DX, DDT, DB, DC, DA_LOG, DDT_BIAS, DD, DS_IN, Y, S_OUT, N_OUTS }; /* the first eight: gradients of X ... S_IN */
static const char *const out_names[N_OUTS] = {"dx",       "ddt", "dB",    "dC", "dA_log",
                                              "ddt_bias", "dD",  "ds_in", "y",  "s_out"};

struct shape {
    int64_t T, H, P, N, G, Q;
    double dt_min, dt_max;
    int n_ranges;
    int64_t range[MAX_RANGES + 1];
    bool fresh[MAX_RANGES]; /* the range begins a sequence: S_IN enters it, and nothing leaves the range before it */
};
struct problem {
    struct shape s;
    int64_t *pos;
    double *in[N_INS], *out[N_OUTS];
    int n_sequences;
};

static struct arena memory, work;

static double *take(int64_t n) {
    void *p;
    MUST(arena_take(&memory, n * (int64_t)sizeof(double), &p));
    for (int64_t i = 0; i < n; i++) ((double *)p)[i] = NAN;
    return p;
}

static int64_t in_count(const struct problem *p, int i) {
    const struct shape *s = &p->s;
    const int64_t state = p->n_sequences * s->H * s->P * s->N;
    const int64_t counts[N_INS] = {[X] = s->T * s->H * s->P,
                                   [DT] = s->T * s->H,
                                   [B] = s->T * s->G * s->N,
                                   [C] = s->T * s->G * s->N,
                                   [A_LOG] = s->H,
                                   [DT_BIAS] = s->H,
                                   [D] = s->H,
                                   [S_IN] = state,
                                   [DY] = s->T * s->H * s->P,
                                   [DS_OUT] = state};
    return counts[i];
}
static int64_t out_count(const struct problem *p, int i) { return in_count(p, i == Y ? DY : i == S_OUT ? DS_OUT : i); }

/* n doubles at p as a view of two or four dims. */
static struct tensor view(double *p, int64_t rows, int64_t cols) { return tensor_2d(p, F64, rows, cols); }
static struct tensor states_view(double *p, int64_t n, const struct shape *s) {
    return tensor_4d(p, F64, (int64_t[]){n, s->H, s->P, s->N});
}

static struct problem make_problem(struct shape s, uint64_t seed) {
    struct problem p = {.s = s};
    for (int r = 0; r < s.n_ranges; r++) p.n_sequences += s.fresh[r];
    for (int i = 0; i < N_INS; i++) {
        const int64_t n = in_count(&p, i);
        p.in[i] = take(n);
        for (int64_t j = 0; j < n; j++) p.in[i][j] = rng_normal(seed, (uint64_t)i, (uint64_t)j);
    }
    /* Time steps from nearly 0 to above the softplus' linear end, a decay of its own in every head. */
    for (int64_t j = 0; j < s.T * s.H; j++) {
        const double kind = rng_uniform(seed, 100, (uint64_t)j);
        p.in[DT][j] = kind < 0.1 ? -30 : kind < 0.2 ? 22 : p.in[DT][j] * 2 - 3;
    }
    for (int64_t h = 0; h < s.H; h++) p.in[A_LOG][h] = log(0.05 + 0.9 * (double)h);
    for (int i = 0; i < N_OUTS; i++) p.out[i] = take(out_count(&p, i));
    void *pos;
    MUST(arena_take(&memory, s.T * (int64_t)sizeof(int64_t), &pos));
    p.pos = pos;
    return p;
}

/* ---- the recurrence, token by token ---- */

static double softplus_clamped(const struct shape *s, double v, double *slope) {
    const double dts = v > 20 ? v : log1p(exp(v));
    *slope = dts < s->dt_min || dts > s->dt_max ? 0 : v > 20 ? 1 : 1 / (1 + exp(-v));
    return dts < s->dt_min ? s->dt_min : dts > s->dt_max ? s->dt_max : dts;
}

/* One token of one head: state becomes exp(a) state + dts x B^T; y. */
static void naive_token(const struct problem *p, int64_t h, int64_t t, const double *before, double *after,
                        double *out) {
    const struct shape *s = &p->s;
    const int64_t g = h / (s->H / s->G);
    const double *x = p->in[X] + (t * s->H + h) * s->P, *b = p->in[B] + (t * s->G + g) * s->N;
    const double *c = p->in[C] + (t * s->G + g) * s->N;
    double slope, *y = out + (t * s->H + h) * s->P;
    const double dts = softplus_clamped(s, p->in[DT][t * s->H + h] + p->in[DT_BIAS][h], &slope);
    const double keep = p->pos[t] == 0 ? 0 : exp(-exp(p->in[A_LOG][h]) * dts);
    for (int64_t i = 0; i < s->P; i++) {
        y[i] = p->in[D][h] * x[i];
        for (int64_t n = 0; n < s->N; n++) {
            const int64_t k = i * s->N + n;
            after[k] = keep * before[k] + dts * x[i] * b[n];
            y[i] += after[k] * c[n];
        }
    }
}

/* The same token backwards: g, the gradient of the state after it, becomes that of the state before it. */
static void naive_token_back(const struct problem *p, double *const out[N_OUTS], int64_t h, int64_t t,
                             const double *before, const double *after, double *g) {
    const struct shape *s = &p->s;
    const int64_t at_x = (t * s->H + h) * s->P, at_b = (t * s->G + h / (s->H / s->G)) * s->N;
    const double *x = p->in[X] + at_x, *dy = p->in[DY] + at_x, *b = p->in[B] + at_b, *c = p->in[C] + at_b;
    double slope, da = 0, ddts = 0;
    const double A = -exp(p->in[A_LOG][h]);
    const double dts = softplus_clamped(s, p->in[DT][t * s->H + h] + p->in[DT_BIAS][h], &slope);
    const double keep = p->pos[t] == 0 ? 0 : exp(A * dts);
    for (int64_t i = 0; i < s->P; i++) {
        out[DX][at_x + i] = p->in[D][h] * dy[i];
        out[DD][h] += x[i] * dy[i];
        for (int64_t n = 0; n < s->N; n++) {
            const int64_t k = i * s->N + n;
            const double dstate = g[k] + dy[i] * c[n];
            out[DC][at_b + n] += after[k] * dy[i];
            out[DB][at_b + n] += dts * x[i] * dstate;
            out[DX][at_x + i] += dts * dstate * b[n];
            ddts += dstate * x[i] * b[n];
            da += keep * before[k] * dstate;
            g[k] = keep * dstate;
        }
    }
    out[DDT][t * s->H + h] = (A * da + ddts) * slope;
    out[DDT_BIAS][h] += (A * da + ddts) * slope;
    out[DA_LOG][h] += da * A * dts;
}

/* Head h of the sequence of rows [begin, end). */
static void naive_head(const struct problem *p, double *const out[N_OUTS], int64_t sequence, int64_t h, int64_t begin,
                       int64_t end) {
    const struct shape *s = &p->s;
    const int64_t mark = arena_mark(&memory), PN = s->P * s->N, at = (sequence * s->H + h) * PN;
    double *history = take((end - begin + 1) * PN), *g = out[DS_IN] + at;
    memcpy(history, p->in[S_IN] + at, (size_t)PN * sizeof(double));
    for (int64_t t = begin; t < end; t++)
        naive_token(p, h, t, history + (t - begin) * PN, history + (t - begin + 1) * PN, out[Y]);
    memcpy(out[S_OUT] + at, history + (end - begin) * PN, (size_t)PN * sizeof(double));
    memcpy(g, p->in[DS_OUT] + at, (size_t)PN * sizeof(double));
    for (int64_t t = end - 1; t >= begin; t--)
        naive_token_back(p, out, h, t, history + (t - begin) * PN, history + (t - begin + 1) * PN, g);
    arena_release(&memory, mark);
}

static void naive(const struct problem *p, double *out[N_OUTS]) {
    const struct shape *s = &p->s;
    for (int i = 0; i < N_OUTS; i++) {
        out[i] = take(out_count(p, i));
        memset(out[i], 0, (size_t)out_count(p, i) * sizeof(double));
    }
    int64_t sequence = 0;
    for (int r = 0, next; r < s->n_ranges; r = next, sequence++) {
        for (next = r + 1; next < s->n_ranges && !s->fresh[next];) next++;
        for (int64_t h = 0; h < s->H; h++) naive_head(p, out, sequence, h, s->range[r], s->range[next]);
    }
}

/* ---- the two ops, with the fold between them ---- */

static int64_t n_chunks(const struct shape *s) {
    int64_t n = 0;
    for (int r = 0; r < s->n_ranges; r++) n += (s->range[r + 1] - s->range[r] + s->Q - 1) / s->Q;
    return n;
}

/* What every call of both ops shares. */
struct pair {
    struct ssd_local local;
    struct ssd ssd;
};

static struct pair make_pair(const struct problem *p) {
    const struct shape *s = &p->s;
    const int64_t R = s->n_ranges, n = n_chunks(s), HP = s->H * s->P, GN = s->G * s->N, PN = s->P * s->N;
    struct pair a = {0};
    a.local = (struct ssd_local){.heads = s->H,
                                 .head_width = s->P,
                                 .state = s->N,
                                 .groups = s->G,
                                 .chunk = s->Q,
                                 .dt_min = s->dt_min,
                                 .dt_max = s->dt_max,
                                 .range = tensor_1d((void *)s->range, I64, R + 1),
                                 .pos = tensor_1d(p->pos, I64, s->T),
                                 .x = view(p->in[X], s->T, HP),
                                 .dt = view(p->in[DT], s->T, s->H),
                                 .B = view(p->in[B], s->T, GN),
                                 .C = view(p->in[C], s->T, GN),
                                 .A_log = tensor_1d(p->in[A_LOG], F64, s->H),
                                 .dt_bias = tensor_1d(p->in[DT_BIAS], F64, s->H),
                                 .dts = view(take(s->T * s->H), s->T, s->H),
                                 .cum = view(take(s->T * s->H), s->T, s->H),
                                 .states = states_view(take(n * s->H * PN), n, s),
                                 .range_decay = view(take(R * s->H), R, s->H),
                                 .range_state = states_view(take(R * s->H * PN), R, s),
                                 .dy = view(p->in[DY], s->T, HP),
                                 .dstates = states_view(take(n * s->H * PN), n, s),
                                 .range_dstate = states_view(take(R * s->H * PN), R, s)};
    const struct ssd_local *l = &a.local;
    a.ssd = (struct ssd){.heads = s->H,
                         .head_width = s->P,
                         .state = s->N,
                         .groups = s->G,
                         .chunk = s->Q,
                         .dt_min = s->dt_min,
                         .dt_max = s->dt_max,
                         .range = l->range,
                         .pos = l->pos,
                         .x = l->x,
                         .dt = l->dt,
                         .B = l->B,
                         .C = l->C,
                         .A_log = l->A_log,
                         .dt_bias = l->dt_bias,
                         .D = tensor_1d(p->in[D], F64, s->H),
                         .dts = l->dts,
                         .cum = l->cum,
                         .states = l->states,
                         .s_in = states_view(take(R * s->H * PN), R, s),
                         .s_out = states_view(take(R * s->H * PN), R, s),
                         .y = view(p->out[Y], s->T, HP),
                         .dy = l->dy,
                         .ds_out = states_view(take(R * s->H * PN), R, s),
                         .dstates = l->dstates,
                         .dx = view(p->out[DX], s->T, HP),
                         .ddt = view(p->out[DDT], s->T, s->H),
                         .dB = view(p->out[DB], s->T, GN),
                         .dC = view(p->out[DC], s->T, GN),
                         .ds_in = states_view(take(R * s->H * PN), R, s),
                         .dA_log = tensor_1d(p->out[DA_LOG], F64, s->H),
                         .ddt_bias = tensor_1d(p->out[DDT_BIAS], F64, s->H),
                         .dD = tensor_1d(p->out[DD], F64, s->H)};
    return a;
}

/* to = decay from + add, head by head of one range. */
static void fold(const struct shape *s, const double *decay, const double *from, const double *add, double *to) {
    const int64_t PN = s->P * s->N;
    for (int64_t i = 0; i < s->H * PN; i++) to[i] = decay[i / PN] * from[i] + add[i];
}

static double *range_part(struct tensor t, int64_t r) { return (double *)t.data + r * t.pitch; }

static void chunked_forward(struct ctx *ctx, const struct problem *p, const struct pair *a) {
    const struct shape *s = &p->s;
    const int64_t each = s->H * s->P * s->N;
    MUST(ctx->ops->ssd_local_fwd(ctx, &a->local));
    for (int64_t r = 0, sequence = 0; r < s->n_ranges; r++) {
        double *in = range_part(a->ssd.s_in, r);
        if (s->fresh[r]) memcpy(in, p->in[S_IN] + sequence++ * each, (size_t)each * sizeof(double));
        else
            fold(s, range_part(a->local.range_decay, r - 1), range_part(a->ssd.s_in, r - 1),
                 range_part(a->local.range_state, r - 1), in);
    }
    MUST(ctx->ops->ssd_fwd(ctx, &a->ssd));
    for (int64_t r = 0, sequence = 0; r < s->n_ranges; r++)
        if (r + 1 == s->n_ranges || s->fresh[r + 1])
            memcpy(p->out[S_OUT] + sequence++ * each, range_part(a->ssd.s_out, r), (size_t)each * sizeof(double));
}

static void chunked_backward(struct ctx *ctx, const struct problem *p, const struct pair *a) {
    const struct shape *s = &p->s;
    const int64_t each = s->H * s->P * s->N;
    MUST(ctx->ops->ssd_local_bwd(ctx, &a->local));
    for (int64_t r = s->n_ranges - 1, sequence = p->n_sequences; r >= 0; r--) {
        double *out = range_part(a->ssd.ds_out, r);
        if (r + 1 == s->n_ranges || s->fresh[r + 1])
            memcpy(out, p->in[DS_OUT] + --sequence * each, (size_t)each * sizeof(double));
        else
            fold(s, range_part(a->local.range_decay, r + 1), range_part(a->ssd.ds_out, r + 1),
                 range_part(a->local.range_dstate, r + 1), out);
    }
    for (int i = DA_LOG; i <= DD; i++) memset(p->out[i], 0, (size_t)s->H * sizeof(double));
    MUST(ctx->ops->ssd_bwd(ctx, &a->ssd));
    for (int64_t r = 0, sequence = 0; r < s->n_ranges; r++)
        if (s->fresh[r])
            memcpy(p->out[DS_IN] + sequence++ * each, range_part(a->ssd.ds_in, r), (size_t)each * sizeof(double));
}

static void check_work(const struct ctx *ctx, const struct pair *a, const char *why) {
    const int64_t l = ctx->ops->ssd_local_work(ctx, &a->local), s = ctx->ops->ssd_work(ctx, &a->ssd);
    CHECK(work.high == (l > s ? l : s), "%s: %" PRId64 " bytes taken, %" PRId64 " planned", why, work.high,
          l > s ? l : s);
    work.high = 0;
}

/* ---- cases ---- */

static void compare(const char *why, const struct problem *p, double *const want[N_OUTS]) {
    const struct shape *s = &p->s;
    for (int i = 0; i < N_OUTS; i++) {
        double scale = 0;
        for (int64_t j = 0; j < out_count(p, i); j++) scale = fmax(scale, fabs(want[i][j]));
        for (int64_t j = 0; j < out_count(p, i); j++)
            CHECK(fabs(p->out[i][j] - want[i][j]) <= BOUND * scale,
                  "%s, T %" PRId64 ", chunk %" PRId64 ", groups %" PRId64 ": %s[%" PRId64
                  "] is %.17g, the recurrence gives %.17g (largest %g)",
                  why, s->T, s->Q, s->G, out_names[i], j, p->out[i][j], want[i][j], scale);
    }
}

/* Documents start at the rows given (in all sequences alike, counted from row 0); others continue from `older` tokens.
 */
static void set_positions(struct problem *p, int64_t older, int n_starts, const int64_t *starts) {
    const struct shape *s = &p->s;
    for (int r = 0; r < s->n_ranges; r++)
        for (int64_t t = s->range[r]; t < s->range[r + 1]; t++) {
            p->pos[t] = t == s->range[r] && s->fresh[r] ? older : t == 0 ? older : p->pos[t - 1] + 1;
            for (int i = 0; i < n_starts; i++)
                if (starts[i] == t) p->pos[t] = 0;
        }
}

static void run_case(struct ctx *ctx, const char *why, struct shape s, int64_t older, int n_starts,
                     const int64_t *starts) {
    const int64_t mark = arena_mark(&memory);
    struct problem p = make_problem(s, 11);
    double *want[N_OUTS];
    set_positions(&p, older, n_starts, starts);
    const struct pair a = make_pair(&p);
    naive(&p, want);
    chunked_forward(ctx, &p, &a);
    chunked_backward(ctx, &p, &a);
    compare(why, &p, want);
    check_work(ctx, &a, why);
    arena_release(&memory, mark);
}

static const struct shape plain = {.T = 65, .H = 4, .P = 3, .N = 5, .G = 2, .Q = 8, .dt_max = INFINITY, .n_ranges = 1};

static void lengths_and_chunks(struct ctx *ctx) {
    static const int64_t lengths[] = {1, 63, 64, 65, 1000}, chunks[] = {1, 8, 64, 256}, groups[] = {1, 2, 4};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 4; j++)
            for (int k = 0; k < 3; k++) {
                struct shape s = plain;
                s.T = s.range[1] = lengths[i];
                s.Q = chunks[j];
                s.G = groups[k];
                s.fresh[0] = true;
                run_case(ctx, "one range that goes on with a document", s, 7, 0, NULL);
                run_case(ctx, "one range, one document", s, 0, 0, NULL);
                run_case(ctx, "documents across chunk edges", s, 3, 4, (int64_t[]){62, 63, 64, 700});
            }
}

struct cut_case {
    const char *why;
    int64_t chunk, older;
    int n_ranges;
    int64_t range[MAX_RANGES + 1];
    bool fresh[MAX_RANGES];
    int n_starts;
    int64_t starts[8];
};

static const struct cut_case cut_cases[] = {
    {"ranges on chunk edges", 8, 5, 3, {0, 64, 128, 200}, {true}, 0, {0}},
    {"uneven ranges, some shorter than a chunk", 16, 5, 5, {0, 3, 40, 41, 150, 200}, {true}, 0, {0}},
    {"empty ranges", 16, 5, 5, {0, 0, 60, 60, 200, 200}, {true}, 0, {0}},
    {"a document starts at a range's edge", 16, 5, 3, {0, 50, 100, 200}, {true}, 1, {100}},
    {"before and after a range's edge", 16, 0, 3, {0, 50, 100, 200}, {true}, 4, {49, 51, 99, 101}},
    {"at, before and after a chunk's edge", 16, 9, 3, {0, 48, 112, 200}, {true}, 5, {15, 32, 49, 63, 65}},
    {"documents of one token", 16, 9, 2, {0, 101, 200}, {true}, 6, {0, 1, 2, 100, 101, 102}},
    {"every range a sequence", 64, 4, 4, {0, 20, 90, 91, 200}, {true, true, true, true}, 1, {50}},
    {"two sequences of two ranges", 64, 4, 4, {0, 70, 100, 130, 200}, {true, false, true}, 2, {30, 120}},
    {"a chunk longer than all", 512, 4, 3, {0, 70, 130, 200}, {true}, 2, {30, 129}},
};

static void cuts(struct ctx *ctx) {
    for (size_t i = 0; i < sizeof cut_cases / sizeof *cut_cases; i++) {
        const struct cut_case *c = &cut_cases[i];
        struct shape s = plain;
        s.Q = c->chunk;
        s.n_ranges = c->n_ranges;
        s.T = c->range[c->n_ranges];
        memcpy(s.range, c->range, sizeof s.range);
        memcpy(s.fresh, c->fresh, sizeof s.fresh);
        run_case(ctx, c->why, s, c->older, c->n_starts, c->starts);
        s.dt_min = 0.01;
        s.dt_max = 0.5;
        run_case(ctx, "time steps cut at both limits", s, c->older, c->n_starts, c->starts);
    }
}

/* ---- finite differences of both ops as one function of X ... S_IN ---- */

static double objective(struct ctx *ctx, const struct problem *p, const struct pair *a) {
    double sum = 0;
    chunked_forward(ctx, p, a);
    for (int64_t i = 0; i < out_count(p, Y); i++) sum += p->out[Y][i] * p->in[DY][i];
    for (int64_t i = 0; i < out_count(p, S_OUT); i++) sum += p->out[S_OUT][i] * p->in[DS_OUT][i];
    return sum;
}

static double moved(struct ctx *ctx, const struct problem *p, const struct pair *a, int which, double by) {
    const int64_t n = in_count(p, which), mark = arena_mark(&memory);
    double *kept = take(n);
    memcpy(kept, p->in[which], (size_t)n * sizeof(double));
    for (int64_t i = 0; i < n; i++) p->in[which][i] += by * rng_normal(5, (uint64_t)which, (uint64_t)i);
    const double value = objective(ctx, p, a);
    memcpy(p->in[which], kept, (size_t)n * sizeof(double));
    arena_release(&memory, mark);
    return value;
}

static void finite_differences(struct ctx *ctx) {
    struct shape s = plain;
    s.T = 70;
    s.Q = 16;
    s.n_ranges = 3;
    memcpy(s.range, (int64_t[]){0, 30, 33, 70}, 4 * sizeof(int64_t));
    s.fresh[0] = true;
    struct problem p = make_problem(s, 12);
    set_positions(&p, 2, 1, (int64_t[]){50});
    for (int64_t i = 0; i < s.T * s.H; i++) p.in[DT][i] = rng_normal(3, 3, (uint64_t)i) - 2;
    const struct pair a = make_pair(&p);
    chunked_forward(ctx, &p, &a);
    chunked_backward(ctx, &p, &a);
    for (int which = X; which <= S_IN; which++) {
        double want = 0, size = 0;
        for (int64_t i = 0; i < in_count(&p, which); i++) {
            const double direction = rng_normal(5, (uint64_t)which, (uint64_t)i);
            want += p.out[which][i] * direction;
            size += p.out[which][i] * p.out[which][i];
        }
        const double step = 1e-5;
        const double got = (moved(ctx, &p, &a, which, step) - moved(ctx, &p, &a, which, -step)) / (2 * step);
        CHECK(fabs(got - want) <= 1e-7 * sqrt(size), "finite differences give %.12g, %s along the direction %.12g", got,
              out_names[which], want);
    }
}

int main(void) {
    struct ctx ctx = {.ops = &ops_ref64, .work = &work, .real = F64, .space = HOST};
    MUST(arena_init(&memory, "test memory", (int64_t)64 << 20));
    MUST(arena_init(&work, "workspace", (int64_t)16 << 20));
    MUST(pool_init(&ctx.pool, 2));
    lengths_and_chunks(&ctx);
    cuts(&ctx);
    finite_differences(&ctx);
    pool_term(ctx.pool);
    arena_term(&work);
    arena_term(&memory);
    return check_end();
}
