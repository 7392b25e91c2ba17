/* SPDX-License-Identifier: Apache-2.0 */
#include "model/seams.h"

/* A layer's forward once more, before its backward: what the first one received is still in the layer's BOUNDARY slots,
 * so nothing is sent and nothing is touched.  Needs no state. */

static enum status carry_kept(struct step *s, const struct layer *l, struct flow *f, struct carry *c) {
    (void)s, (void)l, (void)f, (void)c;
    return OK;
}

/* On local rows attention can run again; what came from other ranks a mixer finds kept, and asks for first. */
static enum status attend_kept(struct step *s, const struct layer *l, struct flow *f, struct attend *a,
                               enum attend_when when) {
    (void)s, (void)a, (void)when;
    FAIL_UNLESS(!f->shard->wide, ERR_ARG,
                "layer %d: its attention over several ranks is to be computed again, which would send; "
                "keep its output in a BOUNDARY slot and ask layer_has",
                l->index);
    return OK;
}

/* The frame enters and leaves by the seams of the run; what a mixer sums over ranks of tensor is kept. */
static enum status tensor_refused(struct step *s, struct tensor a, struct tensor b, const struct row_work *work) {
    (void)s, (void)a, (void)b, (void)work;
    FAIL(ERR_ARG, "a sum over ranks of tensor is to be computed again, which would send; keep it in a BOUNDARY slot");
}

static enum status total_refused(struct step *s, struct tensor t, unsigned axes) {
    (void)s, (void)t, (void)axes;
    FAIL(ERR_ARG, "a sum over ranks is to be computed again, which would send; keep it in a BOUNDARY slot and ask "
                  "layer_has");
}

/* Parameters are asked for by the frame, of the seams of the run. */
static enum status block_refused(struct step *s, int block) {
    (void)s;
    FAIL(ERR_ARG, "block %d: a mixer asks for parameters", block);
}

const struct seams seams_replay = {
    .name = "replay",
    .carry_begin = carry_kept,
    .carry_end = carry_kept,
    .attend_begin = attend_kept,
    .attend_end = attend_kept,
    .routed_begin = routed_here,
    .routed_end = routed_here,
    .enter = tensor_refused,
    .leave = tensor_refused,
    .total = total_refused,
    .need = block_refused,
    .done = block_refused,
};
