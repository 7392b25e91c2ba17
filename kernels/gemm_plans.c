/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/gemm_plans.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/arena.h"

#define NUMBERS 13  /* of a shape                  */
#define LINE    512 /* bytes of a line, at most    */

struct gemm_columns gemm_columns_of(const struct gemm_shape *s) {
    return (struct gemm_columns){.trans_left = s->trans_b != 0,
                                 .trans_right = s->trans_a != 0,
                                 .left_rows = s->trans_b ? s->k : s->n,
                                 .left_cols = s->trans_b ? s->n : s->k,
                                 .left_ld = s->ldb,
                                 .right_rows = s->trans_a ? s->m : s->k,
                                 .right_cols = s->trans_a ? s->k : s->m,
                                 .right_ld = s->lda,
                                 .out_rows = s->n,
                                 .out_cols = s->m,
                                 .out_ld = s->ldc};
}

struct gemm_plan *gemm_plans_find(struct gemm_plans *p, const struct gemm_shape *s) {
    for (int64_t i = 0; i < p->n; i++)
        if (!memcmp(&p->plan[i].shape, s, sizeof *s)) return &p->plan[i];
    return NULL;
}

enum status gemm_plans_add(struct gemm_plans *p, const struct gemm_plan *plan) {
    FAIL_UNLESS(p->n < GEMM_PLANS, ERR_ARG, "more than %d shapes of products in one run: keep micro-batches alike",
                (int)GEMM_PLANS);
    p->plan[p->n++] = *plan;
    return OK;
}

_Static_assert(sizeof(struct gemm_shape) == NUMBERS * sizeof(int64_t), "a shape is its numbers, without holes");

enum status gemm_plans_print(const struct gemm_plans *p, char **out) {
    void *mem = NULL;
    const int64_t room = (p->n + 1) * LINE;
    TRY(mem_take(room, &mem));
    char *text = mem;
    int64_t at = snprintf(text, LINE, "%s\n", p->library);
    for (int64_t i = 0; i < p->n; i++) {
        int64_t number[NUMBERS];
        if (!p->plan[i].measured) continue;
        memcpy(number, &p->plan[i].shape, sizeof number);
        for (int k = 0; k < NUMBERS; k++) at += snprintf(text + at, (size_t)(room - at), "%" PRId64 " ", number[k]);
        for (int k = 0; k < GEMM_WORDS; k++)
            at += snprintf(text + at, (size_t)(room - at), "%016" PRIx64 "%s", p->plan[i].words[k],
                           k + 1 < GEMM_WORDS ? " " : "\n");
    }
    *out = text;
    return OK;
}

static enum status read_line(struct gemm_plans *p, const char *line, int64_t at) {
    struct gemm_plan plan = {.measured = true};
    int64_t number[NUMBERS];
    int n = 0, length = 0;
    const char *s = line;
    for (; n < NUMBERS && sscanf(s, "%" SCNd64 "%n", &number[n], &length) == 1; n++) s += length;
    for (int k = 0; n == NUMBERS + k && k < GEMM_WORDS && sscanf(s, "%" SCNx64 "%n", &plan.words[k], &length) == 1;
         k++, n++)
        s += length;
    FAIL_UNLESS(n == NUMBERS + GEMM_WORDS && *s == '\n', ERR_DATA,
                "line %" PRId64 " of the chosen products is damaged: remove the file, and they are measured again", at);
    memcpy(&plan.shape, number, sizeof number);
    return gemm_plans_add(p, &plan);
}

enum status gemm_plans_read(struct gemm_plans *p, const char *text) {
    const size_t head = strlen(p->library);
    FAIL_UNLESS(!strncmp(text, p->library, head) && text[head] == '\n', ERR_MISSING,
                "the chosen products are not those of %s: they are measured again", p->library);
    p->n = 0;
    int64_t at = 2;
    for (const char *line = text + head + 1; *line; line = strchr(line, '\n') + 1, at++) {
        FAIL_UNLESS(strchr(line, '\n'), ERR_DATA,
                    "line %" PRId64 " of the chosen products has no end: remove the file, and they are measured again",
                    at);
        TRY(read_line(p, line, at));
    }
    return OK;
}
