/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_MODEL_H
#define BATON_MODEL_MODEL_H
/* model.h - the stack: embedding, layers, final norm, head and loss, as single-device code. */
#include "model/away.h"
#include "model/config.h"
#include "model/seams.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The tokens of one micro-batch: targets -1 where there is none. */
struct batch {
    struct tensor ids, targets; /* (T) I32 */
    struct shard shard;
    struct tensor mtp_ids, mtp_targets; /* (depths, T) I32: the tokens that each prediction head is given, and its
                                         * targets; -1 past the end of the document or sequence */
};

struct model {
    const struct model_config *config;
    struct layer *layers;     /* the stack, then the layers of prediction heads, depth by depth */
    int n_layers, n_all;      /* of the stack; of both                                        */
    void *share[SYMBOLS_MAX]; /* of this rank, in what each symbol says */
    struct params params;
    int embedding, final_norm, head; /* parameter indices; tied: head == embedding */
    struct mtp {
        int depths, per, first; /* layers of a depth; the first parameter of all */
        struct mtp_params {
            int enorm, hnorm, project, norm;
        } param[MTP_DEPTHS_MAX];
    } mtp; /* mtp.h */
};
/* Layers and parameters, no memory for them.  split NULL: one rank. */
enum status model_init(struct model *m, const struct model_config *config, const struct split *split);
/* ERR_CONFIG: what of the model the ranks of an axis cannot share, and which sizes would do. */
enum status model_check_split(const struct model_config *config, const struct split *split);
/* Tokens of a segment of exact mode: the smallest multiple of the layers' chunks that is at least S / 64. */
int64_t model_segment(const struct model *m, int64_t tokens_per_sequence);
void model_term(struct model *m);
int64_t model_active(const struct model *m); /* parameters that one token meets, in all layers and both ends */
double model_flops_per_token(const struct model *m, int64_t tokens_per_sequence); /* forward + backward */

/* What stays from a layer's forward to its backward, by the tags of its slots (layer.h).  All else lies in one region
 * that layers share and is computed again before the layer's backward: by the same code, with seams that answer from
 * what was kept, so that nothing is sent (but the rows that the tensor axis splits enter again) and every policy gives
 * the same bits.
 *
 *   all      everything
 *   gemm     all but CHEAP: no product and no attention runs again
 *   inputs   INPUT and BOUNDARY; with keep_every k only every k-th INPUT: k layers are computed again together */
enum policy { POLICY_ALL, POLICY_GEMM, POLICY_INPUTS };
#define POLICY_CHOICES "all|gemm|inputs" /* in the order of the enum */

/* Memory of a pass, planned from T tokens in R ranges, then placed in one arena. */
struct plan_size {
    int64_t n_tokens, n_ranges;
    int64_t n_own;               /* tokens whose residual stream is here    */
    const int64_t *range;        /* (n_ranges + 1) rows where ranges begin  */
    const struct wide *wide;     /* shapes; NULL: attention is local        */
    const struct guests *guests; /* NULL: all experts are here          */
    int64_t tile;                /* rows of one tile of head and loss                                 */
    bool forward_only;           /* no backward follows: all layers lie over each other               */
    enum policy policy;
    int64_t keep_every; /* with POLICY_INPUTS; 0 and 1: every layer's */
    double offload;     /* share of the groups whose kept slots wait in the host's memory (away.h) */
};
struct activations {
    struct saved *layers; /* n_layers                                                          */
    struct saved ends;    /* final x, its norm, what all layers share, one head tile           */
    struct saved mtp[MTP_DEPTHS_MAX];
    int n_layers, n_depths;            /* those of prediction heads too, unless forward_only                */
    int64_t bytes;                     /* what is kept here, with the window of away; by_keep: by tag, without */
    int64_t shared_bytes;              /* the region layers share: most that a group of layers has in it    */
    int64_t scratch_bytes, work_bytes; /* work: what ctx->work must hold                       */
    int group;                         /* layers computed again together                       */
    int n_carries;                     /* what seams move */
    struct carry_shape carry[CARRY_SHAPES];
    int64_t attend_numbers, total_numbers;
    int64_t own_numbers; /* of the rows that enter and leave move: all ranks' own, each */
    struct routed_most routed;
    int64_t by_keep[N_KEEPS];
    struct away away; /* what is kept in the host's memory */
    void *region;     /* all its memory: nothing is kept in it between passes */
    int64_t region_bytes;
    int64_t tile;
    bool forward_only;
};
enum status activations_plan(struct activations *a, struct model *m, struct ctx *c, const struct plan_size *size);
/* Takes bytes + shared_bytes + scratch_bytes; away.store_bytes of the host's memory. */
enum status activations_place(struct activations *a, const struct ctx *c, struct arena *arena, struct arena *store);
void activations_term(struct activations *a);

/* What a pass gives beside gradients; prediction heads run where a backward pass follows. */
struct loss_out {
    struct tensor scale;     /* (1) F64 in: 1 / valid targets of the step                    */
    struct tensor total;     /* (1) F64 += sum of token losses, nats                         */
    struct tensor per_token; /* (T) out, or absent                                          */
    struct tensor logits;    /* (T, V) out, or absent: kept whole only by parity and sample  */
    struct tensor mtp_scale; /* (depths) F64 in: weight / depths / valid targets of each     */
    struct tensor mtp_total; /* (depths) F64 += as total, of each prediction head            */
};
enum status model_forward(struct step *s, const struct model *m, struct activations *a, const struct batch *b,
                          const struct loss_out *out);
/* After model_forward of the same batch; gradients are +=.  The head runs forward and backward tile by tile inside
 * model_forward when a backward follows, so that logits never exist whole. */
enum status model_backward(struct step *s, const struct model *m, struct activations *a, const struct batch *b);

#ifdef __cplusplus
}
#endif
#endif
