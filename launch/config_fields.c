/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/config_fields.h"
#include <string.h>
#include "dist/world.h"
#include "launch/exposed.h"
#include "model/model.h"
#include "parallel/shard_map.h"
#include "parallel/sharding.h"

#define STEPS_MAX 1e12
#define FREE      true
#define IDENTITY  false

#define AT(key) offsetof(struct mesh_config, key)
static const struct field mesh_fields[] = {
    {"data", FIELD_INT, AT(data), "1", 1, 65536, NULL, "ranks that share the sequences of a step", FREE},
    {"seq", FIELD_INT, AT(seq), "1", 1, 65536, NULL, "ranks that share the tokens of a sequence", FREE},
    {"tensor", FIELD_INT, AT(tensor), "1", 1, 65536, NULL,
     "ranks that share heads, channels, experts' width and vocabulary of all layers", FREE},
    {"expert", FIELD_INT, AT(expert), "1", 1, 65536, NULL, "ranks that share the experts; divides data x seq", FREE},
    {"pipe", FIELD_INT, AT(pipe), "1", 1, 65536, NULL, "ranks that share the layers", FREE},
    {"layout", FIELD_CHOICE, AT(layout), "contiguous", 0, 0, SHARD_LAYOUT_CHOICES,
     "which tokens a rank of seq holds: one stretch, or two that balance causal attention", FREE},
    {"carry", FIELD_CHOICE, AT(carry), "auto", 0, 0, MESH_CARRY_CHOICES,
     "how states cross ranks; auto: gather while the states are small, else scan", FREE},
    {"attention", FIELD_CHOICE, AT(attention), "auto", 0, 0, MESH_ATTENTION_CHOICES,
     "heads for tokens, or gathered keys; auto: swap where heads divide", FREE},
    {"shard", FIELD_CHOICE, AT(shard), "optimizer", 0, 0, SHARDING_CHOICES,
     "what the ranks of data x seq hold in slices: optimizer state, gradients too, parameters too", FREE},
    {"transport", FIELD_CHOICE, AT(transport), "auto", 0, 0, DEVICE_WAY_CHOICES,
     "what moves bytes between GPUs; auto: copies where two ranks share one, else nccl", FREE},
    {"tensor_part", FIELD_INT, AT(tensor_part), "1024", 0, 1e9, NULL,
     "with tensor: rows, or more, of the parts in which a layer's outer products run beside their exchange; 0: no "
     "parts",
     FREE},
    {"expert_room", FIELD_REAL, AT(expert_room), "1.5", 0.001, 1e6, NULL,
     "with expert: rows planned for a rank's experts, over those of an even load; more come in further rounds", FREE},
    {"deadline", FIELD_REAL, AT(deadline), "600", 0.001, 1e6, NULL, "seconds that a rank waits for another", FREE},
    FIELDS_END};
#undef AT

#define AT(key) offsetof(struct train_config, key)
static const struct field train_fields[] = {
    {"tokens_per_sequence", FIELD_INT, AT(tokens_per_sequence), NULL, 1, 1e12, NULL, "tokens of one sequence",
     IDENTITY},
    {"sequences_per_step", FIELD_INT, AT(sequences_per_step), NULL, 1, 1e9, NULL, "sequences of one optimizer step",
     IDENTITY},
    {"steps", FIELD_INT, AT(steps), NULL, 1, STEPS_MAX, NULL, "optimizer steps of the run", FREE},
    {"micro_batch", FIELD_INT, AT(micro_batch), "1", 1, 1e9, NULL, "sequences of one pass; divides sequences_per_step",
     FREE},
    {"precision", FIELD_CHOICE, AT(precision), "f32", 0, 0, PRECISION_CHOICES,
     "numbers of weights and activations: f64 on the CPU, f32, bf16 on a GPU", IDENTITY},
    {"head_tile", FIELD_INT, AT(head_tile), "1024", 1, 1 << 24, NULL, "tokens of one tile of the output projection",
     FREE},
    {"valid_every", FIELD_INT, AT(valid_every), "0", 0, STEPS_MAX, NULL,
     "steps between validations; 0: only at the end", FREE},
    {"valid_sequences", FIELD_INT, AT(valid_sequences), "16", 1, 1e9, NULL, "sequences of one validation", FREE},
    {"threads", FIELD_INT, AT(threads), "0", 0, 4096, NULL, "host threads; 0: all cores this process may use", FREE},
    {"keep", FIELD_CHOICE, AT(keep), "all", 0, 0, POLICY_CHOICES,
     "activations kept for backward; the others are computed again", FREE},
    {"keep_every", FIELD_INT, AT(keep_every), "1", 1, LAYERS_MAX, NULL,
     "with keep: inputs, layers whose input is kept: every one, every second, ...", FREE},
    {"offload", FIELD_REAL, AT(offload), "0", 0, 1, NULL,
     "share of the layers whose kept activations wait in the host's memory until backward; the last three stay", FREE},
    FIELDS_END};
#undef AT

#define AT(key) offsetof(struct optimizer_config, key)
static const struct field optimizer_fields[] = {
    {"kind", FIELD_CHOICE, AT(kind), "adamw", 0, 0, "adamw", "the optimizer", IDENTITY},
    {"lr", FIELD_REAL, AT(lr), "3e-4", 0, 10, NULL, "learning rate after the warm-up", IDENTITY},
    {"lr_min_ratio", FIELD_REAL, AT(lr_min_ratio), "0.1", 0, 1, NULL, "the decay ends at lr times this", IDENTITY},
    {"beta1", FIELD_REAL, AT(beta1), "0.9", 0, 0.999999, NULL, "decay of the first moment", IDENTITY},
    {"beta2", FIELD_REAL, AT(beta2), "0.95", 0, 0.999999, NULL, "decay of the second moment", IDENTITY},
    {"eps", FIELD_REAL, AT(eps), "1e-8", 1e-30, 1, NULL, "added to the root of the second moment", IDENTITY},
    {"weight_decay", FIELD_REAL, AT(weight_decay), "0.1", 0, 10, NULL, "decoupled weight decay", IDENTITY},
    {"clip_norm", FIELD_REAL, AT(clip_norm), "1.0", 0, 1e30, NULL, "largest gradient norm; 0: no clipping", IDENTITY},
    {"schedule", FIELD_CHOICE, AT(schedule), "wsd", 0, 0, SCHEDULE_CHOICES,
     "learning rate after the warm-up: constant, cosine, or wsd (stable, then a linear decay)", IDENTITY},
    {"warmup_steps", FIELD_INT, AT(warmup_steps), "0", 0, STEPS_MAX, NULL, "steps of linear warm-up", IDENTITY},
    {"decay_steps", FIELD_INT, AT(decay_steps), "0", 0, STEPS_MAX, NULL, "steps of wsd's decay; 0: no decay", IDENTITY},
    FIELDS_END};
#undef AT

#define AT(key) offsetof(struct data_config, key)
static const struct field data_fields[] = {
    {"train", FIELD_LIST, AT(train), NULL, 0, 0, NULL, "prefixes of token files (PREFIX.bin, PREFIX.idx)", IDENTITY},
    {"valid", FIELD_LIST, AT(valid), "", 0, 0, NULL, "the same, for validation", IDENTITY},
    {"packing", FIELD_CHOICE, AT(packing), "documents", 0, 0, "documents",
     "documents follow each other in a sequence, each seeing only itself", IDENTITY},
    FIELDS_END};
#undef AT

#define AT(key) offsetof(struct checkpoint_config, key)
static const struct field checkpoint_fields[] = {
    {"every", FIELD_INT, AT(every), "100", 0, STEPS_MAX, NULL, "steps between checkpoints; 0: only at the end", FREE},
    {"keep", FIELD_INT, AT(keep), "3", 1, 1e6, NULL, "newest checkpoints that stay", FREE},
    FIELDS_END};
#undef AT

#define AT(key) offsetof(struct kernels_config, key)
static const struct field kernels_fields[] = {
    {"plain", FIELD_CHOICE, AT(plain), "refuse", 0, 0, PLAIN_CHOICES,
     "sizes without a BF16 kernel: refused, or computed in F32 on copies, slowly", FREE},
    FIELDS_END};
#undef AT

#define AT(key) offsetof(struct run_config, key)
static const struct field run_fields[] = {
    {"dir", FIELD_TEXT, AT(dir), NULL, 0, 0, NULL, "folder of the run, made if it does not exist", FREE},
    {"seed", FIELD_INT, AT(seed), "1", 0, 9e15, NULL, "seed of initial weights and data order", IDENTITY},
    {"tensorboard", FIELD_BOOL, AT(tensorboard), "true", 0, 0, NULL, "write TensorBoard event files too", FREE},
    {"profile", FIELD_INT, AT(profile), "0", 0, 1e15, NULL,
     "steps between reports of a GPU's time by op and seam, from the second on; 0: none", FREE},
    {"trace", FIELD_INT, AT(trace), "0", 0, 1e15, NULL,
     "step whose ranges, and kernels of GPUs, go into trace-STEP.json of the run folder (Perfetto); 0: none", FREE},
    {"exposed", FIELD_INT, AT(exposed), "0", 0, EXPOSED_ROUNDS, NULL,
     "rounds of steps with and without each kind of exchange, before the first step: what communication costs; 0: none",
     FREE},
    FIELDS_END};
#undef AT

const struct config_section config_sections[] = {{"model", model_fields, offsetof(struct config, model)},
                                                 {"mesh", mesh_fields, offsetof(struct config, mesh)},
                                                 {"train", train_fields, offsetof(struct config, train)},
                                                 {"optimizer", optimizer_fields, offsetof(struct config, optimizer)},
                                                 {"data", data_fields, offsetof(struct config, data)},
                                                 {"checkpoint", checkpoint_fields, offsetof(struct config, checkpoint)},
                                                 {"kernels", kernels_fields, offsetof(struct config, kernels)},
                                                 {"run", run_fields, offsetof(struct config, run)},
                                                 {NULL, NULL, 0}};

const struct field config_root_fields[] = {
    {"numerics", FIELD_CHOICE, offsetof(struct config, numerics), "fast", 0, 0, NUMERICS_CHOICES,
     "fast: sums in the order that is fastest on this mesh; rank_invariant: the same bits for any mesh.seq", IDENTITY},
    FIELDS_END};

#define AT(key) offsetof(struct repeat_form, key)
const struct field repeat_fields[] = {
    {"repeat", FIELD_TEXT, AT(repeat), NULL, 0, 0, NULL, "the symbols that repeat", IDENTITY},
    {"times", FIELD_INT, AT(times), NULL, 1, LAYERS_MAX, NULL, "how often", IDENTITY},
    FIELDS_END};
#undef AT

#define AT(key) offsetof(struct ratio_form, key)
const struct field ratio_fields[] = {
    {"attention", FIELD_REAL, AT(attention), "0", 0, 1, NULL, "1/n: attention in one of n pairs; 0: none", IDENTITY},
    {"moe", FIELD_REAL, AT(moe), "0", 0, 1, NULL, "1/n: experts in one of n pairs; 0: none", IDENTITY},
    {"layers", FIELD_INT, AT(layers), NULL, 1, LAYERS_MAX / 2, NULL, "pairs of a mixer and a feed-forward", IDENTITY},
    FIELDS_END};
#undef AT

bool field_is_path(const struct field *f, const struct config_section *s) {
    if (!s) return false;
    return f->type == FIELD_LIST || (f->type == FIELD_TEXT && s->fields == run_fields);
}
