/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_CHECKPOINTS_CHECKPOINT_H
#define BATON_CHECKPOINTS_CHECKPOINT_H
/* checkpoint.h - a run's state on disk: RUN/checkpoints/step-00000120/.
 *
 *   shard-00000-of-00001.safetensors   one from each rank that writes; logical tensors under global names:
 * "param/NAME", "adamw.m/NAME", "adamw.v/NAME" manifest.json                      format, step, files with sizes and
 * XXH3-128, tensors with global shape and the piece each file holds, identity hash, data position, its own SHA-256
 *   config.yaml                        the resolved configuration
 * Written under step-N.tmp-<pid>-<host>, every file synced, read back and verified, the folder synced, renamed, the
 * parent synced: a reader sees all of it or nothing.  Reading trusts no name: it takes the newest folder whose manifest
 * and sizes and sums hold, and says what it skipped and why.  An old checkpoint goes only after the new one stands. */
#include "base/file.h"
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct save_io; /* save_io.h    */
struct comm;    /* dist/comm.h  */

struct state_tensor;
/* Rows that do not lie in the host's memory: each call moves elements [first, first + n) of s.t, at most 4 Mi. */
struct state_memory {
    enum status (*get)(void *arg, const struct state_tensor *s, int64_t first, int64_t n, void *host);
    enum status (*put)(void *arg, const struct state_tensor *s, int64_t first, int64_t n, const void *host);
    void *arg;
};
enum { STATE_PIECE = 4 << 20 }; /* elements */

struct state_tensor {
    char name[160];
    int64_t global[4]; /* whole shape; trailing dims 1       */
    int n_dims;        /* 0: a scalar, one row               */
    int64_t begin;     /* first row of dim 0 held here       */
    int cut_dim;       /* 1 to 3: of that dim only entries from cut_begin on are held; 0: all */
    int64_t cut_begin;
    struct tensor t;                   /* the rows held here, packed         */
    bool elsewhere;                    /* another rank holds them too, and saves them */
    const struct state_memory *memory; /* NULL: t is in the host's            */
};
struct checkpoint_meta {
    int64_t step;   /* finished optimizer steps             */
    int64_t tokens; /* trained on so far                    */
    uint64_t seed;
    char identity[65];         /* SHA-256 of the identity keys    */
    const char *identity_text; /* those keys, "key: value" lines  */
    const char *config;        /* resolved YAML                   */
};
/* keep: how many newest checkpoints stay (0: all).  On failure nothing of the new one stays and no old one is touched.
 * A valid checkpoint of the same step and run that is already there stays and is enough; one of another run is refused.
 * run_dir is made if its parent exists.  One process writes a run: leftovers of dead ones are removed first. */
enum status checkpoint_save(const char *run_dir, const struct checkpoint_meta *meta, const struct state_tensor *list,
                            int64_t n, int64_t keep);
enum status checkpoint_save_through(const struct save_io *io, const char *run_dir, const struct checkpoint_meta *meta,
                                    const struct state_tensor *list, int64_t n, int64_t keep);
/* All ranks of c together (NULL: one), each with the same list of tensors and its own rows of them, maybe none; rows of
 * all ranks cover each tensor once.  Each writes a shard; member 0 hears of all, commits and removes.  A failure of one
 * is a failure of all, with its text, and leaves what was there before. */
enum status checkpoint_save_ranks(const struct save_io *io, struct comm *c, const char *run_dir,
                                  const struct checkpoint_meta *meta, const struct state_tensor *list, int64_t n,
                                  int64_t keep);
/* The newest valid checkpoint of a run (a run folder), or the one named (a step folder).  ERR_MISSING: there is none;
 * ERR_DATA: there are some, and none is valid.  skipped gets a line for each folder passed over. */
enum status checkpoint_find(const char *run_or_step_dir, char path[PATH_BYTES], struct text *skipped);

struct checkpoint; /* open, verified */
enum status checkpoint_open(struct checkpoint **out, const char *path);
void checkpoint_close(struct checkpoint *c);
const struct checkpoint_meta *checkpoint_about(const struct checkpoint *c);
/* Every tensor of the list is found with its global shape and filled; types convert.  A name that is missing is an
 * error that names it; with `all`, so is one that nobody asked for. */
enum status checkpoint_read(const struct checkpoint *c, const struct state_tensor *list, int64_t n, bool all);

/* Manifest and sizes alone, nothing hashed: is it worth keeping? */
enum status checkpoint_glance(const char *path);

/* What is in it, for people: lists sorted by name; texts live as long as c. */
struct manifest; /* manifest.h */
const struct manifest *checkpoint_manifest(const struct checkpoint *c);

#ifdef __cplusplus
}
#endif
#endif
