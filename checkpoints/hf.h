/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_CHECKPOINTS_HF_H
#define BATON_CHECKPOINTS_HF_H
/* hf.h - Hugging Face folders: config.json, model.safetensors or its shards with an index.
 *
 * A family is one row: model_type, how its config.json reads as our `model:` section, and rows {our logical tensor,
 * their name}.  There is one way in: the YAML text made here goes through the same parser as a user's file. */
#include "base/file.h"
#include "base/tensor.h"
#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

struct hf_folder;
enum status hf_open(struct hf_folder **out,
                    const char *dir); /* refuses an unknown model_type, or a field it cannot honour, by name */
void hf_close(struct hf_folder *f);
/* "model:\n  width: ..." as in a configuration file. */
enum status hf_model_yaml(const struct hf_folder *f, struct text *yaml);
/* Where the numbers of parameters go: elements [first, first + n) of what is held here of one, of the type that is
 * asked for. */
struct param_sink {
    enum dtype type; /* F32 or F64 */
    enum status (*store)(void *arg, int param, int64_t first, int64_t n, const void *numbers);
    void *arg;
};
/* Every parameter's numbers out of the folder's tensors, in pieces.  Every tensor of ours must be found with its shape,
 * and every one of theirs used; else ERR_DATA names it. */
enum status hf_read_params(const struct hf_folder *f, const struct params *ps, const struct param_sink *sink);
/* The tensors of the files, one by one, as rows of ours: tensor i is their `name`, and covers rows [row_begin,
 * row_begin + rows) of the whole of parameter index param. */
struct hf_tensor {
    char name[160];
    int param;
    int64_t row_begin, rows;
};
enum status hf_tensors(const struct hf_folder *f, const struct params *ps, struct hf_tensor **out,
                       int *n); /* mem_free(*out) */

#ifdef __cplusplus
}
#endif
#endif
