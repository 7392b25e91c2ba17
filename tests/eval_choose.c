/* SPDX-License-Identifier: Apache-2.0 */
/* Which token a draw picks: order, ties, top_k, temperature, and frequencies over many draws. */
#include "base/rng.h"
#include "launch/eval.h"
#include "tests/check.h"

enum { N = 5, DRAWS = 40000 };

static int32_t choose(const double logits[N], double temperature, int64_t top_k, double u) {
    struct eval_logit order[N];
    for (int i = 0; i < N; i++) order[i] = (struct eval_logit){logits[i], i};
    return eval_choose(&(struct eval_choice){temperature, top_k}, order, N, u);
}

/* Logits log(1), log(4), log(2), log(1), log(2): weights 1 4 2 1 2 of 10; by size, then number: 1 2 4 0 3. */
static void check_places(void) {
    static const struct {
        const char *why;
        double temperature;
        int64_t top_k;
        double u;
        int32_t token;
    } cases[] = {
        {"temperature 0 takes the largest", 0, 0, 0.999, 1},
        {"the largest has the first 4/10", 1, 0, 0.399, 1},
        {"of equal ones the first comes first", 1, 0, 0.401, 2},
        {"then the other", 1, 0, 0.601, 4},
        {"the least ones come last", 1, 0, 0.801, 0},
        {"and the very last", 1, 0, 0.999999, 3},
        {"top_k of 2 leaves 4/6 to the largest", 1, 2, 0.66, 1},
        {"and the rest to the second", 1, 2, 0.67, 2},
        {"top_k of 1 leaves no choice", 1, 1, 0.999999, 1},
        {"top_k beyond all is all", 1, 100, 0.999999, 3},
        {"temperature 1/2 squares the weights: 16 of 26", 0.5, 0, 0.61, 1},
        {"and the next 4", 0.5, 0, 0.62, 2},
        {"a high temperature evens out", 1e6, 0, 0.19, 1},
        {"to one fifth each", 1e6, 0, 0.21, 2},
        {"a temperature near 0 does not overflow", 1e-300, 0, 0.5, 1},
    };
    const double logits[N] = {log(1), log(4), log(2), log(1), log(2)};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int32_t got = choose(logits, cases[i].temperature, cases[i].top_k, cases[i].u);
        CHECK(got == cases[i].token, "%s: token %d, not %d", cases[i].why, (int)got, (int)cases[i].token);
    }
}

static void check_ties(void) {
    const double logits[N] = {-3, 7, 7, 7, -3};
    CHECK(choose(logits, 0, 0, 0.9) == 1, "of equal largest logits the first is taken");
}

/* Five standard deviations of a binomial count. */
static void check_frequencies(void) {
    const double logits[N] = {1000 + log(1), 1000 + log(4), 1000 + log(2), 1000 + log(1), 1000 + log(2)};
    const double share[N] = {0.1, 0.4, 0.2, 0.1, 0.2};
    int count[N] = {0};
    for (uint64_t i = 0; i < DRAWS; i++) count[choose(logits, 1, 0, rng_uniform(1, 2, i))]++;
    for (int i = 0; i < N; i++) {
        const double off = fabs(count[i] - DRAWS * share[i]), sigma = sqrt(DRAWS * share[i] * (1 - share[i]));
        CHECK(off < 5 * sigma, "token %d: drawn %d times of %d", i, count[i], DRAWS);
    }
}

/* Whatever k is, the token is that of the whole order cut at k: many equal logits, places of the draw all over. */
static void check_top_k(void) {
    enum { MANY = 101 };
    for (int64_t k = 1; k <= MANY; k++)
        for (uint64_t round = 0; round < 20; round++) {
            struct eval_logit order[MANY];
            double logit[MANY];
            for (int i = 0; i < MANY; i++) {
                logit[i] = (double)(rng_bits(1, round, (uint64_t)i) % 40);
                order[i] = (struct eval_logit){logit[i], i};
            }
            const double u = ((double)k - 0.5) / (double)k; /* the last of k that weigh alike */
            const int32_t got = eval_choose(&(struct eval_choice){1e12, k}, order, MANY, u);
            int64_t before = 0;
            for (int i = 0; i < MANY; i++) before += logit[i] > logit[got] || (logit[i] == logit[got] && i < got);
            CHECK(before == k - 1, "top_k %d: token %d (%g) has %d before it", (int)k, (int)got, logit[got],
                  (int)before);
        }
}

int main(void) {
    check_places();
    check_top_k();
    check_ties();
    check_frequencies();
    return check_end();
}
