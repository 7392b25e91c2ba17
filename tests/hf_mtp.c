/* SPDX-License-Identifier: Apache-2.0 */
/* Prediction heads in Hugging Face folders of nemotron_h: the configuration they become, where their tensors go, one
 * set of weights for several depths, and folders that name heads without holding them. */
#define _DEFAULT_SOURCE /* mkdtemp */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "checkpoints/hf.h"
#include "checkpoints/safetensors.h"
#include "launch/config.h"
#include "model/model.h"
#include "tests/check.h"

static char folder[PATH_BYTES] = "/tmp/baton-test-XXXXXX";

enum { TENSORS_MAX = 64, NUMBERS = 64 };
static struct shard_item items[TENSORS_MAX];
static float numbers[TENSORS_MAX][NUMBERS];
static int n_items;

/* Numbers that tell the tensor: its place in the list, then the element. */
static void add(const char *name, int64_t d0, int64_t d1) {
    float *at = numbers[n_items];
    for (int i = 0; i < NUMBERS; i++) at[i] = (float)(100 * n_items + i);
    items[n_items++] = (struct shard_item){
        .name = name, .dtype = F32, .n_dims = d1 ? 2 : 1, .shape = {d0, d1 ? d1 : 1, 1, 1}, .data = at};
}

static void add_stack(void) {
    n_items = 0;
    add("backbone.embeddings.weight", 5, 4);
    add("backbone.layers.0.norm.weight", 4, 0);
    add("backbone.layers.0.mixer.up_proj.weight", 3, 4);
    add("backbone.layers.0.mixer.down_proj.weight", 4, 3);
    add("backbone.norm_f.weight", 4, 0);
    add("lm_head.weight", 5, 4);
}

/* One head: attention, then feed-forward, as layers `first` and the one behind it. */
static void add_head(int first) {
    static char names[2][16][64];
    static const struct {
        int layer;
        const char *name;
        int64_t d0, d1;
    } rows[] = {
        {0, "enorm.weight", 4, 0},         {0, "hnorm.weight", 4, 0},           {0, "eh_proj.weight", 4, 8},
        {0, "norm.weight", 4, 0},          {0, "mixer.q_proj.weight", 4, 4},    {0, "mixer.k_proj.weight", 2, 4},
        {0, "mixer.v_proj.weight", 2, 4},  {0, "mixer.o_proj.weight", 4, 4},    {1, "norm.weight", 4, 0},
        {1, "mixer.up_proj.weight", 3, 4}, {1, "mixer.down_proj.weight", 4, 3}, {1, "final_layernorm.weight", 4, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *name = names[first / 2][i];
        snprintf(name, sizeof names[0][0], "mtp.layers.%d.%s", first + rows[i].layer, rows[i].name);
        add(name, rows[i].d0, rows[i].d1);
    }
}

static void write_folder(const char *heads) {
    char path[PATH_BYTES + 64], text[1200];
    struct shard_sum sum;
    const int n = snprintf(text, sizeof text,
                           "{\"model_type\": \"nemotron_h\", \"hidden_size\": 4, \"vocab_size\": 5, "
                           "\"num_hidden_layers\": 1, \"layers_block_type\": [\"mlp\"], \"num_attention_heads\": 2, "
                           "\"num_key_value_heads\": 1, \"head_dim\": 2, \"intermediate_size\": 3, "
                           "\"mlp_hidden_act\": \"relu2\", \"tie_word_embeddings\": false%s}",
                           heads);
    snprintf(path, sizeof path, "%s/config.json", folder);
    MUST(file_replace(path, text, n));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    remove(path);
    MUST(shard_write(path, items, n_items, "{\"format\": \"pt\"}", &sum));
}

struct found {
    struct params *ps;
    double *first; /* of each parameter, its first number */
};

static enum status store(void *arg, int param, int64_t first, int64_t n, const void *wide) {
    struct found *f = arg;
    (void)n;
    if (first == 0) f->first[param] = *(const double *)wide;
    return OK;
}

/* The first number of our parameter is that of their tensor. */
static void check_from(const struct found *f, const char *ours, const char *theirs) {
    const int i = param_find(f->ps, ours);
    int k = 0;
    while (k < n_items && strcmp(items[k].name, theirs) != 0) k++;
    CHECK(i >= 0 && k < n_items && f->first[i] == 100.0 * k, "%s begins with %g, not with %s", ours,
          i >= 0 ? f->first[i] : -1.0, theirs);
}

static enum status read_folder(int64_t depths, bool shared, const char *const *ours, const char *const *theirs) {
    struct hf_folder *f = NULL;
    struct text yaml = {0};
    struct config c;
    struct model m;
    double first[TENSORS_MAX];
    struct found found = {.ps = &m.params, .first = first};
    TRY(hf_open(&f, folder));
    MUST(hf_model_yaml(f, &yaml));
    const struct config_source from = {.where = "test", .text = yaml.s, .text_bytes = yaml.n, .model_only = true};
    MUST(config_read(&c, &from, NULL));
    CHECK(c.model.mtp.depths == depths && c.model.mtp.shared == shared, "%" PRId64 " heads of %s", c.model.mtp.depths,
          yaml.s);
    MUST(model_init(&m, &c.model, NULL));
    const struct param_sink sink = {.type = F64, .store = store, .arg = &found};
    const enum status st = hf_read_params(f, &m.params, &sink);
    for (int i = 0; st == OK && ours[i]; i++) check_from(&found, ours[i], theirs[i]);
    model_term(&m);
    config_term(&c);
    text_term(&yaml);
    hf_close(f);
    return st;
}

static const char *const no_names[] = {NULL};
static const char *const ours[] = {"mtp.layers.0.enorm.weight",
                                   "mtp.layers.0.hnorm.weight",
                                   "mtp.layers.0.eh_proj.weight",
                                   "mtp.layers.0.norm.weight",
                                   "mtp.layers.0.out.weight",
                                   "mtp.layers.1.norm.weight",
                                   "mtp.layers.1.up.weight",
                                   "mtp.layers.1.down.weight",
                                   "mtp.layers.1.final_layernorm.weight",
                                   "layers.0.up.weight",
                                   NULL};
static const char *const theirs[] = {"mtp.layers.0.enorm.weight",           "mtp.layers.0.hnorm.weight",
                                     "mtp.layers.0.eh_proj.weight",         "mtp.layers.0.norm.weight",
                                     "mtp.layers.0.mixer.o_proj.weight",    "mtp.layers.1.norm.weight",
                                     "mtp.layers.1.mixer.up_proj.weight",   "mtp.layers.1.mixer.down_proj.weight",
                                     "mtp.layers.1.final_layernorm.weight", "backbone.layers.0.mixer.up_proj.weight"};
#define LIST ", \"mtp_layers_block_type\": [\"full_attention\", \"mlp\"]"
#define TEXT ", \"mtp_hybrid_override_pattern\": \"*-\""

static void test_heads(void) {
    static const char *const third[] = {"mtp.layers.2.enorm.weight", "mtp.layers.3.final_layernorm.weight", NULL};
    add_stack();
    add_head(0);
    write_folder(", \"num_nextn_predict_layers\": 1" LIST);
    MUST(read_folder(1, false, ours, theirs));
    write_folder(", \"num_nextn_predict_layers\": 2" TEXT);
    MUST(read_folder(2, true, ours, theirs)); /* one set of weights in the files, two depths */
    add_head(2);
    write_folder(", \"num_nextn_predict_layers\": 2" LIST);
    MUST(read_folder(2, false, ours, theirs));
    MUST(read_folder(2, false, third, third));
}

static void test_without(void) {
    add_stack();
    write_folder(", \"num_nextn_predict_layers\": 1" LIST);
    MUST(read_folder(0, false, no_names, no_names)); /* as the class saves it: named, not held */
    add_head(0);
    write_folder(LIST);
    MUST(read_folder(0, false, no_names, no_names)); /* held, but of no part */
}

static void check_refused(const char *why, const char *says) {
    const enum status st = read_folder(1, false, no_names, no_names);
    CHECK(st != OK && strstr(status_text(), says), "%s: no '%s' in: %s", why, says, st == OK ? "" : status_text());
    status_clear();
}

static void test_refused(void) {
    add_stack();
    add_head(0);
    n_items--;
    write_folder(", \"num_nextn_predict_layers\": 1" LIST);
    check_refused("a tensor that is missing", "mtp.layers.1.final_layernorm.weight is missing");
    add_stack();
    add_head(0);
    write_folder(", \"num_nextn_predict_layers\": 1");
    check_refused("no pattern", "mtp_hybrid_override_pattern");
    write_folder(", \"num_nextn_predict_layers\": 1, \"mtp_hybrid_override_pattern\": \"*G\"");
    check_refused("an unknown layer", "symbol 'G' is not known here");
    add("mtp.layers.1.mixer.bias", 4, 0);
    write_folder(", \"num_nextn_predict_layers\": 1" LIST);
    check_refused("a tensor too many", "mtp.layers.1.mixer.bias belongs to no part");
}

int main(void) {
    if (!mkdtemp(folder)) SKIP("no temporary folder can be made");
    test_heads();
    test_without();
    test_refused();
    MUST(file_remove_tree(folder));
    return check_end();
}
