/* SPDX-License-Identifier: Apache-2.0 */
#include "model/edges.h"
#include "kernels/ops.h"
#include "model/seams.h"

const struct seams *edge_seams(const struct step *s) { return s->again ? s->frame : s->seams; }

/* An exchange that the frame has left to the mixer is made, once. */
static const struct seams *take(const struct step *s, struct flow *f, unsigned edge) {
    ASSERT(f->edges & edge);
    f->edges &= ~edge;
    return edge_seams(s);
}

static struct tensor some(struct tensor t, int64_t begin, int64_t n) {
    return tensor_has(t) ? tensor_rows(t, begin, n) : t;
}

static struct linear rows_of(const struct linear *all, int64_t begin, int64_t n) {
    struct linear a = *all;
    a.x = some(a.x, begin, n), a.y = some(a.y, begin, n);
    a.dy = some(a.dy, begin, n), a.dx = some(a.dx, begin, n);
    return a;
}

static enum status product_rows(struct step *s, void *arg, int64_t begin, int64_t n) {
    const struct linear a = rows_of(arg, begin, n);
    return s->ctx->ops->linear_fwd(s->ctx, &a);
}

static enum status dx_rows(struct step *s, void *arg, int64_t begin, int64_t n) {
    struct linear a = rows_of(arg, begin, n);
    a.dw = a.db = (struct tensor){0};
    return s->ctx->ops->linear_bwd(s->ctx, &a);
}

static enum status dw_alone(struct step *s, void *arg) {
    struct linear a = *(const struct linear *)arg;
    a.dx = (struct tensor){0};
    return s->ctx->ops->linear_bwd(s->ctx, &a);
}

enum status edge_h(struct step *s, struct flow *f, const struct linear *a, bool product) {
    struct linear args = *a;
    const struct row_work work = {.rows = product_rows, .arg = &args};
    if (f->edges & EDGE_H) return take(s, f, EDGE_H)->enter(s, f->h_own, f->h, product ? &work : NULL);
    return product ? s->ctx->ops->linear_fwd(s->ctx, a) : OK;
}

enum status edge_y(struct step *s, struct flow *f, const struct linear *a) {
    struct linear args = *a;
    const struct row_work work = {.rows = product_rows, .arg = &args};
    return s->y_unused ? OK : take(s, f, EDGE_Y)->leave(s, f->y, f->y_own, &work);
}

enum status edge_dy(struct step *s, struct flow *f, const struct linear *a) {
    struct linear args = *a;
    const struct row_work work = {.rows = dx_rows, .arg = &args};
    return take(s, f, EDGE_DY)->enter(s, f->dx, f->dy, &work);
}

enum status edge_dh(struct step *s, struct flow *f, const struct linear *a) {
    struct linear args = *a;
    const struct row_work work = {.rows = dx_rows, .rest = dw_alone, .arg = &args};
    return take(s, f, EDGE_DH)->leave(s, f->dh, f->dh_own, &work);
}
