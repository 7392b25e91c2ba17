/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_KERNELS_REAL_MATH_H
#define BATON_KERNELS_REAL_MATH_H
/* real_math.h - exp and what stands on it, for `real`, inline so that loops that call them vectorise.
 *
 * F32: e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2, a polynomial of degree 6 with minimax coefficients
 * (relative error 3.1e-9).  At most 1.02 ulp from the exact value (all floats tried), 0 below -104, infinity
 * above 88.73, NaN stays NaN; subnormal results are exact to their last place.  tests/real_math.c measures it.  F64:
 * the C library. */
#include <math.h>
#include <string.h>
#include "kernels/ref.h"

#ifdef BATON_REAL64
static inline real real_exp(real x) { return exp(x); }
#else
static inline float real_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float real_exp(float x) {
    const float magic = 0x1.8p23f; /* adding it rounds to an integer, which then lies in the low bits */
    x = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
    const float shifted = fmaf(x, 0x1.715476p+0f, magic), n = shifted - magic;
    const float r = fmaf(n, -0x1.7f7d1cp-20f, fmaf(n, -0x1.62e4p-1f, x));
    float q = 0x1.6a242cp-10f;
    q = fmaf(q, r, 0x1.1239e2p-7f);
    q = fmaf(q, r, 0x1.5558f2p-5f);
    q = fmaf(q, r, 0x1.555492p-3f);
    q = fmaf(q, r, 0x1.fffffcp-2f);
    const float p = fmaf(q * r, r, r) + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    /* 2^n in two factors, so that neither leaves the normal range: n + 1024 is positive, and its half splits n. */
    const uint32_t half = ((bits - 0x4b400000u + 1024u) >> 1) - 512u;
    const uint32_t rest = bits - 0x4b400000u - half;
    return p * real_of_bits((half + 127u) << 23) * real_of_bits((rest + 127u) << 23);
}
#endif

/* log(1 + e^x) without cancellation; x itself above 20.  F32: with u = e^-|x|, log(1 + u) = 2 artanh(s) with
 * s = u / (2 + u) <= 1/3, by its series to s^15 (the rest is below 3e-9 of it).  At most 4 ulp; tests/real_math.c. */
static inline real real_softplus(real x) {
#ifdef BATON_REAL64
    return x > 20 ? x : log1p(exp(x));
#else
    const float u = real_exp(-fabsf(x)), s = u / (2.0f + u), ss = s * s;
    float p = 2.0f / 15.0f;
    p = fmaf(p, ss, 2.0f / 13.0f);
    p = fmaf(p, ss, 2.0f / 11.0f);
    p = fmaf(p, ss, 2.0f / 9.0f);
    p = fmaf(p, ss, 2.0f / 7.0f);
    p = fmaf(p, ss, 2.0f / 5.0f);
    p = fmaf(p, ss, 2.0f / 3.0f);
    const float low = fmaf(p * ss, s, 2.0f * s), high = (x > 0.0f ? x : 0.0f) + low;
    return x > 20.0f ? x : high;
#endif
}

static inline real real_sigmoid(real x) { return 1 / (1 + real_exp(-x)); }
static inline real real_silu(real x) { return x / (1 + real_exp(-x)); }
/* d silu(x) / dx */
static inline real real_dsilu(real x) {
    const real s = real_sigmoid(x);
    return s * (1 + x * (1 - s));
}

/* Phi(h), the normal distribution below h, without cancellation at h < 0.  F32: with a = |h| and t = 1 / (1 + a / 4),
 * Phi(-a) = e^(-a^2 / 2) p(t), p of degree 9 with minimax coefficients (relative error 1.6e-8 up to a = 14.2, where the
 * exponential ends).  Relative error at most 6e-7 + 2^-24 a^2, the latter from the rounding of a^2, while the value is
 * a normal number. */
static inline real real_normal_below(real h) {
#ifdef BATON_REAL64
    return 0.5 * erfc(-0.70710678118654752440 * h);
#else
    const float a = fabsf(h), t = 1.0f / fmaf(a, 0.25f, 1.0f);
    float p = 0x1.145faap-5f;
    p = fmaf(p, t, -0x1.8f75f8p-3f);
    p = fmaf(p, t, 0x1.91c9fep-2f);
    p = fmaf(p, t, -0x1.51e8eap-2f);
    p = fmaf(p, t, 0x1.34d994p-2f);
    p = fmaf(p, t, -0x1.34c95ep-6f);
    p = fmaf(p, t, 0x1.efc4acp-4f);
    p = fmaf(p, t, 0x1.84d9ccp-4f);
    p = fmaf(p, t, 0x1.9a7b3cp-4f);
    p = fmaf(p, t, -0x1.5e510ap-16f);
    const float below = p * real_exp(-0.5f * a * a);
    const float side = copysignf(1.0f, h); /* below, or 1 - below, without the branch that keeps gcc from vectorising */
    return fmaf(-side, below, 0.5f + 0.5f * side);
#endif
}
#endif
