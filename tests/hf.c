/* SPDX-License-Identifier: Apache-2.0 */
/* Hugging Face folders: the configuration they become, where each tensor goes, and what is refused. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdint.h>
#include <unistd.h>
#include "base/arena.h"
#include "checkpoints/hf.h"
#include "checkpoints/safetensors.h"
#include "tests/check.h"

static char folder[PATH_BYTES] = "/tmp/baton-test-XXXXXX";

/* ---- the parameters that a model of these kinds declares, with F64 memory ---- */

struct sizes {
    int64_t D, V, heads, kv_heads, P, hidden, m_heads, m_width, groups, state, conv;
    bool tied, gated, bias;
};

static void add(struct params *ps, const char *name, int n_dims, int64_t d0, int64_t d1, const char *names,
                const int64_t *rows) {
    struct param p = {.n_dims = n_dims, .shape = {d0, d1, 1, 1}};
    int at = 0;
    static char texts[16][4];
    snprintf(p.name, sizeof p.name, "%s", name);
    for (const char *s = names; s && *s; s += strcspn(s, "|"), s += *s == '|') {
        snprintf(texts[at], sizeof texts[at], "%.*s", (int)strcspn(s, "|"), s);
        static const char *const known[] = {"z", "x", "B", "C", "dt", "q", "k", "v", "gate", "up"};
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strlen(known[i]) == strcspn(s, "|") && !strncmp(known[i], s, strlen(known[i])))
                p.section[at] = section_cut(known[i], rows[at], 1);
        at++;
    }
    p.n_sections = at;
    void *mem = NULL;
    int index = 0;
    MUST(mem_take(d0 * d1 * 8, &mem));
    p.w = tensor_4d(mem, F64, p.shape);
    MUST(param_add(ps, &p, &index));
}

static void add_mamba(struct params *ps, const struct sizes *z, int i) {
    const int64_t inner = z->m_heads * z->m_width, bc = z->groups * z->state, c = inner + 2 * bc;
    const int64_t in[5] = {inner, inner, bc, bc, z->m_heads}, conv[3] = {inner, bc, bc};
    char name[64];
#define NAME(text) (snprintf(name, sizeof name, "layers.%d." text, i), name)
    add(ps, NAME("in_proj.weight"), 2, inner + c + z->m_heads, z->D, "z|x|B|C|dt", in);
    if (z->bias) add(ps, NAME("in_proj.bias"), 1, inner + c + z->m_heads, 1, "z|x|B|C|dt", in);
    add(ps, NAME("conv.weight"), 2, c, z->conv, "x|B|C", conv);
    add(ps, NAME("conv.bias"), 1, c, 1, "x|B|C", conv);
    add(ps, NAME("A_log"), 1, z->m_heads, 1, NULL, NULL);
    add(ps, NAME("D"), 1, z->m_heads, 1, NULL, NULL);
    add(ps, NAME("dt_bias"), 1, z->m_heads, 1, NULL, NULL);
    add(ps, NAME("gated_norm.weight"), 1, inner, 1, NULL, NULL);
    add(ps, NAME("out_proj.weight"), 2, z->D, inner, NULL, NULL);
    if (z->bias) add(ps, NAME("out_proj.bias"), 1, z->D, 1, NULL, NULL);
}

/* Numbers go to where the parameter's w lies. */
static enum status store(void *arg, int param, int64_t first, int64_t n, const void *numbers) {
    const struct tensor w = ((struct params *)arg)->list[param].w;
    const int64_t size = dtype_bytes(w.dtype);
    memcpy((char *)w.data + first * size, numbers, (size_t)(n * size));
    return OK;
}

static enum status read_params(const struct hf_folder *f, struct params *ps) {
    const struct param_sink sink = {.type = ps->list[0].w.dtype, .store = store, .arg = ps};
    return hf_read_params(f, ps, &sink);
}

static void declare(struct params *ps, const struct sizes *z, const char *pattern) {
    const int64_t q = z->heads * z->P, kv = z->kv_heads * z->P, qkv[3] = {q, kv, kv}, up[2] = {z->hidden, z->hidden};
    char name[64];
    *ps = (struct params){0};
    add(ps, "embedding.weight", 2, z->V, z->D, NULL, NULL);
    for (int i = 0; pattern[i]; i++) {
        add(ps, NAME("norm.weight"), 1, z->D, 1, NULL, NULL);
        if (pattern[i] == 'M') add_mamba(ps, z, i);
        if (pattern[i] == '*') {
            add(ps, NAME("qkv.weight"), 2, q + 2 * kv, z->D, "q|k|v", qkv);
            if (z->bias) add(ps, NAME("qkv.bias"), 1, q + 2 * kv, 1, "q|k|v", qkv);
            add(ps, NAME("out.weight"), 2, z->D, q, NULL, NULL);
            if (z->bias) add(ps, NAME("out.bias"), 1, z->D, 1, NULL, NULL);
        }
        if (pattern[i] == '-') {
            add(ps, NAME("up.weight"), 2, (1 + z->gated) * z->hidden, z->D, z->gated ? "gate|up" : NULL, up);
            add(ps, NAME("down.weight"), 2, z->D, z->hidden, NULL, NULL);
        }
    }
    add(ps, "final_norm.weight", 1, z->D, 1, NULL, NULL);
    if (!z->tied) add(ps, "head.weight", 2, z->V, z->D, NULL, NULL);
}

static void undeclare(struct params *ps) {
    for (int i = 0; i < ps->n; i++) mem_free(ps->list[i].w.data);
    params_term(ps);
}

/* ---- the golden folders ---- */

struct place {
    const char *ours;
    int64_t row;
    const char *theirs;
};
#define PLACES_MAX 12
static const struct golden {
    const char *name, *yaml, *pattern;
    struct sizes z;
    struct place place[PLACES_MAX];
} goldens[] = {
    {"llama",
     "model:\n  width: 32\n  vocab: 96\n  tied: false\n  norm_eps: 1e-06\n  init_std: 0.02\n  pattern: \"*-*-\"\n"
     "  layers:\n"
     "    \"*\": {kind: attention, heads: 4, kv_heads: 2, head_width: 8, window: 0, rope: 1.0, rope_theta: 1e+04, "
     "bias: false}\n"
     "    \"-\": {kind: mlp, hidden: 64, activation: swiglu, bias: false}\n",
     "*-*-",
     {.D = 32, .V = 96, .heads = 4, .kv_heads = 2, .P = 8, .hidden = 64, .gated = true},
     {{"layers.2.qkv.weight", 0, "model.layers.1.self_attn.q_proj.weight"},
      {"layers.2.qkv.weight", 32, "model.layers.1.self_attn.k_proj.weight"},
      {"layers.2.qkv.weight", 48, "model.layers.1.self_attn.v_proj.weight"},
      {"layers.2.norm.weight", 0, "model.layers.1.input_layernorm.weight"},
      {"layers.3.norm.weight", 0, "model.layers.1.post_attention_layernorm.weight"},
      {"layers.1.up.weight", 0, "model.layers.0.mlp.gate_proj.weight"},
      {"layers.1.up.weight", 64, "model.layers.0.mlp.up_proj.weight"},
      {"layers.1.down.weight", 0, "model.layers.0.mlp.down_proj.weight"},
      {"layers.0.out.weight", 0, "model.layers.0.self_attn.o_proj.weight"},
      {"embedding.weight", 0, "model.embed_tokens.weight"},
      {"head.weight", 0, "lm_head.weight"}}},
    {"mistral_swa",
     "model:\n  width: 32\n  vocab: 96\n  tied: false\n  norm_eps: 1e-06\n  init_std: 0.02\n  pattern: \"*-*-\"\n"
     "  layers:\n"
     "    \"*\": {kind: attention, heads: 4, kv_heads: 2, head_width: 8, window: 8, rope: 1.0, rope_theta: 1e+04, "
     "bias: false}\n"
     "    \"-\": {kind: mlp, hidden: 64, activation: swiglu, bias: false}\n",
     "*-*-",
     {.D = 32, .V = 96, .heads = 4, .kv_heads = 2, .P = 8, .hidden = 64, .gated = true},
     {{"final_norm.weight", 0, "model.norm.weight"}}},
    {"mamba2",
     "model:\n  width: 32\n  vocab: 96\n  tied: false\n  norm_eps: 1e-05\n  init_std: 0.1\n  pattern: \"MMM\"\n"
     "  layers:\n"
     "    M: {kind: mamba2, heads: 8, head_width: 8, state: 16, groups: 1, conv: 4, chunk: 16, norm_group: 64, "
     "norm_eps: 1e-05, dt_min: 0.0, conv_bias: true, bias: false}\n",
     "MMM",
     {.D = 32, .V = 96, .m_heads = 8, .m_width = 8, .groups = 1, .state = 16, .conv = 4},
     {{"layers.2.in_proj.weight", 0, "backbone.layers.2.mixer.in_proj.weight"},
      {"layers.2.conv.weight", 0, "backbone.layers.2.mixer.conv1d.weight"},
      {"layers.1.conv.bias", 0, "backbone.layers.1.mixer.conv1d.bias"},
      {"layers.1.gated_norm.weight", 0, "backbone.layers.1.mixer.norm.weight"},
      {"layers.1.norm.weight", 0, "backbone.layers.1.norm.weight"},
      {"layers.0.A_log", 0, "backbone.layers.0.mixer.A_log"},
      {"layers.0.D", 0, "backbone.layers.0.mixer.D"},
      {"layers.0.dt_bias", 0, "backbone.layers.0.mixer.dt_bias"},
      {"layers.0.out_proj.weight", 0, "backbone.layers.0.mixer.out_proj.weight"},
      {"final_norm.weight", 0, "backbone.norm_f.weight"},
      {"embedding.weight", 0, "backbone.embeddings.weight"}}},
    {"nemotron_h",
     "model:\n  width: 32\n  vocab: 96\n  tied: false\n  norm_eps: 1e-05\n  init_std: 0.02\n  pattern: \"M-M*-M\"\n"
     "  layers:\n"
     "    M: {kind: mamba2, heads: 8, head_width: 8, state: 16, groups: 2, conv: 4, chunk: 16, norm_group: 32, "
     "norm_eps: 1e-05, dt_min: 0.0, conv_bias: true, bias: false}\n"
     "    \"*\": {kind: attention, heads: 4, kv_heads: 2, head_width: 8, rope: 0.0, bias: false}\n"
     "    \"-\": {kind: mlp, hidden: 64, activation: relu2, bias: false}\n",
     "M-M*-M",
     {.D = 32,
      .V = 96,
      .heads = 4,
      .kv_heads = 2,
      .P = 8,
      .hidden = 64,
      .m_heads = 8,
      .m_width = 8,
      .groups = 2,
      .state = 16,
      .conv = 4},
     {{"layers.3.qkv.weight", 48, "backbone.layers.3.mixer.v_proj.weight"},
      {"layers.3.out.weight", 0, "backbone.layers.3.mixer.o_proj.weight"},
      {"layers.4.up.weight", 0, "backbone.layers.4.mixer.up_proj.weight"},
      {"layers.4.down.weight", 0, "backbone.layers.4.mixer.down_proj.weight"},
      {"layers.5.in_proj.weight", 0, "backbone.layers.5.mixer.in_proj.weight"}}},
};

static void check_place(const struct shard_file *f, const struct params *ps, const struct golden *g,
                        const struct place *at) {
    static double theirs[1 << 16];
    const struct shard_entry *e = shard_find(f, at->theirs);
    const int index = param_find(ps, at->ours);
    CHECK(e && index >= 0, "%s: %s or %s is not there", g->name, at->ours, at->theirs);
    if (!e || index < 0) return;
    const struct param *p = &ps->list[index];
    const int64_t n = e->bytes / dtype_bytes(e->dtype);
    const double *ours = (const double *)p->w.data + at->row * p->shape[1];
    MUST(shard_read(f, e, 0, n, F64, theirs));
    for (int64_t i = 0; i < n; i++)
        if (ours[i] != theirs[i]) {
            CHECK(false, "%s: %s row %" PRId64 ": element %" PRId64 " is %g, %g in %s", g->name, at->ours, at->row, i,
                  ours[i], theirs[i], at->theirs);
            return;
        }
}

static void test_golden(const char *shared, const struct golden *g) {
    char dir[PATH_BYTES], path[PATH_BYTES + 32];
    struct hf_folder *f = NULL;
    struct shard_file file;
    struct text yaml = {0};
    struct params ps;
    struct hf_tensor *list = NULL;
    int n = 0;
    snprintf(dir, sizeof dir, "%s/goldens/%s", shared, g->name);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    MUST(hf_open(&f, dir));
    MUST(hf_model_yaml(f, &yaml));
    CHECK(!strcmp(yaml.s, g->yaml), "%s: it reads as\n%s", g->name, yaml.s);
    declare(&ps, &g->z, g->pattern);
    for (int i = 0; i < ps.n; i++) memset(ps.list[i].w.data, 0xff, (size_t)tensor_bytes(ps.list[i].w));
    MUST(read_params(f, &ps));
    MUST(hf_tensors(f, &ps, &list, &n));
    MUST(shard_open(&file, path));
    CHECK(n == file.n_entries, "%s: %d of %d tensors are mapped", g->name, n, (int)file.n_entries);
    for (int i = 0; i < n; i++) {
        const struct place at = {ps.list[list[i].param].name, list[i].row_begin, list[i].name};
        check_place(&file, &ps, g, &at);
    }
    for (int i = 0; i < PLACES_MAX && g->place[i].ours; i++) check_place(&file, &ps, g, &g->place[i]);
    for (int i = 0; i < ps.n; i++)
        for (int64_t j = 0; j < tensor_count(ps.list[i].w); j++)
            if (isnan(((const double *)ps.list[i].w.data)[j])) {
                CHECK(false, "%s: %s: element %" PRId64 " was not filled", g->name, ps.list[i].name, j);
                break;
            }
    shard_close(&file);
    mem_free(list);
    undeclare(&ps);
    text_term(&yaml);
    hf_close(f);
}

/* ---- small made folders ---- */

static const char llama_config[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 4, \"vocab_size\": 5, \"num_hidden_layers\": 1,\n"
    " \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"intermediate_size\": 3, \"hidden_act\": \"silu\",\n"
    " \"rms_norm_eps\": 1e-05, \"rope_theta\": 500.0, \"torch_dtype\": \"float32\", \"tie_word_embeddings\": false}";

static float values[64];

#define ROW_(text, n, d0, d1)                                                                                          \
    { .name = text, .dtype = F32, .n_dims = n, .shape = {d0, d1, 1, 1}, .data = values }
static const struct shard_item llama_items[] = {
    ROW_("model.embed_tokens.weight", 2, 5, 4),
    ROW_("model.norm.weight", 1, 4, 1),
    ROW_("lm_head.weight", 2, 5, 4),
    ROW_("model.layers.0.input_layernorm.weight", 1, 4, 1),
    ROW_("model.layers.0.self_attn.q_proj.weight", 2, 4, 4),
    ROW_("model.layers.0.self_attn.k_proj.weight", 2, 2, 4),
    ROW_("model.layers.0.self_attn.v_proj.weight", 2, 2, 4),
    ROW_("model.layers.0.self_attn.o_proj.weight", 2, 4, 4),
    ROW_("model.layers.0.post_attention_layernorm.weight", 1, 4, 1),
    ROW_("model.layers.0.mlp.gate_proj.weight", 2, 3, 4),
    ROW_("model.layers.0.mlp.up_proj.weight", 2, 3, 4),
    ROW_("model.layers.0.mlp.down_proj.weight", 2, 4, 3),
};
enum { N_ITEMS = sizeof llama_items / sizeof *llama_items };

static void replace(char *text, size_t room, const char *from, const char *to) {
    char out[2048];
    char *at = strstr(text, from);
    CHECK(at, "a case replaces '%s', which is not there", from);
    if (!at) return;
    snprintf(out, sizeof out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    snprintf(text, room, "%s", out);
}

static void write_text(const char *name, const char *text) {
    char path[PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    MUST(file_replace(path, text, (int64_t)strlen(text)));
}

static void write_items(const char *name, const struct shard_item *items, int64_t n) {
    char path[PATH_BYTES + 64];
    struct shard_sum sum;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
    MUST(shard_write(path, items, n, "{\"format\": \"pt\"}", &sum));
}

static enum status open_and_map(const struct sizes *z, struct text *yaml) {
    struct hf_folder *f = NULL;
    struct params ps;
    enum status st = hf_open(&f, folder);
    if (st != OK) return st;
    MUST(hf_model_yaml(f, yaml));
    declare(&ps, z, "*-");
    st = read_params(f, &ps);
    undeclare(&ps);
    hf_close(f);
    return st;
}

static const struct sizes llama_sizes = {.D = 4, .V = 5, .heads = 2, .kv_heads = 1, .P = 2, .hidden = 3, .gated = true};

/* One change of the configuration: what the YAML then says, or what the refusal says. */
static void test_fields(void) {
    static const struct {
        const char *why, *from, *to;
        bool ok;
        const char *says;
    } cases[] = {
        {"the older spellings", "\"hidden_act\"", "\"hidden_act\"", true,
         "head_width: 2, window: 0, rope: 1.0, rope_theta: 5e+02"},
        {"the newer place of theta", "\"rope_theta\": 500.0",
         "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 7e5}", true, "rope_theta: 7e+05"},
        {"no theta", "\"rope_theta\": 500.0,", "", true, "rope_theta: 1e+04"},
        {"an empty older place", "\"rope_theta\"", "\"rope_scaling\": null, \"rope_theta\"", true, "rope_theta: 5e+02"},
        {"positions scaled, older", "\"rope_theta\"",
         "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}, \"rope_theta\"", false,
         "\"rope_scaling\": positions of type \"linear\""},
        {"positions scaled, newer", "\"rope_theta\": 500.0", "\"rope_parameters\": {\"rope_type\": \"yarn\"}", false,
         "\"rope_parameters\": positions of type \"yarn\""},
        {"half of the head rotated", "\"rope_theta\"", "\"partial_rotary_factor\": 0.5, \"rope_theta\"", false,
         "partial_rotary_factor"},
        {"another activation", "\"silu\"", "\"gelu\"", false, "\"hidden_act\": \"gelu\""},
        {"quantized weights", "\"rope_theta\"", "\"quantization_config\": {}, \"rope_theta\"", false,
         "quantization_config"},
        {"dropout is of training alone", "\"rope_theta\"", "\"attention_dropout\": 0.1, \"rope_theta\"", true,
         "kind: mlp"},
        {"an unknown family", "\"llama\"", "\"gpt2\"", false, "model_type \"gpt2\" is not known here; known: llama"},
        {"no family", "\"model_type\"", "\"type\"", false, "model_type"},
        {"no width", "\"hidden_size\"", "\"hidden\"", false, "\"hidden_size\" is missing"},
        {"a width of nothing", "\"hidden_size\": 4", "\"hidden_size\": 0", false, "\"hidden_size\" is 0"},
        {"a width that is a text", "\"hidden_size\": 4", "\"hidden_size\": \"4\"", false, "\"hidden_size\""},
        {"heads that do not divide", "\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3", false,
         "3 key-value heads"},
        {"no key-value heads: as many as heads", "\"num_key_value_heads\": 1,", "", false, "k_proj.weight: its shape"},
        {"a bias that the files lack", "\"rope_theta\"", "\"attention_bias\": true, \"rope_theta\"", true,
         "bias: true"},
        {"bare infinity elsewhere", "\"rope_theta\"", "\"x\": [Infinity, -Infinity, NaN, \"\\\"NaN\"], \"rope_theta\"",
         true, "rope_theta: 5e+02"},
    };
    write_items("model.safetensors", llama_items, N_ITEMS);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char config[2048];
        struct text yaml = {0};
        struct sizes z = llama_sizes;
        snprintf(config, sizeof config, "%s", llama_config);
        replace(config, sizeof config, cases[i].from, cases[i].to);
        write_text("config.json", config);
        if (strstr(cases[i].why, "no key-value")) z.kv_heads = 2;
        const enum status st = open_and_map(&z, &yaml);
        const char *said = cases[i].ok ? yaml.s : status_text();
        CHECK((st == OK) == cases[i].ok, "%s: %s", cases[i].why, status_text());
        CHECK(said && strstr(said, cases[i].says), "%s: '%s' does not say '%s'", cases[i].why, said ? said : "",
              cases[i].says);
        text_term(&yaml);
    }
    write_text("config.json", llama_config);
}

/* One change of the tensors. */
static void test_tensors(void) {
    struct text yaml = {0};
    struct shard_item items[N_ITEMS + 1];
    struct sizes z = llama_sizes;
    for (int drop = 0; drop < N_ITEMS; drop++) {
        int64_t n = 0;
        for (int i = 0; i < N_ITEMS; i++)
            if (i != drop) items[n++] = llama_items[i];
        write_items("model.safetensors", items, n);
        CHECK(open_and_map(&z, &yaml) == ERR_DATA && strstr(status_text(), llama_items[drop].name) &&
                  strstr(status_text(), "missing"),
              "without %s: %s", llama_items[drop].name, status_text());
        memcpy(items, llama_items, sizeof llama_items);
        items[drop].shape[0]++;
        write_items("model.safetensors", items, N_ITEMS);
        CHECK(open_and_map(&z, &yaml) == ERR_DATA && strstr(status_text(), llama_items[drop].name) &&
                  strstr(status_text(), "shape"),
              "one row more in %s: %s", llama_items[drop].name, status_text());
        memcpy(items, llama_items, sizeof llama_items);
        items[drop].dtype = I32;
        write_items("model.safetensors", items, N_ITEMS);
        CHECK(open_and_map(&z, &yaml) == ERR_DATA && strstr(status_text(), llama_items[drop].name),
              "%s of integers: %s", llama_items[drop].name, status_text());
    }
    memcpy(items, llama_items, sizeof llama_items);
    items[N_ITEMS] = (struct shard_item)ROW_("model.layers.1.input_layernorm.weight", 1, 4, 1);
    write_items("model.safetensors", items, N_ITEMS + 1);
    CHECK(open_and_map(&z, &yaml) == ERR_DATA && strstr(status_text(), "model.layers.1.input_layernorm.weight"),
          "a tensor too many: %s", status_text());
    items[N_ITEMS].name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    write_items("model.safetensors", items, N_ITEMS + 1);
    CHECK(open_and_map(&z, &yaml) == OK, "old files keep wavelengths: %s", status_text());
    text_term(&yaml);
}

static void test_tied(void) {
    struct text yaml = {0};
    struct shard_item items[N_ITEMS];
    struct sizes z = llama_sizes;
    float other[20] = {1};
    char config[2048];
    int64_t n = 0;
    z.tied = true;
    snprintf(config, sizeof config, "%s", llama_config);
    replace(config, sizeof config, "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    write_text("config.json", config);
    write_items("model.safetensors", llama_items, N_ITEMS);
    CHECK(open_and_map(&z, &yaml) == OK && strstr(yaml.s, "tied: true"), "a tied head on disk: %s", status_text());
    memcpy(items, llama_items, sizeof llama_items);
    items[2].data = other;
    write_items("model.safetensors", items, N_ITEMS);
    CHECK(open_and_map(&z, &yaml) == ERR_DATA && strstr(status_text(), "differs from the embedding"),
          "a tied head that differs: %s", status_text());
    for (int i = 0; i < N_ITEMS; i++)
        if (i != 2) items[n++] = llama_items[i];
    write_items("model.safetensors", items, n);
    CHECK(open_and_map(&z, &yaml) == OK, "a tied head that is not on disk: %s", status_text());
    write_text("config.json", llama_config);
    text_term(&yaml);
}

static void index_case(const char *why, const char *text, const char *says) {
    struct text yaml = {0};
    write_text("model.safetensors.index.json", text);
    const enum status st = open_and_map(&llama_sizes, &yaml);
    CHECK(says ? st == ERR_DATA && strstr(status_text(), says) : st == OK, "%s: %s", why, status_text());
    text_term(&yaml);
}

static void test_index(void) {
    struct text index = {0};
    char path[PATH_BYTES + 64], changed[2048];
    write_items("model-00001-of-00002.safetensors", llama_items, 5);
    write_items("model-00002-of-00002.safetensors", llama_items + 5, N_ITEMS - 5);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    MUST(text_print(&index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {"));
    for (int i = 0; i < N_ITEMS; i++)
        MUST(text_print(&index, "%s\"%s\": \"model-0000%d-of-00002.safetensors\"", i ? ", " : "", llama_items[i].name,
                        i < 5 ? 1 : 2));
    MUST(text_print(&index, "}}"));
    index_case("two files", index.s, NULL);
    snprintf(changed, sizeof changed, "%s", index.s);
    replace(changed, sizeof changed, "\"model-00001", "\"../x/model-00001");
    index_case("a path that leaves the folder", changed, "not a plain file name");
    snprintf(changed, sizeof changed, "%s", index.s);
    replace(changed, sizeof changed, "model-00001-of", "model-00002-of");
    index_case("the wrong file", changed, "where the index places it");
    snprintf(changed, sizeof changed, "%s", index.s);
    replace(changed, sizeof changed, "\"lm_head.weight\": \"model-00001-of-00002.safetensors\", ", "");
    index_case("a tensor that the index does not list", changed, "hold 12 tensors, it lists 11");
    snprintf(changed, sizeof changed, "%s", index.s);
    replace(changed, sizeof changed, "\"lm_head.weight\"", "\"lm_head.bias\"");
    index_case("a tensor that no file holds", changed, "lm_head.bias");
    index_case("no map", "{}", "weight_map");
    text_term(&index);
}

int main(void) {
    const char *shared = check_shared();
    if (!mkdtemp(folder)) SKIP("no folder can be made at /tmp");
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) values[i] = (float)i + 0.5f;
    test_fields();
    test_tensors();
    test_tied();
    test_index();
    MUST(file_remove_tree(folder));
    if (!shared || !file_is_folder(shared)) SKIP("no ../shared: the golden folders were not read");
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) test_golden(shared, &goldens[i]);
    return check_end();
}
