/* SPDX-License-Identifier: Apache-2.0 */
/* labels: gpu1 */
/* timeout: 480 */
/* The CUDA twin of every op, on the op's cases, in F32 and in BF16: match (against F64 on the CPU, by the row's bound,
 * forward and backward), guard (nothing outside an output is written, everything inside is), same (two runs bit for
 * bit), errors.  BF16: both sides get rounded inputs, and the F64 backward what the BF16 forward kept.
 *   ops_cuda [--table] [--large] [--own] [--once] [OP ...] [--part=I/N]
 * --large: the benchmark's rows too, but for those that are for a GPU alone; --own: without cuDNN; --once: without
 * the second run, for tools under which a pass takes minutes; --part: every Nth row; --table: a line for every op with
 * the worst error and the longest time of its rows */
#include "base/pool.h"
#include "kernels/attention/attention_dnn.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/plain.h"
#include "profiling/prof.h"
#include "tests/trial_checks.h"

#define HOOK_BYTES (128 << 20)

#define STUB(op)
#define TWIN(op)     #op,
#define TWIN_F32(op) #op,
static const char *const twins[] = {
#include "kernels/ops_cuda.def"
    NULL};
#undef TWIN_F32
#define TWIN_F32(op)
static const char *const twins_bf16[] = {
#include "kernels/ops_cuda.def"
    NULL};
#undef STUB
#undef TWIN
#undef TWIN_F32

/* A trial whose tensors lie on the device; the blocks on the host are where they come from and go back to. */
struct mirror {
    struct trial *t;
    char *block[TRIAL_TENSORS];
    struct arena work, hook;
    double ms[2]; /* of the last run of a pass, from its call to the end of its kernels */
};

static void mirror_open(struct mirror *m, struct trial *t, const struct ctx *c) {
    *m = (struct mirror){.t = t};
    for (int i = 0; i < t->n_tensors; i++) {
        void *p = NULL;
        MUST(device_take(trial_block_bytes(&t->tensor[i]), &p));
        m->block[i] = p;
    }
    const int64_t work = t->op->work(c, t->args);
    CHECK((work < 0) == (t->no_bf16 && t->real == BF16), "%s, %s: a workspace of %lld bytes", t->op->name, t->why,
          (long long)work);
    MUST(device_arena_init(&m->work, "workspace of one call", work < 0 ? 0 : work));
    if (t->before[FORWARD] || t->before[BACKWARD]) MUST(device_arena_init(&m->hook, "workspace of a hook", HOOK_BYTES));
}

static void mirror_close(struct mirror *m) {
    for (int i = 0; i < m->t->n_tensors; i++) device_free(m->block[i]);
    device_arena_term(&m->work);
    device_arena_term(&m->hook);
}

static void point_at(struct case_tensor *x, char *from, char *to, enum space space) {
    x->at->data = to + ((char *)x->at->data - from);
    x->at->space = space;
    if (x->twin) *x->twin = *x->at;
}

static void to_device(struct mirror *m) {
    for (int i = 0; i < m->t->n_tensors; i++) {
        struct case_tensor *x = &m->t->tensor[i];
        MUST(device_copy(m->block[i], x->block, trial_block_bytes(x)));
        point_at(x, x->block, m->block[i], DEVICE);
    }
    MUST(device_wait()); /* a copy may be under way, and the ops' stream does not wait for it */
}

static void to_host(struct mirror *m) {
    for (int i = 0; i < m->t->n_tensors; i++) {
        struct case_tensor *x = &m->t->tensor[i];
        MUST(device_copy(x->block, m->block[i], trial_block_bytes(x)));
        point_at(x, m->block[i], x->block, HOST);
    }
}

/* What must run before the pass, from host blocks to host blocks. */
static void mirror_hook(struct mirror *m, struct ctx *c, enum pass p) {
    if (!m->t->before[p]) return;
    to_device(m);
    c->work = &m->hook;
    MUST(m->t->before[p](c, m->t));
    MUST(device_wait());
    to_host(m);
}

static void mirror_pass(struct mirror *m, struct ctx *c, enum pass p) {
    to_device(m);
    MUST(device_fill(m->work.base, 0xff, m->work.size));
    MUST(device_wait());
    c->work = &m->work;
    const double start = prof_seconds();
    const enum status st = m->t->op->run(c, p, m->t->args);
    CHECK(st == OK, "%s, %s, pass %d: %s (%s)", m->t->op->name, m->t->why, p, status_text(), status_trace());
    MUST(device_wait());
    m->ms[p] = 1e3 * (prof_seconds() - start);
    CHECK(m->work.open_marks == 0 && m->work.used == 0, "%s: the workspace is not given back", m->t->op->name);
    to_host(m);
}

static void mirror_run(struct mirror *m, struct ctx *c, enum pass p) {
    mirror_hook(m, c, p);
    mirror_pass(m, c, p);
}

static void run_ref64(struct trial *t, struct ctx *c, enum pass p) {
    MUST(trial_hook(t, c, p));
    MUST(trial_run(t, c, p));
}

/* What forward kept, rounded, is what backward works on: its own error is asked for, not forward's. */
static void keep_rounded(struct trial *t64, const struct trial *t) {
    for (int i = 0; i < t->n_tensors; i++) {
        const struct case_tensor *x = &t->tensor[i], *y = &t64->tensor[i];
        if (t->real != BF16 || !(x->roles & F_OUT) || !(x->roles & B_IN)) continue;
        for (int64_t k = 0; k < tensor_count(*x->at); k++) trial_set(y, k, trial_get(x, k));
    }
}

/* Guard and match in one run: outputs of forward stay for backward. */
static void guard_and_match(struct mirror *m, struct ctx *c, struct trial *t64, struct ctx *c64, double worst[2]) {
    struct shot before;
    for (enum pass p = FORWARD; p <= last_pass(m->t); p++) {
        mirror_hook(m, c, p);
        if (p == BACKWARD) keep_rounded(t64, m->t);
        shot_take(&before, m->t);
        mirror_pass(m, c, p);
        guard_check(m->t, &before, p);
        shot_drop(&before);
        run_ref64(t64, c64, p);
        const double off = match_outputs(m->t, t64, p);
        worst[p] = off > worst[p] ? off : worst[p];
    }
}

static void errors(struct mirror *m, struct ctx *c) {
    struct trial *t = m->t;
    to_device(m);
    for (enum pass p = FORWARD; p <= last_pass(t); p++)
        for (int i = 0; i < t->n_tensors; i++) wrong_tensor(t, c, p, &t->tensor[i]);
    if (last_pass(t) == FORWARD) must_fail(t, c, BACKWARD, ERR_ARG, "the backward", "that does not exist");
    to_host(m);
}

static bool once; /* each pass runs once */

/* What the table says of an op: over its rows, the worst error and the longest time of each pass. */
struct seen {
    double worst[2], ms[2];
};

/* The outputs of a second run beside those of the first, bit for bit. */
static void run_again(struct mirror *m, struct ctx *c, struct seen *seen) {
    struct trial *t = m->t;
    struct shot first, second;
    shot_take(&first, t);
    trial_fill(t);
    for (enum pass p = FORWARD; p <= last_pass(t); p++) {
        mirror_run(m, c, p);
        seen->ms[p] = m->ms[p] > seen->ms[p] ? m->ms[p] : seen->ms[p];
    }
    shot_take(&second, t);
    compare_bits(t, &first, &second, "one run and another");
    shot_drop(&first);
    shot_drop(&second);
}

/* A shape without a BF16 kernel, by the F32 ones on copies (kernels/plain.h): guard, match and same, in the bounds of
 * BF16; the note has the cost. */
static void plain_row(struct mirror *m, struct ctx *c, struct trial *t64, struct ctx *c64, struct seen *seen) {
    struct trial *t = m->t;
    struct plain plain;
    struct seen unseen = {{0.0, 0.0}, {0.0, 0.0}}; /* the table's times are those of kernels of the type */
    plain_init(&plain, c->ops);
    c->plain = &plain;
    c->ops = &plain.table;
    const int64_t work = t->op->work(c, t->args);
    CHECK(plain.n_notes == 1 && work >= plain.note[0].workspace && (work == 0 || plain.note[0].forward_bytes > 0) &&
              strstr(plain.note[0].why, t->op->name),
          "%s, %s: %d notes, a workspace of %lld bytes", t->op->name, t->why, plain.n_notes, (long long)work);
    device_arena_term(&m->work);
    MUST(device_arena_init(&m->work, "workspace of one call", work));
    trial_fill(t);
    guard_and_match(m, c, t64, c64, seen->worst);
    if (!once) run_again(m, c, &unseen);
}

static void row_of(const struct case_op *op, int row, enum dtype real, struct pool *pool, struct device *d,
                   struct seen *seen) {
    struct trial t, t64;
    struct mirror m;
    struct ctx c = {.ops = &ops_cuda, .real = real, .space = DEVICE, .device = d, .stream = device_stream(d)};
    struct ctx c64 = {.ops = &ops_ref64, .pool = pool, .real = F64, .space = HOST};
    MUST(trial_open(&t, op, row, real));
    if (t.bf16_only) {
        trial_close(&t);
        return;
    }
    MUST(trial_open(&t64, op, row, F64));
    t64.rounded = real;
    mirror_open(&m, &t, &c);
    trial_fill(&t);
    trial_fill(&t64);
    if (real == BF16 && t.no_bf16) {
        to_device(&m);
        must_fail(&t, &c, FORWARD, ERR_ARG, "a shape", "that has no kernel");
        to_host(&m);
        plain_row(&m, &c, &t64, &c64, seen);
        goto out;
    }
    guard_and_match(&m, &c, &t64, &c64, seen->worst);
    if (!once) run_again(&m, &c, seen);
    errors(&m, &c);
out:
    mirror_close(&m);
    trial_close(&t);
    trial_close(&t64);
}

static bool in_list(const char *const *names, const char *name) {
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], name)) return true;
    return false;
}

static bool has(const char *name, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], name)) return true;
    return false;
}

/* Which rows run: those whose number leaves `part` when divided by `parts`. */
static int part, parts = 1;

static void op_of(const struct case_op *op, enum dtype real, bool large, bool table, struct pool *pool,
                  struct device *d) {
    const int failures = check_failures, rows = op->n_cases + (large ? op->n_bench : 0);
    struct seen s = {{0.0, 0.0}, {0.0, 0.0}};
    for (int row = 0; row < rows; row++)
        if (row % parts == part && !case_large(op, row)) row_of(op, row, real, pool, d, &s);
    if (table)
        printf("%-12s %-4s %4d %9.2e %9.2e %8.3f %8.3f  %s\n", op->name, dtype_name(real), rows, s.worst[FORWARD],
               s.worst[BACKWARD], s.ms[FORWARD], s.ms[BACKWARD], check_failures > failures ? "FAILED" : "passed");
    fflush(stdout);
}

/* --part=I/N, the last argument where it is given. */
static int part_of(int argc, char **argv) {
    if (argc < 2 || strncmp(argv[argc - 1], "--part=", 7) != 0) return argc;
    CHECK(sscanf(argv[argc - 1], "--part=%d/%d", &part, &parts) == 2 && part >= 0 && part < parts, "%s",
          argv[argc - 1]);
    return argc - 1;
}

int main(int argc, char **argv) {
    argc = part_of(argc, argv);
    const bool table = has("--table", argc, argv), large = has("--large", argc, argv), own = has("--own", argc, argv);
    once = has("--once", argc, argv);
    const bool all = argc == 1 + table + large + own + once;
    struct pool *pool = NULL;
    struct device *d = NULL;
    if (device_count() == 0) SKIP("no GPU here, or built without CUDA");
    MUST(pool_init(&pool, 8));
    MUST(device_open(&d, 0));
    if (own) attention_dnn_close(d);
    if (table)
        printf("%-12s %-4s %4s %9s %9s %8s %8s\n", "op", "type", "rows", "fwd error", "bwd error", "fwd ms", "bwd ms");
    for (int i = 0; i < n_case_ops; i++) {
        const struct case_op *op = &case_ops[i];
        if (!in_list(twins, op->name) || !(all || has(op->name, argc, argv))) continue;
        op_of(op, F32, large, table, pool, d);
        if (in_list(twins_bf16, op->name)) op_of(op, BF16, large, table, pool, d);
        else printf("%-12s BF16 skipped: it has no BF16 twin yet\n", op->name);
    }
    device_close(d);
    pool_term(pool);
    return check_end();
}
