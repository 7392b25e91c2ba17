/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_RUNNER_H
#define BATON_LAUNCH_RUNNER_H
/* runner.h - a model in memory, with the memory of one micro-batch: what train, eval and parity share. */
#include "checkpoints/hf.h"
#include "kernels/exact.h"
#include "kernels/paper.h"
#include "kernels/plain.h"
#include "kernels/traced.h"
#include "launch/team.h"
#include "model/model.h"
#include "model/param_draw.h"
#include "model/seams_cached.h"
#include "parallel/seams_mesh.h"
#include "parallel/sharding.h"
#include "profiling/ledger.h"

struct runner_spec {
    int precision;         /* enum precision: F64 or F32 on the cpu, F32 or BF16 on a GPU        */
    struct device *device; /* NULL: the cpu.  Outlives the runner                              */
    bool plan_cuda;        /* plan alone, as for a GPU, though there is none */
    bool paper;            /* ops on paper (kernels/paper.h): any precision; with plan_cuda steps can be rehearsed */
    int64_t threads;       /* 0: all cores this process may use                                  */
    int64_t n_sequences;   /* of one micro-batch                                                 */
    int64_t tokens;        /* of one whole sequence                                              */
    int64_t tile;          /* rows of one head tile                                              */
    int64_t step_bytes;    /* what the caller takes beside the runner: tokens of a whole step    */
    bool traced;           /* on a GPU: time of ops and seams is kept */
    bool training;         /* gradients and moments too; otherwise forward passes only           */
    bool gradients;        /* gradients without moments (parity)                                 */
    int64_t n_micro;       /* passes whose gradients make a step, with a team; 0: 1              */
    bool logits;           /* keep logits whole: out.logits                                      */
    enum policy policy;    /* what activations stay (model.h)                                    */
    int64_t keep_every;
    double offload;                  /* share of what they keep that waits in the host's memory */
    int64_t cache_tokens;            /* > 0: generation through seams_cached, up to so many tokens         */
    bool plain;                      /* kernels.plain: allow                                       */
    bool exact;                      /* numerics: rank_invariant; wants a team                   */
    struct team *team;               /* NULL: one rank                                           */
    const struct mesh_config *mesh;  /* with a team                                              */
    const struct runner *weights_of; /* share that runner's weights (it must outlive this one)  */
};
/* What the host writes before a pass, and where ops read it: one image, copied once a pass to a GPU (runner_batch.c).
 */
enum batch_part {
    WHOLE_IDS, /* of whole sequences, the host's alone */
    WHOLE_TARGETS,
    WHOLE_POS,
    OWN_ROWS, /* exact mode: where ranges of the residual stream begin */
    ROW_IDS,  /* of my rows, from here on the image   */
    ROW_TARGETS,
    ROW_POS,
    ROW_MTP_IDS, /* of prediction heads, depth by depth */
    ROW_MTP_TARGETS,
    ROW_RANGE,
    ROW_KEYS,
    WIDE_RANGE, /* whole sequences, for attention over all tokens */
    WIDE_KEYS,
    WIDE_POS, /* this and the next: on a GPU alone */
    OWN_RANGE,
    SCALE,
    N_BATCH_PARTS
};
struct runner_image {
    char *host[N_BATCH_PARTS], *ops[N_BATCH_PARTS];
    int64_t bytes; /* of the image, from ROW_IDS on */
};
/* Numbers that change from step to step, and what a step says; the host's side is the same memory on the cpu. */
struct runner_numbers {
    struct tensor squares, knobs, report; /* of training (kernels/clip/clip.h) */
    double *knobs_host, *report_host;
};
/* Not movable once made: ctx and batch point into it. */
struct runner {
    struct runner_spec spec;
    struct shard_map map;       /* of one micro-batch over the sequence axis  */
    int seq_index;              /* my place on that axis                      */
    struct wide wide;           /* with several ranks of seq                  */
    struct guests guests;       /* of expert                                  */
    struct comm expert, counts; /* of that axis: over the ops' memory; the host's */
    struct sharding shards;
    struct seams_mesh mesh;
    struct exact exact;
    struct traced traced;
    struct plain plain;
    struct paper paper;
    struct ctx ctx;
    struct pool *pool;
    struct arena memory, work; /* of ops                                        */
    struct arena host;         /* beside a GPU; on the cpu it is `memory`       */
    struct arena store;        /* activations in the host's memory              */
    struct model model;
    struct activations act;
    struct step step;
    struct seams_cache *cache;
    struct runner_image image;
    int32_t *ids, *targets; /* (n_sequences * tokens): whole sequences, written by the caller before a pass */
    int64_t *pos;
    struct batch batch;              /* my rows of them                                                              */
    double scale;                    /* 1 / valid targets                                                            */
    double mtp_mean[MTP_DEPTHS_MAX]; /* the same of each prediction head, and with its weight            */
    double mtp_scale[MTP_DEPTHS_MAX];
    double mtp_total[MTP_DEPTHS_MAX]; /* as total, of them */
    double total; /* sum of losses since runner_zero_total, as runner_read_total found it; on the cpu it is `sum` */
    double pass_total;   /* on the cpu in exact mode: of the pass                                        */
    struct tensor sum;   /* (1) where ops add losses up                                                  */
    struct tensor aux;   /* (1) F64: auxiliary losses of routers, += in a pass with backward; or absent  */
    struct tensor load;  /* (layers, most experts + 1) F64: of struct step, += likewise; or absent       */
    double *load_host;   /* load and aux on the host's side, as they were heard                          */
    struct loss_out out; /* per_token and logits point into memory; rows are mine                       */
    struct runner_numbers numbers;
    struct tensor grads;  /* all gradients as one row, where all are whole                                */
    struct ledger ledger; /* of the ops' memory, and on the cpu of all */
    struct ledger beside; /* of the host, beside a GPU                 */
    int64_t host_bytes;   /* of it, what is not the store's            */
    double planned_s;     /* when the plan was made and nothing taken yet, by prof_seconds */
    int64_t baseline,
        free_before; /* of a GPU, in bytes: taken by its context; free before the plan's memory was taken */
};
/* Transfers that a list of the seams may need, for team_open; the mesh's ERR_CONFIG where tokens cannot be split. */
enum status runner_transfers(const struct model_config *c, const struct runner_spec *spec, int *transfers);
/* The plan is made, printed into *plan (NULL: not), checked against the host, then allocated.  dry: stop before that.
 */
enum status runner_init(struct runner *r, const struct model_config *c, const struct runner_spec *spec, bool dry);
void runner_term(struct runner *r);
enum status runner_init_params(struct runner *r, uint64_t seed);
/* Room for parameters' numbers on the host, in the order of files; what they become (checkpoints/hf.h). */
struct param_sink runner_sink(struct runner *r);
/* One pass over the sequences in ids, targets, pos: forward, and backward where asked: sum and out are filled,
 * gradients are summed over ranks, and over the passes since sharding_step_begin.  On a GPU it returns once all is
 * enqueued; ids, targets and pos may then be written anew. */
enum status runner_pass(struct runner *r, bool backward);
/* runner_memory.c: the plan against what is there, before anything is taken: ERR_OOM says what is short, and which
 * settings would fit.  What a GPU says of its memory after some steps, beside the plan. */
enum status runner_check_memory(struct runner *r);
enum status runner_print_memory(const struct runner *r, struct text *out);
struct keep_spec { /* train.keep, keep_every, offload */
    enum policy policy;
    int64_t every;
    double offload;
};
enum status runner_plan_activations(struct runner *r, const struct keep_spec *keep, struct activations *out);
/* Most memory in use so far, where the ops are: a GPU's baseline (what its context takes before any plan) and arenas,
 * or the process. */
int64_t runner_bytes_peak(const struct runner *r);
enum status runner_zero_total(struct runner *r);
enum status runner_read_total(struct runner *r); /* waits for the passes */
/* runner_batch.c */
void runner_plan_batch(struct runner *r);
enum status runner_place_batch(struct runner *r);
enum status runner_place_numbers(struct runner *r);
enum status runner_send_batch(struct runner *r);
struct arena *runner_host(struct runner *r); /* the arena of the host's memory */
bool runner_apart(const struct runner *r);   /* ops do not read the host's memory */
/* Prediction heads: targets of one at depth 1, 2, ... of token t of n, in sequences of S tokens; how many there are,
 * one count a depth; what that makes of their scales. */
int32_t runner_later_target(const int32_t *targets, const int64_t *pos, int64_t S, int64_t t, int depth);
void runner_later_count(const struct runner *r, const int32_t *targets, const int64_t *pos, int64_t n, int64_t *valid);
void runner_later_scales(struct runner *r, const int64_t *valid);
/* Their mean loss, of what runner_read_later found; NAN: there are none. */
enum status runner_read_later(struct runner *r);
double runner_later_loss(const struct runner *r);
/* ids as n_sequences plain documents: targets are the next tokens, the last has none; scale = 1 / valid. */
void runner_plain_targets(struct runner *r);
struct split runner_split(const struct runner *r);
/* (ranges + 1) rows where my ranges begin among those whose residual stream is here. */
void runner_own_ranges(const struct runner *r, int64_t *range);
/* The part of the mesh (runner_mesh.c): shard map and wide attention before the plan, sharding and seams after it. */
enum status runner_mesh_shape(struct runner *r);
enum status runner_mesh_shards(struct runner *r);
enum status runner_mesh_experts(struct runner *r);
enum status runner_mesh_seams(struct runner *r);
struct seams_mesh_bytes runner_mesh_bytes(struct runner *r);
/* Exact mode: what it wants, and the memory of its trees (runner_exact.c). */
enum status runner_exact_check(const struct runner *r);
int64_t runner_exact_bytes(const struct runner *r);
enum status runner_exact_place(struct runner *r);
enum status runner_exact_forward(struct runner *r);
enum status runner_exact_total(struct runner *r);
/* Sum total over the ranks of data x seq. */
enum status runner_sum_total(struct runner *r);
/* Load and auxiliary losses of a step: to zero before it, and summed over the same ranks after it (runner_load.c). */
int64_t runner_load_bytes(const struct runner *r);
enum status runner_load_place(struct runner *r);
enum status runner_load_begin(struct runner *r);
enum status runner_load_end(struct runner *r);
/* What they have become, to the host: waits for a GPU.  The rest reads what was heard. */
enum status runner_load_hear(struct runner *r);
double runner_load_aux(const struct runner *r);
/* The most loaded expert of any layer over the mean of its layer; NAN: there are none. */
double runner_load_most(const struct runner *r);
/* Choices that no expert took, in all layers that have a capacity; NAN: there are none. */
double runner_load_dropped(const struct runner *r);
/* Generation: feed one token at position pos of its document, logits (V) in out.logits row 0. */
enum status runner_token(struct runner *r, int32_t token, int64_t pos);
#endif
