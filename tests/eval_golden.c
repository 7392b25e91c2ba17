/* SPDX-License-Identifier: Apache-2.0 */
/* baton eval on a Hugging Face folder: the perplexity of a reference model on its own inputs is the reference's loss.
 */
#include <unistd.h>
#include "base/json.h"
#include "checkpoints/safetensors.h"
#include "data/idx.h"
#include "launch/eval.h"
#include "tests/check.h"

static const char *const models[] = {"llama", "mistral_swa", "mamba2", "nemotron_h"};

/* The rows of input_ids become documents; the loss is theirs, in F64. */
static void write_tokens(const char *golden, const char *prefix, int64_t *length, double *loss) {
    struct shard_file f;
    struct token_writer *w = NULL;
    void *mem = NULL;
    MUST(shard_open(&f, golden));
    const struct shard_entry *ids = shard_find(&f, "input_ids"), *mean = shard_find(&f, "loss");
    CHECK(ids && mean && ids->n_dims == 2, "%s: no input_ids, or no loss", golden);
    const int64_t rows = ids->shape[0], n = ids->shape[1];
    MUST(mem_take(rows * n * 4, &mem));
    MUST(shard_read(&f, ids, 0, rows * n, I32, mem));
    MUST(shard_read(&f, mean, 0, 1, F64, loss));
    MUST(token_writer_open(&w, prefix, 256));
    for (int64_t i = 0; i < rows; i++) MUST(token_writer_add(w, (const int32_t *)mem + i * n, n));
    MUST(token_writer_close(w, true));
    *length = n;
    mem_free(mem);
    shard_close(&f);
}

/* In sequences of `length` tokens, what the JSON says is the mean loss. */
static double evaluate(const char *folder, const char *prefix, int64_t length, const char *json) {
    static const char *const overrides[] = {"train.precision=f64"};
    struct eval_model m;
    json_t *o = NULL;
    void *options = NULL;
    char text[32];
    MUST(eval_model_open(&m, folder, overrides, 1));
    MUST(mem_take((int64_t)eval_perplexity.options_bytes, &options));
    MUST(field_defaults(eval_perplexity.fields, options));
    MUST(eval_split(field_find(eval_perplexity.fields, "data"), options, prefix));
    snprintf(text, sizeof text, "%d", (int)length);
    MUST(eval_split(field_find(eval_perplexity.fields, "lengths"), options, text));
    MUST(eval_perplexity.run(&m, options, &(struct eval_files){.json = json}));
    MUST(json_read_file(json, &o));
    const double nats = json_real_value(json_object_get(json_array_get(json_object_get(o, "lengths"), 0), "nats"));
    json_decref(o);
    field_term(eval_perplexity.fields, options);
    mem_free(options);
    eval_model_close(&m);
    return nats;
}

int main(void) {
    char folder[64], golden[PATH_BYTES], model[PATH_BYTES], prefix[PATH_BYTES], json[PATH_BYTES];
    const char *shared = check_shared();
    if (!shared) SKIP("no shared test data");
    MUST(path_print(model, "%s/goldens", shared));
    if (!file_is_folder(model)) SKIP("%s does not exist", model);
    if (!freopen("/dev/null", "w", stdout)) return 1;
    snprintf(folder, sizeof folder, "/tmp/baton-eval-golden-%ld", (long)getpid());
    MUST(file_make_folders(folder));
    MUST(path_print(prefix, "%s/tokens", folder));
    MUST(path_print(json, "%s/result.json", folder));
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        int64_t length = 0;
        double want = 0.0;
        MUST(path_print(model, "%s/goldens/%s", shared, models[i]));
        MUST(path_print(golden, "%s/golden.safetensors", model));
        write_tokens(golden, prefix, &length, &want);
        const double got = evaluate(model, prefix, length, json);
        CHECK(fabs(got - want) <= 1e-12 * want, "%s: %.17g nats, the reference has %.17g", models[i], got, want);
        /* Cut in two, tokens lose context: the loss must change, or the cut is not one. */
        const double cut = evaluate(model, prefix, length / 2, json);
        CHECK(fabs(cut - want) > 1e-9 * want, "%s: %.17g nats with half the context too", models[i], cut);
    }
    MUST(file_remove_tree(folder));
    return check_end();
}
