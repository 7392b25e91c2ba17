/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_CHECKPOINTS_MANIFEST_H
#define BATON_CHECKPOINTS_MANIFEST_H
/* manifest.h - manifest.json: what a checkpoint holds, sealed.
 *
 *   {"files":   [{"bytes": 1, "name": "shard-00000-of-00001.safetensors", "xxh3": "..."}, ...],
 *    "format":  "baton-checkpoint-1", "identity": "...", "identity_text": "...", "seed": "1", "sha256": "...", "step":
 * 1, "tensors": {"param/NAME": {"dtype": "F32", "shape": [6, 4], "pieces": [{"begin": 0, "file": 0, "rows": 6, "xxh3":
 * "..."}]}}, "tokens":  1}
 *
 * A piece of a tensor that several ranks cut along a later dim says so, too: "dim": 1, "from": 0, "size": 2.
 * Keys are sorted and the layout is one; sha256 is that of the same text without its own member, so a changed byte
 * anywhere is seen.  Pieces are rows of dim 0 (a scalar is one row), or boxes of bands along one later dim,
 * and cover each tensor exactly once. */
#include "base/file.h"
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MANIFEST_NAME  "manifest.json"
#define MANIFEST_BYTES ((int64_t)1 << 30) /* at most */

struct manifest_file {
    const char *name; /* plain: no folder, no leading dot */
    int64_t bytes;
    const char *xxh3;
};
struct manifest_piece {
    int64_t file;        /* index into files */
    int64_t begin, rows; /* of dim 0 */
    const char *xxh3;    /* of the piece's bytes alone: tells which tensor a damaged file hurts */
    int64_t dim;         /* 1 to 3: it holds entries [from, from + size) of that dim alone; 0: whole rows */
    int64_t from, size;
};
struct manifest_tensor {
    const char *name;
    enum dtype dtype;
    int n_dims;
    int64_t shape[4]; /* whole; trailing dims 1 */
    int64_t first_piece, n_pieces;
};
struct manifest {
    int64_t step, tokens;
    uint64_t seed;
    const char *identity, *identity_text;
    struct manifest_file *file;     /* sorted by name */
    struct manifest_tensor *tensor; /* sorted by name once parsed */
    struct manifest_piece *piece;   /* those of one tensor follow each other, by begin once parsed */
    int64_t n_files, n_tensors, n_pieces;
    void *json; /* owns texts once parsed */
};
/* The sealed text of m. */
enum status manifest_print(const struct manifest *m, struct text *out);
/* Structure alone (for fuzzing), and structure with seal.  Nothing outlives a failure. */
enum status manifest_parse(struct manifest *m, const char *where, const char *text, int64_t bytes);
enum status manifest_open(struct manifest *m, const char *where, const char *text, int64_t bytes);
void manifest_close(struct manifest *m); /* of a parsed one; accepts the empty one */
/* Rows of dim 0, and elements in one. */
int64_t manifest_rows(const struct manifest_tensor *t);
bool manifest_name_ok(const char *name); /* fit for a file of a checkpoint */

#ifdef __cplusplus
}
#endif
#endif
