/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include "kernels/fill/fill.h"
#include "kernels/ops.h"
#include "launch/runner.h"

/* What routers of experts leave of a step: how many tokens chose each expert, for the selection bias and the log, and
 * how many choices were dropped. */

/* Columns of a layer's row: its experts, and in the last one its dropped choices. */
static int64_t load_columns(const struct runner *r) {
    int64_t most = 0;
    for (int i = 0; i < r->model.n_layers; i++)
        if (r->model.layers[i].n_experts > most) most = r->model.layers[i].n_experts;
    return most > 0 ? most + 1 : 0;
}

int64_t runner_load_bytes(const struct runner *r) {
    return r->spec.training ? arena_round(r->model.n_layers * load_columns(r) * (int64_t)sizeof(double)) : 0;
}

static double tokens_of_step(const struct runner *r) {
    const struct runner_spec *s = &r->spec;
    const int64_t data = s->team && s->mesh ? s->mesh->data : 1, micro = s->n_micro > 0 ? s->n_micro : 1;
    return (double)(s->n_sequences * s->tokens * data * micro);
}

enum status runner_load_place(struct runner *r) {
    void *mem = NULL;
    r->step.token_scale = 1.0 / tokens_of_step(r);
    if (load_columns(r) == 0) return OK;
    r->step.aux = tensor_1d(&r->aux, F64, 1);
    if (!r->spec.training) return OK;
    TRY(arena_take(&r->memory, runner_load_bytes(r), &mem));
    r->load = tensor_2d(mem, F64, r->model.n_layers, load_columns(r));
    r->load.space = r->ctx.space;
    r->step.load = r->load;
    return OK;
}

enum status runner_load_begin(struct runner *r) {
    r->aux = 0.0;
    if (!tensor_has(r->load)) return OK;
    return r->ctx.ops->fill_fwd(&r->ctx, &(struct fill){.x = r->load, .value = 0.0});
}

enum status runner_load_end(struct runner *r) {
    if (!tensor_has(r->load)) return OK;
    TRY(r->step.seams->total(&r->step, r->load, AXIS_DATA | AXIS_SEQ));
    return r->step.seams->total(&r->step, r->step.aux, AXIS_DATA | AXIS_SEQ);
}

double runner_load_most(const struct runner *r) {
    double worst = NAN;
    for (int64_t i = 0; tensor_has(r->load) && i < r->load.shape[0]; i++) {
        const double *row = (const double *)r->load.data + i * r->load.pitch;
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
        const double n = ((const double *)r->load.data)[(i + 1) * r->load.pitch - 1];
        if (r->model.layers[i].drops) sum = n + (isnan(sum) ? 0.0 : sum);
    }
    return sum;
}
