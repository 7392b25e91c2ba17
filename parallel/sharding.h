/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PARALLEL_SHARDING_H
#define BATON_PARALLEL_SHARDING_H
/* sharding.h - weights, gradients and optimizer state over the P ranks of data x seq, behind need and done.
 *
 * A block is a layer, or the ends (embedding, final norm, head).  Its parameters lie in one row of N elements, each
 * rounded up to ARENA_ALIGN bytes.  Rank k's slice is [at[k], at[k + 1]), n elements, nearly even: cuts are at the
 * edges of parameters and, inside one, at whole rows that are multiples of SUM_SQUARES_BLOCK elements.  In slices on
 * every stage but none: moments, and what is updated and saved.
 *
 *   stage        whole beside them                      elements that a rank receives in a step of M micro-batches
 *   none         everything                             gradients: M all_reduce(N), summed over blocks
 *   optimizer    weights, gradients                     gradients: M (P - 1) n;  weights: N - n
 *   gradients    weights; gradients of the ends and     the same
 *                of 3 layers
 *   parameters   the ends; of 2 layers weights and of   gradients: the same;  weights: N - n of the ends, and layer i
 *                3 layers gradients                     of L comes 1 + M [i < L - 2] + (M - 1) [i > 1] times
 *
 * Layers that run again in groups of several are gathered for that too; with ends_twice the gradients of the ends count
 * twice.  Where weights are BF16, those of products (struct param) are the rounded copies of masters, in the wide type,
 * which lie in slices beside the moments: the optimizer updates masters and writes the copies.  Gradients are wide.
 * Every stage adds the ranks' gradients of one
 * micro-batch in the order of ranks, then micro-batches in theirs: so all have the same bits on one mesh.  With one
 * rank every stage is none, and a pass adds to the gradients in place (but not in exact mode, whose bits must be those
 * of several ranks).  The exchange of a block begins in done and ends two blocks later, hidden behind them; updated
 * weights leave in sharding_publish and are awaited in need.
 *
 * What the expert axis splits is a sharding of its own, `experts`, over the ranks that hold the same experts.  Ranks of
 * tensor that hold copies of a part add their gradients in the order of ranks, at the end of a step's last pass, unless
 * each has the whole (struct param); they receive for it (copies - 1) numbers for each of their own. */
#include "dist/collectives.h"
#include "model/seams.h"

enum sharding_stage { SHARDING_NONE, SHARDING_OPTIMIZER, SHARDING_GRADIENTS, SHARDING_PARAMETERS };
#define SHARDING_CHOICES "none|optimizer|gradients|parameters" /* in the order of the enum */

struct sharding_spec {
    struct ctx *ctx;                  /* whose ops' memory this is                           */
    const struct comm_device *device; /* of communicators over it; NULL: the host's          */
    struct rank *rank;                /* NULL: one rank without a world                    */
    const struct mesh *mesh;
    enum sharding_stage stage;
    struct params *params;             /* with shapes; those of a block follow each other */
    int n_layers;                      /* the ends come after them                         */
    const int *first;                  /* (n_layers + 2) a block's first parameter         */
    bool borrowed, gradients, moments; /* weights belong to somebody else;  what there is  */
    int64_t n_micro;                   /* micro-batches of a step                          */
    bool exact;                        /* ranks are added in their binary tree             */
    bool ends_twice;                   /* gradients of the ends leave at the turn, too     */
};
struct sharding_block {
    int first, end;                      /* parameters                                       */
    int64_t *at, *bytes_at;              /* (P + 1) where slices begin: elements, and bytes of weights */
    int64_t n, begin, mine;              /* elements: of the row; of my part of it           */
    int64_t w_bytes;                     /* of the row of weights                            */
    char *w, *g;                         /* the row, where it lies now, or NULL              */
    char *w_mine, *master, *sum, *m, *v; /* my part; sum of gradients in a step              */
    struct pending gather;
    int64_t n_arrived; /* gradients summed in this step */
};
/* My part of a parameter: n elements from begin on, whole rows of dim 0; n may be 0. */
struct sharding_piece {
    int64_t begin, n;
    struct tensor w, m, v, g; /* (n), wide                                             */
    struct tensor out;        /* (n) w rounded, part of the row; absent where w itself is */
};
enum { SLOTS_W = 2, SLOTS_G = 3, FLIGHTS_G = 2 };
struct sharding {
    struct sharding_spec spec;
    struct sharding *experts; /* what the expert axis splits; NULL: nothing           */
    bool of_experts;          /* this is it                                           */
    enum mesh_axis axis;      /* over which slices are cut and gradients added        */
    int n_ranks, index, n_blocks;
    enum dtype wide;                  /* of gradients, moments and masters                       */
    bool masters;                     /* weights are rounded copies                              */
    bool sliced, ring_w, ring_g;      /* my part is less than the row; rows come and go          */
    bool fresh, open;                 /* gradients of a pass start from zero; comm is open       */
    unsigned quiet;                   /* uses that are not sent (quiet.h)                         */
    struct comm comm, tensor, expert; /* the last two: open where there are several ranks */
    struct sharding_block *block;
    struct sharding_piece *piece; /* one a parameter           */
    int64_t *at, *offset, *w_at;  /* offset: elements in the row;  w_at: bytes in that of weights */
    int64_t *sums_at;             /* first block sum of each part (model/param_parts.h) */
    char *slot_w[SLOTS_W], *slot_g[SLOTS_G];
    struct sharding_block *in_slot[SLOTS_W], *flying[FLIGHTS_G];
    struct reduction flight[FLIGHTS_G];
    char *scratch[FLIGHTS_G], *sum_scratch, *copies; /* copies: what other ranks of tensor have   */
    struct tensor sums;                              /* of squares, by blocks of each part                       */
    struct tensor roots;                             /* of experts, one a part                                   */
    struct tensor sums_at_ops;                       /* sums_at, where ops read it                         */
    struct tensor grads;                             /* all gradients, where all are whole                       */
    int last, done_at;                               /* layers: needed before; the lowest done in this pass      */
    bool up;                                         /* layers are needed in rising order                        */
    int n_flown;                                     /* layers done in this pass                                 */
    int64_t n_passes;                                /* of this step, whose gradients are summed                 */
};
/* Bytes of memory, by purpose, as sharding_place will take it. */
struct sharding_bytes {
    int64_t weights, masters, gradients, sums, moments, exchanges;
};
/* The plan alone; then its memory.  sharding_term accepts the empty one, and takes back what was begun. */
enum status sharding_init(struct sharding *h, const struct sharding_spec *spec);
struct sharding_bytes sharding_bytes(const struct sharding *h);
enum status sharding_place(struct sharding *h, struct arena *arena);
void sharding_term(struct sharding *h);

/* Seams.  block: a layer's index, or -1: the ends. */
enum status sharding_need(struct sharding *h, int block);
enum status sharding_done(struct sharding *h, struct step *s, int block);
/* Around a step and around each pass with a backward in it; after the last pass the pieces hold gradients, and
 * so do the parameters' g where nothing is in slices. */
enum status sharding_step_begin(struct sharding *h, struct step *s);
enum status sharding_pass_begin(struct sharding *h, struct step *s);
/* Between forward and backward.  A tied head in exact mode: each of its two uses has a tree over segments and ranks. */
enum status sharding_pass_turns(struct sharding *h, struct step *s);
enum status sharding_pass_end(struct sharding *h, struct step *s);
/* Sum of squares of the gradient of each part of every parameter, roots (params_parts) F64: blocks of SUM_SQUARES_BLOCK
 * in a tree, the same on every stage and rank; over expert and tensor in the order of ranks, each copy once. */
enum status sharding_squares(struct sharding *h, struct step *s, struct tensor roots);
/* My part of the weights has changed: let the others know.  settle waits for what is under way. */
enum status sharding_publish(struct sharding *h);
enum status sharding_settle(struct sharding *h);
/* Elements of a parameter that this rank keeps, of those that its mesh coordinates give it: all, or a slice. */
void sharding_kept(const struct sharding *h, int param, int64_t *first, int64_t *n);
/* Elements [first, first + n) of a parameter's weight become these numbers of the wide type, in host memory: what of
 * them this rank keeps, masters and rounded copies; `rounded`: the same in BF16, or NULL, as for
 * space_store.  Copies are enqueued; the same on all ranks, or sharding_publish follows. */
enum status sharding_store(struct sharding *h, int param, int64_t first, int64_t n, const void *numbers,
                           const void *rounded);
/* Whether another rank has the same in its slice, and counts and saves it. */
bool sharding_elsewhere(const struct sharding *h, int param, int part);
/* For the files of sharding.  The parameters' w point into the row of their block, their g into that row. */
bool sharding_has(const struct sharding *h, int param);
void sharding_bind_w(struct sharding *h, const struct sharding_block *b);
void sharding_bind_g(struct sharding *h, const struct sharding_block *b, char *row);
/* My elements of a part in my slice of its parameter: n from `begin` of the part on; false: none. */
bool sharding_part(const struct sharding *h, int param, int part, int64_t *begin, int64_t *n);
int64_t sharding_copies(const struct sharding *h, const struct sharding_block *b); /* numbers to add */
enum status sharding_add_copies(struct sharding *h, struct step *s);
#endif
