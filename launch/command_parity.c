/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/log.h"
#include "checkpoints/hf.h"
#include "checkpoints/safetensors.h"
#include "kernels/ops.h"
#include "kernels/space.h"
#include "launch/command.h"
#include "launch/device.h"
#include "launch/runner.h"
#include "model/param_parts.h"

/* Our logits, loss and gradients beside those of golden.safetensors, in F64. */
struct parity {
    const struct config *config;
    struct rank *rank;
    const struct device_choice *device;
    struct team team;
    void *logits; /* of all ranks */
    struct hf_folder *hf;
    struct shard_file golden;
    struct runner run;
    struct hf_tensor *map;
    int n_map;
    double tol;   /* NAN: none */
    double floor; /* of a gradient's norm */
    int n_rows, n_bad;
};

static enum status golden_entry(const struct parity *p, const char *name, const struct shard_entry **out) {
    *out = shard_find(&p->golden, name);
    FAIL_UNLESS(*out, ERR_DATA, "%s: there is no tensor %s", p->golden.path, name);
    return OK;
}

static enum status golden_read(const struct parity *p, const char *name, int64_t n, double **out) {
    const struct shard_entry *e = NULL;
    void *mem = NULL;
    TRY(golden_entry(p, name, &e));
    const int64_t have = e->shape[0] * e->shape[1] * e->shape[2] * e->shape[3];
    FAIL_UNLESS(have == n, ERR_DATA, "%s: %s has %" PRId64 " elements, ours %" PRId64, p->golden.path, name, have, n);
    TRY(mem_take(n * 8, &mem));
    const enum status st = shard_read(&p->golden, e, 0, n, F64, mem);
    if (st != OK) mem_free(mem);
    else *out = mem;
    return st;
}

/* One row: the largest absolute error, and |a - b| / max(|b|, floor). */
static void compare(struct parity *p, const char *name, int64_t n, const double *ours, const double *theirs,
                    double floor) {
    double worst = 0.0, diff = 0.0, norm = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs(ours[i] - theirs[i]);
        if (!(d <= worst)) worst = d; /* keeps a NaN */
        diff += d * d;
        norm += theirs[i] * theirs[i];
    }
    norm = sqrt(norm);
    const double base = norm > floor ? norm : floor;
    const double relative = diff == 0.0 ? 0.0 : sqrt(diff) / base;
    const bool bad = !isnan(p->tol) && !(relative <= p->tol);
    printf("%-64s %10.3e %10.3e%s\n", name, worst, relative, bad ? "  ABOVE TOL" : "");
    p->n_rows++;
    p->n_bad += bad;
}

/* For the leader: others only give their numbers. */
static enum status compare_numbers(struct parity *p, const char *name, int64_t n, const double *ours, double floor) {
    double *theirs = NULL;
    if (!p->team.leader) return OK;
    const enum status st = golden_read(p, name, n, &theirs);
    if (st == OK) compare(p, name, n, ours, theirs, floor);
    mem_free(theirs);
    return st;
}

/* A router's selection bias has none. */
static bool has_gradient(const struct parity *p, const struct hf_tensor *t) {
    return p->run.model.params.list[t->param].kind == PARAM_TRAINED;
}

static int64_t elements_of(const struct parity *p, const struct hf_tensor *t) {
    const struct param *param = &p->run.model.params.list[t->param];
    return t->rows * (param_whole(param) / param->whole[0]);
}

/* What of elements [begin, end) of a parameter this rank holds of one part, and no other rank gives. */
static enum status give_part(struct parity *p, int index, int k, int64_t begin, int64_t end, double *out) {
    const struct param *param = &p->run.model.params.list[index];
    const int64_t row = param_count(param) / param->shape[0];
    struct param_part part;
    param_part(param, k, &part);
    if (sharding_elsewhere(&p->run.shards, index, k)) return OK;
    const int64_t last = (part.row_begin + part.rows) * row;
    for (int64_t held = part.row_begin * row, n = 0; held < last; held += n) {
        int64_t whole = 0;
        n = param_run(param, held, &whole);
        const int64_t from = whole > begin ? whole : begin, to = whole + n < end ? whole + n : end;
        if (from >= to) continue;
        const int64_t at = (held + from - whole) * dtype_bytes(param->g.dtype);
        TRY(space_numbers(&p->run.ctx, tensor_like(param->g, (char *)param->g.data + at, 1, to - from),
                          out + from - begin));
    }
    return OK;
}

/* The whole gradient of a tensor of theirs, on every rank: each gives what it holds, the others zeros. */
static enum status whole_gradient(struct parity *p, const struct hf_tensor *t, double *out) {
    const struct param *param = &p->run.model.params.list[t->param];
    const int64_t n = elements_of(p, t), begin = t->row_begin * (param_whole(param) / param->whole[0]);
    void *scratch = NULL;
    for (int k = 0; k < param_parts(param); k++) TRY(give_part(p, t->param, k, begin, begin + n, out));
    TRY(mem_take(all_reduce_scratch(&p->team.world, F64, n), &scratch));
    const enum status st = team_sum(&p->team, tensor_1d(out, F64, n), COMM_CONTROL, false, scratch);
    mem_free(scratch);
    return st;
}

static enum status compare_gradient(struct parity *p, const struct hf_tensor *t, const char *name) {
    void *ours = NULL;
    TRY(mem_take(elements_of(p, t) * (int64_t)sizeof(double), &ours));
    enum status st = whole_gradient(p, t, ours);
    if (st == OK) st = compare_numbers(p, name, elements_of(p, t), ours, 1e-3 * p->floor);
    mem_free(ours);
    return st;
}

static void golden_name(char out[200], const struct hf_tensor *t) { snprintf(out, 200, "grad.%s", t->name); }

static enum status largest_gradient(struct parity *p, double *out) {
    *out = 0.0;
    for (int i = 0; i < p->n_map; i++) {
        char name[200];
        double *g = NULL, sum = 0.0;
        if (!has_gradient(p, &p->map[i])) continue;
        const int64_t n = elements_of(p, &p->map[i]);
        golden_name(name, &p->map[i]);
        TRY(golden_read(p, name, n, &g));
        for (int64_t j = 0; j < n; j++) sum += g[j] * g[j];
        mem_free(g);
        if (sqrt(sum) > *out) *out = sqrt(sum);
    }
    return OK;
}

/* Every gradient of the golden file must have been compared. */
static enum status none_left(const struct parity *p) {
    for (int64_t i = 0; i < p->golden.n_entries; i++) {
        const char *name = p->golden.entry[i].name;
        bool found = strncmp(name, "grad.", 5) != 0;
        for (int j = 0; j < p->n_map && !found; j++) found = !strcmp(name + 5, p->map[j].name);
        FAIL_UNLESS(found, ERR_DATA, "%s: %s belongs to no parameter of ours", p->golden.path, name);
    }
    return OK;
}

static enum status compare_logits(struct parity *p, struct tensor logits) {
    struct ctx host = {.space = HOST};
    void *numbers = NULL;
    if (!p->team.leader) return OK;
    TRY(mem_take(tensor_count(logits) * (int64_t)sizeof(double), &numbers));
    enum status st = space_numbers(&host, logits, numbers);
    if (st == OK) st = compare_numbers(p, "logits", tensor_count(logits), numbers, 0.0);
    mem_free(numbers);
    return st;
}

static enum status compare_all(struct parity *p, struct tensor logits) {
    const double loss = p->run.total * p->run.scale;
    if (p->team.leader) printf("%-64s %10s %10s\n", "tensor", "largest", "relative");
    TRY(compare_logits(p, logits));
    TRY(compare_numbers(p, "loss", 1, &loss, 0.0));
    if (p->team.leader) TRY(largest_gradient(p, &p->floor));
    for (int i = 0; i < p->n_map; i++) {
        char name[200];
        if (!has_gradient(p, &p->map[i])) continue;
        golden_name(name, &p->map[i]);
        TRY(compare_gradient(p, &p->map[i], name));
    }
    return p->team.leader ? none_left(p) : OK;
}

static enum status open_golden(struct parity *p, const char *dir, struct runner_spec *spec) {
    const struct shard_entry *ids = NULL;
    char path[PATH_BYTES];
    TRY(path_print(path, "%s/golden.safetensors", dir));
    TRY(shard_open(&p->golden, path));
    TRY(golden_entry(p, "input_ids", &ids));
    FAIL_UNLESS(ids->n_dims == 2 && ids->shape[0] > 0 && ids->shape[1] > 0, ERR_DATA,
                "%s: input_ids must be (sequences, tokens)", path);
    *spec = (struct runner_spec){.precision = p->config->train.precision,
                                 .threads = p->config->train.threads,
                                 .n_sequences = ids->shape[0],
                                 .tokens = ids->shape[1],
                                 .tile = p->config->train.head_tile,
                                 .gradients = true,
                                 .policy = (enum policy)p->config->train.keep,
                                 .keep_every = p->config->train.keep_every,
                                 .offload = p->config->train.offload,
                                 .logits = true,
                                 .plain = p->config->kernels.plain == PLAIN_ALLOW,
                                 .exact = p->config->numerics == NUMERICS_RANK_INVARIANT,
                                 .team = &p->team,
                                 .mesh = &p->config->mesh};
    return OK;
}

static enum status load_inputs(struct parity *p) {
    const struct shard_entry *ids = NULL;
    TRY(golden_entry(p, "input_ids", &ids));
    const struct param_sink sink = runner_sink(&p->run);
    TRY(hf_read_params(p->hf, &p->run.model.params, &sink));
    TRY(hf_tensors(p->hf, &p->run.model.params, &p->map, &p->n_map));
    TRY(shard_read(&p->golden, ids, 0, ids->shape[0] * ids->shape[1], I32, p->run.ids));
    for (int64_t i = 0; i < ids->shape[0] * ids->shape[1]; i++)
        FAIL_UNLESS(p->run.ids[i] >= 0 && p->run.ids[i] < p->config->model.vocab, ERR_DATA,
                    "%s: input_ids: token %" PRId64 " is %d, outside the vocabulary of %" PRId64, p->golden.path, i,
                    p->run.ids[i], p->config->model.vocab);
    runner_plain_targets(&p->run);
    return OK;
}

/* My rows and columns of a range among all logits. */
static enum status place_logits(struct parity *p, const struct token_range *t, struct tensor out) {
    struct runner *r = &p->run;
    const struct param *head = &r->model.params.list[r->model.head];
    const int64_t V = head->shape[0], n = t->end - t->begin, size = dtype_bytes(out.dtype);
    const int64_t first = head->cut[SPLIT_TENSOR].begin, row = t->sequence * r->spec.tokens + t->begin;
    void *mine = NULL;
    TRY(mem_take(n * V * size, &mine));
    const enum status st = space_load(&r->ctx, r->out.logits, t->row * V, n * V, mine);
    for (int64_t i = 0; st == OK && i < n; i++)
        memcpy((char *)out.data + ((row + i) * out.pitch + first) * size, (char *)mine + i * V * size,
               (size_t)(V * size));
    mem_free(mine);
    return st;
}

/* All others' are zero, so that the sum over ranks is exact. */
static enum status whole_logits(struct parity *p, struct tensor *out) {
    struct runner *r = &p->run;
    const int64_t V = r->model.config->vocab, rows = r->spec.n_sequences * r->spec.tokens;
    void *whole = NULL, *scratch = NULL;
    *out = tensor_2d(NULL, dtype_wide(r->ctx.real), rows, V);
    TRY(mem_take(tensor_bytes(*out), &whole));
    out->data = p->logits = whole;
    for (int64_t i = 0; i < shard_map_ranges(&r->map, r->seq_index); i++)
        TRY(place_logits(p, shard_map_range(&r->map, r->seq_index, i), *out));
    TRY(mem_take(all_reduce_scratch(&p->team.world, out->dtype, tensor_count(*out)), &scratch));
    const enum status st = team_sum(&p->team, *out, COMM_CONTROL, false, scratch);
    mem_free(scratch);
    return st;
}

static enum status compute(struct parity *p, const char *dir) {
    struct runner_spec spec;
    struct tensor logits;
    int transfers = 0;
    TRY(open_golden(p, dir, &spec));
    TRY(runner_transfers(&p->config->model, &spec, &transfers));
    TRY(team_open(&p->team, p->rank, spec.mesh, transfers, p->device));
    spec.device = p->team.device;
    TRY(runner_init(&p->run, &p->config->model, &spec, false));
    TRY(load_inputs(p));
    TRY(runner_zero_total(&p->run));
    TRY(sharding_step_begin(&p->run.shards, &p->run.step));
    TRY(runner_pass(&p->run, true));
    TRY(runner_sum_total(&p->run));
    TRY(runner_read_total(&p->run));
    TRY(whole_logits(p, &logits));
    TRY(compare_all(p, logits));
    if (!p->team.leader) return OK;
    printf("%s: %d of %d tensors within %g (%s, %d rank%s)\n", p->n_bad ? "FAILED" : "passed", p->n_rows - p->n_bad,
           p->n_rows, p->tol, p->run.ctx.ops->name, rank_size(p->rank), rank_size(p->rank) > 1 ? "s" : "");
    FAIL_UNLESS(p->n_bad == 0, ERR_DATA, "%d of %d tensors differ by more than --tol %g", p->n_bad, p->n_rows, p->tol);
    return OK;
}

/* What all ranks of the process read. */
struct task {
    struct config config;
    struct device_choice device;
    const char *dir;
    double tol;
};

static enum status parity_rank(struct rank *rank, void *arg) {
    struct task *task = arg;
    struct parity p = {.config = &task->config, .rank = rank, .device = &task->device, .tol = task->tol};
    enum status st = hf_open(&p.hf, task->dir);
    if (st == OK) st = compute(&p, task->dir);
    team_leave(&p.team);
    runner_term(&p.run);
    team_close(&p.team);
    mem_free(p.map);
    mem_free(p.logits);
    shard_close(&p.golden);
    hf_close(p.hf);
    return st;
}

static enum status read_config(struct task *t, const struct command_line *line) {
    enum status st = OK;
    struct hf_folder *hf = NULL;
    struct text yaml = {0}, errors = {0};
    const char *overrides[64] = {t->device.cuda ? "train.precision=f32" : "train.precision=f64"};
    FAIL_UNLESS(line->n_overrides < 63, ERR_CONFIG, "more than 62 overrides");
    for (int i = 0; i < line->n_overrides; i++) overrides[i + 1] = line->overrides[i];
    TRY_OUT(hf_open(&hf, t->dir));
    TRY_OUT(hf_model_yaml(hf, &yaml));
    st = config_read(&t->config,
                     &(struct config_source){.where = t->dir,
                                             .text = yaml.s,
                                             .text_bytes = yaml.n,
                                             .n_overrides = line->n_overrides + 1,
                                             .overrides = overrides,
                                             .model_only = true},
                     &errors);
    if (st == ERR_CONFIG && errors.n > 0) { /* every mistake, not the first alone */
        fprintf(stderr, "%s%s", errors.s, errors.s[errors.n - 1] == '\n' ? "" : "\n");
        status_clear();
    }
    if (st == OK) st = config_check_runnable(&t->config);
    if (st == OK && t->config.mesh.data > 1)
        FAIL_OUT(ERR_CONFIG, "mesh.data: %" PRId64 " ranks have nothing to share, parity is one pass; set mesh.data=1",
                 t->config.mesh.data);
    if (st == OK) st = device_check_precision(&t->device, t->config.train.precision);
    if (st == OK && isnan(t->tol) && t->config.train.precision != PRECISION_BF16)
        t->tol = t->config.train.precision == PRECISION_F64 ? 1e-9 : 1e-4;
out:
    hf_close(hf);
    text_term(&yaml);
    text_term(&errors);
    return st;
}

static enum status read_tol(const char *text, double *tol) {
    char *end = NULL;
    *tol = text ? strtod(text, &end) : NAN;
    FAIL_UNLESS(!text || (!*end && end != text && *tol >= 0.0), ERR_CONFIG, "--tol %s: wants a number, 0 or more",
                text);
    return OK;
}

static bool mesh_given(const struct command_line *line) {
    static const char *const axes[] = {"mesh.seq=", "mesh.data=", "mesh.tensor=", "mesh.expert="};
    for (int i = 0; i < line->n_overrides; i++)
        for (int k = 0; k < 4; k++)
            if (!strncmp(line->overrides[i], axes[k], strlen(axes[k]))) return true;
    return false;
}

static enum status run(int argc, char **argv) {
    const char *tol = NULL, *ranks = NULL, *device = NULL;
    const struct option_row rows[] = {{"--tol", &tol, NULL}, {"--ranks", &ranks, NULL}, {"--device", &device, NULL}};
    struct command_line line;
    enum status st = OK;
    struct task t = {.tol = NAN};
    TRY(command_parse(argc, argv, rows, 3, &line));
    if (line.n_words != 1) FAIL_OUT(ERR_CONFIG, "wants one HF_DIR and has %d: baton parity --help", line.n_words);
    t.dir = line.words[0];
    TRY_OUT(device_choose(device, &t.device));
    TRY_OUT(read_tol(tol, &t.tol));
    TRY_OUT(read_config(&t, &line));
    st = team_run(&(struct team_spec){.ranks = ranks,
                                      .mesh = &t.config.mesh,
                                      .mesh_given = mesh_given(&line),
                                      .same = &t.config.resolved,
                                      .deadline_s = t.config.mesh.deadline},
                  parity_rank, &t);
out:
    config_term(&t.config);
    command_line_term(&line);
    return st;
}

const struct command command_parity = {
    .name = "parity",
    .usage = "parity HF_DIR [--tol X] [--ranks N] [--device cpu|cuda] [key=value ...]",
    .help =
        "Computes logits, loss and every gradient of the model in HF_DIR on the inputs of its golden.safetensors, and\n"
        "prints one row a tensor: the largest absolute error, and the relative one, |a-b| / max(|b|, 1e-3 of the\n"
        "model's largest gradient norm; logits and loss: |b|).  Exit code 1 if a relative error is above --tol\n"
        "(default 1e-9 in f64, 1e-4 in f32, none in bf16).  train.precision=f32 computes in F32, bf16 in BF16 on a "
        "GPU;\n"
        "f64 is the default on the cpu, f32 on a GPU.\n",
    .run = run,
};
