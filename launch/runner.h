/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_RUNNER_H
#define BATON_LAUNCH_RUNNER_H
/* runner.h - a model in memory, with the memory of one micro-batch: what train, eval and parity share. */
#include "kernels/exact.h"
#include "launch/team.h"
#include "model/model.h"
#include "parallel/seams_mesh.h"
#include "parallel/sharding.h"
#include "profiling/ledger.h"

struct runner_spec {
    int precision;       /* enum precision: F64 or F32 on the CPU                              */
    int64_t threads;     /* 0: all cores this process may use                                  */
    int64_t n_sequences; /* of one micro-batch                                                 */
    int64_t tokens;      /* of one whole sequence                                              */
    int64_t tile;        /* rows of one head tile                                              */
    bool training;       /* gradients and moments too; otherwise forward passes only           */
    bool gradients;      /* gradients without moments (parity)                                 */
    int64_t n_micro;     /* passes whose gradients make a step, with a team; 0: 1              */
    bool logits;         /* keep logits whole: out.logits                                      */
    enum policy policy;  /* what activations stay (model.h)                                    */
    int64_t keep_every;
    int64_t cache_tokens;            /* > 0: generation through seams_cached, up to so many tokens         */
    bool exact;                      /* numerics: rank_invariant; wants a team                   */
    struct team *team;               /* NULL: one rank                                           */
    const struct mesh_config *mesh;  /* with a team                                              */
    const struct runner *weights_of; /* share that runner's weights (it must outlive this one)  */
};
/* Not movable once made: ctx and batch point into it. */
struct runner {
    struct runner_spec spec;
    struct shard_map map; /* of one micro-batch over the sequence axis  */
    int seq_index;        /* my place on that axis                      */
    struct wide wide;     /* with several ranks of seq                  */
    struct sharding shards;
    struct seams_mesh mesh;
    struct exact exact;
    struct ctx ctx;
    struct pool *pool;
    struct arena memory, work;
    struct model model;
    struct activations act;
    struct step step;
    struct seams_cache *cache;
    int32_t *ids, *targets; /* (n_sequences * tokens): whole sequences, written by the caller before a pass */
    int64_t *pos;
    struct batch batch;  /* my rows of them                                                              */
    double scale, total; /* 1 / valid targets;  sum of losses: set total = 0 first                       */
    double aux;          /* auxiliary losses of routers: += in a pass with backward                      */
    struct tensor load;  /* (layers, most experts) F64: tokens that experts got, += likewise; or absent  */
    struct loss_out out; /* per_token and logits point into memory; rows are mine                        */
    struct tensor grads; /* all gradients as one row, where all are whole                                */
    struct ledger ledger;
};
/* Transfers that a list of the seams may need, for team_open; the mesh's ERR_CONFIG where tokens cannot be split. */
enum status runner_transfers(const struct model_config *c, const struct runner_spec *spec, int *transfers);
/* The plan is made, printed into *plan (NULL: not), checked against the host, then allocated.  dry: stop before that.
 */
enum status runner_init(struct runner *r, const struct model_config *c, const struct runner_spec *spec, bool dry);
void runner_term(struct runner *r);
void runner_init_params(struct runner *r, uint64_t seed);
/* One pass over the sequences in ids, targets, pos: forward, and backward where asked: total and out are filled,
 * gradients are summed over ranks, and over the passes since sharding_step_begin. */
enum status runner_pass(struct runner *r, bool backward);
/* ids as n_sequences plain documents: targets are the next tokens, the last has none; scale = 1 / valid. */
void runner_plain_targets(struct runner *r);
/* The part of the mesh (runner_mesh.c): shard map and wide attention before the plan, sharding and seams after it. */
enum status runner_mesh_shape(struct runner *r);
enum status runner_mesh_shards(struct runner *r);
enum status runner_mesh_seams(struct runner *r);
int64_t runner_mesh_bytes(const struct runner *r);
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
void runner_load_begin(struct runner *r);
enum status runner_load_end(struct runner *r);
/* The most loaded expert of any layer over the mean of its layer; NAN: there are none. */
double runner_load_most(const struct runner *r);
/* Generation: feed one token at position pos of its document, logits (V) in out.logits row 0. */
enum status runner_token(struct runner *r, int32_t token, int64_t pos);
#endif
