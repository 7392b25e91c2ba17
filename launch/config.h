/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_CONFIG_H
#define BATON_LAUNCH_CONFIG_H
/* config.h - a run's configuration: YAML of four levels at most, typed by field tables, with overrides key=value.
 *
 * All mistakes of a file are reported in one pass, each as file:line:column: key path: reason, with the nearest key
 * where one is at distance 2 or less; an override names itself as typed.  Aliases, anchors, tags, merge keys, second
 * documents, duplicate keys, tabs and files above 1 MiB are refused. */
#include "base/file.h"
#include "base/hash.h"
#include "model/config.h"

enum precision { PRECISION_F64, PRECISION_F32, PRECISION_BF16 };
#define PRECISION_CHOICES "f64|f32|bf16"
enum schedule { SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_WSD };
#define SCHEDULE_CHOICES "constant|cosine|wsd"

enum numerics { NUMERICS_FAST, NUMERICS_RANK_INVARIANT };
#define NUMERICS_CHOICES "fast|rank_invariant"

struct mesh_config {
    int64_t data, seq, tensor, expert, pipe;
    int layout, carry, attention; /* enum shard_layout; enum mesh_carry; enum mesh_attention */
    int shard;                    /* enum sharding_stage                                     */
    int transport;                /* enum device_way                                         */
    int64_t tensor_part;          /* rows of a part that travels beside the next one's work  */
    double expert_room;           /* rows of experts planned, over those of an even load     */
    double deadline;              /* seconds that a rank waits for another                   */
};
enum mesh_carry { MESH_CARRY_AUTO, MESH_CARRY_GATHER, MESH_CARRY_CHAIN, MESH_CARRY_SCAN };
#define MESH_CARRY_CHOICES "auto|gather|chain|scan"
enum mesh_attention { MESH_ATTENTION_AUTO, MESH_ATTENTION_SWAP, MESH_ATTENTION_KEYS };
#define MESH_ATTENTION_CHOICES "auto|swap|keys"
struct train_config {
    int64_t tokens_per_sequence, sequences_per_step, steps;
    int64_t micro_batch; /* sequences in one pass; divides sequences_per_step  */
    int precision;       /* enum precision                                     */
    int64_t head_tile;   /* tokens of one tile of the output projection        */
    int64_t valid_every; /* steps between validations; 0: only at the end      */
    int64_t valid_sequences;
    int64_t threads; /* host threads; 0: all cores this process may use    */
    int keep;        /* enum policy: activations that stay for backward    */
    int64_t keep_every;
    double offload; /* share of what they keep that waits in the host's memory */
};
struct optimizer_config {
    int kind; /* adamw */
    double lr, lr_min_ratio, beta1, beta2, eps, weight_decay, clip_norm;
    int schedule;                      /* enum schedule */
    int64_t warmup_steps, decay_steps; /* decay_steps: of wsd, at the end */
};
struct data_config {
    struct field_list train, valid; /* token file prefixes, relative paths already resolved */
    int packing;                    /* documents */
};
struct checkpoint_config {
    int64_t every, keep;
};
enum plain_choice { PLAIN_REFUSE, PLAIN_ALLOW };
#define PLAIN_CHOICES "refuse|allow"
struct kernels_config {
    int plain; /* enum plain_choice */
};
struct run_config {
    char *dir;
    int64_t seed;
    bool tensorboard;
    int64_t profile; /* steps between reports of device time; 0: none */
    int64_t trace;   /* the step that is traced; 0: none              */
    int64_t exposed; /* rounds of steps that measure exchanges; 0: none */
};
struct config {
    struct model_config model;
    struct mesh_config mesh;
    struct train_config train;
    struct optimizer_config optimizer;
    struct data_config data;
    struct checkpoint_config checkpoint;
    struct kernels_config kernels;
    struct run_config run;
    int numerics;         /* enum numerics */
    struct text resolved; /* the whole configuration as YAML that reads back to the same  */
    struct text identity; /* the identity keys, one "key.path: value" a line, sorted      */
    char identity_hash[SHA256_HEX];
};

/* path: a file, or NULL when text holds the YAML (named `where` in messages).  overrides: "key.path=value", the items
 * of a list as a,b; the last of several wins over the earlier ones and over the file.
 * On ERR_CONFIG every mistake is in *errors (may be NULL), each a line with its end; status_text holds the first.  On
 * any failure *c is empty.  Paths in *c are absolute, so that what is resolved means the same from any folder: data of
 * the file start from its folder, data of overrides and run.dir from the current one. */
struct config_source {
    const char *path, *where;
    const char *text;
    int64_t text_bytes;
    int n_overrides;
    const char *const *overrides;
    bool model_only; /* a `model` section is enough: parity and eval of imported models */
};
enum status config_read(struct config *c, const struct config_source *from, struct text *errors);
void config_term(struct config *c);
/* ERR_CONFIG, naming the key, for what a file may say and this program cannot do yet: axes of the mesh. */
enum status config_check_runnable(const struct config *c);
/* The exact stack and what each symbol means, for people. */
enum status config_print_stack(const struct config *c, struct text *out);
/* Keys, types, defaults and help of every section, for --help. */
enum status config_help(struct text *out);
/* The keys in which two identity texts differ, one line each: "key: this run has A, the checkpoint has B". */
enum status config_identity_diff(const char *mine, const char *theirs, struct text *out);

#endif
