/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_SEAMS_H
#define BATON_MODEL_SEAMS_H
/* seams.h - where a layer's mathematics needs tokens, state or parameters that this rank may not hold.
 *
 * A mixer calls seams between ops and never learns how many ranks there are.  An exchange that can hide behind local
 * work is a begin/end pair.  Implementations: seams_local (one rank: every range begins a sequence), seams_cached
 * (generation: what lies before is answered from kept state), seams_replay (a layer computed again: what came over is
 * still in its slots). */
#include "kernels/attention/attention.h"
#include "model/routed.h"
#include "model/row_work.h"

#ifdef __cplusplus
extern "C" {
#endif

enum carry_op {
    CARRY_AFFINE, /* S -> decay S + state: rows of decay (R, H), state (R, H, ...); with log_rate (H, ...), one row a
                   * head, decay counts time and S -> exp(-exp(log_rate) decay) S + state (kernels/affine/affine.h) */
    CARRY_LAST,   /* the last k rows before: state (R, k, C), right-aligned, rows of a short range zero */
};
enum carry_to { CARRY_FORWARD, CARRY_BACKWARD };

/* An exclusive prefix over the ranges of each sequence, by an associative operator.  state and decay are the ranges'
 * summaries; entering receives, for each range, what all earlier ones (backward: later ones) leave, zero if none. */
struct carry {
    enum carry_op op;
    enum carry_to to;
    int id; /* which carry of this layer, from 0: the place cached state is kept under */
    struct tensor decay, state, entering;
    struct tensor log_rate; /* absent: decay is the factor itself */
};

/* Attention of one layer: what the op is to run on, and the memory to widen it (attend.h).  The mixer fills core with
 * its own rows; the seam replaces what lies elsewhere. */
enum { WIDE_QKV, WIDE_O, WIDE_LSE, WIDE_DQKV, WIDE_DO, N_WIDE };
struct attend {
    struct attention core;
    struct tensor wide[N_WIDE]; /* absent where attention is local */
    struct attention mine;      /* core as the mixer filled it     */
};
enum attend_when {
    ATTEND_QKV,  /* before the op's forward: queries, keys and values travel       */
    ATTEND_O,    /* after it: outputs come home                                     */
    ATTEND_DO,   /* before its backward: their gradients travel                     */
    ATTEND_DQKV, /* after it: gradients of queries, keys and values come home       */
};

#define AXIS_DATA   1u
#define AXIS_SEQ    2u
#define AXIS_TENSOR 4u

struct seams {
    const char *name;
    enum status (*carry_begin)(struct step *, const struct layer *, struct flow *, struct carry *);
    enum status (*carry_end)(struct step *, const struct layer *, struct flow *, struct carry *);
    enum status (*attend_begin)(struct step *, const struct layer *, struct flow *, struct attend *, enum attend_when);
    enum status (*attend_end)(struct step *, const struct layer *, struct flow *, struct attend *, enum attend_when);
    enum status (*routed_begin)(struct step *, const struct layer *, struct flow *, struct routed *, enum routed_when);
    enum status (*routed_end)(struct step *, const struct layer *, struct flow *, struct routed *, enum routed_when);
    /* The tensor axis splits the residual stream by tokens.  enter: own rows of every rank become all rows; leave: rows
     * of `all` are summed over ranks, each receives its own.  On one rank both are the same memory.  work: NULL, or
     * what is done to all rows meanwhile. */
    enum status (*enter)(struct step *, struct tensor own, struct tensor all, const struct row_work *work);
    enum status (*leave)(struct step *, struct tensor all, struct tensor own, const struct row_work *work);
    /* Sum t over the named axes, in place. */
    enum status (*total)(struct step *, struct tensor t, unsigned axes);
    /* The parameters of one block (a layer's index; -1: embedding, final norm and head) are about to be read; their
     * gradients are complete. */
    enum status (*need)(struct step *, int block);
    enum status (*done)(struct step *, int block);
};

extern const struct seams seams_local, seams_cached, seams_replay, seams_traced; /* the last: kernels/traced.h */

#ifdef __cplusplus
}
#endif
#endif
