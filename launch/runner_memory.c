/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include "kernels/device_queue.h"
#include "launch/report.h"
#include "launch/runner.h"

static double mib(int64_t bytes) { return (double)bytes / (1 << 20); }

static int64_t bytes_of(const struct activations *a) {
    return a->bytes + a->shared_bytes + a->scratch_bytes + a->work_bytes;
}

/* The first of the policies, from the fastest on, with which the plan fits; the others differ in bytes of activations
 * alone. */
static enum status find_policy(struct runner *r, int64_t room, struct text *out) {
    static const struct {
        struct keep_spec keep;
        const char *text;
    } ways[] = {{{POLICY_GEMM, 1, 0.0}, "train.keep=gemm"},
                {{POLICY_INPUTS, 1, 0.0}, "train.keep=inputs"},
                {{POLICY_INPUTS, 1, 0.5}, "train.keep=inputs train.offload=0.5"},
                {{POLICY_INPUTS, 1, 1.0}, "train.keep=inputs train.offload=1"},
                {{POLICY_INPUTS, 2, 0.0}, "train.keep=inputs train.keep_every=2"},
                {{POLICY_INPUTS, 4, 0.0}, "train.keep=inputs train.keep_every=4"}};
    const int64_t others = ledger_total(&r->ledger) - bytes_of(&r->act);
    if (!r->spec.training && !r->spec.gradients) return OK;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct activations a = {0};
        enum status st = runner_plan_activations(r, &ways[i].keep, &a);
        const int64_t need = others + bytes_of(&a);
        activations_term(&a);
        TRY(st);
        if (need <= room) return text_print(out, "%s would fit (%.1f MiB)", ways[i].text, mib(need));
    }
    return OK;
}

/* What would help, in the order of its cost. */
static enum status advise(struct runner *r, int64_t room, struct text *out) {
    const struct runner_spec *s = &r->spec;
    const bool ranks = r->shards.n_ranks > 1;
    TRY(find_policy(r, room, out));
    if (out->n == 0 && s->n_sequences > 1)
        TRY(text_print(out, "make train.micro_batch smaller than %" PRId64, s->n_sequences));
    if (out->n == 0 && ranks && s->mesh->shard != SHARDING_PARAMETERS)
        TRY(text_print(out, "set mesh.shard=parameters and train.keep=inputs"));
    if (out->n == 0) TRY(text_print(out, "use more ranks (mesh.seq), fewer tokens_per_sequence, or a smaller model"));
    return OK;
}

/* The ranks of a host share its memory: none takes any before all have looked. */
static enum status check_host(const struct runner *r) {
    const struct ledger *l = runner_apart(r) ? &r->beside : &r->ledger;
    if (!r->spec.team) return ledger_check_host(l, 1);
    TRY(ledger_check_host(l, rank_on_host(r->spec.team->rank)));
    return barrier(&r->spec.team->world);
}

enum status runner_check_memory(struct runner *r) {
    struct device_facts f;
    struct text advice = {0};
    int64_t unused = 0, all = 0;
    if (r->ctx.paper) return OK;
    TRY(check_host(r));
    if (!runner_apart(r)) return OK;
    TRY(device_memory(r->spec.device, &unused, &all));
    r->free_before = unused;
    r->baseline = all - unused;
    const int64_t need = ledger_total(&r->ledger);
    if (need <= unused) return OK;
    TRY(device_facts(device_index(r->spec.device), &f));
    enum status st = advise(r, unused, &advice);
    if (st == OK)
        st = status_fail(ERR_OOM, __FILE__, __LINE__,
                         "the plan needs %.1f MiB and the GPU (%s) has %.1f MiB free, so %.1f MiB are short: %s "
                         "(--dry-run prints the plan)",
                         mib(need), f.name, mib(unused), mib(need - unused), advice.s);
    text_term(&advice);
    return st;
}

int64_t runner_bytes_peak(const struct runner *r) {
    return runner_apart(r) ? r->baseline + r->memory.high + r->work.high : report_bytes_peak();
}

enum status runner_print_memory(const struct runner *r, struct text *out) {
    int64_t unused = 0, all = 0;
    if (!runner_apart(r)) return OK;
    TRY(device_memory(r->spec.device, &unused, &all));
    const int64_t plan = ledger_total(&r->ledger), high = r->memory.high + r->work.high,
                  taken = r->free_before - unused;
    return text_print(
        out,
        "memory of the GPU: plan %.1f MiB; arenas at most %.1f MiB (plan / arenas %.4f); free memory fell by "
        "%.1f MiB (plan / fall %.4f) from a baseline of %.1f MiB taken by context and libraries",
        mib(plan), mib(high), (double)plan / (double)high, mib(taken), (double)plan / (double)taken, mib(r->baseline));
}
