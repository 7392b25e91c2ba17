/* SPDX-License-Identifier: Apache-2.0 */
/* labels: cpu */
/* Many normals at a time are those of the formula, rounded: to the last bit, also where the quick way cannot tell. */
#include "base/rng.h"
#include <inttypes.h>
#include "tests/check.h"

static const struct {
    const char *why;
    uint64_t seed, first;
    int64_t n;
    double scale;
} cases[] = {
    {"a weight", 1, 0, 3 << 20, 0.02},
    {"one number", 1, 7, 1, 1.0},
    {"less than a block, from the middle of one", 2, 1000003, 511, 0.02 / 4.0},
    {"a block and one", 3, 5, 513, 1.0},
    {"far in a large tensor", 4, (uint64_t)1 << 40, 300000, 0.3},
    {"the counter of the last number", 5, UINT64_MAX / 2 - 1000, 1000, 1.0},
    {"floats below the normal range", 6, 0, 300000, 1e-41},
    {"nothing is left of them", 7, 0, 2000, 1e-60},
    {"no spread", 8, 0, 2000, 0.0},
    {"too large for a float", 9, 0, 2000, 1e39},
};

int main(void) {
    static float got[3 << 20];
    const uint64_t stream = rng_stream("w");
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        rng_normals(cases[k].seed, stream, cases[k].first, cases[k].n, cases[k].scale, got);
        for (int64_t i = 0; i < cases[k].n; i++) {
            const float want =
                (float)(cases[k].scale * rng_normal(cases[k].seed, stream, cases[k].first + (uint64_t)i));
            CHECK(!memcmp(&got[i], &want, sizeof want), "%s: number %" PRId64 " is %a, not %a", cases[k].why, i,
                  (double)got[i], (double)want);
        }
    }
    return check_end();
}
