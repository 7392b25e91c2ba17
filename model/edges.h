/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_MODEL_EDGES_H
#define BATON_MODEL_EDGES_H
/* edges.h - the products at a layer's edges, beside which the tensor axis moves their rows.
 *
 * A kind that says `edges` makes its first product of h by edge_h, the last one, into y, by edge_y, and backward the
 * gradients of those inputs by edge_dy and edge_dh, each once a pass; the frame then leaves the four exchanges to them.
 * Of any other kind the frame brings all rows before and fetches them afterwards.  A product of some rows has the bits
 * of the whole one's rows wherever the op sees to that; sums over ranks have one order anyway. */
#include "kernels/linear/linear.h"
#include "model/layer.h"

enum { EDGE_H = 1, EDGE_Y = 2, EDGE_DY = 4, EDGE_DH = 8 }; /* of flow.edges */

/* By which rows enter and leave: the run's seams, also where a layer runs again. */
const struct seams *edge_seams(const struct step *s);
/* h enters, and a->y = a->x w^T of the rows of h that have come.  product false: y was kept, h alone enters. */
enum status edge_h(struct step *s, struct flow *f, const struct linear *a, bool product);
/* a->y = a->x w^T into f->y, whose rows leave as they are made.  Where nobody reads f->y nothing is done. */
enum status edge_y(struct step *s, struct flow *f, const struct linear *a);
/* dy enters, and a->dx of the rows that have come; dw and db are left to the caller. */
enum status edge_dy(struct step *s, struct flow *f, const struct linear *a);
/* a->dx into f->dh, whose rows leave; dw and db while they are on their way. */
enum status edge_dh(struct step *s, struct flow *f, const struct linear *a);
#endif
