/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_ATTEND_H
#define BATON_MODEL_ATTEND_H
/* attend.h - attention over tokens that several ranks hold: the shapes, without the messages.
 *
 * swap   H / P query heads and max(J / P, 1) key heads, all tokens: wide q | k | v, o, lse and their gradients
 * keys   own queries, all keys: wide k | v and their gradients; o and lse stay the mixer's */
#include "model/seams.h"

/* Heads one rank computes under swap; false: this form does not fit (P does not divide H, or J neither divides P nor is
 * divided by it). */
bool attend_heads(int n_ranks, int64_t heads, int64_t key_heads, int64_t *my_heads, int64_t *my_key_heads);
/* Plan the wide slots first .. first + N_WIDE - 1 where the shard is wide, and the op's workspace. */
enum status attend_plan(struct plan *p, int first, struct attend *a);
/* The wide slots, and core widened where the shard is. */
void attend_fill(struct attend *a, const struct saved *v, int first, const struct shard *shard);
#endif
