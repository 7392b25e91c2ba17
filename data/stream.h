/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_STREAM_H
#define BATON_DATA_STREAM_H
/* stream.h - training sequences out of token files: a pure function of (files, seed, sequence number).
 *
 * Each epoch puts all documents in an order drawn from (seed, epoch), one behind the other, and cuts the row into
 * sequences of S tokens: short documents are packed together, long ones are split.  The sequences of an epoch are
 * then visited in a drawn order.  So sequence n is the same for any mesh, and a run resumes at any step by its number.
 * The last sequence of an epoch is filled up with positions that have no target: id 0, positions counted from 0. */
#include "data/idx.h"

#ifdef __cplusplus
extern "C" {
#endif

struct stream;
struct stream_spec {
    int n_prefixes;
    char *const *prefixes;
    int64_t tokens_per_sequence; /* S                                            */
    int64_t vocab;
    uint64_t seed;
    bool shuffle; /* false (validation): files and documents in their order */
};
/* ERR_DATA: no token at all, or a file that is not what it says. */
enum status stream_open(struct stream **out, const struct stream_spec *spec);
void stream_close(struct stream *s);
int64_t stream_sequences(const struct stream *s); /* of one epoch */
int64_t stream_tokens(const struct stream *s);    /* of one epoch */
/* Sequence n >= 0 (epoch n / stream_sequences): ids (S), targets (S, -1: none: a document's last token, or filling),
 * pos (S): tokens since the document's start or the sequence's.  A document cut by a sequence's end still has the
 * target there.  Allocates nothing; cheap while n stays in one epoch, else one pass over the documents' lengths. */
enum status stream_read(struct stream *s, int64_t n, int32_t *ids, int32_t *targets, int64_t *pos);

#ifdef __cplusplus
}
#endif
#endif
