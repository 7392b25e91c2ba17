/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_LAYER_H
#define BATON_MODEL_LAYER_H
/* layer.h - what a mixer sees: step, layer, flow, saved.
 *
 * A layer is x += mixer(rmsnorm(x)).  The frame (model/block.c) does norm and residual; the mixer reads flow->h and
 * writes flow->y, and backward reads flow->dy and writes flow->dh.  One mixer is one file with one struct mixer_kind,
 * and one row in kinds.def. */
#include "base/ctx.h"
#include "base/field.h"
#include "model/params.h"

#ifdef __cplusplus
extern "C" {
#endif

struct seams;  /* model/seams.h  */
struct guests; /* model/routed.h */
struct layer;
struct plan;

/* What attention runs on where it sees more than this rank's rows: all tokens of the micro-batch, by sequence.  With
 * `swap` each rank has all tokens of some heads; otherwise its own queries and all keys. */
struct wide {
    int n_ranks, index; /* of the sequence axis                                          */
    bool swap;
    int64_t n_tokens;    /* of the micro-batch, all ranks                                 */
    struct tensor range; /* (B + 1) I64: rows where sequences begin                       */
    struct tensor pos;   /* (n_tokens) I64                                                */
    struct tensor keys;  /* (B, 2) I64, or with keys gathered (R, 2): what each range sees */
    bool plain;          /* of swap, known of this micro-batch: each sequence is one document */
};

/* This rank's tokens in one micro-batch.  A range is a stretch of consecutive tokens of one sequence; rows of all
 * ranges follow each other.  pos counts tokens since the document's start (or the sequence's, if later). */
struct shard {
    int64_t n_tokens;            /* T */
    int64_t n_ranges;            /* R */
    struct tensor range;         /* (R + 1) I64: row where each begins; the last is T */
    struct tensor pos;           /* (T) I64                                           */
    struct tensor keys;          /* (R, 2) I64: keys each range sees when attention is local: its own rows */
    bool plain;                  /* known of this micro-batch: ranges are sequences of one document each */
    const struct wide *wide;     /* NULL: attention is local                          */
    const struct guests *guests; /* NULL: all experts are here */
};

/* The tensor axis splits the T tokens of a rank of seq by ranges: U of them have their residual stream here.  A mixer
 * sees all T; what it writes is its share of a sum over the axis. */
struct flow {
    struct tensor x;      /* (U, D) residual stream entering the layer          */
    struct tensor h;      /* (T, D) its norm: the mixer's input                 */
    struct tensor h_own;  /* (U, D) own rows of h                               */
    struct tensor y;      /* (T, D) the mixer's output                          */
    struct tensor dx;     /* (U, D) gradient of the residual stream, in place   */
    struct tensor dy;     /* (T, D) gradient of y, read only                    */
    struct tensor dh;     /* (T, D) gradient of h, written by the mixer         */
    struct tensor y_own;  /* (U, D) own rows of y and dh, summed: on one rank   */
    struct tensor dh_own; /* the same memory                                   */
    unsigned edges;       /* exchanges that the mixer has yet to make (edges.h) */
    const struct shard *shard;
};

/* What one layer has between its passes, and its scratch.  Slots are numbered by the mixer's own enum, and tagged by
 * what it costs to have them again, for the policy of a run (model.h) to drop. */
enum keep {
    KEEP_INPUT,    /* the residual stream entering the layer                                         */
    KEEP_GEMM,     /* outputs of matrix products                                                      */
    KEEP_CHEAP,    /* what forward makes of those in time linear in the tokens                        */
    KEEP_BOUNDARY, /* what seams brought, and attention's output: never dropped, never computed again */
    KEEP_SCRATCH,  /* nothing between the passes                                                      */
    N_KEEPS
};
enum home {
    HOME_OWN,     /* the layer's own region, kept from forward to backward          */
    HOME_SHARED,  /* a region of several layers; computed again before backward     */
    HOME_SCRATCH, /* a region of all layers                                         */
    N_HOMES
};
#define SAVED_MAX 40
struct saved_slot {
    const char *name;
    enum keep tag, at; /* at: the tag in whose home it lies: its own, but for plan_reuse */
    int64_t offset;    /* bytes, in that home                 */
    struct tensor t;   /* data set once memory exists         */
};
struct saved {
    struct saved_slot slot[SAVED_MAX]; /* absent slots have rows = 0 */
    unsigned kept;                     /* bit 1 << tag: at home in HOME_OWN */
    int64_t bytes[N_KEEPS];
    int64_t shared_at;          /* where in the shared region its slots begin */
    int64_t n_rounds, n_guests; /* of experts' rows: rounds, and the rows of the last one (routed.h) */
};
enum home saved_home(const struct saved *v, enum keep tag);
int64_t saved_bytes(const struct saved *v, enum home home);

struct step {
    struct ctx *ctx;
    const struct seams *seams;
    const struct seams *traced; /* with seams_traced: those behind it */
    void *seams_state;
    struct params *params;
    bool forward_only;         /* no backward follows                                                 */
    bool again;                /* forward once more, to fill the shared slots: seams are seams_replay */
    const struct seams *frame; /* with again: those of the run, for what the frame moves */
    bool y_unused;             /* with again: nobody reads flow->y                                    */
    double token_scale;        /* 1 / tokens of the optimizer step, all ranks and micro-batches: of auxiliary losses */
    struct tensor load; /* (layers, most experts + 1) F64 +=: tokens that chose each expert here, and in the last column
                         * those dropped; absent: not counted */
    struct tensor aux;  /* (1) F64 +=: auxiliary losses of the tokens here; absent: not wanted                  */
    const int *stop;    /* polled (atomically) between layers; not NULL, not 0: ERR_STOPPED */
};

struct mixer_kind {
    const char *name;
    const struct field *fields; /* keys beside `kind` in the layer table */
    size_t config_bytes;        /* sizeof the struct the fields fill     */
    /* ERR_CONFIG with the reason alone, if the values do not go together. */
    enum status (*check)(const void *config, int64_t width);
    /* The values become those of one rank of tensor; ERR_CONFIG likewise.  NULL: it runs on one rank of it. */
    enum status (*split)(void *config, const struct split *split);
    bool experts; /* that the expert axis spreads */
    bool edges;   /* its products at the edges move their rows themselves (edges.h) */
    enum status (*declare)(struct layer *l, struct params *ps);
    enum status (*plan)(struct plan *p, const struct layer *l);
    enum status (*forward)(struct step *, const struct layer *, struct flow *, struct saved *);
    enum status (*backward)(struct step *, const struct layer *, struct flow *, struct saved *);
    /* Whether its heads can be spread over so many ranks (attend.h); NULL: it has no attention. */
    bool (*attend_fits)(const struct layer *l, int n_ranks);
    /* Tokens of a chunk that a segment must be a multiple of; NULL: 1. */
    int64_t (*chunk)(const struct layer *l);
    /* Forward floating-point operations of one token beyond its GEMMs (2 per weight), at S tokens a sequence. */
    double (*flops)(const struct layer *l, int64_t tokens_per_sequence);
    int64_t (*idle)(const struct layer *l); /* parameters that one token does not meet; NULL: it meets all */
};
extern const struct mixer_kind *const mixer_kinds[]; /* ends with NULL */
const struct mixer_kind *mixer_kind_find(const char *name);

#define LAYER_PARAMS 16
struct layer {
    int index; /* position in the stack; layers of prediction heads are numbered behind it */
    int trunk; /* of such a layer: the length of the stack; 0: it belongs to the stack */
    int use;   /* place among all layers of a pass; index, but where prediction heads share weights */
    char symbol;
    const struct mixer_kind *kind;
    const void *config, *whole; /* its share of the model on this rank; as configured */
    struct split split;         /* how the mesh splits it */
    int64_t width;              /* D */
    double norm_eps;
    int64_t n_experts;       /* whose load is counted; 0: none */
    bool drops;              /* tokens of experts that are full */
    int norm;                /* parameter index of the norm's weight          */
    int param[LAYER_PARAMS]; /* parameter indices, numbered by the mixer's enum; -1: absent */
};

/* Ranks of tensor that split the layer. */
int layer_ranks(const struct layer *l);
/* mine = the share of `units` (heads, channels) that one rank of tensor has, or one that several have where `copies`
 * allows it; else ERR_CONFIG says which sizes would do. */
enum status split_units(const struct split *split, const char *what, int64_t units, bool copies, int64_t *mine);
enum status split_experts(const struct split *split, int64_t experts); /* ERR_CONFIG likewise */
/* "layers.<index>.<name>", or of a prediction head "mtp.layers.<index - trunk>.<name>". */
void layer_name(const struct layer *l, const char *name, char out[PARAM_NAME]);
/* Declaring: the name gets that prefix. */
enum status layer_param(struct layer *l, struct params *ps, int slot, struct param p);
/* A parameter's weight and gradient during a pass. */
struct tensor layer_w(const struct step *s, const struct layer *l, int slot);
struct tensor layer_g(const struct step *s, const struct layer *l, int slot);
/* t = its sum over the ranks of tensor, through own (plan_sum): a rank's share of the rows. */
enum status layer_sum(struct step *s, const struct layer *l, struct tensor t, struct tensor own);
/* A bias behind a sum over tensor: one rank adds it. */
struct tensor layer_b(const struct step *s, const struct layer *l, int slot);
/* Whether a slot still holds what the first forward wrote, so that its op need not run again (nor must what rotates it
 * in place).  A mixer that never asks is right, only slower. */
bool layer_has(const struct step *s, const struct saved *v, int slot);

/* One range's summary: rows of cols numbers; the affine carry has a decay for rows beside. */
#define CARRY_SHAPES 16
struct carry_shape {
    int op; /* enum carry_op */
    int64_t rows, cols;
};

/* The most of any layer whose experts are spread over ranks: experts; offsets of all rounds' guests; numbers of the
 * rows of one exchange. */
struct routed_most {
    int64_t experts, offsets, numbers;
};

/* Planning: called once a layer, before memory exists. */
struct plan {
    struct ctx *ctx;
    const struct step *step;    /* its params have shapes, no data */
    const struct flow *flow;    /* shapes, no data                 */
    int64_t n_tokens, n_ranges; /* of one micro-batch on this rank            */
    int64_t n_own;              /* of them, with their residual stream here */
    const int64_t *range;       /* (n_ranges + 1) */
    struct saved *saved;        /* being filled                   */
    int64_t work;               /* most ctx->work any op takes    */
    bool refused;               /* an op has no kernel of its shape: status_text says which there are */
    int n_carries;              /* shapes of what carries move, each once */
    struct carry_shape carry[CARRY_SHAPES];
    int64_t total_numbers;  /* most numbers of one total over ranks */
    int64_t own_columns;    /* most of what enters or leaves         */
    int64_t attend_numbers; /* of one own token, what attention packs for all ranks (swap), or k | v (keys): the most */
    struct routed_most routed;
};
/* A slot of type real; of the wide one: what must not be rounded (kernels/README.md). */
void plan_slot(struct plan *p, int slot, const char *name, enum keep tag, int64_t d0, int64_t d1, int64_t d2,
               int64_t d3);
void plan_wide(struct plan *p, int slot, const char *name, enum keep tag, int64_t d0, int64_t d1, int64_t d2,
               int64_t d3);
/* Scratch of the backward that is first written when nothing reads the slots from `first` to `last` any more, which
 * have one tag and were planned behind each other: it lies over them where it fits, else in a place of its own. */
void plan_reuse(struct plan *p, int slot, const char *name, int first, int last, int64_t d0, int64_t d1, int64_t d2,
                int64_t d3);
/* Where several ranks of tensor split the layer: the scratch of layer_sum over tensors of so many columns. */
void plan_sum(struct plan *p, const struct layer *l, int slot, int64_t columns);
/* Of another type. */
void plan_typed(struct plan *p, int slot, const char *name, enum keep tag, enum dtype type, int64_t d0, int64_t d1);
void plan_total(struct plan *p, int64_t numbers); /* a sum over ranks of so many F64      */
void plan_work(struct plan *p, int64_t bytes);    /* what <op>_work says */
void plan_routed(struct plan *p, struct routed_most layer);
void plan_carry(struct plan *p, int op, int64_t rows, int64_t cols); /* op: enum carry_op */
int64_t plan_chunks(const struct plan *p, int64_t chunk);            /* chunks that the ranges make */

#ifdef __cplusplus
}
#endif
#endif
