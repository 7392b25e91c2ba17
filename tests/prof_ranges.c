/* SPDX-License-Identifier: Apache-2.0 */
/* Every range that is begun is ended, wherever a stop cuts a pass short.  This program's prof_begin and prof_end take
 * the place of the library's. */
#include "profiling/prof.h"
#include "tests/small_model.h"

static int depth, n_begun, stop_at, stop;

void prof_begin(enum prof_kind kind, const char *name) {
    (void)kind, (void)name;
    depth++;
    if (++n_begun == stop_at) stop = 1;
}
void prof_end(void) { depth--; }
double prof_seconds(void) { return 0.0; }

static const char *const symbols[] = {"M=mamba2 heads=2 head_width=4 state=3 groups=1 chunk=4",
                                      "*=attention heads=2 kv_heads=1 head_width=4", "-=mlp hidden=12", NULL};

int main(void) {
    struct model_config c;
    struct runner r;
    small_model(&c, "M-*", 8, 11, false, symbols);
    const struct runner_spec spec = {
        .precision = PRECISION_F64, .threads = 1, .n_sequences = 1, .tokens = 6, .tile = 4, .gradients = true};
    MUST(runner_init(&r, &c, &spec, false));
    small_params(&r, 1);
    small_batch(&r, 2);
    r.step.stop = &stop;
    int n_stopped = 0;
    enum status st = ERR_STOPPED;
    for (stop_at = 1; st != OK; stop_at++) {
        n_begun = stop = 0;
        st = runner_pass(&r, true);
        CHECK(st == OK || st == ERR_STOPPED, "stop in range %d: %s", stop_at, status_text());
        CHECK(depth == 0, "stop in range %d: %d ranges are open", stop_at, depth);
        n_stopped += st == ERR_STOPPED;
    }
    /* forward, three layers, head; backward and three layers, of which the last is past the last look at the flag. */
    CHECK(n_stopped == 8, "%d passes were cut short, not 8", n_stopped);
    runner_term(&r);
    model_config_term(&c);
    return check_end();
}
