/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_CONFIG_FIELDS_H
#define BATON_LAUNCH_CONFIG_FIELDS_H
/* config_fields.h - the sections of a configuration and their field tables: one row per key. */
#include "launch/config.h"

struct config_section {
    const char *name;
    const struct field *fields;
    size_t at; /* offsetof in struct config */
};
extern const struct config_section config_sections[]; /* in the order of printing; ends with name NULL            */
extern const struct field config_root_fields[];       /* keys beside the sections                                 */
extern const struct field repeat_fields[];            /* model.pattern: {repeat, times}, into struct repeat_form  */
extern const struct field ratio_fields[];             /* model.ratio: {attention, moe, layers}, struct ratio_form */

struct repeat_form {
    char *repeat;
    int64_t times;
};
struct ratio_form {
    double attention, moe;
    int64_t layers;
};
/* A LIST, or run.dir: a path, absolute once read. */
bool field_is_path(const struct field *f, const struct config_section *s);

/* Where the resolved text and the identity come from. */
enum status config_print_resolved(const struct config *c, struct text *out);
enum status config_print_identity(const struct config *c, struct text *out);

#endif
