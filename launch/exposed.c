/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/exposed.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include "profiling/prof.h"

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_size);
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

/* One step without its update, from when all ranks begin to when the last one has its report. */
static enum status time_step(struct trainer *t, unsigned quiet, struct exposed *out, double *seconds) {
    struct step_report r = {.step = t->step + 1};
    TRY(barrier(&t->team.world));
    const double begin = prof_seconds();
    seams_mesh_quiet(&t->run.mesh, quiet);
    const enum status st = train_passes(t, &r, false);
    seams_mesh_quiet(&t->run.mesh, 0);
    TRY(st);
    int64_t ns = (int64_t)(1e9 * (prof_seconds() - begin));
    TRY(team_most(&t->team, &ns));
    *seconds = 1e-9 * (double)ns;
    out->finite &= isfinite(r.loss) && isfinite(r.grad_norm);
    return OK;
}

/* Which kinds move anything, by the second of two steps: the first agrees on more. */
static enum status list_rows(struct trainer *t, struct exposed *out) {
    struct comm_count before[N_COMM_USES], after[N_COMM_USES];
    double unused;
    TRY(time_step(t, 0, out, &unused));
    trainer_moved(t, before);
    TRY(time_step(t, 0, out, &unused));
    trainer_moved(t, after);
    for (int k = 0; k < QUIET_KINDS; k++) {
        int64_t bytes = 0;
        for (int use = 0; use < N_COMM_USES; use++)
            if (quiet_kinds[k].uses >> use & 1u) bytes += after[use].bytes_received - before[use].bytes_received;
        TRY(team_most(&t->team, &bytes));
        if (bytes > 0) out->row[out->n++] = (struct exposed_row){.name = quiet_kinds[k].name, .bytes = bytes};
    }
    out->row[out->n++] = (struct exposed_row){.name = "nothing"};
    return OK;
}

static unsigned uses_of(const char *name) {
    for (int k = 0; k < QUIET_KINDS; k++)
        if (quiet_kinds[k].name == name) return quiet_kinds[k].uses;
    return 0;
}

/* seconds[0] with all exchanges, then those of the rows; every second round the other way round, so that a clock that
 * drifts does so for and against each of them. */
static enum status one_round(struct trainer *t, struct exposed *out, bool back, double seconds[QUIET_KINDS + 2]) {
    for (int k = 0; k <= out->n; k++) {
        const int i = back ? out->n - k : k;
        TRY(time_step(t, i == 0 ? 0 : uses_of(out->row[i - 1].name), out, &seconds[i]));
    }
    return OK;
}

enum status exposed_measure(struct trainer *t, int rounds, struct exposed *out) {
    double seconds[EXPOSED_ROUNDS][QUIET_KINDS + 2], step[EXPOSED_ROUNDS], quiet[EXPOSED_ROUNDS], share[EXPOSED_ROUNDS];
    ASSERT(rounds >= 1 && rounds <= EXPOSED_ROUNDS);
    *out = (struct exposed){.finite = true};
    rank_phase(t->team.rank, "measuring exchanges", 0);
    TRY(train_load(t, t->step));
    TRY(list_rows(t, out));
    for (int i = 0; i < rounds; i++) TRY(one_round(t, out, i % 2, seconds[i]));
    for (int k = 0; k < out->n; k++) {
        for (int i = 0; i < rounds; i++) {
            step[i] = seconds[i][0];
            quiet[i] = seconds[i][k + 1];
            share[i] = (step[i] - quiet[i]) / step[i];
        }
        out->row[k].step_ms = 1e3 * median(step, rounds);
        out->row[k].quiet_ms = 1e3 * median(quiet, rounds);
        out->row[k].share = median(share, rounds);
    }
    TRY(sharding_publish(&t->run.shards)); /* of a ring: the weights of its slots */
    return sharding_settle(&t->run.shards);
}

void exposed_tell(struct trainer *t, const struct exposed *e) {
    const int64_t pairs = t->config->run.exposed;
    report_note(t->report, "exposed communication, medians of %" PRId64 " pairs of steps without their update:", pairs);
    report_note(t->report, "  %-12s %16s %12s %12s %10s", "exchange", "bytes received", "step ms", "quiet ms",
                "exposed");
    for (int i = 0; i < e->n; i++) {
        const struct exposed_row *r = &e->row[i];
        report_note(t->report, "  %-12s %16" PRId64 " %12.3f %12.3f %8.2f %%", r->name, r->bytes, r->step_ms,
                    r->quiet_ms, 100.0 * r->share);
    }
    if (!e->finite) report_warn(t->report, "some of these steps had a loss or a norm that is not finite");
}
