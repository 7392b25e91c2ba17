/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DIST_INSIDE_H
#define BATON_DIST_INSIDE_H
/* inside.h - what worlds and communicators share; for the files of dist/ alone.
 *
 * Thread world: all of it is guarded by world.lock, except what the comment of a field says.  MPI world: one thread. */
#include <pthread.h>
#include "dist/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum comm_op { OP_TRANSFER, OP_ALL_GATHER, OP_ALL_TO_ALL, OP_SUM, OP_BROADCAST, OP_BARRIER, N_COMM_OPS };

enum post_state { POST_WAITING, POST_COPYING, POST_DONE };
struct flight;
struct post {          /* one message, at one of its ends */
    struct post *next; /* in its queue */
    struct flight *flight;
    bool is_send;
    int peer;              /* member of the group */
    const void *from;      /* of a send */
    void *to;              /* of a receive */
    int64_t bytes, number; /* number: counts the messages of this pair, from 0 */
    int64_t matched;       /* MPI: bytes of the chunks under way */
    enum post_state state;
};
struct flight { /* one begun exchange */
    bool open;
    enum comm_op op;
    enum comm_use use;
    int64_t number; /* of this communicator's exchanges, from 1 */
    int n, left;    /* posts; of them, not done */
    struct post *posts;
    int n_requests;
    void *requests; /* MPI */
    int *owner;     /* MPI: of each request, the post it belongs to */
    void *ready;    /* device memory: events (lane.h), */
    void *finished;
    bool moves;    /* any byte at all,                 */
    bool enqueued; /* and `finished` is recorded,      */
    bool over;     /* and was seen to have passed      */
};
struct queue {
    struct post *head, *tail;
};
struct box { /* traffic with one member */
    struct queue sends, recvs;
    int64_t n_sent, n_received;
};
struct lane; /* dist/lane.h */
struct comm_inside {
    struct comm *comm;
    const struct transport *transport;
    struct lane *lane; /* over device memory; else NULL */
    struct rank *rank;
    enum mesh_axis axis;
    int serial;                             /* of the communicators that this rank opened: the same on all ranks */
    int id, first, stride;                  /* member i is rank first + i * stride */
    int n_flights, n_transfers, n_requests; /* limits: open flights; transfers and requests of one */
    int n_slots, next_slot, n_open;         /* of flights: over device memory, those ended lately are remembered */
    struct flight *flights;
    struct box *boxes;
    struct transfer *list; /* (2 * size) for the collectives to fill */
    int64_t *at;           /* (size + 1) */
    int64_t n_begun;
    void *mpi;
};
struct record { /* the first failure */
    bool set;
    int rank;
    enum status st;
    char text[1600];
};
struct rank {
    struct world *world;
    int index;
    int n_comms, n_opened;
    struct comm_inside *comms[COMMS_MAX];
    const char *phase;
    int64_t phase_number, n_messages; /* n_messages: sent, for the fault table; own thread only */
    struct comm_inside *last;         /* the latest exchange, and whether the rank is in it */
    enum comm_op last_op;
    enum comm_use last_use;
    int64_t last_number;
    struct flight *waits;
    bool in, ended;
    bool waits_gpu; /* in comm_wait_stream */
    enum status st;
    pthread_cond_t wake;
    /* Device memory.  lock guards flights and calls of NCCL, which the watch shares; never taken before world.lock. */
    pthread_mutex_t lock;
    enum device_way device_way; /* AUTO: not settled yet         */
    int card;                   /* its GPU, as cudaSetDevice counts */
    int n_lanes;
    struct comm_inside *lanes[COMMS_MAX];
    struct comm_inside *launching; /* its latest exchange is on its way to the stream */
    struct flight *launched;
    void *warm; /* device memory for the first exchange of a communicator */
    struct {
        enum status st; /* OK: none */
        char text[600];
    } verdict;
};
/* What moves the bytes of a communicator. */
struct transport {
    const char *name;
    enum status (*join)(struct comm_inside *in); /* the transport's part of comm_init and comm_term */
    void (*leave)(struct comm_inside *in);
    enum status (*begin)(struct comm_inside *in, struct flight *f);
    enum status (*end)(struct comm_inside *in, struct flight *f);
};
/* What ranks are: threads or processes. */
struct world_kind {
    const struct transport *host; /* of communicators over host memory */
    enum status (*run)(struct world *w, world_fn *fn, void *arg);
    void (*close)(struct world *w);
    /* Record this as the world's first failure, unless there is one, with where the rank stands; tell the others. */
    enum status (*fail)(struct rank *r, enum status st, const char *what);
    enum status (*poll)(struct rank *r); /* ERR_COMM where another rank has failed */
};
struct world {
    struct world_spec spec;
    const struct world_kind *kind;
    int size, rank_here; /* rank_here: the lowest rank of this process */
    int on_host;         /* ranks of this host                         */
    struct rank *ranks;  /* threads: all; MPI: mine alone */
    struct record first;
    bool first_here; /* the first failure is one of this process' ranks */
    int failed;      /* first.set, for the watch: atomic                */
    void *nccl;
    pthread_mutex_t lock;
    void *mpi;
};

extern const struct world_kind world_threads;
extern const struct transport transport_threads, transport_paper;
static inline bool comm_on_paper(const struct comm_inside *in) { return in->transport == &transport_paper; }
enum status threads_open(struct world *w);
enum status threads_join(struct comm_inside *in);
void threads_leave(struct comm_inside *in);
enum status threads_begin(struct comm_inside *in, struct flight *f);
enum status threads_end(struct comm_inside *in, struct flight *f);
enum status threads_fail(struct rank *r, enum status st, const char *what);
enum status threads_poll(struct rank *r);
void threads_wake_all(struct world *w);
/* Sleep until woken; false: the monotonic clock has passed until_s.  Lock held. */
bool threads_sleep(struct rank *r, double until_s);
/* Faults of a flight's messages; a lost one is done at once. */
enum status threads_strike(struct rank *r, struct flight *f);
/* The fault table's word on the next message of this rank; without the lock. */
enum status fault_strike(struct rank *r, bool *lost);

extern const struct world_kind world_mpi;
extern const struct transport transport_mpi;
enum status mpi_open(struct world *w);
enum status mpi_join(struct comm_inside *in);
void mpi_leave(struct comm_inside *in);
enum status mpi_begin(struct comm_inside *in, struct flight *f);
enum status mpi_end(struct comm_inside *in, struct flight *f);
/* OK, or ERR_COMM with MPI's words for the code. */
enum status mpi_status(int code, const char *what);
enum status mpi_fail(struct rank *r, enum status st, const char *what);
enum status mpi_poll(struct rank *r);
void mpi_listen(struct world *w);   /* has another rank told of its failure? */
void mpi_tell_all(struct world *w); /* tell the others of the first failure, which is here */

void world_nap(int64_t polls); /* between polls: yield at first, then sleep, as cores may be shared */
/* Begin an exchange under the name of a collective. */
enum status comm_post(struct comm *c, enum comm_use use, enum comm_op op, const struct transfer *list, int n,
                      struct pending *p);
void queue_push(struct queue *q, struct post *p);
void queue_pop(struct queue *q);
int comm_world_rank(const struct comm_inside *in, int member);
int comm_tag(const struct flight *f);
void comm_print_tag(int tag, char *out, size_t room); /* "all_gather (grads)" */
/* The rank is in this exchange from now on: last_*, in.  Lock held. */
void rank_enters(struct comm_inside *in, const struct flight *f);
/* "rank 2 of 4, phase backward 3, in all_gather 17 of seq (grads)" */
void rank_where(const struct rank *r, char *out, size_t room);
/* "rank 3, which waits in all_gather 17 of seq (grads)": a stopped peer, for texts of timeouts. */
void rank_state(const struct rank *r, char *out, size_t room);
/* Make this thread's status record the failure of the world, unless there is one.  says_where: the text begins with
 * rank_where already.  Lock held. */
void world_record(struct rank *r, enum status st, bool says_where);

#ifdef __cplusplus
}
#endif
#endif
