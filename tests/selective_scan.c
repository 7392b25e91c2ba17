/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* The selective scan (selective_scan_local, selective_scan) against the recurrence taken token by token, forward and
 * backward, in F64: any chunk, any cut of a sequence into ranges whose states the affine op folds as a carry would,
 * documents anywhere, rates and time steps from nearly nothing to past the end of the exponential.  Finite differences
 * of the pair are those of tests/ops. */
#include <inttypes.h>
#include "base/pool.h"
#include "base/rng.h"
#include "kernels/affine/affine.h"
#include "kernels/ops.h"
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/selective_scan_local/selective_scan_local.h"
#include "tests/check.h"

#define RANGES 8
#define BOUND  1e-12 /* of a tensor's largest element: some hundred roundings of 1e-16 */

/* Inputs, gradients of outputs included, and outputs; the first ten of these: gradients of X ... S_IN. */
enum { X, Z, DT, B, C, A_LOG, DT_BIAS, D, S_IN, DOUT, DS_OUT, N_INS };
enum { DX, DZ, DDT, DB, DC, DA_LOG, DDT_BIAS, DD, DS_IN, OUT, S_OUT, N_OUTS };
static const char *const out_names[N_OUTS] = {"dx",       "dz", "ddt",   "dB",  "dC",   "dA_log",
                                              "ddt_bias", "dD", "ds_in", "out", "s_out"};

enum kind { ORDINARY, EXTREME };
struct scan_case {
    const char *why;
    int64_t D, N, Q, older; /* older: tokens of the first document before row 0 */
    int n_ranges;
    int64_t range[RANGES + 1];
    int n_starts;
    int64_t starts[8];
    enum kind kind;
};
static const struct scan_case cases[] = {
    {"one token", 1, 1, 8, 3, 1, {0, 1}, 0, {0}, ORDINARY},
    {"one range that goes on with a document", 19, 5, 8, 7, 1, {0, 65}, 0, {0}, ORDINARY},
    {"one range, a thousand tokens", 3, 4, 64, 0, 1, {0, 1000}, 4, {62, 63, 64, 700}, ORDINARY},
    {"ranges on chunk edges", 18, 16, 8, 5, 3, {0, 64, 128, 200}, 0, {0}, ORDINARY},
    {"uneven ranges, some shorter than a chunk", 5, 8, 16, 5, 5, {0, 3, 40, 41, 150, 200}, 0, {0}, ORDINARY},
    {"empty ranges", 5, 8, 16, 5, 5, {0, 0, 60, 60, 200, 200}, 0, {0}, ORDINARY},
    {"a document starts at a range's edge", 5, 8, 16, 5, 3, {0, 50, 100, 200}, 1, {100}, ORDINARY},
    {"before and after edges of ranges", 5, 8, 16, 1, 3, {0, 50, 100, 200}, 4, {49, 51, 99, 101}, ORDINARY},
    {"at, before and after edges of chunks", 17, 3, 16, 9, 3, {0, 48, 112, 200}, 5, {15, 32, 49, 63, 65}, ORDINARY},
    {"documents of one token", 5, 8, 16, 9, 2, {0, 101, 200}, 5, {1, 2, 100, 101, 102}, ORDINARY},
    {"a chunk longer than all", 70, 2, 512, 4, 3, {0, 70, 130, 200}, 2, {30, 129}, ORDINARY},
    {"extremes of A and dt", 20, 16, 16, 4, 4, {0, 33, 70, 130, 200}, 1, {90}, EXTREME},
    {"extremes of A and dt, one chunk", 20, 16, 512, 4, 1, {0, 200}, 0, {0}, EXTREME},
};

struct problem {
    const struct scan_case *k;
    int64_t T, *pos;
    double *in[N_INS], *out[N_OUTS];
};
static struct arena memory, work;

static double *take(int64_t n, double value) {
    void *p;
    MUST(arena_take(&memory, n * (int64_t)sizeof(double), &p));
    for (int64_t i = 0; i < n; i++) ((double *)p)[i] = value;
    return p;
}

static int64_t in_count(const struct problem *p, int i) {
    const int64_t T = p->T, wide = p->k->D, N = p->k->N;
    const int64_t counts[N_INS] = {
        [X] = T * wide,   [Z] = T * wide, [DT] = T * wide,   [B] = T * N,       [C] = T * N,        [A_LOG] = wide * N,
        [DT_BIAS] = wide, [D] = wide,     [S_IN] = wide * N, [DOUT] = T * wide, [DS_OUT] = wide * N};
    return counts[i];
}
static int64_t out_count(const struct problem *p, int i) {
    return in_count(p, i == OUT ? DOUT : i == S_OUT ? DS_OUT : i);
}

static struct problem make_problem(const struct scan_case *k, uint64_t seed) {
    struct problem p = {.k = k, .T = k->range[k->n_ranges]};
    void *pos;
    for (int i = 0; i < N_INS; i++) {
        const int64_t n = in_count(&p, i);
        p.in[i] = take(n, NAN);
        for (int64_t j = 0; j < n; j++) p.in[i][j] = rng_normal(seed, (uint64_t)i, (uint64_t)j);
    }
    /* Time steps from nearly 0 to above the softplus' linear end; rates 1e-13 to 1e4 among the extremes. */
    for (int64_t j = 0; j < p.T * k->D; j++) {
        const double u = rng_uniform(seed, 100, (uint64_t)j), some = k->kind == EXTREME ? 0.2 : 0.05;
        p.in[DT][j] = u < some ? -40 : u < 2 * some ? (k->kind == EXTREME ? 300 : 22) : p.in[DT][j] * 2 - 3;
    }
    for (int64_t j = 0; j < k->D * k->N; j++)
        p.in[A_LOG][j] = k->kind == EXTREME ? 39 * rng_uniform(seed, 101, (uint64_t)j) - 30 : 0.7 * p.in[A_LOG][j];
    for (int i = 0; i < N_OUTS; i++) p.out[i] = take(out_count(&p, i), NAN);
    MUST(arena_take(&memory, p.T * (int64_t)sizeof(int64_t), &pos));
    p.pos = pos;
    for (int64_t t = 0; t < p.T; t++) {
        p.pos[t] = t == 0 ? k->older : p.pos[t - 1] + 1;
        for (int i = 0; i < k->n_starts; i++)
            if (k->starts[i] == t) p.pos[t] = 0;
    }
    return p;
}

/* ---- the recurrence of one channel and one state after the other, token by token ---- */

static double step_of(const struct problem *p, int64_t t, int64_t d) {
    const double v = p->in[DT][t * p->k->D + d] + p->in[DT_BIAS][d];
    return v > 20 ? v : log1p(exp(v));
}
static double keep_of(const struct problem *p, int64_t t, int64_t d, int64_t n) {
    return p->pos[t] == 0 ? 0 : exp(-exp(p->in[A_LOG][d * p->k->N + n]) * step_of(p, t, d));
}

/* h[t + 1] of state n, from h[0] on; y collects. */
static void naive_state(const struct problem *p, int64_t d, int64_t n, double *h, double *y) {
    const int64_t N = p->k->N;
    h[0] = p->in[S_IN][d * N + n];
    for (int64_t t = 0; t < p->T; t++) {
        h[t + 1] = keep_of(p, t, d, n) * h[t] + step_of(p, t, d) * p->in[B][t * N + n] * p->in[X][t * p->k->D + d];
        y[t] += p->in[C][t * N + n] * h[t + 1];
    }
}

static void naive_state_back(const struct problem *p, double *const out[N_OUTS], int64_t d, int64_t n, const double *h,
                             const double *dy, double *ddts) {
    const int64_t N = p->k->N;
    const double A = -exp(p->in[A_LOG][d * N + n]);
    double g = p->in[DS_OUT][d * N + n];
    for (int64_t t = p->T - 1; t >= 0; t--) {
        const double dts = step_of(p, t, d), keep = keep_of(p, t, d, n), x = p->in[X][t * p->k->D + d];
        const double b = p->in[B][t * N + n];
        g += dy[t] * p->in[C][t * N + n];
        out[DC][t * N + n] += dy[t] * h[t + 1];
        out[DB][t * N + n] += g * dts * x;
        out[DX][t * p->k->D + d] += g * dts * b;
        ddts[t] += g * (b * x + A * keep * h[t]);
        out[DA_LOG][d * N + n] += A * g * dts * keep * h[t];
        g *= keep;
    }
    out[DS_IN][d * N + n] = g;
}

static void naive_channel(const struct problem *p, double *const out[N_OUTS], int64_t d) {
    const int64_t mark = arena_mark(&memory), T = p->T, N = p->k->N, wide = p->k->D;
    double *h = take(N * (T + 1), 0), *y = take(T, 0), *dy = take(T, 0), *ddts = take(T, 0);
    for (int64_t t = 0; t < T; t++) y[t] = p->in[D][d] * p->in[X][t * wide + d];
    for (int64_t n = 0; n < N; n++) naive_state(p, d, n, h + n * (T + 1), y);
    for (int64_t t = 0; t < T; t++) {
        const int64_t i = t * wide + d;
        const double z = p->in[Z][i], sigma = 1 / (1 + exp(-z));
        out[OUT][i] = y[t] * z * sigma;
        dy[t] = p->in[DOUT][i] * z * sigma;
        out[DZ][i] = p->in[DOUT][i] * y[t] * sigma * (1 + z * (1 - sigma));
        out[DX][i] = p->in[D][d] * dy[t];
        out[DD][d] += dy[t] * p->in[X][i];
    }
    for (int64_t n = 0; n < N; n++) {
        naive_state_back(p, out, d, n, h + n * (T + 1), dy, ddts);
        out[S_OUT][d * N + n] = h[n * (T + 1) + T];
    }
    for (int64_t t = 0; t < T; t++) {
        const double v = p->in[DT][t * wide + d] + p->in[DT_BIAS][d];
        out[DDT][t * wide + d] = v > 20 ? ddts[t] : ddts[t] / (1 + exp(-v));
        out[DDT_BIAS][d] += out[DDT][t * wide + d];
    }
    arena_release(&memory, mark);
}

/* ---- the two ops, with the affine op between them ---- */

struct pair {
    struct selective_scan_local local;
    struct selective_scan scan;
};

static struct tensor view(double *p, int64_t rows, int64_t cols) { return tensor_2d(p, F64, rows, cols); }
static struct tensor states_view(double *p, int64_t n, const struct scan_case *k) {
    return tensor_4d(p, F64, (int64_t[]){n, k->D, 1, k->N});
}
static struct tensor fresh_states(int64_t n, const struct scan_case *k) {
    return states_view(take(n * k->D * k->N, NAN), n, k);
}

static struct pair make_pair(const struct problem *p) {
    const struct scan_case *k = p->k;
    const int64_t R = k->n_ranges, T = p->T, wide = k->D, N = k->N;
    int64_t n = 0;
    for (int r = 0; r < k->n_ranges; r++) n += (k->range[r + 1] - k->range[r] + k->Q - 1) / k->Q;
    const struct selective_scan s = {.state = N,
                                     .chunk = k->Q,
                                     .range = tensor_1d((void *)k->range, I64, R + 1),
                                     .pos = tensor_1d(p->pos, I64, T),
                                     .x = view(p->in[X], T, wide),
                                     .z = view(p->in[Z], T, wide),
                                     .dt = view(p->in[DT], T, wide),
                                     .B = view(p->in[B], T, N),
                                     .C = view(p->in[C], T, N),
                                     .A_log = view(p->in[A_LOG], wide, N),
                                     .dt_bias = tensor_1d(p->in[DT_BIAS], F64, wide),
                                     .D = tensor_1d(p->in[D], F64, wide),
                                     .states = fresh_states(n, k),
                                     .chunk_time = view(take(n * wide, NAN), n, wide),
                                     .s_in = fresh_states(R, k),
                                     .s_out = fresh_states(R, k),
                                     .out = view(p->out[OUT], T, wide),
                                     .dout = view(p->in[DOUT], T, wide),
                                     .ds_out = fresh_states(R, k),
                                     .dstates = fresh_states(n, k),
                                     .dx = view(p->out[DX], T, wide),
                                     .dz = view(p->out[DZ], T, wide),
                                     .ddt = view(p->out[DDT], T, wide),
                                     .dB = view(p->out[DB], T, N),
                                     .dC = view(p->out[DC], T, N),
                                     .ds_in = fresh_states(R, k),
                                     .dA_log = view(p->out[DA_LOG], wide, N),
                                     .ddt_bias = tensor_1d(p->out[DDT_BIAS], F64, wide),
                                     .dD = tensor_1d(p->out[DD], F64, wide)};
    const struct selective_scan_local l = {.state = N,
                                           .chunk = k->Q,
                                           .range = s.range,
                                           .pos = s.pos,
                                           .x = s.x,
                                           .dt = s.dt,
                                           .B = s.B,
                                           .A_log = s.A_log,
                                           .dt_bias = s.dt_bias,
                                           .D = s.D,
                                           .out = s.out,
                                           .states = s.states,
                                           .chunk_time = s.chunk_time,
                                           .range_time = view(take(R * wide, NAN), R, wide),
                                           .range_state = fresh_states(R, k),
                                           .z = s.z,
                                           .dout = s.dout,
                                           .C = s.C,
                                           .dstates = s.dstates,
                                           .range_dstate = fresh_states(R, k)};
    return (struct pair){l, s};
}

static double *entry(struct tensor t, int64_t r) { return (double *)t.data + r * t.pitch; }

/* What leaves range r, given what enters it: the affine carry's step. */
static void fold(struct ctx *ctx, const struct problem *p, const struct pair *a, int64_t r, struct tensor state,
                 const double *in, double *out) {
    const int64_t wide = p->k->D, N = p->k->N;
    MUST(ctx->ops->affine_fwd(ctx, &(struct affine){.decay = tensor_1d(entry(a->local.range_time, r), F64, wide),
                                                    .state = view(entry(state, r), wide, N),
                                                    .in = view((double *)in, wide, N),
                                                    .out = view(out, wide, N),
                                                    .log_rate = a->local.A_log}));
}

static void run_pair(struct ctx *ctx, const struct problem *p, const struct pair *a) {
    const int64_t R = p->k->n_ranges, bytes = in_count(p, S_IN) * (int64_t)sizeof(double);
    const struct selective_scan *s = &a->scan;
    MUST(ctx->ops->selective_scan_local_fwd(ctx, &a->local));
    memcpy(s->s_in.data, p->in[S_IN], (size_t)bytes);
    for (int64_t r = 1; r < R; r++)
        fold(ctx, p, a, r - 1, a->local.range_state, entry(s->s_in, r - 1), entry(s->s_in, r));
    MUST(ctx->ops->selective_scan_fwd(ctx, s));
    memcpy(p->out[S_OUT], entry(s->s_out, R - 1), (size_t)bytes);
    MUST(ctx->ops->selective_scan_local_bwd(ctx, &a->local));
    memcpy(entry(s->ds_out, R - 1), p->in[DS_OUT], (size_t)bytes);
    for (int64_t r = R - 2; r >= 0; r--)
        fold(ctx, p, a, r + 1, a->local.range_dstate, entry(s->ds_out, r + 1), entry(s->ds_out, r));
    for (int i = DA_LOG; i <= DD; i++) memset(p->out[i], 0, (size_t)out_count(p, i) * sizeof(double));
    MUST(ctx->ops->selective_scan_bwd(ctx, s));
    memcpy(p->out[DS_IN], s->ds_in.data, (size_t)bytes);
}

static void run_case(struct ctx *ctx, const struct scan_case *k) {
    const int64_t mark = arena_mark(&memory);
    const struct problem p = make_problem(k, 11);
    double *want[N_OUTS];
    const struct pair a = make_pair(&p);
    for (int i = 0; i < N_OUTS; i++) want[i] = take(out_count(&p, i), 0);
    for (int64_t d = 0; d < k->D; d++) naive_channel(&p, want, d);
    run_pair(ctx, &p, &a);
    for (int i = 0; i < N_OUTS; i++) {
        double scale = 0;
        for (int64_t j = 0; j < out_count(&p, i); j++) scale = fmax(scale, fabs(want[i][j]));
        CHECK(isfinite(scale), "%s: %s has no finite largest element", k->why, out_names[i]);
        for (int64_t j = 0; j < out_count(&p, i); j++)
            CHECK(fabs(p.out[i][j] - want[i][j]) <= BOUND * scale,
                  "%s: %s[%" PRId64 "] is %.17g, the recurrence gives %.17g (largest %g)", k->why, out_names[i], j,
                  p.out[i][j], want[i][j], scale);
    }
    const int64_t l = ctx->ops->selective_scan_local_work(ctx, &a.local);
    const int64_t s = ctx->ops->selective_scan_work(ctx, &a.scan);
    CHECK(work.high == (l > s ? l : s), "%s: %" PRId64 " bytes taken, %" PRId64 " and %" PRId64 " planned", k->why,
          work.high, l, s);
    work.high = 0;
    arena_release(&memory, mark);
}

int main(void) {
    struct ctx ctx = {.ops = &ops_ref64, .work = &work, .real = F64, .space = HOST};
    MUST(arena_init(&memory, "test memory", (int64_t)64 << 20));
    MUST(arena_init(&work, "workspace", (int64_t)16 << 20));
    MUST(pool_init(&ctx.pool, 2));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) run_case(&ctx, &cases[i]);
    pool_term(ctx.pool);
    arena_term(&work);
    arena_term(&memory);
    return check_end();
}
