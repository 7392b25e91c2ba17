/* SPDX-License-Identifier: Apache-2.0 */
/* The inline exp against the C library's double exp: every 31st float, and the edges. */
#include "kernels/real_math.h"
#include "tests/check.h"

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* |got - exact| in units of the last place of the exact value rounded to float; subnormals share one unit. */
static double ulps(float got, double exact) {
    int e = 0;
    const int least_exponent = -149;
    frexp(exact, &e);
    const int unit = e - 24 > least_exponent ? e - 24 : least_exponent;
    return fabs((double)got - exact) / ldexp(1.0, unit);
}

static void whole_range(void) {
    double worst = 0.0;
    float at = 0.0f;
    for (uint64_t b = 0; b < 0x100000000u; b += 31) {
        const float x = float_of((uint32_t)b);
        if (!(x > -150.0f && x < 88.72f)) continue;
        const double u = ulps(real_exp(x), exp((double)x));
        if (u > worst) worst = u, at = x;
    }
    CHECK(worst <= 1.02, "exp(%.9g) = %.9g, exactly %.17g: %.3f ulp", (double)at, (double)real_exp(at), exp((double)at),
          worst);
}

static void edges(void) {
    static const struct {
        const char *why;
        float x, want;
    } cases[] = {
        {"zero", 0.0f, 1.0f},
        {"minus zero", -0.0f, 1.0f},
        {"below every float", -110.0f, 0.0f},
        {"minus infinity", -INFINITY, 0.0f},
        {"overflow", 88.8f, INFINITY},
        {"far overflow", 1e30f, INFINITY},
        {"infinity", INFINITY, INFINITY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK(real_exp(cases[i].x) == cases[i].want, "%s: exp(%g) = %g, not %g", cases[i].why, (double)cases[i].x,
              (double)real_exp(cases[i].x), (double)cases[i].want);
    CHECK(isnan(real_exp(NAN)), "exp(NaN) = %g", (double)real_exp(NAN));
    CHECK(real_silu(-200.0f) == 0.0f, "silu(-200) = %g", (double)real_silu(-200.0f));
    CHECK(real_silu(200.0f) == 200.0f, "silu(200) = %g", (double)real_silu(200.0f));
    CHECK(real_dsilu(0.0f) == 0.5f, "silu'(0) = %g", (double)real_dsilu(0.0f));
}

int main(void) {
    whole_range();
    edges();
    return check_end();
}
