/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"
#include <math.h>
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

uint64_t rng_bits(uint64_t seed, uint64_t stream, uint64_t index) {
    const uint64_t key = mix(seed + 0x9e3779b97f4a7c15ULL) ^ stream;
    return mix(mix(index * 0x9e3779b97f4a7c15ULL + key) + key);
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    return (double)(rng_bits(seed, stream, index) >> 11) * 0x1p-53;
}

double rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    const double u = rng_uniform(seed, stream, 2 * index), v = rng_uniform(seed, stream, 2 * index + 1);
    return sqrt(-2.0 * log1p(-u)) * cos(6.283185307179586476925 * v); /* Box-Muller; 1 - u is never 0 */
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
