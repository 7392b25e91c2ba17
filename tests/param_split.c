/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* What the ranks of a mesh hold of a parameter: together the whole, each part as often as it has copies; the numbers it
 * begins with, its logical tensors and counts do not depend on the mesh. */
#include "model/param_draw.h"
#include "model/param_parts.h"
#include "tests/check.h"

struct split_case {
    const char *why;
    int tensor, expert;
    struct param p;
};
#define SECTIONS(m, ...) .n_sections = (m), .section = {__VA_ARGS__}
#define S(called, n, in)                                                                                               \
    {                                                                                                                  \
        .name = (called), .rows = (n), .cut = { 0, (in), 0, 0, 0 }                                                     \
    }
static const struct split_case cases[] = {
    {"one rank", 1, 1, {.shape = {6, 4}, .n_dims = 2}},
    {"nothing cut, four copies", 4, 1, {.shape = {7}, .n_dims = 1}},
    {"rows", 2, 1, {.shape = {6, 4}, .n_dims = 2, .cut[SPLIT_TENSOR] = {0, 2, 0, 0, 0}}},
    {"columns", 4, 1, {.shape = {3, 8}, .n_dims = 2, .cut[SPLIT_TENSOR] = {1, 4, 0, 0, 0}}},
    {"two parts on four ranks", 4, 1, {.shape = {6, 2}, .n_dims = 2, .cut[SPLIT_TENSOR] = {0, 2, 0, 0, 0}}},
    {"q by heads, k and v on two ranks each",
     4,
     1,
     {.shape = {16, 3}, .n_dims = 2, SECTIONS(3, S("q", 8, 4), S("k", 4, 2), S("v", 4, 2))}},
    {"z x B C dt, groups on both ranks",
     2,
     1,
     {.shape = {22}, .n_dims = 1, SECTIONS(5, S("z", 8, 2), S("x", 8, 2), S("B", 2, 1), S("C", 2, 1), S("dt", 2, 2))}},
    {"columns of a packed matrix",
     2,
     1,
     {.shape = {5, 6}, .n_dims = 2, .cut[SPLIT_TENSOR] = {1, 2, 0, 0, 0}, SECTIONS(2, S("dt", 1, 1), S("B", 4, 1))}},
    {"experts", 1, 2, {.shape = {4, 3, 2}, .n_dims = 3, .cut[SPLIT_EXPERT] = {0, 2, 0, 0, 0}}},
    {"experts, and their width along rows",
     2,
     2,
     {.shape = {4, 6, 3}, .n_dims = 3, .cut = {{1, 2, 0, 0, 0}, {0, 2, 0, 0, 0}}}},
    {"experts, and their width along columns",
     4,
     2,
     {.shape = {2, 3, 8}, .n_dims = 3, .cut = {{2, 4, 0, 0, 0}, {0, 2, 0, 0, 0}}}},
    {"experts on two ranks each", 1, 4, {.shape = {2, 3, 2}, .n_dims = 3, .cut[SPLIT_EXPERT] = {0, 2, 0, 0, 0}}},
};
enum { MOST = 4096 };

/* Every element held, once; draws are those of the whole, and rounded where floats are wanted. */
static void check_rank(const struct split_case *c, const struct param *p, int *seen, const double *all) {
    double own[MOST];
    float narrow[MOST];
    int64_t n = 0, whole = 0;
    const struct param_draw d = {.param = p, .seed = 3, .std = 1.0, .n_layers = 2};
    param_draw(&d, 0, param_count(p), F64, own);
    param_draw(&d, 0, param_count(p), F32, narrow);
    for (int64_t i = 0; i < param_count(p); i += n) {
        n = param_run(p, i, &whole);
        CHECK(n > 0 && i + n <= param_count(p) && whole >= 0 && whole + n <= param_whole(p),
              "%s: a run of %d elements at %d of %d", c->why, (int)n, (int)i, (int)param_count(p));
        for (int64_t k = 0; k < n; k++) {
            seen[whole + k]++;
            CHECK(narrow[i + k] == (float)own[i + k], "%s: element %d begins as %g, not %g", c->why, (int)(whole + k),
                  (double)narrow[i + k], own[i + k]);
            CHECK(own[i + k] == all[whole + k], "%s: element %d begins as %g, not %g", c->why, (int)(whole + k),
                  own[i + k], all[whole + k]);
        }
    }
}

/* Logical tensors: their rows on this rank begin where the runs say. */
static void check_parts(const struct split_case *c, const struct param *p) {
    const int64_t row = param_count(p) / p->shape[0], whole_row = param_whole(p) / p->whole[0];
    int64_t held = 0, before = 0;
    for (int i = 0; i < param_parts(p); i++) {
        struct param_part part;
        int64_t whole = 0;
        param_part(p, i, &part);
        (void)param_run(p, part.row_begin * row, &whole);
        CHECK(whole / whole_row == before + part.whole_begin, "%s: %s begins at row %d, not %d", c->why, part.name,
              (int)part.whole_begin, (int)(whole / whole_row - before));
        CHECK(part.row_begin == held, "%s: %s: row %d of those held, not %d", c->why, part.name, (int)part.row_begin,
              (int)held);
        CHECK(part.copy >= 0 && part.copy < part.copies && c->tensor % part.copies == 0, "%s: %s: copy %d of %d",
              c->why, part.name, part.copy, part.copies);
        held += part.rows;
        before += part.whole;
    }
    CHECK(held == p->shape[0] && before == p->whole[0], "%s: %d rows of %d", c->why, (int)held, (int)before);
}

static void check_case(const struct split_case *c) {
    static int seen[MOST];
    static double all[MOST];
    struct param named = c->p;
    memset(seen, 0, sizeof seen);
    snprintf(named.name, sizeof named.name, "w");
    named.init = INIT_NORMAL;
    for (int t = -1; t < c->tensor * c->expert; t++) {
        struct params ps = {.split = {{c->tensor, c->expert}, {t / c->expert, t % c->expert}}};
        struct param p = named;
        int index = 0;
        if (t < 0) { /* one rank has the whole */
            ps.split = (struct split){{1, 1}, {0, 0}};
            for (int a = 0; a < N_SPLITS; a++) p.cut[a].parts = 1;
            for (int i = 0; i < p.n_sections; i++) p.section[i].cut.parts = 1;
        }
        MUST(param_add(&ps, &p, &index));
        if (t < 0)
            param_draw(&(struct param_draw){.param = ps.list, .seed = 3, .std = 1.0}, 0, ps.n_elements, F64, all);
        else check_rank(c, ps.list, seen, all);
        check_parts(c, ps.list);
        if (t == 0) CHECK(ps.n_elements == param_whole(ps.list), "%s: %d elements counted", c->why, (int)ps.n_elements);
        params_term(&ps);
    }
    /* Every element is held by equally many ranks within a section; together as often as there are ranks. */
    const int64_t whole =
        named.shape[0] * (named.n_dims > 1 ? named.shape[1] : 1) * (named.n_dims > 2 ? named.shape[2] : 1);
    for (int64_t i = 0; i < whole; i++)
        CHECK(seen[i] > 0 && c->tensor * c->expert % seen[i] == 0, "%s: element %d is on %d ranks", c->why, (int)i,
              seen[i]);
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(&cases[i]);
    CHECK(cut_parts(2, 8) == 2 && cut_parts(4, 2) == 2 && cut_parts(4, 6) == 0 && cut_parts(1, 5) == 1,
          "parts of units");
    return check_end();
}
