/* SPDX-License-Identifier: Apache-2.0 */
/* What each parameter starts as and whether weight decay applies to it: the table names every parameter of a hybrid
 * with all its biases, each long enough that mean and spread tell the laws apart. */
#include "tests/small_model.h"

enum { LAYERS = 4, HEADS = 256 };
#define STD     0.02
#define STD_OUT (STD / 2.8284271247461903) /* sqrt(2 * LAYERS) */

enum law { ZERO, ONE, NORMAL, UNIFORM, A_LOG, A_LOG_ROW, DT_BIAS };
static const struct row {
    const char *name;
    enum law law;
    double size; /* standard deviation, or the bound of UNIFORM */
    bool decay;
} rows[] = {
    {"layers.0.norm.weight", ONE, 0, false},
    {"layers.0.in_proj.weight", NORMAL, STD, true},
    {"layers.0.in_proj.bias", ZERO, 0, false},
    {"layers.0.conv.weight", UNIFORM, 0.5, true}, /* 1 / sqrt(4 taps) */
    {"layers.0.conv.bias", UNIFORM, 0.5, false},
    {"layers.0.A_log", A_LOG, 0, false},
    {"layers.0.D", ONE, 0, false},
    {"layers.0.dt_bias", DT_BIAS, 0, false},
    {"layers.0.gated_norm.weight", ONE, 0, false},
    {"layers.0.out_proj.weight", NORMAL, STD_OUT, true},
    {"layers.0.out_proj.bias", ZERO, 0, false},
    {"layers.1.norm.weight", ONE, 0, false},
    {"layers.1.qkv.weight", NORMAL, STD, true},
    {"layers.1.qkv.bias", ZERO, 0, false},
    {"layers.1.out.weight", NORMAL, STD_OUT, true},
    {"layers.1.out.bias", ZERO, 0, false},
    {"layers.2.norm.weight", ONE, 0, false},
    {"layers.2.up.weight", NORMAL, STD, true},
    {"layers.2.up.bias", ZERO, 0, false},
    {"layers.2.down.weight", NORMAL, STD_OUT, true},
    {"layers.2.down.bias", ZERO, 0, false},
    {"layers.3.norm.weight", ONE, 0, false},
    {"layers.3.in_proj.weight", NORMAL, STD, true},
    {"layers.3.conv.weight", UNIFORM, 0.5, true},
    {"layers.3.conv.bias", UNIFORM, 0.5, false},
    {"layers.3.x_proj.weight", NORMAL, STD, true},
    {"layers.3.dt_norm.weight", ONE, 0, false},
    {"layers.3.B_norm.weight", ONE, 0, false},
    {"layers.3.C_norm.weight", ONE, 0, false},
    {"layers.3.dt_proj.weight", UNIFORM, 0.5, true}, /* 1 / sqrt(rank 4) */
    {"layers.3.dt_bias", DT_BIAS, 0, false},
    {"layers.3.A_log", A_LOG_ROW, 0, false},
    {"layers.3.D", ONE, 0, false},
    {"layers.3.out_proj.weight", NORMAL, STD_OUT, true},
    {"final_norm.weight", ONE, 0, false},
    {"embedding.weight", NORMAL, STD, true},
    {"head.weight", NORMAL, STD, true},
};
enum { N_ROWS = sizeof rows / sizeof *rows };
static const char *const symbols[] = {"M=mamba2 heads=256 head_width=2 state=8 groups=2 conv=4 chunk=8 bias=true",
                                      "*=attention heads=8 kv_heads=4 head_width=32 bias=true",
                                      "-=mlp hidden=128 bias=true activation=swiglu",
                                      "S=mamba1 inner=256 state=16 norms=learned", NULL};

/* The variable whose law is simple: A from log A, log dt from the bias behind which softplus gives dt. */
static double plain(enum law law, double w) { return law == A_LOG ? exp(w) : law == DT_BIAS ? log(log1p(exp(w))) : w; }

struct moments {
    double mean, std, least, most;
};
static struct moments moments_of(const struct param *p, enum law law) {
    const double *w = p->w.data;
    const int64_t n = param_count(p);
    struct moments m = {.least = INFINITY, .most = -INFINITY};
    double squares = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double v = plain(law, w[i]);
        m.mean += v / (double)n;
        m.least = fmin(m.least, v);
        m.most = fmax(m.most, v);
    }
    for (int64_t i = 0; i < n; i++) squares += pow(plain(law, w[i]) - m.mean, 2.0) / (double)n;
    m.std = sqrt(squares);
    return m;
}

static void check_uniform(const struct row *r, const struct moments *m, double n, double low, double high) {
    const double std = (high - low) / sqrt(12.0);
    CHECK(m->least >= low - 1e-12 && m->most <= high + 1e-12, "%s: from %g to %g", r->name, m->least, m->most);
    CHECK(fabs(m->mean - 0.5 * (low + high)) <= 5.0 * std / sqrt(n), "%s: mean %g", r->name, m->mean);
    CHECK(fabs(m->std / std - 1.0) <= 5.0 * 0.45 / sqrt(n), "%s: spread %g, not %g", r->name, m->std, std);
}

static void check_row(const struct row *r, const struct param *p) {
    const struct moments m = moments_of(p, r->law);
    const double n = (double)param_count(p);
    CHECK(p->decay == r->decay, "%s: weight decay %d", r->name, p->decay);
    CHECK(p->lr_scale == 1.0, "%s: lr_scale %g", r->name, p->lr_scale);
    switch (r->law) {
    case ZERO:
    case ONE:
        CHECK(m.least == r->law && m.most == r->law, "%s: from %g to %g", r->name, m.least, m.most);
        break;
    case NORMAL:
        CHECK(fabs(m.mean) <= 5.0 * r->size / sqrt(n), "%s: mean %g", r->name, m.mean);
        CHECK(fabs(m.std / r->size - 1.0) <= 5.0 / sqrt(2.0 * n), "%s: spread %g, not %g", r->name, m.std, r->size);
        CHECK(m.most > 3.0 * r->size && m.least < -3.0 * r->size, "%s: no tails", r->name);
        break;
    case UNIFORM:
        check_uniform(r, &m, n, -r->size, r->size);
        break;
    case A_LOG:
        check_uniform(r, &m, n, 1.0, 16.0);
        break;
    case A_LOG_ROW:
        for (int64_t i = 0; i < param_count(p); i++)
            CHECK(((const double *)p->w.data)[i] == log(1.0 + (double)(i % 16)), "%s: element %d", r->name, (int)i);
        break;
    case DT_BIAS:
        check_uniform(r, &m, n, log(1e-3), log(0.1));
        break;
    }
}

int main(void) {
    struct model_config c;
    struct runner r, other;
    small_model(&c, "M*-S", 64, 100, false, symbols);
    c.init_std = STD;
    const struct runner_spec spec = {
        .precision = PRECISION_F64, .threads = 1, .n_sequences = 1, .tokens = 8, .tile = 8};
    MUST(runner_init(&r, &c, &spec, false));
    MUST(runner_init(&other, &c, &spec, false));
    MUST(runner_init_params(&r, 11));
    MUST(runner_init_params(&other, 12));
    CHECK(r.model.params.n == N_ROWS, "%d parameters, %d rows here", r.model.params.n, N_ROWS);
    for (int i = 0; i < N_ROWS; i++) {
        const int at = param_find(&r.model.params, rows[i].name);
        CHECK(at >= 0, "there is no %s", rows[i].name);
        if (at < 0) continue;
        const struct param *p = &r.model.params.list[at], *q = &other.model.params.list[at];
        const bool drawn = rows[i].law != ZERO && rows[i].law != ONE && rows[i].law != A_LOG_ROW;
        check_row(&rows[i], p);
        CHECK(!memcmp(p->w.data, q->w.data, (size_t)tensor_bytes(p->w)) == !drawn, "%s: two seeds", rows[i].name);
    }
    runner_term(&other);
    runner_term(&r);
    model_config_term(&c);
    return check_end();
}
