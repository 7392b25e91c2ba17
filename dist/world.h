/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DIST_WORLD_H
#define BATON_DIST_WORLD_H
/* world.h - N ranks run one function: as threads of this process, or one process a rank under mpirun or srun.
 *
 * The first failure of any rank - a status it returns, a wait past the deadline, a death - is recorded with rank, phase
 * and exchange, and ends the waits of all others with ERR_COMM; world_run returns the first failure's own status.
 * ERR_STOPPED is no failure: ranks agree on it.  In the MPI world a rank that neither comes to the end nor answers
 * makes the others call MPI_Abort with exit code 4, after a line that says why. */
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Faults for tests, in the thread world.  k counts the messages that the rank sends, from 1, over all communicators. */
enum fault_kind {
    FAULT_LATE,  /* the rank sleeps ms first              */
    FAULT_LOST,  /* the message is never delivered        */
    FAULT_ERROR, /* the exchange returns ERR_IO           */
    FAULT_STOP,  /* the rank goes silent, as if it hung   */
};
struct fault {
    int rank;
    int64_t k;
    enum fault_kind kind;
    int ms;
};

/* How communicators over device memory move bytes; the order of mesh.transport's choices.  auto: copies where two ranks
 * share a GPU, else nccl. */
enum device_way { DEVICE_WAY_AUTO, DEVICE_WAY_COPIES, DEVICE_WAY_NCCL };
#define DEVICE_WAY_CHOICES "auto|copies|nccl"

struct world_spec {
    int n_ranks;          /* threads; 0 under a launcher, which knows the number                                   */
    const char *launcher; /* world_launcher(getenv): not NULL means the MPI world                                  */
    double deadline_s;    /* of every wait; 0: 600                                                                 */
    int64_t chunk_bytes;  /* largest single MPI message; 0: 2^30.  Tests make it small                             */
    enum device_way device_way;  /* all ranks alike                                                                 */
    void (*hard_exit)(int code); /* or NULL: ends the process where a failed rank cannot be brought to its end      */
    bool paper;                  /* one rank of n_ranks, in the caller's thread: see world_run                        */
    int alone;                   /* which                                                                           */
    const struct fault *faults;  /* must outlive the world                                                          */
    int n_faults;
};

struct world;
struct rank; /* one rank's view of the world: valid during its function */
typedef enum status world_fn(struct rank *r, void *arg);

/* The variable by which mpirun or srun tells a process that it is a rank, or NULL; get is getenv. */
const char *world_launcher(char *(*get)(const char *name));
/* Call from the main thread; one MPI world a process.  ERR_CONFIG: a number of ranks together with a launcher, a
 * launcher without MPI in this build; ERR_OOM. */
enum status world_open(struct world **out, const struct world_spec *spec);
int world_size(const struct world *w);
/* Whether this process should print what it says once: it holds rank 0, or after a failure the rank that failed. */
bool world_speaks(const struct world *w);
/* fn runs once a rank; with threads, concurrently, and with one rank in the caller.  Communicators that fn opens it
 * closes.  Every rank sees arg.  On paper fn runs once, as one rank without the others: what it sends is counted and
 * goes nowhere, what it would receive is counted and not written. */
enum status world_run(struct world *w, world_fn *fn, void *arg);
void world_close(struct world *w); /* accepts NULL */

int rank_index(const struct rank *r);
int rank_size(const struct rank *r);
int rank_on_host(const struct rank *r); /* ranks that share this host's memory, me among them */
/* What the rank is doing, for the texts of failures: "backward", layer 3.  name must outlive the run. */
void rank_phase(struct rank *r, const char *name, int64_t number);

#ifdef __cplusplus
}
#endif
#endif
