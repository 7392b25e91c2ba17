/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/partials.h"

struct partials_job {
    const double *lines;
    int64_t n_lines;
    real *sum;
    struct blocks cut;
};

static void add_strip(void *arg, int64_t item, int worker) {
    const struct partials_job *j = arg;
    const struct block b = block_at(j->cut, item);
    (void)worker;
    for (int64_t at = 0; at < b.cols; at += 64) {
        double total[64] = {0};
        const int64_t n = least(64, b.cols - at);
        for (int64_t l = 0; l < j->n_lines; l++) {
            const double *line = j->lines + l * j->cut.width + b.col + at;
            for (int64_t i = 0; i < n; i++) total[i] += line[i];
        }
        for (int64_t i = 0; i < n; i++) j->sum[b.col + at + i] += (real)total[i];
    }
}

void REF(partials_add)(struct ctx *c, const double *lines, int64_t n_lines, int64_t width, real *sum) {
    struct partials_job j = {.lines = lines, .n_lines = n_lines, .sum = sum, .cut = strips_cut(width)};
    pool_run(c->pool, j.cut.items, add_strip, &j);
}
