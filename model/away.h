/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_AWAY_H
#define BATON_MODEL_AWAY_H
/* away.h - what layers keep waits in the host's memory between their passes (train.offload).
 *
 * A unit is the layers that are computed again together: one, or train.keep_every.  Some units, spread over the stack,
 * take turns in one window of the ops' memory, in which any three that follow each other lie apart.  When the forward
 * of one is over its bytes leave for the store, under the forward of the units behind it, and make room for the third
 * turn after it; when its backward is over the third turn before it comes back, under the backward of the two between.
 * The last three turns never leave: so n_away units wait in the store, and the others have as many bytes as without. */
#include "kernels/ferry.h"
#include "model/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { AWAY_APART = FERRY_LANES };
struct away_turn {
    int64_t bytes, at, store_at; /* at: in the window */
};
struct away {
    int n_layers, group, n_units; /* of the stack alone */
    int n_turns, n_away;          /* n_away + AWAY_APART, or none */
    struct away_turn *turn;
    int64_t window_bytes, store_bytes;
    char *window, *store;
    struct ferry ferry;
};
/* Of layers that are planned.  share: of the units, rounded. */
enum status away_plan(struct away *w, const struct saved *layers, int n_layers, int group, double share);
enum status away_place(struct away *w, const struct ctx *c, char *window, char *store);
void away_term(struct away *w); /* accepts the empty one; waits for copies */
/* The turn of a layer's unit; -1: it has its own memory. */
int away_turn_of(const struct away *w, int layer);

/* Of a pass that a backward follows, for every layer in order: before anything of it is written, once its forward is
 * over; before it is computed again or read backward, once its backward is over. */
enum status away_open(struct away *w, struct step *s, int layer);
enum status away_close(struct away *w, struct step *s, int layer);
enum status away_need(struct away *w, struct step *s, int layer);
enum status away_done(struct away *w, struct step *s, int layer);

#ifdef __cplusplus
}
#endif
#endif
