/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_SEAMS_CACHED_H
#define BATON_MODEL_SEAMS_CACHED_H
/* seams_cached.h - the state that generation keeps. */
#include "model/seams.h"

#ifdef __cplusplus
extern "C" {
#endif

/* State of seams_cached: grown at start-up, on the first token; one sequence, one token a step. */
struct seams_cache;
enum status seams_cache_init(struct seams_cache **out, int n_layers, int64_t tokens_max, enum space space);
enum status seams_cache_clear(struct seams_cache *c, struct ctx *ctx); /* a new sequence begins */
void seams_cache_term(struct seams_cache *c);

#ifdef __cplusplus
}
#endif
#endif
