/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PARALLEL_SHARD_MAP_H
#define BATON_PARALLEL_SHARD_MAP_H
/* shard_map.h - which rank of the sequence axis holds which tokens of a micro-batch.
 *
 * A sequence of S tokens is cut on a grid into pieces, 1 a rank (contiguous) or 2 a rank (zigzag: rank r has pieces r
 * and 2P-1-r; one rank has one piece); piece k of n covers grid cells [k c / n, (k+1) c / n) of the c = ceil(S / grid)
 * there are, so pieces differ by one cell at most.  A piece is one range; with `segments` (exact mode) it is a whole
 * subtree of the binary tree over the cells, 2^l of them or what is left, and one range a cell.  Every sequence of the
 * micro-batch is cut alike; documents play no part here, they are in pos.  A rank's rows: its ranges by sequence, then
 * by place.  Ranges may be empty when there are fewer cells than pieces. */
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

enum shard_layout { SHARD_CONTIGUOUS, SHARD_ZIGZAG };
#define SHARD_LAYOUT_CHOICES "contiguous|zigzag"

struct shard_spec {
    int n_ranks;
    enum shard_layout layout;
    int64_t n_sequences, tokens; /* of the micro-batch; of one sequence (S) */
    int64_t grid;                /* tokens of a cell, 1 or more             */
    bool segments;
};
struct token_range {
    int64_t sequence, begin, end; /* tokens [begin, end) of that sequence    */
    int64_t row;                  /* where they stand among the owner's rows */
    int rank, index;              /* owner, and which of its ranges          */
};
struct shard_map {
    struct shard_spec spec;
    int64_t n_ranges;          /* of all ranks                                            */
    int64_t per_sequence;      /* ranges of one sequence                                  */
    struct token_range *range; /* by sequence, then by begin                              */
    int64_t *mine;             /* n_ranks + 1 begins, then per rank its ranges' numbers   */
    int64_t *tokens;           /* n_ranks: rows each rank holds                           */
};
/* ERR_CONFIG: fewer tokens than ranks. */
enum status shard_map_init(struct shard_map *m, const struct shard_spec *spec);
void shard_map_term(struct shard_map *m);
int64_t shard_map_ranges(const struct shard_map *m, int rank);                                 /* how many */
const struct token_range *shard_map_range(const struct shard_map *m, int rank, int64_t index); /* i-th, by row */

#endif
