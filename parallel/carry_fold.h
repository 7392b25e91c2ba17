/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PARALLEL_CARRY_FOLD_H
#define BATON_PARALLEL_CARRY_FOLD_H
/* carry_fold.h - what enters each range, out of the summaries of all ranges.
 *
 * A block is rows [begin, begin + rows) of the M = H P rows of a state, N numbers each; it may begin or end inside a
 * head.  A range's message is [decays of the block's heads | its rows].  The fold goes from range to range; in exact
 * mode over the nodes of the binary tree of segments: what enters leaf j is the fold of node(l, (j >> l) - 1) for the
 * bits l that are set in j, highest first, where node(l, i) = node(l-1, 2i) then node(l-1, 2i+1). */
#include "parallel/inside.h"

struct block {
    int64_t begin, rows, per_head, N;
};
int64_t block_first_head(const struct block *b);
int64_t block_heads(const struct block *b);
int64_t block_numbers(const struct block *b); /* of one message */
/* Rows of memory that block_prefixes needs for n ranges of a sequence, in numbers. */
int64_t block_fold_numbers(const struct block *b, int64_t n, bool exact);

/* all: (n_ranges, message) by owner, then by its ranges.  For range t of each sequence, in the carry's direction, what
 * enters it goes to to(arg, t), rows x N, unless that is absent. */
struct prefixes {
    struct block block;
    enum carry_to to;
    struct tensor all;
    char *memory;           /* block_fold_numbers                                            */
    struct tensor log_rate; /* (H, N) of heads of one row, or absent: the decays are factors */
    struct tensor (*place)(void *arg, const struct token_range *t);
    void *arg;
};
enum status block_prefixes(struct step *s, const struct prefixes *p);
#endif
