/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PARALLEL_SEAMS_MESH_H
#define BATON_PARALLEL_SEAMS_MESH_H
/* seams_mesh.h - the seams over a sequence axis of P ranks.
 *
 * Carry, affine.  One range's summary: M rows of N numbers, a decay for each of H heads.  Of the n ranges of a sequence
 * this rank has z, and l stand before its last one, counted in the carry's direction.  Numbers received by a rank for
 * each sequence of a micro-batch (every one is sent once):
 *   gather  (l + 1 - z) (M N + H), 0 where z = 0: the summaries before its last range, which it folds itself; one round
 *   chain   z' M N, z' = my ranges whose predecessor another rank holds; a round for each range in turn
 *   scan    (n - z - e) (m N + h) + (z - a) (M - m) N, m = M / P rows of h heads: rank k folds row block k of all
 *           ranges; two rounds.  e = 1 where another rank holds the last range, whose summary nobody reads; a = 1 where
 *           this rank holds the first, which nothing enters.  The bytes do not depend on the length; for any P up to M
 *           they are below 3 z M (N + 1) numbers
 * Carry, last(k): only the rows that a range needs and another rank holds: k C at most for each of my ranges.
 * Attention, numbers received in both passes by a rank with T of the micro-batch's U tokens, w numbers a head:
 *   swap    (U - T + (P - 1) T) (2 H/P + 2 J') w, J' = J/P or 1: all tokens of my heads, and mine of all others
 *   keys    2 J w for each row that my ranges see and another rank holds, and for each other rank that saw a row of
 *           mine: within the window, and from the start of the document that a range begins in; in exact mode from
 *           the start of the sequence
 * Tensor, n ranks, U own of T rows, D channels: enter receives (T - U) D numbers, leave (n - 1) U D, by parts too: a
 * part is the rows of one owner in one range; in step k every rank sends to the k-th after it, so that all links work.
 * Experts, rows of W numbers: of a rank's T k rows, h go to its own experts, and of its G guests h are its own.  A
 * layer receives (G - h) W before the experts, (T k - h) W after them, and the same in backward; in several rounds (G -
 * h) W once more there.  Its counts, beside that: 8 (E + 1) bytes for each section of another rank of the axis. */
#include "dist/collectives.h"
#include "model/seams.h"
#include "parallel/shard_map.h"
#include "parallel/sharding.h"

enum carry_way { CARRY_GATHER, CARRY_CHAIN, CARRY_SCAN };
#define CARRY_WAY_CHOICES "gather|chain|scan" /* in the order of the enum */

#define WINDOWS_MAX 8 /* different windows of a model's attention layers */
#define LANES       4 /* carries of one layer that may be under way at once: their ids */
struct lane {
    char *send, *recv, *fold;
    struct pending pending;
};
struct seams_mesh_spec {
    struct comm *seq, *tokens, *tensor; /* the sequence axis; data x seq; tensor: over the ops' memory */
    struct comm *expert, *counts; /* the expert axis: over the ops' memory; the host's.  NULL: all experts are here */
    enum space space;             /* where that is                                               */
    struct sharding *shards;      /* of parameters and gradients   */
    const struct shard_map *map;
    const int64_t *pos; /* host memory: of all tokens of the micro-batch at hand; NULL: a sequence is one document */
    enum carry_way way;
    enum dtype real;
    int n_carries; /* what the plan said */
    const struct carry_shape *carry;
    int64_t attend_numbers, total_numbers; /* total_numbers: most of one sum over ranks             */
    int64_t own_numbers;                   /* of the rows of the residual stream that lie here      */
    int64_t part_rows; /* work beside the exchanges of tensor is cut into parts of so many rows or more; 0: never */
    bool swap;         /* the form of attention */
    int n_layers;
    struct routed_most routed;
};
struct seams_mesh {
    struct seams_mesh_spec spec;
    int me;
    struct lane lane[LANES], attend;
    int64_t lane_send, lane_recv, lane_fold, attend_send, attend_recv; /* bytes of the buffers */
    struct transfer *list;                                             /* one list being made */
    int n_list, room;
    int64_t home_at; /* bytes of lane.recv that the list being made has given out */
    /* (R, 2) for each window of this pass: keys each range sees.  Where ops do not read the host's memory, they are
     * copied from keys_host, which passes use in turn. */
    int64_t *keys, *keys_host, window[WINDOWS_MAX], n_passes;
    int n_windows;
    void *scratch; /* of sums over ranks */
    int64_t scratch_bytes;
    char *own; /* shares of own rows as other ranks of tensor send them */
    int64_t own_bytes;
    struct pending *crossing; /* one exchange over tensor, by members */
    int64_t *table, *offsets; /* of each layer: all members' offsets; with a GPU, guests' on their way to it */
    int64_t table_numbers;    /* of one layer */
    int64_t *sections;        /* (members + 1) */
    struct pending routed;
    unsigned quiet; /* uses that are not sent (quiet.h) */
};
/* Transfers of one list at most, for comm_limits: over seq, and over n ranks of tensor. */
int seams_mesh_transfers(const struct shard_map *map, int me);
int seams_mesh_tensor_transfers(const struct shard_map *map, int me, int n);
/* Rows of a range of rank `seq` whose residual stream is on rank `at` of n of tensor: its share, the first ones one row
 * more where the rows do not divide. */
struct own {
    int64_t row, rows;
};
struct own own_share(const struct shard_map *map, int seq, int64_t range, int n, int at);
/* The guests of one rank of an expert axis that regroups data x seq, whose place on seq is `seq`; transfers of one list
 * of theirs. */
struct guests experts_guests(const struct shard_map *map, int seq, int n_ranks, int index, double room);
int experts_transfers(const struct shard_map *map, int seq, const struct guests *g);
/* Bytes that seams_mesh_init will take of the arena for ops, and of the host's; both may be one arena. */
struct seams_mesh_bytes {
    int64_t ops, host;
};
struct seams_mesh_bytes seams_mesh_bytes(const struct seams_mesh_spec *spec);
enum status seams_mesh_init(struct seams_mesh *m, const struct seams_mesh_spec *spec, struct arena *arena,
                            struct arena *host);
/* Before each pass, whose positions are in spec.pos.  The pass before the last one has ended on the device. */
void seams_mesh_pass(struct seams_mesh *m);

extern const struct seams seams_mesh;
#endif
