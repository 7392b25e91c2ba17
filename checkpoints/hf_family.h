/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_CHECKPOINTS_HF_FAMILY_H
#define BATON_CHECKPOINTS_HF_FAMILY_H
/* hf_family.h - one row per model_type: how its config.json reads as our `model:` section, and what its tensors are
 * called.  A layer of theirs may be several of ours (attention, then feed-forward). */
#include "base/file.h"
#include "base/json.h"

#ifdef __cplusplus
extern "C" {
#endif

struct hf_folder; /* hf.h */

/* What a family reads: the configuration, and which tensors the files hold. */
struct hf_source {
    const char *where; /* path of config.json */
    const json_t *root;
    const struct hf_folder *folder;
};
struct hf_model {
    struct text pattern; /* one of our symbols a layer */
    struct text layers;  /* the table, one line a symbol, indented by four */
    double norm_eps;
    bool tied; /* where the configuration does not say; false unless set */
};
/* Our tensor `ours` (a parameter, or a section of one) is their `theirs`; older files may call it `alias`.  A # in
 * their name counts rows: row i of ours is their tensor with i for it (experts, one file tensor each). */
struct hf_row {
    char symbol; /* 0: outside the layers, and `theirs` is a whole name */
    const char *ours, *theirs, *alias;
};
struct hf_family {
    const char *model_type;
    enum status (*describe)(const struct hf_source *s, struct hf_model *m);
    const struct hf_row *rows; /* ends with ours NULL */
    const char *layer;         /* what stands before the number of a layer */
    int symbols_per_layer;
    const char *unused; /* tensors whose name holds this take no part in the model; NULL: none */
};
const struct hf_family *hf_family_find(const char *model_type);
enum status hf_family_list(struct text *out); /* their names, for messages */

/* hf_mamba1.c */
enum status hf_describe_mamba(const struct hf_source *s, struct hf_model *m);
enum status hf_describe_falcon_mamba(const struct hf_source *s, struct hf_model *m);
extern const struct hf_row hf_mamba_rows[];
/* hf_jamba.c */
enum status hf_describe_jamba(const struct hf_source *s, struct hf_model *m);
extern const struct hf_row hf_jamba_rows[];

/* Does any tensor's name end so? */
bool hf_holds(const struct hf_folder *f, const char *suffix);
/* config.json, with the bare words Infinity and NaN that Python writes turned into texts. */
enum status hf_config_read(const char *path, json_t **out);
/* The `model:` section out of what all families share and m. */
enum status hf_yaml(const struct hf_source *s, const struct hf_model *m, struct text *yaml);

/* Fields.  A field that changes the result and has no counterpart here is refused with its name and value. */
enum status hf_refuse_present(const struct hf_source *s, const char *key);
enum status hf_refuse_other_text(const struct hf_source *s, const char *key, const char *fallback,
                                 const char *const *known, const char **value);
/* Fields that speak of experts and their router must be among `known` (ends with NULL), or say nothing: null, false, 0.
 */
enum status hf_refuse_unknown_router(const struct hf_source *s, const char *const *known);
/* Value of key, or of the older spelling where key is absent. */
enum status hf_int(const struct hf_source *s, const char *key, const char *older, int64_t *out);
enum status hf_rope_theta(const struct hf_source *s, double *theta);
enum status hf_dt_limit(const struct hf_source *s, double *low, double *high);

#ifdef __cplusplus
}
#endif
#endif
