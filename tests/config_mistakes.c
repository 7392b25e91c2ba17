/* SPDX-License-Identifier: Apache-2.0 */
/* Seeded mistakes: each is reported at its exact place, under its key path, with its reason and the right suggestion,
 * and nothing else is reported beside it. */
#include "base/arena.h"
#include "launch/config_fields.h"
#include "tests/check.h"

/* A configuration without a mistake; a case replaces one piece of it by another. */
static const char base[] = "model:\n"                                                              /*  1 */
                           "  width: 64\n"                                                         /*  2 */
                           "  vocab: 256\n"                                                        /*  3 */
                           "  pattern: \"M-*-\"\n"                                                 /*  4 */
                           "  layers:\n"                                                           /*  5 */
                           "    M: {kind: mamba2, heads: 4, head_width: 32}\n"                     /*  6 */
                           "    \"*\": {kind: attention, heads: 4, kv_heads: 2, head_width: 16}\n" /*  7 */
                           "    \"-\": {kind: mlp, hidden: 128}\n"                                 /*  8 */
                           "mesh: {data: 2, seq: 2}\n"                                             /*  9 */
                           "train:\n"                                                              /* 10 */
                           "  tokens_per_sequence: 128\n"                                          /* 11 */
                           "  sequences_per_step: 4\n"                                             /* 12 */
                           "  steps: 100\n"                                                        /* 13 */
                           "  precision: f32\n"                                                    /* 14 */
                           "optimizer: {lr: 1e-3, schedule: wsd, warmup_steps: 10}\n"              /* 15 */
                           "data: {train: [tokens/a], valid: [tokens/b]}\n"                        /* 16 */
                           "checkpoint: {every: 10}\n"                                             /* 17 */
                           "run: {dir: runs/x, seed: 1}\n";                                        /* 18 */

struct expect {
    const char *place, *path, *reason, *suggest; /* place NULL: the override as typed; suggest NULL: none */
};
struct mistake_case {
    const char *why, *old, *new, *override;
    struct expect e[6]; /* in the order of their places, ends with reason NULL */
};

#define KEY "unknown key"
#define A16 "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,"
#define A64 A16 A16 A16 A16
/* clang-format off */
static const struct mistake_case cases[] = {
    /* unknown keys */
    {"a section misspelt", "\nmesh:", "\nmash:", NULL, {{"9:1", "mash", KEY, "mesh"}}},
    {"a section with two letters swapped", "checkpoint:", "chekcpoint:", NULL,
     {{"17:1", "chekcpoint", KEY, "checkpoint"}}},
    {"a section far from all", "mesh:", "topology:", NULL, {{"9:1", "topology", KEY, NULL}}},
    {"a required section misspelt lacks its keys too", "run:", "rnu:", NULL,
     {{"1:1", "run.dir", "missing", NULL}, {"18:1", "rnu", KEY, "run"}}},
    {"a key misspelt", "  steps:", "  stesp:", NULL,
     {{"10:1", "train.steps", "missing", NULL}, {"13:3", "train.stesp", KEY, "steps"}}},
    {"a key with a letter too many", "precision", "precisionn", NULL, {{"14:3", "train.precisionn", KEY, "precision"}}},
    {"a key two letters short", "warmup_steps", "warmup_ste", NULL,
     {{"15:38", "optimizer.warmup_ste", KEY, "warmup_steps"}}},
    {"a key with capitals", "lr:", "LR:", NULL, {{"15:13", "optimizer.LR", KEY, "lr"}}},
    {"a key of another section", "steps: 100\n", "steps: 100\n  seed: 3\n", NULL,
     {{"14:3", "train.seed", KEY, "run.seed"}}},
    {"a key without its section", "mesh:", "threads: 2\nmesh:", NULL, {{"9:1", "threads", KEY, "train.threads"}}},
    {"a key of a model section misspelt", "  vocab", "  vocap", NULL,
     {{"1:1", "model.vocab", "missing", NULL}, {"3:3", "model.vocap", KEY, "vocab"}}},
    {"pattern misspelt", "  pattern", "  patern", NULL,
     {{"1:1", "model.pattern", "missing", NULL}, {"4:3", "model.patern", KEY, "pattern"}}},
    {"layers misspelt", "  layers", "  layer", NULL,
     {{"1:1", "model.layers", "missing", NULL}, {"4:13", "model.pattern", "symbol 'M'", NULL},
      {"4:14", "model.pattern", "symbol '-'", NULL}, {"4:15", "model.pattern", "symbol '*'", NULL},
      {"5:3", "model.layer", KEY, "layers"}}},
    {"a layer's key misspelt", "head_width: 32", "head_wdith: 32", NULL,
     {{"6:33", "model.layers.M.head_wdith", KEY, "head_width"}}},
    {"a layer's key of another kind", "hidden: 128", "hidden: 128, kv_heads: 2", NULL,
     {{"8:35", "model.layers.-.kv_heads", KEY, NULL}}},
    {"an empty key", "data: 2", "\"\": 2", NULL, {{"9:8", "mesh.", KEY, NULL}}},
    /* types and ranges */
    {"a word for an integer", "width: 64", "width: wide", NULL, {{"2:10", "model.width", "wants an integer", NULL}}},
    {"a real for an integer", "steps: 100", "steps: 1.5", NULL, {{"13:10", "train.steps", "wants an integer", NULL}}},
    {"an exponent for an integer", "steps: 100", "steps: 1e3", NULL,
     {{"13:10", "train.steps", "wants an integer", NULL}}},
    {"nothing for an integer", "steps: 100", "steps:", NULL, {{"13:9", "train.steps", "nothing is here", NULL}}},
    {"an unknown suffix", "steps: 100", "steps: 100K", NULL, {{"13:10", "train.steps", "wants an integer", NULL}}},
    {"an underscore at the end", "steps: 100", "steps: 100_", NULL,
     {{"13:10", "train.steps", "wants an integer", NULL}}},
    {"hexadecimal", "steps: 100", "steps: 0x10", NULL, {{"13:10", "train.steps", "wants an integer", NULL}}},
    {"beyond 64 bits", "seed: 1", "seed: 99999999999999999999", NULL, {{"18:26", "run.seed", "64 bits", NULL}}},
    {"beyond 64 bits by a suffix", "seed: 1", "seed: 99999999999G", NULL, {{"18:26", "run.seed", "64 bits", NULL}}},
    {"zero where one is the least", "steps: 100", "steps: 0", NULL,
     {{"13:10", "train.steps", "from 1 to 1000000000000", NULL}}},
    {"negative", "seed: 1", "seed: -1", NULL, {{"18:26", "run.seed", "from 0 to", NULL}}},
    {"a tile of no rows", "steps: 100", "steps: 100\n  head_tile: 0", NULL,
     {{"14:14", "train.head_tile", "from 1 to", NULL}}},
    {"a word for a number", "lr: 1e-3", "lr: fast", NULL, {{"15:17", "optimizer.lr", "wants a number", NULL}}},
    {"not a number", "lr: 1e-3", "lr: nan", NULL, {{"15:17", "optimizer.lr", "wants a number", NULL}}},
    {"infinity where there is a bound", "lr: 1e-3", "lr: inf", NULL,
     {{"15:17", "optimizer.lr", "wants a number", NULL}}},
    {"division by zero", "lr: 1e-3", "lr: 1/0", NULL, {{"15:17", "optimizer.lr", "divides by zero", NULL}}},
    {"a number that overflows", "lr: 1e-3", "lr: 1e999", NULL, {{"15:17", "optimizer.lr", "double", NULL}}},
    {"an exponent without digits", "lr: 1e-3", "lr: 1e", NULL, {{"15:17", "optimizer.lr", "wants a number", NULL}}},
    {"a rate out of range", "lr: 1e-3", "lr: 11", NULL, {{"15:17", "optimizer.lr", "from 0 to 10", NULL}}},
    {"yes is no boolean", "vocab: 256", "vocab: 256\n  tied: yes", NULL,
     {{"4:9", "model.tied", "wants true or false", NULL}}},
    {"True is no boolean", "vocab: 256", "vocab: 256\n  tied: True", NULL,
     {{"4:9", "model.tied", "wants true or false", NULL}}},
    {"a choice misspelt", "precision: f32", "precision: fp32", NULL,
     {{"14:14", "train.precision", "wants one of f64|f32|bf16", "f32"}}},
    {"a choice far from all", "precision: f32", "precision: half", NULL,
     {{"14:14", "train.precision", "wants one of f64|f32|bf16", NULL}}},
    {"another choice misspelt", "schedule: wsd", "schedule: wds", NULL,
     {{"15:33", "optimizer.schedule", "wants one of", "wsd"}}},
    {"a list for a value", "steps: 100", "steps: [100]", NULL, {{"13:10", "train.steps", "a list is here", NULL}}},
    {"keys for a value", "steps: 100", "steps: {n: 100}", NULL, {{"13:10", "train.steps", "keys are here", NULL}}},
    {"a value for a section", "mesh: {data: 2, seq: 2}", "mesh: 2", NULL, {{"9:7", "mesh", "wants keys below", NULL}}},
    {"nothing for a section", "mesh: {data: 2, seq: 2}", "mesh:", NULL, {{"9:6", "mesh", "nothing is here", NULL}}},
    {"a list for a section", "mesh: {data: 2, seq: 2}", "mesh: [2]", NULL, {{"9:7", "mesh", "a list is here", NULL}}},
    {"keys in a list", "[tokens/a]", "[{a: b}]", NULL, {{"16:16", "data.train", "keys are here", NULL}}},
    {"a list in a list", "[tokens/a]", "[[tokens/a]]", NULL, {{"16:16", "data.train", "a list is here", NULL}}},
    {"an empty path in a list", "[tokens/a]", "[\"\"]", NULL, {{"16:16", "data.train", "wants a path", NULL}}},
    {"no path at all", "[tokens/a]", "[]", NULL, {{"16:15", "data.train", "at least one path", NULL}}},
    {"more paths than a list holds", "[tokens/a]", "[" A64 "a]", NULL,
     {{"16:15", "data.train", "65 items, at most 64", NULL}}},
    {"more entries than any list holds", "[tokens/a]", "[" A64 A64 A64 A64 "a,a]", NULL,
     {{"16:15", "data.train", "256 items, at most 64", NULL}, {"16:528", "data.train", "more entries", NULL}}},
    {"more items than an override may give", "", "", "data.valid=" A64 "a",
     {{NULL, "data.valid", "more than 64", NULL}}},
    {"an empty run folder", "dir: runs/x", "dir: \"\"", NULL, {{"18:12", "run.dir", "wants a path", NULL}}},
    {"numerics that do not exist", "mesh:", "numerics: fasst\nmesh:", NULL,
     {{"9:11", "numerics", "wants one of", "fast"}}},
    /* missing */
    {"a required key left out", "  steps: 100\n", "", NULL, {{"10:1", "train.steps", "missing", NULL}}},
    {"a required section left out", "data: {train: [tokens/a], valid: [tokens/b]}\n", "", NULL,
     {{"1:1", "data.train", "missing", NULL}}},
    {"a layer without a kind", "{kind: mlp, hidden", "{hidden", NULL,
     {{"8:5", "model.layers.-.kind", "missing", NULL}}},
    {"a layer's required key left out", "{kind: mlp, hidden: 128}", "{kind: mlp}", NULL,
     {{"8:5", "model.layers.-.hidden", "missing", NULL}}},
    /* layer table and pattern */
    {"a kind misspelt", "kind: mamba2", "kind: mamba", NULL,
     {{"6:15", "model.layers.M.kind", "unknown kind", "mamba1"}}},
    {"a kind with letters swapped", "kind: attention", "kind: attnetion", NULL,
     {{"7:17", "model.layers.*.kind", "unknown kind", "attention"}}},
    {"a kind far from all", "kind: mlp", "kind: convolution", NULL,
     {{"8:17", "model.layers.-.kind", "unknown kind", NULL}}},
    {"a list for a kind", "kind: mlp", "kind: [mlp]", NULL, {{"8:17", "model.layers.-.kind", "deeper", NULL}}},
    {"heads that do not divide", "kv_heads: 2", "kv_heads: 3", NULL, {{"7:5", "model.layers.*", "kv_heads", NULL}}},
    {"a value for a row", "{kind: mlp, hidden: 128}", "mlp", NULL, {{"8:10", "model.layers.-", "wants {kind", NULL}}},
    {"a value for the table", "  layers:\n    M: {kind: mamba2, heads: 4, head_width: 32}\n",
     "  layers: none\n  x:\n", NULL,
     {{"4:13", "model.pattern", "symbol 'M'", NULL}, {"4:14", "model.pattern", "symbol '-'", NULL},
      {"4:15", "model.pattern", "symbol '*'", NULL}, {"5:11", "model.layers", "wants symbols", NULL},
      {"6:3", "model.x", KEY, NULL}}},
    {"a symbol of two characters", "    M:", "    MM:", NULL,
     {{"4:13", "model.pattern", "symbol 'M' has no row", NULL}, {"6:5", "model.layers.MM", "one printable", NULL}}},
    {"a symbol kept for pipelines", "    M:", "    \"|\":", NULL,
     {{"4:13", "model.pattern", "symbol 'M' has no row", NULL}, {"6:5", "model.layers.|", "pipeline", NULL}}},
    {"a symbol kept for prediction heads", "    M:", "    /:", NULL,
     {{"4:13", "model.pattern", "symbol 'M' has no row", NULL}, {"6:5", "model.layers./", "multi-token", NULL}}},
    {"a symbol in the wrong case", "\"M-*-\"", "\"M-*-m\"", NULL,
     {{"4:17", "model.pattern", "symbol 'm' has no row", "M"}}},
    {"a symbol without a row", "\"M-*-\"", "\"M-*E\"", NULL,
     {{"4:16", "model.pattern", "symbol 'E' has no row in model.layers, which has * - M", NULL}}},
    {"a symbol without a row, unquoted pattern", "\"M-*-\"", "M-*E-", NULL,
     {{"4:15", "model.pattern", "symbol 'E' has no row", NULL}}},
    {"two symbols without a row, one twice", "\"M-*-\"", "\"EM-E*X\"", NULL,
     {{"4:13", "model.pattern", "symbol 'E'", NULL}, {"4:18", "model.pattern", "symbol 'X'", NULL}}},
    {"an escaped pattern shows its beginning", "\"M-*-\"", "\"M\\x2d*E\"", NULL,
     {{"4:12", "model.pattern", "symbol 'E'", NULL}}},
    {"a pipeline cut", "\"M-*-\"", "\"M-|*-\"", NULL, {{"4:15", "model.pattern", "not supported yet", NULL}}},
    {"a prediction head", "\"M-*-\"", "\"M-*-/M\"", NULL, {{"4:17", "model.pattern", "model.mtp.pattern", NULL}}},
    {"a head of an unknown layer", "  layers:\n", "  mtp: {pattern: \"*E\"}\n  layers:\n", NULL,
     {{"5:20", "model.mtp.pattern", "symbol 'E' has no row", NULL}}},
    {"a head of no layer", "  layers:\n", "  mtp: {pattern: \"\"}\n  layers:\n", NULL,
     {{"5:18", "model.mtp.pattern", "wants 1 to 128 layers, not 0", NULL}}},
    {"heads without their layers", "  layers:\n", "  mtp: {depths: 2}\n  layers:\n", NULL,
     {{"5:3", "model.mtp.pattern", "missing", NULL}}},
    {"more heads than there can be", "  layers:\n", "  mtp: {pattern: \"M\", depths: 9}\n  layers:\n", NULL,
     {{"5:31", "model.mtp.depths", "8", NULL}}},
    {"a key of heads misspelt", "  layers:\n", "  mtp: {pattern: \"M\", depth: 2}\n  layers:\n", NULL,
     {{"5:23", "model.mtp.depth", KEY, "depths"}}},
    {"a text for heads", "  layers:\n", "  mtp: \"M\"\n  layers:\n", NULL,
     {{"5:8", "model.mtp", "wants {pattern: TEXT", NULL}}},
    {"a space in a pattern", "\"M-*-\"", "\"M- *-\"", NULL, {{"4:15", "model.pattern", "no symbol is a space", NULL}}},
    {"a row that is never used", "\"M-*-\"", "\"M-M-\"", NULL,
     {{"7:5", "model.layers.*", "the pattern never uses this symbol", NULL}}},
    {"no layer", "\"M-*-\"", "\"\"", NULL, {{"4:12", "model.pattern", "has no layer", NULL}}},
    {"a list for a pattern", "\"M-*-\"", "[M]", NULL, {{"4:12", "model.pattern", "a list is here", NULL}}},
    {"a repeat without times", "\"M-*-\"", "{repeat: \"M-*-\"}", NULL,
     {{"4:3", "model.pattern.times", "missing", NULL}}},
    {"a repeat misspelt", "\"M-*-\"", "{repeat: \"M-*-\", time: 2}", NULL,
     {{"4:3", "model.pattern.times", "missing", NULL}, {"4:29", "model.pattern.time", KEY, "times"}}},
    {"a stack too deep", "\"M-*-\"", "{repeat: \"M-*-\", times: 300}", NULL,
     {{"4:21", "model.pattern.repeat", "at most 1024", NULL}}},
    {"a symbol without a row in a repeat", "\"M-*-\"", "{repeat: \"M-*E\", times: 2}", NULL,
     {{"4:25", "model.pattern.repeat", "symbol 'E'", NULL}}},
    {"pattern and ratio", "\"M-*-\"", "\"M-*-\"\n  ratio: {attention: 1/2, layers: 2}", NULL,
     {{"5:3", "model.ratio", "in the place of pattern", NULL}}},
    {"a ratio that is not 1/n", "pattern: \"M-*-\"", "ratio: {attention: 2/5, layers: 4}", NULL,
     {{"4:22", "model.ratio.attention", "wants 1/n", NULL}}},
    {"a ratio above one", "pattern: \"M-*-\"", "ratio: {attention: 3/2, layers: 4}", NULL,
     {{"4:22", "model.ratio.attention", "from 0 to 1", NULL}}},
    {"a ratio of experts without such a row", "pattern: \"M-*-\"", "ratio: {attention: 1/2, moe: 1/2, layers: 4}", NULL,
     {{"4:3", "model.ratio", "kind moe", NULL}}},
    {"a ratio without layers", "pattern: \"M-*-\"", "ratio: {attention: 1/2}", NULL,
     {{"4:3", "model.ratio.layers", "missing", NULL}}},
    {"a ratio that never reaches attention", "pattern: \"M-*-\"", "ratio: {attention: 1/8, layers: 2}", NULL,
     {{"7:5", "model.layers.*", "never uses", NULL}}},
    {"a text for a ratio", "pattern: \"M-*-\"", "ratio: 1/8", NULL,
     {{"4:10", "model.ratio", "wants {attention", NULL}}},
    /* keys that do not go together */
    {"warm-up beyond the run", "warmup_steps: 10", "warmup_steps: 101", NULL,
     {{"15:52", "optimizer.warmup_steps", "more than the 100 steps", NULL}}},
    {"a decay beyond the run", "warmup_steps: 10", "warmup_steps: 10, decay_steps: 91", NULL,
     {{"15:69", "optimizer.decay_steps", "more than the 90 steps", NULL}}},
    {"micro-batches that do not fit", "steps: 100", "steps: 100\n  micro_batch: 3", NULL,
     {{"14:16", "train.micro_batch", "does not divide", NULL}}},
    {"every second input of all activations", "steps: 100", "steps: 100\n  keep_every: 2", NULL,
     {{"14:15", "train.keep_every", "wants train.keep: inputs", NULL}}},
    {"experts without a number", "{kind: mlp, hidden: 128}", "{kind: moe, hidden: 128, top_k: 2}", NULL,
     {{"8:5", "model.layers.-.experts", "missing", NULL}}},
    {"more choices than experts", "{kind: mlp, hidden: 128}", "{kind: moe, hidden: 128, experts: 4, top_k: 5}", NULL,
     {{"8:5", "model.layers.-", "top_k 5 is more than experts 4", NULL}}},
    {"groups that do not divide experts", "{kind: mlp, hidden: 128}",
     "{kind: moe, hidden: 128, experts: 4, top_k: 2, groups: 3}", NULL,
     {{"8:5", "model.layers.-", "groups 3 does not divide experts 4", NULL}}},
    {"more groups chosen than there are", "{kind: mlp, hidden: 128}",
     "{kind: moe, hidden: 128, experts: 4, top_k: 2, groups: 2, top_groups: 3}", NULL,
     {{"8:5", "model.layers.-", "top_groups 3 is more than groups 2", NULL}}},
    {"more choices than the chosen groups hold", "{kind: mlp, hidden: 128}",
     "{kind: moe, hidden: 128, experts: 8, top_k: 3, groups: 4}", NULL,
     {{"8:5", "model.layers.-", "top_k 3 is more than the 2 experts of top_groups 1", NULL}}},
    {"scores misspelt", "{kind: mlp, hidden: 128}", "{kind: moe, hidden: 128, experts: 8, top_k: 3, scores: sigmiod}",
     NULL, {{"8:65", "model.layers.-.scores", "wants one of softmax|sigmoid", "sigmoid"}}},
    {"experts that do not divide", "seq: 2}", "seq: 2, expert: 3}", NULL,
     {{"9:33", "mesh.expert", "does not divide", NULL}}},
    /* YAML that no configuration holds */
    {"an unclosed bracket", "mesh: {data: 2, seq: 2}", "mesh: {data: 2, seq: 2", NULL,
     {{"9:22", "mesh.seq", "'2 train' is not one", NULL}, {"10:6", "", "YAML syntax", NULL}}},
    {"an unquoted star as a key", "    \"*\":", "    *:", NULL, {{"7:6", "", "needs quotes", NULL}}},
    {"a pattern taken for an alias", "\"M-*-\"", "*-M-", NULL, {{"4:12", "model.pattern", "needs quotes", NULL}}},
    {"an alias", "steps: 100", "steps: *n", NULL, {{"13:10", "train.steps", "aliases", NULL}}},
    {"an anchor", "steps: 100", "steps: &n 100", NULL, {{"13:10", "train.steps", "anchors", NULL}}},
    {"an anchor on a mapping", "mesh: {", "mesh: &m {", NULL, {{"9:7", "mesh", "anchors", NULL}}},
    {"an alias bomb", "mesh: {data: 2, seq: 2}", "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]", NULL,
     {{"9:1", "a", KEY, NULL}, {"9:4", "a", "anchors", NULL}, {"10:1", "b", KEY, NULL}, {"10:4", "b", "anchors", NULL},
      {"10:8", "b", "aliases", NULL}, {"10:12", "b", "aliases", NULL}}},
    {"a tag", "steps: 100", "steps: !!int 100", NULL, {{"13:10", "train.steps", "tags", NULL}}},
    {"a tag that names code", "[tokens/a]", "!!python/object:os.system [x]", NULL,
     {{"16:15", "data.train", "tags", NULL}}},
    {"a merge key", "{data: 2,", "{<<: 2,", NULL, {{"9:8", "mesh.<<", "merge keys", NULL}}},
    {"a key given twice", "  steps: 100\n", "  steps: 100\n  steps: 200\n", NULL,
     {{"14:3", "train.steps", "given twice, first in line 13", NULL}}},
    {"a section given twice", "mesh: {data: 2, seq: 2}", "mesh: {data: 2, seq: 2}\nmesh: {data: 1}", NULL,
     {{"10:1", "mesh", "given twice, first in line 9", NULL}}},
    {"a symbol given twice", "    \"-\":", "    M: {kind: mlp, hidden: 3}\n    \"-\":", NULL,
     {{"8:5", "model.layers.M", "given twice, first in line 6", NULL}}},
    {"a second document", "run: {dir: runs/x, seed: 1}\n", "run: {dir: runs/x, seed: 1}\n---\nmodel: {}\n", NULL,
     {{"19:1", "", "second document", NULL}}},
    {"a tab between", "steps: 100", "steps:\t100", NULL, {{"13:9", "", "a tab", NULL}}},
    {"a tab to indent", "  steps: 100\n", "\tsteps: 100\n", NULL,
     {{"13:1", "", "a tab", NULL}, {"13:2", "", "YAML", NULL}}},
    {"tabs in two lines", "width: 64\n  vocab: 256", "width:\t64\n  vocab:\t\t256", NULL,
     {{"2:9", "", "a tab", NULL}, {"3:9", "", "a tab", NULL}}},
    {"nested too deep", "hidden: 128}", "hidden: {a: 1}}", NULL, {{"8:30", "model.layers.-.hidden", "deeper", NULL}}},
    {"nested much too deep", "hidden: 128}", "hidden: [[[[[[[[[[[1]]]]]]]]]]]}", NULL,
     {{"8:30", "model.layers.-.hidden", "deeper", NULL}}},
    {"a mapping for a key", "mesh: {data: 2,", "mesh: {? {a: b} : 2,", NULL,
     {{"9:10", "mesh", "must be a word", NULL}}},
    {"a NUL character", "dir: runs/x", "dir: \"runs\\0x\"", NULL, {{"18:12", "run.dir", "NUL", NULL}}},
    {"bytes that are not UTF-8", "dir: runs/x", "dir: runs\xff", NULL, {{"18:16", "", "UTF-8", NULL}}},
    {"a control character", "dir: runs/x", "dir: runs\x01", NULL, {{"18:16", "", "control", NULL}}},
    {"a whole file of one word", base, "hello\n", NULL, {{"1:1", "", "wants keys and values", NULL}}},
    {"a whole file of a list", base, "- a\n- b\n", NULL, {{"1:1", "", "a list is here", NULL}}},
    {"an empty file", base, "", NULL, {{"1:1", "", "nothing is here", NULL}}},
    {"a file of comments", base, "# nothing\n", NULL, {{"1:1", "", "nothing is here", NULL}}},
    {"a path that is too long", "[tokens/a]", NULL, NULL, {{"16:16", "data.train", "path too long", NULL}}},
    /* several at once, in one pass */
    {"several mistakes", "  steps: 100\n  precision: f32\noptimizer: {lr: 1e-3,",
     "  steps: x\n  precison: f16\noptimizer: {lr: y,", NULL,
     {{"13:10", "train.steps", "wants an integer", NULL}, {"14:3", "train.precison", KEY, "precision"},
      {"15:17", "optimizer.lr", "wants a number", NULL}}},
    {"what stands before a syntax error counts", "  steps: 100\n  precision: f32",
     "  stepz: 1\n  precision: f32: x", NULL,
     {{"13:3", "train.stepz", KEY, "steps"}, {"14:17", "", "YAML syntax", NULL}}},
    {"a mistake in the file and one in an override", "steps: 100", "steps: x", "optimizer.lr=y",
     {{"13:10", "train.steps", "wants an integer", NULL}, {NULL, "optimizer.lr", "wants a number", NULL}}},
    /* overrides */
    {"an override without a value", "", "", "train.steps", {{NULL, "", "wants key=value", NULL}}},
    {"an override without a key", "", "", "=3", {{NULL, "", "wants key=value", NULL}}},
    {"an override of a key misspelt", "", "", "train.stesp=3", {{NULL, "train.stesp", KEY, "steps"}}},
    {"an override of a section misspelt", "", "", "trian.steps=3", {{NULL, "trian", KEY, "train"}}},
    {"an override without its section", "", "", "steps=3", {{NULL, "steps", KEY, "train.steps"}}},
    {"an override of a section", "", "", "train=3", {{NULL, "train", "wants keys below", NULL}}},
    {"an override of the wrong type", "", "", "train.steps=many", {{NULL, "train.steps", "wants an integer", NULL}}},
    {"an override out of range", "", "", "train.steps=-1", {{NULL, "train.steps", "from 1 to", NULL}}},
    {"an override of a choice misspelt", "", "", "train.precision=f23", {{NULL, "train.precision", "one of", "f32"}}},
    {"an override of a symbol's key misspelt", "", "", "model.layers.*.haeds=2",
     {{NULL, "model.layers.*.haeds", KEY, "heads"}}},
    {"an override that adds a row of no kind", "", "", "model.layers.X.heads=2",
     {{NULL, "model.layers.X.kind", "missing", NULL}, {NULL, "model.layers.X", "never uses", NULL}}},
    {"an override of a kind misspelt", "", "", "model.layers.-.kind=mpl",
     {{NULL, "model.layers.-.kind", "unknown kind", "mlp"}}},
    {"an override with a symbol without a row", "", "", "model.pattern=M-*-Q",
     {{NULL, "model.pattern", "symbol 'Q'", NULL}}},
    {"an override too deep", "", "", "model.layers.M.heads.x=2", {{NULL, "", "more than 4 levels", NULL}}},
    {"an override below a value", "", "", "train.steps.x=2", {{NULL, "train.steps", "keys are here", NULL}}},
    {"an override that breaks a rule", "", "", "optimizer.warmup_steps=1k",
     {{NULL, "optimizer.warmup_steps", "more than the 100 steps", NULL}}},
    {"an override that is not UTF-8", "", "", "run.dir=\xc3", {{NULL, "", "UTF-8", NULL}}},
    {"an empty override", "", "", "run.dir=", {{NULL, "run.dir", "wants a path", NULL}}},
    {"an empty item of a list", "", "", "data.train=a,,b", {{NULL, "data.train", "wants a path", NULL}}},
};
/* clang-format on */

/* base with the first `old` replaced; where the case gives no text, a path longer than any. */
static void make_yaml(const struct mistake_case *c, struct text *out) {
    char long_path[2000];
    snprintf(long_path, sizeof long_path, "[%01200d]", 7);
    const char *new = c->new ? c->new : long_path, *at = strstr(base, c->old);
    CHECK(at, "%s: the base does not hold '%s'", c->why, c->old);
    MUST(text_add(out, base, at - base));
    MUST(text_print(out, "%s%s", new, at + strlen(c->old)));
}

static void check_line(const char *why, const char *line, const struct expect *e, const char *override) {
    char head[512], suggestion[128];
    if (!e->place) snprintf(head, sizeof head, "%s: ", override);
    else snprintf(head, sizeof head, "file.yaml:%s: ", e->place);
    const size_t place = strlen(head);
    if (*e->path) snprintf(head + place, sizeof head - place, "%s: ", e->path);
    const bool placed = !strncmp(line, head, strlen(head));
    CHECK(placed, "%s: wanted '%s...', found '%s'", why, head, line);
    if (!placed) return;
    CHECK(strstr(line + strlen(head), e->reason), "%s: wanted '%s' in '%s'", why, e->reason, line);
    snprintf(suggestion, sizeof suggestion, "did you mean '%s'?", e->suggest ? e->suggest : "");
    if (e->suggest) CHECK(strstr(line, suggestion), "%s: wanted %s in '%s'", why, suggestion, line);
    else CHECK(!strstr(line, "did you mean"), "%s: no suggestion fits in '%s'", why, line);
}

static void check_case(const struct mistake_case *c) {
    struct text yaml = {0}, errors = {0};
    struct config config;
    struct config_source from = {.where = "file.yaml", .overrides = &c->override, .n_overrides = c->override != NULL};
    make_yaml(c, &yaml);
    from.text = yaml.s;
    from.text_bytes = yaml.n;
    const enum status st = config_read(&config, &from, &errors);
    CHECK(st == ERR_CONFIG, "%s: status %s", c->why, status_name(st));
    int n = 0, wanted = 0;
    while (wanted < 6 && c->e[wanted].reason) wanted++;
    for (char *line = strtok(errors.s, "\n"); line; line = strtok(NULL, "\n"), n++) {
        if (n == 0)
            CHECK(!strcmp(status_text(), line), "%s: status_text is '%s', not '%s'", c->why, status_text(), line);
        if (n < wanted) check_line(c->why, line, &c->e[n], c->override);
        else CHECK(n >= 6, "%s: not expected: '%s'", c->why, line);
    }
    CHECK(n >= wanted, "%s: %d of %d mistakes found", c->why, n, wanted);
    config_term(&config);
    text_term(&yaml);
    text_term(&errors);
}

static int n_typos;

/* One mistyped key in a file that has nothing else: the suggestion must be the key it came from, unless another key of
 * the section is as near. */
static void check_typo(const struct config_section *s, const struct field *f, const char *typed) {
    char path[128], place[16], why[128];
    struct text yaml = {0}, errors = {0};
    int n_near = 0;
    for (const struct field *other = s->fields; other->key; other++)
        n_near += text_distance(other->key, typed) <= text_distance(f->key, typed);
    snprintf(why, sizeof why, "%s.%s typed as %s", s->name, f->key, typed);
    snprintf(path, sizeof path, "%s.%s: unknown key; did you mean '%s'?", s->name, typed, f->key);
    if (n_near != 1 || field_find(s->fields, typed)) return;
    MUST(text_print(&yaml, "# a comment\n%s:\n    %s: 1\n", s->name, typed));
    struct config config;
    const struct config_source from = {.where = "typo.yaml", .text = yaml.s, .text_bytes = yaml.n};
    const enum status st = config_read(&config, &from, &errors);
    snprintf(place, sizeof place, "3:5: ");
    CHECK(st == ERR_CONFIG && strstr(errors.s, path) && strstr(errors.s, place), "%s: %s", why, errors.s);
    n_typos++;
    text_term(&yaml);
    text_term(&errors);
}

/* Every key of every section with a letter left out, doubled, replaced and swapped with the next. */
static void check_typos(void) {
    for (const struct config_section *s = config_sections; s->name; s++)
        for (const struct field *f = s->fields; f->key; f++)
            for (int i = 0; f->key[i]; i++) {
                char typed[4][64];
                for (int k = 0; k < 4; k++) snprintf(typed[k], sizeof typed[k], "%s", f->key);
                memmove(typed[0] + i, typed[0] + i + 1, strlen(typed[0] + i));
                memmove(typed[1] + i + 1, typed[1] + i, strlen(typed[1] + i) + 1);
                typed[2][i] = 'x';
                if (f->key[i + 1]) {
                    typed[3][i] = f->key[i + 1];
                    typed[3][i + 1] = f->key[i];
                }
                for (int k = 0; k < 4; k++)
                    if (*typed[k]) check_typo(s, f, typed[k]);
            }
    CHECK(n_typos > 300, "only %d typos were tried", n_typos);
}

/* Distances that the suggestions rest on. */
static void check_distances(void) {
    static const struct {
        const char *a, *b;
        int distance;
    } rows[] = {{"", "", 0},          {"", "ab", 2},         {"steps", "steps", 0}, {"stesp", "steps", 1},
                {"step", "steps", 1}, {"a", "b", 1},         {"ca", "abc", 3},      {"kitten", "sitting", 3},
                {"lr", "rl", 1},      {"warmup", "wramp", 2}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int d = text_distance(rows[i].a, rows[i].b), back = text_distance(rows[i].b, rows[i].a);
        CHECK(d == rows[i].distance && back == d, "'%s' and '%s': %d and %d, not %d", rows[i].a, rows[i].b, d, back,
              rows[i].distance);
    }
}

int main(void) {
    check_distances();
    check_typos();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(&cases[i]);
    return check_end();
}
