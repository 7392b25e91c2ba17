/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include "model/layer.h"

/* A test that adds a kind compiles this file again with a table of its own. */
#ifndef KINDS_DEF
#define KINDS_DEF "model/kinds.def"
#endif

#define KIND(name) extern const struct mixer_kind name##_kind;
#include KINDS_DEF
#undef KIND

const struct mixer_kind *const mixer_kinds[] = {
#define KIND(name) &name##_kind,
#include KINDS_DEF
#undef KIND
    NULL,
};

const struct mixer_kind *mixer_kind_find(const char *name) {
    for (const struct mixer_kind *const *k = mixer_kinds; *k; k++)
        if (!strcmp((*k)->name, name)) return *k;
    return NULL;
}
