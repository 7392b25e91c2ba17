/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_LEGAL_H
#define BATON_LAUNCH_LEGAL_H
/* legal.h - which meshes a configuration runs on: the one rule that its check, its advice and its tests use. */
#include "dist/mesh.h"
#include "launch/config.h"

/* ERR_CONFIG with the reason: what a symbol's heads, groups, widths or the vocabulary, the tokens of a sequence, or the
 * sequences of a step do not allow. */
enum status mesh_check(const struct config *c, const struct mesh_sizes *sizes);
/* Every legal mesh of n ranks, by tensor, then expert, then seq, each rising; how many there are. */
enum { LEGAL_MAX = 512 };
int mesh_legal(const struct config *c, int64_t n, struct mesh_sizes list[LEGAL_MAX]);
/* mesh_check of the configuration's own mesh; the text also names the nearest legal ones. */
enum status mesh_check_own(const struct config *c);

#endif
