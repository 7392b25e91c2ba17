/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_IDX_H
#define BATON_DATA_IDX_H
/* idx.h - the indexed token files of Megatron: PREFIX.bin and PREFIX.idx.
 *
 *   .bin   raw tokens, little-endian
 *   .idx   "MMIDIDX\0\0", u64 version 1, u8 type (1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16), u64 S, u64 D, then unaligned
 *          i32[S] lengths, i64[S] byte offsets into .bin, i64[D] document starts (first 0, last S)
 * A sequence entry is taken as a document piece: documents are [start_d, start_{d+1}) of entries, which follow each
 * other in .bin without gaps.  Everything is checked against the files' sizes before it is used. */
#include "base/file.h"
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct token_file {
    char prefix[PATH_BYTES];
    struct file_map idx, bin;
    enum dtype dtype;
    int64_t n_entries, n_documents, n_tokens;
};
/* Checks the index against both files; tokens are checked when read, since only the reader knows the vocabulary. */
enum status token_file_open(struct token_file *f, const char *prefix);
void token_file_close(struct token_file *f);
/* The check alone, of prefix, idx and bin that are already set; the rest of *f is filled. */
enum status token_file_check(struct token_file *f);
int64_t token_file_length(const struct token_file *f, int64_t document); /* tokens */
/* Tokens [begin, begin + n) of a document.  ERR_DATA, naming file, document and place, outside [0, vocab). */
enum status token_file_read(const struct token_file *f, int64_t document, int64_t begin, int64_t n, int64_t vocab,
                            int32_t *out);

/* Writing: documents in order; nothing exists under the final names until close has synced both. */
struct token_writer;
enum status token_writer_open(struct token_writer **out, const char *prefix, int64_t vocab);
enum status token_writer_add(struct token_writer *w, const int32_t *tokens, int64_t n); /* one document */
enum status token_writer_close(struct token_writer *w, bool keep); /* keep false: drop all; NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
