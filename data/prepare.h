/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_PREPARE_H
#define BATON_DATA_PREPARE_H
/* prepare.h - texts to token files.  A file is one document, or with `lines` each of its lines is one (without its end:
 * LF, or CR and LF); a .jsonl file has one object a line, and the text is its member `field`.  Documents without text
 * are skipped and counted.  The output is in the order of the arguments whatever the threads.
 *
 * Files are cut into items of some 256 KiB (a document is never cut), and items are tokenized by the windowful: memory
 * is bounded by a window of 32 MiB of text, or by the longest document where that is more. */
#include "data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

struct prepare_counts {
    int64_t documents, empty, tokens;
    int64_t bytes; /* of the files, read so far */
};
struct prepare_spec {
    const char *prefix; /* of the token files that are made */
    int n_paths;
    const char *const *paths;
    bool lines;
    const char *field; /* of .jsonl                             */
    int64_t end_token; /* put behind each document; -1: none    */
    int n_threads;
    /* Called after each window, from the caller's thread; NULL: not. */
    void (*progress)(void *arg, const struct prepare_counts *now);
    void *progress_arg;
};
/* ERR_DATA: no document with text, or a line that is not what it should be (file:line).  On failure nothing new is
 * under the final names. */
enum status prepare_run(const struct tokenizer *t, const struct prepare_spec *spec, struct prepare_counts *counts);

#ifdef __cplusplus
}
#endif
#endif
