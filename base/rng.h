/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_BASE_RNG_H
#define BATON_BASE_RNG_H
/* rng.h - counter-based random numbers: a pure function of (seed, stream, index), so a value does not depend on who
 * draws it, in which order, or on how a tensor is sharded.  Mixing function: two rounds of the splitmix64 finaliser
 * (Steele, Lea, Flood 2014) over the counter keyed by seed and stream. */
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

uint64_t rng_stream(const char *name); /* a stream number from a name, e.g. of a parameter */
uint64_t rng_bits(uint64_t seed, uint64_t stream, uint64_t index);
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index); /* [0, 1), 53 bits        */
double rng_normal(uint64_t seed, uint64_t stream, uint64_t index);  /* mean 0, deviation 1    */
/* out[i] = (float)(scale * rng_normal(seed, stream, first + i)) for i in [0, n), to the last bit, ten times as fast. */
void rng_normals(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, double scale, float *out);
/* The image of index under a permutation of [0, n) chosen by (seed, stream): a Feistel network with cycle walking. */
uint64_t rng_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n);

#ifdef __cplusplus
}
#endif
#endif
