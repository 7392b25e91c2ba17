/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_PARALLEL_INSIDE_H
#define BATON_PARALLEL_INSIDE_H
/* inside.h - what the files of the mesh's seams share. */
#include "kernels/ops.h"
#include "parallel/seams_mesh.h"

static inline struct seams_mesh *mesh_of(struct step *s) { return (struct seams_mesh *)s->seams_state; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* The transfers of one exchange, in an order that both sides derive from the map. */
void list_clear(struct seams_mesh *m);
void list_send(struct seams_mesh *m, int peer, const void *data, int64_t bytes);
void list_recv(struct seams_mesh *m, int peer, void *data, int64_t bytes);

void list_own(struct seams_mesh *m, const void *from, void *to, int64_t bytes); /* of expert's communicator */
/* The list is on its way, or is quiet (quiet.h): then nothing is pending. */
enum status list_begin(struct step *s, struct comm *c, enum comm_use use, struct pending *p);
enum status list_end(struct comm *c, struct pending *p);
/* What the receives of a list would bring, of numbers of this type. */
enum status quiet_list(struct step *s, enum dtype type, const struct transfer *list, int n);
static inline bool is_quiet(unsigned quiet, enum comm_use use) { return quiet >> use & 1u; }

/* The summaries or states of a rank's ranges, `bytes` each and one behind the other from `base`, that travel between me
 * and `peer`; neighbours go in one message. */
struct trip {
    int owner, peer; /* whose ranges; the other end */
    bool send;
    char *base;
    int64_t bytes;
    enum carry_to to;
    bool (*travels)(const struct shard_map *map, const struct token_range *t, int reader, enum carry_to to);
};
void list_trip(struct seams_mesh *m, const struct trip *trip);
/* Has t a range behind it, or before it, in its sequence and in the carry's direction? */
bool has_behind(const struct shard_map *map, const struct token_range *t, enum carry_to to);
bool has_before(const struct shard_map *map, const struct token_range *t, enum carry_to to);

/* i-th range of sequence b in the carry's direction; NULL past the end. */
const struct token_range *map_next(const struct shard_map *map, int64_t b, int64_t i, enum carry_to to);

enum status rows_copy(struct step *s, struct tensor x, struct tensor y); /* 2-D views */
enum status rows_add(struct step *s, struct tensor x, struct tensor y);  /* y += x    */
enum status rows_zero(struct step *s, struct tensor x);

/* Range `index` of a tensor whose dim 0 counts ranges, as rows x cols. */
struct tensor range_view(struct tensor t, int64_t index, int64_t rows, int64_t cols);

enum status gather_begin(struct step *s, struct carry *c);
enum status gather_end(struct step *s, struct carry *c);
enum status chain_end(struct step *s, struct carry *c);
enum status scan_begin(struct step *s, struct carry *c);
enum status scan_end(struct step *s, struct carry *c);
enum status last_begin(struct step *s, struct carry *c);
enum status last_end(struct step *s, struct carry *c);
/* Rows of cols numbers that last(k) sums on their way back, on this rank. */
int64_t last_back_rows(const struct shard_map *map, int me, int64_t k);

/* Gradients of my rows that come home from other ranks, at most: without a window, one document. */
int64_t keys_back_rows(const struct shard_map *map, int me);
enum status keys_begin(struct step *s, struct flow *f, struct attend *a, enum attend_when when);
enum status keys_end(struct step *s, struct flow *f, struct attend *a, enum attend_when when);
enum status swap_begin(struct step *s, struct flow *f, struct attend *a, enum attend_when when);
enum status swap_end(struct step *s, struct flow *f, struct attend *a, enum attend_when when);

enum status tensor_enter(struct step *s, struct tensor own, struct tensor all, const struct row_work *work);
enum status tensor_leave(struct step *s, struct tensor all, struct tensor own, const struct row_work *work);

enum status experts_begin(struct step *s, const struct layer *l, struct routed *r, enum routed_when when);
enum status experts_end(struct step *s, const struct layer *l, struct routed *r, enum routed_when when);

/* Rows of rank r: row 0 of its first range of sequence b lies at this row of the wide tensors, and so on. */
static inline int64_t wide_row(const struct shard_map *map, const struct token_range *t) {
    return t->sequence * map->spec.tokens + t->begin;
}
#endif
