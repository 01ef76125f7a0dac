/* Pseudo-random bits as a function of a key and the index of an element, so that they do not depend on
 * how an array is cut, or in which order.
 *
 * 64 elements share a seed, the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast Splittable
 * Pseudorandom Number Generators", 2014) of the key and their place. Its bits are the signs of the
 * rotation. For rounding, each element has a word: a 32-bit finalizer (two multiplications) of one half
 * of the seed and the element's number, plus the other half. */
#ifndef COLL_CODEC_RANDOM_H
#define COLL_CODEC_RANDOM_H

#include "reduce/element.h"

enum { COLL__SEED_RUN = 64 }; /* elements */

COLL__INLINE uint64_t coll__seed(uint64_t key, uint64_t index)
{
    uint64_t x = key + (index / COLL__SEED_RUN + 1) * UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* Of element `i` of those with the seed whose halves these are. */
COLL__INLINE uint32_t coll__word(uint32_t low, uint32_t high, uint32_t i)
{
    uint32_t x = low + i;
    x = (x ^ (x >> 16)) * UINT32_C(0x7FEB352D);
    x = (x ^ (x >> 15)) * UINT32_C(0x846CA68B);
    return (x ^ (x >> 16)) + high;
}

#endif
