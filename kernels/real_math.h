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

static inline real real_sigmoid(real x) { return 1 / (1 + real_exp(-x)); }
static inline real real_silu(real x) { return x / (1 + real_exp(-x)); }
/* d silu(x) / dx */
static inline real real_dsilu(real x) {
    const real s = real_sigmoid(x);
    return s * (1 + x * (1 - s));
}
#endif
