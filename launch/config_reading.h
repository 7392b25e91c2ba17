/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_CONFIG_READING_H
#define BATON_LAUNCH_CONFIG_READING_H
/* config_reading.h - one pass over a configuration, shared by the files that read its parts.
 *
 * Functions return ERR_OOM alone; what the user wrote wrong goes into tree.mistakes. */
#include "launch/config_fields.h"
#include "launch/config_tree.h"

struct reading {
    struct config *c;
    const struct config_source *from;
    struct tree tree;
    char folder[PATH_BYTES]; /* of the configuration file */
    char here[PATH_BYTES];   /* the current folder        */
};
/* One mapping and the table of its keys. */
struct table {
    const char *path;       /* key path of the mapping; "" for the root                */
    const struct node *map; /* NULL: absent                                            */
    const struct field *fields;
    const char *const *beside;            /* keys read elsewhere, ends with NULL; or NULL           */
    const struct config_section *section; /* NULL: not one of the sections                         */
    void *base;
    bool optional; /* keys without a default may be absent                 */
};
enum status read_table(struct reading *r, const struct table *t);
enum status read_model(struct reading *r, const struct node *map);
enum status check_config(struct reading *r);
/* ERR_CONFIG and ERR_ARG become a mistake at this place, other failures come back. */
enum status mistake_of(struct reading *r, enum status st, struct place at, const char *path);
/* Where to show what is wrong with section.key: its value, else its section, else the top. */
struct place place_of_key(const struct reading *r, const char *section, const char *key);
/* The last mapping of this name below parent; NULL. */
const struct node *map_child(const struct tree *t, const struct node *parent, const char *key);
void join_path(char out[KEY_PATH], const char *path, const char *key);

/* The nearest of several words. */
struct nearest {
    const char *word, *best;
    int distance;
};
void nearest_try(struct nearest *n, const char *candidate);

#endif
