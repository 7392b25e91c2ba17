/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_DATA_ADDED_H
#define BATON_DATA_ADDED_H
/* added.h - added tokens, recognised in text before anything else: the leftmost, and there the longest.  `single_word`
 * ones count only where no word character touches them; lstrip and rstrip ones swallow the white space beside them. */
#include "data/split.h"

#ifdef __cplusplus
extern "C" {
#endif

struct added_token {
    int32_t id;
    bool single_word, lstrip, rstrip;
};
/* A set of tokens as a tree over bytes; node 0 is the root. */
struct added_set {
    struct added_node {
        int32_t child, sibling; /* 0: none */
        int32_t token;          /* index of the token that ends here; -1 */
        unsigned char byte;
    } * node;
    int64_t n_nodes, nodes_room;
    struct added_token *token;
    int64_t n_tokens, tokens_room;
    bool begins[256];              /* bytes that a token begins with */
    struct split_step space, word; /* the classes White_Space and word character, once a token needs them */
};
enum status added_set_init(struct added_set *a);
void added_set_term(struct added_set *a);
enum status added_set_put(struct added_set *a, const char *content, int64_t n, struct added_token token);
/* Cuts a valid UTF-8 text: token(id) for each one found, between(text) for what lies between, in order. */
struct added_visit {
    enum status (*token)(void *arg, int32_t id);
    enum status (*between)(void *arg, const char *text, int64_t n);
    void *arg;
};
enum status added_set_visit(const struct added_set *a, struct split_scratch *scratch, const char *text, int64_t n,
                            const struct added_visit *visit);

#ifdef __cplusplus
}
#endif
#endif
