/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu threads */
/* timeout: 300 */
/* What exchanges cost is measured for every kind that a mesh has, by quiet seams that send nothing and make finite
 * numbers; and training after it has the bits of training without it. */
#define _GNU_SOURCE
#include "launch/exposed.h"
#include "base/hash.h"
#include "tests/mesh_run.h"

static const char hybrid[] =
    "{width: 24, vocab: 64, init_std: 0.1, pattern: \"M-S*E\", layers: {M: {kind: mamba2, heads: 8, head_width: 4, "
    "state: 6, groups: 2, chunk: 8}, S: {kind: mamba1, inner: 16, state: 4, chunk: 8}, \"*\": {kind: attention, heads: "
    "8, kv_heads: 2, head_width: 4}, -: {kind: mlp, hidden: 16, activation: swiglu}, E: {kind: moe, experts: 8, top_k: "
    "2, hidden: 8, shared: 8, bias: true, bias_rate: 0.01, scores: sigmoid, aux_loss: 0.01%s}}}";

static const struct {
    const char *why, *mesh, *train, *numerics, *moe;
    unsigned rows; /* 1 << index of quiet_kinds, of those that must be there, without the last */
} cases[] = {
    {"gathered states, swapped heads, slices of the optimizer", "{seq: 2}", "", "fast", "", 0x33},
    {"scanned states, gathered keys", "{seq: 4, carry: scan, attention: keys, shard: none}", "", "fast", "", 0x23},
    {"chained states, zigzag", "{seq: 2, carry: chain, layout: zigzag, attention: keys}", "", "fast", "", 0x33},
    {"slices of gradients", "{data: 2, seq: 2, shard: gradients}", ", micro_batch: 2", "fast", "", 0x33},
    {"a ring of parameters", "{data: 2, seq: 2, shard: parameters}", ", micro_batch: 2", "fast", "", 0x33},
    {"a ring, computed again", "{data: 4, shard: parameters}", ", keep: inputs, keep_every: 2", "fast", "", 0x30},
    {"tensor", "{tensor: 2}", "", "fast", "", 0x24},
    {"experts", "{data: 2, seq: 2, expert: 4, expert_room: 0.3}", "", "fast", "", 0x3b},
    {"experts with a capacity", "{seq: 4, expert: 2, shard: parameters}", "", "fast", ", capacity: 3", 0x3b},
    {"three axes", "{data: 2, seq: 2, tensor: 2, expert: 2}", "", "fast", "", 0x3f},
    {"exact mode", "{data: 2, seq: 2, expert: 2}", "", "rank_invariant", "", 0x3b},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static struct exposed measured[MESH_RANKS];
static const char *why;

/* Weights, masters and moments of this rank. */
static uint64_t state_of(const struct trainer *t) {
    uint64_t sum = 0;
    for (int i = 0; i < t->run.model.params.n; i++) {
        const struct sharding_piece *p = &t->run.shards.piece[i];
        const struct tensor all[] = {p->w, p->m, p->v, p->out};
        for (int k = 0; k < 4; k++)
            if (p->n > 0 && tensor_has(all[k])) sum = 31 * sum + hash_crc32c(all[k].data, tensor_bytes(all[k]));
    }
    return sum;
}

static void moved_since(const struct trainer *t, struct comm_count since[N_COMM_USES], int64_t bytes[N_COMM_USES]) {
    struct comm_count now[N_COMM_USES];
    trainer_moved(t, now);
    for (int use = 0; use < N_COMM_USES; use++)
        bytes[use] = now[use].bytes_sent + now[use].bytes_received - since[use].bytes_sent - since[use].bytes_received;
    memcpy(since, now, sizeof now);
}

/* A quiet kind moves nothing, and the others what they always move. */
static enum status check_quiet(struct trainer *t) {
    struct comm_count since[N_COMM_USES];
    int64_t usual[N_COMM_USES], bytes[N_COMM_USES];
    struct step_report r = {.step = 1};
    TRY(train_load(t, 0));
    TRY(train_passes(t, &r, false));
    trainer_moved(t, since);
    TRY(train_passes(t, &r, false));
    moved_since(t, since, usual);
    for (int k = 0; k < QUIET_KINDS; k++) {
        seams_mesh_quiet(&t->run.mesh, quiet_kinds[k].uses);
        const enum status st = train_passes(t, &r, false);
        seams_mesh_quiet(&t->run.mesh, 0);
        TRY(st);
        moved_since(t, since, bytes);
        CHECK(isfinite(r.loss) && isfinite(r.grad_norm), "%s, quiet %s: loss %g, norm %g", why, quiet_kinds[k].name,
              r.loss, r.grad_norm);
        for (int use = 0; use < N_COMM_USES; use++) {
            const bool quiet = quiet_kinds[k].uses >> use & 1u;
            if (use == COMM_CONTROL) continue;          /* ranks still agree, on counts of experts among others */
            if (use == COMM_EXPERT && !quiet) continue; /* other numbers choose other experts */
            CHECK(bytes[use] == (quiet ? 0 : usual[use]), "%s, quiet %s: %s moved %lld bytes, else %lld", why,
                  quiet_kinds[k].name, comm_use_name((enum comm_use)use), (long long)bytes[use], (long long)usual[use]);
        }
    }
    return OK;
}

static enum status measure(struct trainer *t) {
    struct exposed *e = &measured[rank_index(t->team.rank)];
    TRY(sharding_settle(&t->run.shards));
    const uint64_t before = state_of(t);
    TRY(check_quiet(t));
    TRY(exposed_measure(t, 2, e));
    CHECK(state_of(t) == before, "%s: the state has changed", why);
    CHECK(t->step == 0 && e->finite, "%s: step %lld, finite %d", why, (long long)t->step, e->finite);
    return OK;
}

static void check_rows(int n_ranks, unsigned rows) {
    const struct exposed *e = &measured[0];
    int at = 0;
    for (int k = 0; k < QUIET_KINDS; k++) {
        if (k < QUIET_KINDS - 1 && !(rows >> k & 1u)) continue;
        const struct exposed_row *r = &e->row[at++];
        CHECK(at <= e->n && r->name == quiet_kinds[k].name && r->bytes > 0, "%s: row %d is %s of %lld bytes, not %s",
              why, at, r->name, (long long)r->bytes, quiet_kinds[k].name);
        CHECK(r->step_ms > 0.0 && r->quiet_ms > 0.0 && r->share < 1.0, "%s, %s: %g ms, %g ms", why, r->name, r->step_ms,
              r->quiet_ms);
    }
    CHECK(e->n == at + 1 && e->row[at].bytes == 0, "%s: %d rows", why, e->n);
    for (int r = 1; r < n_ranks; r++)
        for (int i = 0; i < e->n; i++)
            CHECK(measured[r].row[i].step_ms == e->row[i].step_ms && measured[r].row[i].share == e->row[i].share,
                  "%s: rank %d has another row %d", why, r, i);
}

int main(void) {
    char dir[] = "/tmp/exposed-XXXXXX";
    if (!mkdtemp(dir) || chdir(dir) != 0) {
        perror(dir);
        return 1;
    }
    mesh_run_tokens("mesh_tokens");
    for (int i = 0; i < N_CASES; i++) {
        static struct mesh_run with, without;
        char model[1000];
        why = cases[i].why;
        snprintf(model, sizeof model, hybrid, cases[i].moe);
        mesh_run_read(&without, model, cases[i].mesh, cases[i].train, cases[i].numerics);
        mesh_run(&without, why);
        mesh_run_read(&with, model, cases[i].mesh, cases[i].train, cases[i].numerics);
        with.prepare = measure;
        mesh_run(&with, why);
        CHECK(!memcmp(with.out, without.out, sizeof with.out), "%s: other bits after a measurement", why);
        check_rows(mesh_run_ranks(&with), cases[i].rows);
        mesh_run_term(&with);
        mesh_run_term(&without);
    }
    MUST(file_remove_tree(dir));
    return check_end();
}
