/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_SEAMS_H
#define BATON_MODEL_SEAMS_H
/* seams.h - where a layer's mathematics needs tokens, state or parameters that this rank may not hold.
 *
 * A mixer calls seams between ops and never learns how many ranks there are.  An exchange that can hide behind local
 * work is a begin/end pair.  Implementations: seams_local (one rank: every range begins a sequence), seams_cached
 * (generation: what lies before is answered from kept state). */
#include "model/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum carry_op {
    CARRY_AFFINE, /* S -> decay S + state: rows of decay (R, H), state (R, H, ...)                       */
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
};

/* The keys a layer's queries may see: its own rows k, v, after those of earlier ranges.  all_k, all_v, keys (R, 2) come
 * back as attention.h wants them; window bounds what is needed. */
struct visible {
    int64_t window; /* 0: all */
    struct tensor k, v;
    struct tensor all_k, all_v, keys;
    struct tensor dall_k, dall_v, dk, dv; /* backward: gradients of all keys go back to their owners' dk, dv */
};

#define AXIS_DATA   1u
#define AXIS_SEQ    2u
#define AXIS_TENSOR 4u

struct seams {
    const char *name;
    enum status (*carry_begin)(struct step *, const struct layer *, struct flow *, struct carry *);
    enum status (*carry_end)(struct step *, const struct layer *, struct flow *, struct carry *);
    enum status (*keys_begin)(struct step *, const struct layer *, struct flow *, struct visible *);
    enum status (*keys_end)(struct step *, const struct layer *, struct flow *, struct visible *);
    /* Where dall_k and dall_v are to be written, then their way home. */
    enum status (*keys_back_begin)(struct step *, const struct layer *, struct flow *, struct visible *);
    enum status (*keys_back_end)(struct step *, const struct layer *, struct flow *, struct visible *);
    /* Sum t over the named axes, in place. */
    enum status (*total)(struct step *, struct tensor t, unsigned axes);
    /* The parameters of one block (a layer's index; -1: embedding, final norm and head) are about to be read; their
     * gradients are complete. */
    enum status (*need)(struct step *, int block);
    enum status (*done)(struct step *, int block);
};

extern const struct seams seams_local;
extern const struct seams seams_cached;

/* State of seams_cached: grown at start-up, on the first token; one sequence, one token a step. */
struct seams_cache;
enum status seams_cache_init(struct seams_cache **out, int n_layers, int64_t tokens_max);
void seams_cache_clear(struct seams_cache *c); /* a new sequence begins */
void seams_cache_term(struct seams_cache *c);

#ifdef __cplusplus
}
#endif
#endif
