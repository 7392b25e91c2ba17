/* SPDX-License-Identifier: Apache-2.0 */
#include "model/split.h"

int cut_parts(int n, int64_t units) {
    if (units % n == 0) return n;
    return units < n && n % units == 0 ? (int)units : 0;
}

int64_t cut_settle(struct cut *c, const struct split *s, enum split_axis axis, int64_t whole) {
    const int n = split_n(s, axis);
    if (c->parts < 1) c->parts = 1;
    ASSERT(n % c->parts == 0 && whole % c->parts == 0);
    c->copies = n / c->parts;
    c->copy = s->at[axis] % c->copies;
    const int64_t mine = whole / c->parts;
    c->begin = s->at[axis] / c->copies * mine;
    return mine;
}
