/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_CONFIG_TREE_H
#define BATON_LAUNCH_CONFIG_TREE_H
/* config_tree.h - YAML as a small tree of places and texts, and the list of mistakes found in it.
 *
 * The tree knows nothing of keys and types: it refuses what no configuration may hold (aliases, anchors, tags, merge
 * keys, second documents, duplicate keys, tabs, deep nesting) and keeps the rest with line and column.  Overrides are
 * added behind the file's children, so that the last child of a name wins. */
#include "base/file.h"
#include "launch/config.h"

#define LEVELS_MAX   4   /* model, layers, symbol, key                        */
#define CHILDREN_MAX 256 /* of one mapping or list                            */
#define MISTAKES_MAX 200 /* reported; further ones are counted                */
#define KEY_PATH     160 /* bytes of "model.layers.M.heads", longer ones cut  */
#define FILE_MAX     (1 << 20)

struct place {
    int override;     /* index of the override; -1: the file, at line and column, both from 1 */
    int line, column; /* column counts characters                                            */
};
struct mistake {
    struct place place;
    struct text line;
};
struct mistakes {
    const struct config_source *from;
    const char *name; /* of the file, in messages */
    struct mistake *list;
    int n, room;
    int64_t n_more; /* beyond MISTAKES_MAX */
};
/* The line "place: path: reason"; the path may be empty.  ERR_OOM alone. */
enum status mistake_add(struct mistakes *m, struct place at, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* All lines in the order of their places, the file's first. */
enum status mistakes_print(const struct mistakes *m, struct text *out);
void mistakes_term(struct mistakes *m);

enum node_type { NODE_SCALAR, NODE_MAP, NODE_LIST };
struct node {
    enum node_type type;
    bool refused;                      /* reported already: say nothing more about it                         */
    bool one_to_one;                   /* a scalar whose bytes stand one to a column, in one line             */
    bool quoted;                       /* ... behind a quote                                                  */
    struct place at, key_at;           /* of the value and of its key                                         */
    int64_t key, text;                 /* offsets in tree.texts                                               */
    int first, last, next, n_children; /* node indices; -1: none                           */
};
struct tree {
    struct node *nodes; /* nodes[0] is the root mapping, also of an empty file */
    int n, room;
    struct text texts;
    bool broken; /* a syntax error or worse: what is missing may stand behind it */
    struct mistakes mistakes;
};
/* Mistakes go into t->mistakes; the status is ERR_OOM alone. */
enum status tree_read(struct tree *t, const char *yaml, int64_t bytes);
enum status tree_override(struct tree *t, int index);
void tree_term(struct tree *t);
const struct node *tree_child(const struct tree *t, const struct node *parent, const char *key); /* the last; NULL */
const struct node *tree_first(const struct tree *t, const struct node *parent);
const struct node *tree_next(const struct tree *t, const struct node *n);
const char *tree_key(const struct tree *t, const struct node *n);
const char *tree_text(const struct tree *t, const struct node *n);
/* Building, for the two readers. */
enum status tree_add(struct tree *t, int parent, const struct node *n, const char *key, const char *text, int *index);

#endif
