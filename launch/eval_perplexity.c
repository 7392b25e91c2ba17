/* SPDX-License-Identifier: Apache-2.0 */
/* Loss by context: the same tokens are cut into sequences of each length, and every token with a target is predicted
 * from what stands before it in its document and sequence.  At the longest length, also by position. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/json.h"
#include "data/stream.h"
#include "kernels/space.h"
#include "launch/eval.h"

struct perplexity_options {
    struct field_list data, lengths;
    int64_t tokens;
};
#define AT(key) offsetof(struct perplexity_options, key)
static const struct field fields[] = {
    {"data", FIELD_LIST, AT(data), NULL, 0, 0, NULL, "token files", true},
    {"lengths", FIELD_LIST, AT(lengths), NULL, 0, 0, NULL, "tokens of a sequence", true},
    {"tokens", FIELD_INT, AT(tokens), "256KiB", 0, 1e15, NULL, "most tokens to read at each length; 0: all", true},
    FIELDS_END};

/* Bucket 0: positions below 16; bucket b: [8 2^b, 16 2^b). */
enum { BUCKETS = 48, FIRST_BUCKET = 16, PASS_TOKENS = 2048 };
struct mean {
    double nats;
    int64_t n;
};
struct length_result {
    int64_t tokens;
    struct mean all, bucket[BUCKETS];
};
struct perplexity {
    struct eval_model *model;
    const struct field_list *data;
    int64_t budget; /* tokens at each length */
    int n_lengths;
    int64_t length[FIELD_LIST_MAX]; /* ascending */
    struct length_result *result;
    struct runner weights; /* owns the parameters */
};

static int bucket_of(int64_t pos) {
    int b = 0;
    for (int64_t end = FIRST_BUCKET; pos >= end; end *= 2) b++;
    return b;
}
static int64_t bucket_begin(int b) { return b == 0 ? 0 : (int64_t)FIRST_BUCKET << (b - 1); }

/* Sequences [first, first + n) of the stream into the batch; rows that are left have no target. */
static enum status fill_batch(struct runner *r, struct stream *s, int64_t first, int64_t n) {
    const int64_t S = r->spec.tokens;
    for (int64_t i = 0; i < n; i++) TRY(stream_read(s, first + i, r->ids + i * S, r->targets + i * S, r->pos + i * S));
    for (int64_t t = n * S; t < r->batch.shard.n_tokens; t++) {
        r->ids[t] = 0;
        r->targets[t] = -1;
        r->pos[t] = t % S;
    }
    return OK;
}

static enum status add_losses(struct runner *r, double *losses, struct length_result *out) {
    TRY(space_numbers(&r->ctx, r->out.per_token, losses));
    for (int64_t t = 0; t < r->batch.shard.n_tokens; t++) {
        if (r->targets[t] < 0) continue;
        struct mean *b = &out->bucket[bucket_of(r->pos[t])];
        b->nats += losses[t];
        b->n++;
        out->all.nats += losses[t];
        out->all.n++;
    }
    return OK;
}

static enum status run_length(struct perplexity *p, struct stream *s, int64_t n_sequences, struct length_result *out) {
    enum status st = OK;
    struct runner r = {0};
    const int64_t S = out->tokens, B = S < PASS_TOKENS ? PASS_TOKENS / S : 1;
    const struct train_config *c = &p->model->config.train;
    void *losses = NULL;
    const struct runner_spec spec = {.precision = c->precision,
                                     .plain = p->model->config.kernels.plain == PLAIN_ALLOW,
                                     .device = p->model->device,
                                     .threads = c->threads,
                                     .n_sequences = B < n_sequences ? B : n_sequences,
                                     .tokens = S,
                                     .tile = c->head_tile,
                                     .weights_of = &p->weights};
    TRY(runner_init(&r, &p->model->config.model, &spec, false));
    TRY_OUT(mem_take(r.batch.shard.n_tokens * (int64_t)sizeof(double), &losses));
    for (int64_t at = 0; at < n_sequences; at += spec.n_sequences) {
        const int64_t left = n_sequences - at;
        TRY_OUT(fill_batch(&r, s, at, left < spec.n_sequences ? left : spec.n_sequences));
        TRY_OUT(runner_pass(&r, false));
        TRY_OUT(add_losses(&r, losses, out));
    }
out:
    mem_free(losses);
    runner_term(&r);
    return st;
}

/* How many of the stream's sequences a length reads: as many as hold the budget, which the longest length rounded. */
static enum status measure(struct perplexity *p, struct length_result *out) {
    struct stream *s = NULL;
    const struct stream_spec spec = {.n_prefixes = p->data->n,
                                     .prefixes = p->data->text,
                                     .tokens_per_sequence = out->tokens,
                                     .vocab = p->model->config.model.vocab};
    TRY(stream_open(&s, &spec));
    const int64_t longest = p->length[p->n_lengths - 1], have = stream_tokens(s);
    int64_t take = p->budget == 0 || p->budget > have ? have : p->budget;
    if (take < have && take >= longest) take -= take % longest;
    const int64_t n = (take + out->tokens - 1) / out->tokens, all = stream_sequences(s);
    const enum status st = run_length(p, s, n < all ? n : all, out);
    stream_close(s);
    return st;
}

static void print_mean(const char *label, const struct mean *m) {
    const double nats = m->nats / (double)m->n;
    printf("%15s %11" PRId64 " %11.4f %12.4f %11.4f\n", label, m->n, nats, exp(nats), nats / log(2.0));
    fflush(stdout);
}

static void print_positions(const struct length_result *r) {
    char label[64];
    printf("\n%15s %11s %11s %12s %11s\n", "position", "targets", "nats/token", "perplexity", "bits/token");
    for (int b = 0; b < BUCKETS; b++) {
        const int64_t end = bucket_begin(b + 1) < r->tokens ? bucket_begin(b + 1) : r->tokens;
        snprintf(label, sizeof label, "%" PRId64 "-%" PRId64, bucket_begin(b), end - 1);
        if (r->bucket[b].n > 0) print_mean(label, &r->bucket[b]);
    }
}

static enum status json_mean(struct text *t, const char *head, int64_t at, const struct mean *m) {
    char nats[32], perplexity[32];
    const double mean = m->nats / (double)m->n;
    json_print_real(nats, mean);
    json_print_real(perplexity, exp(mean));
    return text_print(t, "{\"%s\": %" PRId64 ", \"targets\": %" PRId64 ", \"nats\": %s, \"perplexity\": %s}", head, at,
                      m->n, nats, perplexity);
}

static enum status json_tables(const struct perplexity *p, struct text *t) {
    const struct length_result *longest = &p->result[p->n_lengths - 1];
    bool first = true;
    TRY(text_print(t, "{\"task\": \"perplexity\", \"lengths\": ["));
    for (int i = 0; i < p->n_lengths; i++) {
        TRY(text_print(t, i ? ",\n  " : "\n  "));
        TRY(json_mean(t, "length", p->result[i].tokens, &p->result[i].all));
    }
    TRY(text_print(t, "],\n \"length_of_positions\": %" PRId64 ", \"positions\": [", longest->tokens));
    for (int b = 0; b < BUCKETS; b++) {
        if (longest->bucket[b].n == 0) continue;
        TRY(text_print(t, first ? "\n  " : ",\n  "));
        TRY(json_mean(t, "from", bucket_begin(b), &longest->bucket[b]));
        first = false;
    }
    return text_print(t, "]}\n");
}

static enum status write_json(const struct perplexity *p, const char *path) {
    struct text t = {0};
    enum status st = json_tables(p, &t);
    if (st == OK) st = file_replace(path, t.s, t.n);
    text_term(&t);
    return st;
}

static void insert_length(struct perplexity *p, int64_t length) {
    int at = p->n_lengths++;
    for (; at > 0 && p->length[at - 1] > length; at--) p->length[at] = p->length[at - 1];
    p->length[at] = length;
}

static enum status choose_lengths(struct perplexity *p, const struct field_list *given) {
    static const struct field one = {.key = "lengths", .type = FIELD_INT, .min = 1, .max = 1e12};
    const int64_t trained = p->model->trained_tokens > 0 ? p->model->trained_tokens : 1024;
    for (int i = 0; i < given->n; i++) {
        int64_t length = 0;
        if (field_set(&one, &length, given->text[i]) != OK) {
            char reason[256];
            snprintf(reason, sizeof reason, "%s", status_text());
            FAIL(ERR_CONFIG, "lengths=%s: %s", given->text[i], reason);
        }
        insert_length(p, length);
    }
    for (int64_t of = 8; given->n == 0 && of >= 1; of /= 2)
        if (trained / of >= 1) insert_length(p, trained / of);
    if (given->n == 0) insert_length(p, 2 * trained);
    return OK;
}

static enum status load_weights(struct perplexity *p) {
    const struct train_config *c = &p->model->config.train;
    const struct runner_spec spec = {.precision = c->precision,
                                     .plain = p->model->config.kernels.plain == PLAIN_ALLOW,
                                     .device = p->model->device,
                                     .threads = c->threads,
                                     .n_sequences = 1,
                                     .tokens = 1,
                                     .tile = 1};
    TRY(runner_init(&p->weights, &p->model->config.model, &spec, false));
    return eval_model_read(p->model, &p->weights);
}

static enum status run(struct eval_model *m, const void *given, const struct eval_files *files) {
    const struct perplexity_options *o = given;
    enum status st = OK;
    void *mem = NULL;
    struct perplexity p = {.model = m, .data = o->data.n ? &o->data : &m->config.data.valid, .budget = o->tokens};
    FAIL_UNLESS(!files->prompt && !files->prompt_file, ERR_CONFIG, "perplexity takes no prompt; sample does");
    FAIL_UNLESS(p.data->n > 0, ERR_CONFIG,
                "the model's configuration names no data.valid: add data=PREFIX of a token file");
    TRY(choose_lengths(&p, &o->lengths));
    TRY_OUT(mem_take(p.n_lengths * (int64_t)sizeof *p.result, &mem));
    p.result = mem;
    TRY_OUT(load_weights(&p));
    printf("%15s %11s %11s %12s %11s\n", "context", "targets", "nats/token", "perplexity", "bits/token");
    for (int i = 0; i < p.n_lengths; i++) {
        char label[32];
        p.result[i].tokens = p.length[i];
        TRY_OUT(measure(&p, &p.result[i]));
        if (p.result[i].all.n == 0)
            FAIL_OUT(ERR_DATA, "%s: no token has a target: every document is one token long", p.data->text[0]);
        snprintf(label, sizeof label, "%" PRId64, p.length[i]);
        print_mean(label, &p.result[i].all);
    }
    print_positions(&p.result[p.n_lengths - 1]);
    if (files->json) TRY_OUT(write_json(&p, files->json));
out:
    runner_term(&p.weights);
    mem_free(mem);
    return st;
}

const struct eval_task eval_perplexity = {
    .name = "perplexity", .fields = fields, .options_bytes = sizeof(struct perplexity_options), .run = run};
