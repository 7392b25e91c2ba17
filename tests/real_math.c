/* SPDX-License-Identifier: Apache-2.0 */
/* The inline exp and normal distribution against the C library in double: every 31st and 211th float, and the edges. */
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

/* Relative to the exact value while that is a normal number; below, to the least normal one. */
static void normal_below(void) {
    double worst = 0.0;
    float at = 0.0f;
    for (uint64_t b = 0; b < 0x100000000u; b += 211) {
        const float h = float_of((uint32_t)b);
        if (!(fabsf(h) < 16.0f)) continue;
        const double exact = 0.5 * erfc(-sqrt(0.5) * (double)h);
        const double apart = fabs((double)real_normal_below(h) - exact);
        const double allowed = 6e-7 + 0x1p-24 * (double)h * (double)h;
        const double off = apart / fmax(exact, 0x1p-126) / allowed;
        if (off > worst) worst = off, at = h;
    }
    CHECK(worst <= 1.0, "Phi(%.9g) = %.9g, exactly %.17g: %.3g of the error allowed", (double)at,
          (double)real_normal_below(at), 0.5 * erfc(-sqrt(0.5) * (double)at), worst);
    CHECK(real_normal_below(INFINITY) == 1.0f && real_normal_below(-INFINITY) == 0.0f, "Phi at infinity");
    CHECK(isnan(real_normal_below(NAN)), "Phi(NaN) = %g", (double)real_normal_below(NAN));
}

/* From where e^x is a normal number. */
static void softplus(void) {
    double worst = 0.0;
    float at = 0.0f;
    for (uint64_t b = 0; b < 0x100000000u; b += 211) {
        const float x = float_of((uint32_t)b);
        if (!(x > -87.0f && x < 1e30f)) continue;
        const double u = ulps(real_softplus(x), x > 40.0f ? (double)x : log1p(exp((double)x)));
        if (u > worst) worst = u, at = x;
    }
    CHECK(worst <= 4.0, "softplus(%.9g) = %.9g: %.3f ulp", (double)at, (double)real_softplus(at), worst);
    CHECK(real_softplus(-INFINITY) == 0.0f && real_softplus(INFINITY) == INFINITY, "softplus at infinity");
    CHECK(isnan(real_softplus(NAN)), "softplus(NaN) = %g", (double)real_softplus(NAN));
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
    normal_below();
    softplus();
    edges();
    return check_end();
}
