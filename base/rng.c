/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"
#include <math.h>
#include <string.h>
#include "base/status.h"

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

uint64_t rng_stream(const char *name) {
    uint64_t h = 0x9e3779b97f4a7c15ULL;
    for (const unsigned char *p = (const unsigned char *)name; *p; p++) h = mix(h + *p + 0x9e3779b97f4a7c15ULL);
    return h;
}

static uint64_t key_of(uint64_t seed, uint64_t stream) { return mix(seed + 0x9e3779b97f4a7c15ULL) ^ stream; }
static uint64_t bits_of(uint64_t key, uint64_t index) { return mix(mix(index * 0x9e3779b97f4a7c15ULL + key) + key); }

uint64_t rng_bits(uint64_t seed, uint64_t stream, uint64_t index) { return bits_of(key_of(seed, stream), index); }

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    return (double)(rng_bits(seed, stream, index) >> 11) * 0x1p-53;
}

double rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    const double u = rng_uniform(seed, stream, 2 * index), v = rng_uniform(seed, stream, 2 * index + 1);
    return sqrt(-2.0 * log1p(-u)) * cos(6.283185307179586476925 * v); /* Box-Muller; 1 - u is never 0 */
}

/* ---- many normals ----
 *
 * The same formula in loops that vectorise, with a logarithm and a sine that may err: cut off and rounded they are
 * within 2^-40 of the C library's, which is within 2^-52 of the truth.  Where all numbers within 2^-38 round to one
 * float, that is the float; elsewhere - one in four hundred, most of them for a cosine near 0 - rng_normal decides. */
#define NEAR 0x1p-38

static double double_of(uint64_t bits) {
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* n below 2^52. */
static double whole(uint64_t n) { return double_of(n | 0x4330000000000000ULL) - 0x1p52; }
static double uniform_of(uint64_t bits) { return (2.0 * whole(bits >> 12) + whole(bits >> 11 & 1)) * 0x1p-53; }

/* x in [2^-53, 1] is 2^k (1 + f) with 1 + f from sqrt(1/2) to sqrt(2): log x = k ln 2 + 2 artanh(f / (2 + f)), by the
 * series to s^15, the rest of which is below 2^-44.  k is held as k + 54, above 0. */
static double log_near(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint64_t k = (bits + (54ULL << 52) - 0x3fe6a09e667f3bcdULL) >> 52;
    const double f = double_of(bits + ((54 - k) << 52)) - 1.0, s = f / (2.0 + f), q = s * s;
    double p = 1.0 / 15;
    p = fma(p, q, 1.0 / 13);
    p = fma(p, q, 1.0 / 11);
    p = fma(p, q, 1.0 / 9);
    p = fma(p, q, 1.0 / 7);
    p = fma(p, q, 1.0 / 5);
    p = fma(p, q, 1.0 / 3);
    return (whole(k) - 54.0) * 0.693147180559945309417 + 2.0 * fma(s * q, p, s);
}

/* |x| up to pi / 2: the series to x^17, the rest of which is below 2^-44. */
static double sin_near(double x) {
    const double q = x * x;
    double p = 1.0 / 355687428096000;
    p = fma(p, q, -1.0 / 1307674368000);
    p = fma(p, q, 1.0 / 6227020800);
    p = fma(p, q, -1.0 / 39916800);
    p = fma(p, q, 1.0 / 362880);
    p = fma(p, q, -1.0 / 5040);
    p = fma(p, q, 1.0 / 120);
    p = fma(p, q, -1.0 / 6);
    return fma(x * q, p, x);
}

enum { BLOCK = 512 };

static void normals(uint64_t key, uint64_t first, int n, double scale, float *out) {
    uint64_t bits[2 * BLOCK];
    for (int i = 0; i < 2 * n; i++) bits[i] = bits_of(key, 2 * first + (uint64_t)i);
    for (int i = 0; i < n; i++) {
        const double r = sqrt(-2.0 * log_near(1.0 - uniform_of(bits[2 * i])));
        const double c = sin_near(6.283185307179586476925 * (fabs(uniform_of(bits[2 * i + 1]) - 0.5) - 0.25));
        const double v = scale * (r * c), e = fabs(v) * NEAR;
        const float least = (float)(v - e), most = (float)(v + e);
        const int sure = (least == most) & (fabs(c) > 0x1p-8) & (r > 0.0);
        out[i] = sure ? least : NAN;
    }
}

void rng_normals(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, double scale, float *out) {
    const uint64_t key = key_of(seed, stream);
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int m = n - at < BLOCK ? (int)(n - at) : BLOCK;
        normals(key, first + (uint64_t)at, m, scale, out + at);
        for (int64_t i = at; i < at + m; i++)
            if (isnan(out[i])) out[i] = (float)(scale * rng_normal(seed, stream, first + (uint64_t)i));
    }
}

uint64_t rng_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
    ASSERT(index < n);
    int half = 1;
    while (half < 32 && (1ULL << (2 * half)) < n) half++;
    const uint64_t mask = (1ULL << half) - 1;
    do { /* at most four times the range is walked: under four rounds on average */
        uint64_t left = index >> half, right = index & mask;
        for (uint64_t round = 0; round < 6; round++) {
            const uint64_t next = left ^ (rng_bits(seed, stream ^ (round * 0xd1342543de82ef95ULL), right) & mask);
            left = right;
            right = next;
        }
        index = left << half | right;
    } while (index >= n);
    return index;
}
