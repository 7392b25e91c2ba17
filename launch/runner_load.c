/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include "kernels/fill/fill.h"
#include "kernels/ops.h"
#include "kernels/space.h"
#include "launch/runner.h"

/* What routers of experts leave of a step: how many tokens chose each expert, for the selection bias and the log, and
 * how many choices were dropped. */

/* Columns of a layer's row: its experts, and in the last one its dropped choices. */
static int64_t load_columns(const struct runner *r) {
    int64_t most = 0;
    for (int i = 0; i < r->model.n_all; i++)
        if (r->model.layers[i].n_experts > most) most = r->model.layers[i].n_experts;
    return most > 0 ? most + 1 : 0;
}

/* Loads, in training, and the auxiliary losses behind them. */
static int64_t load_numbers(const struct runner *r) {
    const int64_t columns = load_columns(r);
    return columns == 0 ? 0 : r->spec.training ? r->model.n_all * columns + 1 : 1;
}

int64_t runner_load_bytes(const struct runner *r) { return arena_round(load_numbers(r) * (int64_t)sizeof(double)); }

static double tokens_of_step(const struct runner *r) {
    const struct runner_spec *s = &r->spec;
    const int64_t data = s->team && s->mesh ? s->mesh->data : 1, micro = s->n_micro > 0 ? s->n_micro : 1;
    return (double)(s->n_sequences * s->tokens * data * micro);
}

enum status runner_load_place(struct runner *r) {
    const int64_t n = load_numbers(r);
    void *mem = NULL, *host;
    r->step.token_scale = 1.0 / tokens_of_step(r);
    if (n == 0) return OK;
    TRY(arena_take(&r->memory, runner_load_bytes(r), &mem));
    host = mem;
    if (runner_apart(r)) TRY(arena_take(&r->host, runner_load_bytes(r), &host));
    r->load_host = host;
    r->aux = tensor_1d((double *)mem + n - 1, F64, 1);
    r->aux.space = r->ctx.space;
    r->step.aux = r->aux;
    if (!r->spec.training) return OK;
    r->load = tensor_2d(mem, F64, r->model.n_all, load_columns(r));
    r->load.space = r->ctx.space;
    r->step.load = r->load;
    return OK;
}

enum status runner_load_begin(struct runner *r) {
    if (!tensor_has(r->load)) return OK;
    TRY(r->ctx.ops->fill_fwd(&r->ctx, &(struct fill){.x = r->aux, .value = 0.0}));
    return r->ctx.ops->fill_fwd(&r->ctx, &(struct fill){.x = r->load, .value = 0.0});
}

enum status runner_load_end(struct runner *r) {
    if (!tensor_has(r->load)) return OK;
    TRY(r->step.seams->total(&r->step, r->load, AXIS_DATA | AXIS_SEQ));
    return r->step.seams->total(&r->step, r->aux, AXIS_DATA | AXIS_SEQ);
}

enum status runner_load_hear(struct runner *r) {
    if (!tensor_has(r->load) || !runner_apart(r)) return OK;
    return space_fetch(&r->ctx, r->load_host, r->load.data, load_numbers(r) * (int64_t)sizeof(double));
}

double runner_load_aux(const struct runner *r) { return tensor_has(r->load) ? r->load_host[load_numbers(r) - 1] : 0.0; }

double runner_load_most(const struct runner *r) {
    double worst = NAN;
    for (int64_t i = 0; tensor_has(r->load) && i < r->load.shape[0]; i++) {
        const double *row = r->load_host + i * r->load.pitch;
        const int64_t n = r->model.layers[i].n_experts;
        double sum = 0.0, most = 0.0;
        for (int64_t e = 0; e < n; e++) {
            sum += row[e];
            most = fmax(most, row[e]);
        }
        if (sum > 0.0) worst = fmax(most * (double)n / sum, isnan(worst) ? 0.0 : worst);
    }
    return worst;
}

double runner_load_dropped(const struct runner *r) {
    double sum = NAN;
    for (int64_t i = 0; tensor_has(r->load) && i < r->load.shape[0]; i++) {
        const double n = r->load_host[(i + 1) * r->load.pitch - 1];
        if (r->model.layers[i].drops) sum = n + (isnan(sum) ? 0.0 : sum);
    }
    return sum;
}
