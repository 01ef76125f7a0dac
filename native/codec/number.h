/* From f32 to the numbers of the formats and back, one element at a time, without a branch: what is
 * defined here once is the same for all formats and instruction sets.
 *
 * Whether numbers are rounded to nearest (ties to even) or stochastically is a constant to the
 * compiler, and so are the properties of small floats. Stochastic rounding cuts off what is beyond the
 * last place after random bits were added there, so what can be represented stays as it is. */
#ifndef COLL_CODEC_NUMBER_H
#define COLL_CODEC_NUMBER_H

#include <stdbool.h>

#include "reduce/element.h"

enum { COLL__INFINITY = 0x7F800000, COLL__NAN = 0x7FC00000 }; /* bits of f32 */

COLL__INLINE float coll__nan(void)
{
    return coll__f32_of_bits(COLL__NAN);
}

/* 2^exponent, for -149 <= exponent <= 127. */
COLL__INLINE float coll__power(int exponent)
{
    return coll__f32_of_bits(exponent >= -126 ? (uint32_t)(exponent + 127) << 23
                                              : UINT32_C(1) << (exponent + 149));
}

/* The integer nearest to v, |v| <= 2^11. The sum with 1.5 * 2^23 has it in its last places; a sum with
 * 12 random bits and a half of their last place stays below the next integer for what is one, or
 * nearly: what a scale has made of one that can be represented. */
COLL__INLINE int32_t coll__rounded(float v, uint32_t random, bool stochastic)
{
    if (stochastic) {
        const float up = v + (float)(int32_t)(random >> 19 | 1) * 0x1p-13f;
        const int32_t cut = (int32_t)up;
        return cut - (up < (float)cut);
    }
    return (int32_t)(coll__f32_bits(v + 0x1.8p23f) - 0x4B400000u);
}

COLL__INLINE float coll__clamp(float v, float least, float most)
{
    v = v > most ? most : v;
    return v < least ? least : v;
}

COLL__INLINE uint16_t coll__bf16_rounded(float v, uint32_t random, bool stochastic)
{
    if (stochastic) {
        const uint32_t bits = coll__f32_bits(v);
        const bool number = (bits & 0x7FFFFFFFu) < COLL__INFINITY;
        return coll__bf16_of_f32(number ? coll__f32_of_bits((bits + (random >> 16)) & 0xFFFF0000u)
                                        : v);
    }
    return coll__bf16_of_f32(v);
}

/* A float of sign, exponent and `mantissa` bits, with denormals. Codes without the sign, which lies in
 * bit `sign`: `most` is the greatest that a finite number becomes; `infinity` and `nan` are 0 where
 * there is none of both. */
struct coll__small_float {
    int mantissa, bias, sign;
    int32_t most, infinity, nan;
};

#define COLL__F16 ((struct coll__small_float){10, 15, 15, 0x7C00, 0x7C00, 0x7E00})
#define COLL__E4M3 ((struct coll__small_float){3, 7, 7, 0x7E, 0x7F, 0x7F})
#define COLL__E5M2 ((struct coll__small_float){2, 15, 7, 0x7B, 0x7C, 0x7E})
#define COLL__E2M1 ((struct coll__small_float){1, 1, 3, 7, 0, 0})
#define COLL__E3M0 ((struct coll__small_float){0, 3, 3, 7, 0, 0})

/* Counts v in units of the last place that its exponent has; the count carries into the exponent. */
COLL__INLINE uint32_t coll__narrow(const struct coll__small_float f, float v, uint32_t random,
                                   bool stochastic)
{
    const int32_t given = (int32_t)(coll__f32_bits(v) & 0x7FFFFFFFu);
    const int32_t magnitude = f.nan == 0 || given < COLL__INFINITY ? given : 0;
    const int32_t least = (128 - f.bias) << 23; /* normal number */
    const int32_t exponent = magnitude & COLL__INFINITY;
    const uint32_t power = (uint32_t)(exponent > least ? exponent : least);
    const float places = coll__f32_of_bits(((uint32_t)(254 + f.mantissa) << 23) - power);
    const uint32_t below = (power >> (23 - f.mantissa)) - ((uint32_t)least >> (23 - f.mantissa));
    const float exact = coll__f32_of_bits((uint32_t)magnitude) * places;
    /* Without a mantissa the count 2 is even, and its code may be odd: a tie is then made less. */
    const uint32_t less = f.mantissa == 0 ? below & 1 : 0;
    const float count = coll__f32_of_bits(coll__f32_bits(exact) - less);
    const int32_t any = (int32_t)((uint32_t)coll__rounded(count, random, stochastic) + below);
    int32_t code = any < f.most ? any : f.most;
    uint32_t sign = coll__f32_bits(v) >> 31 << f.sign;

    if (f.nan != 0) {
        const int32_t greatest = COLL__INFINITY - (f.infinity == f.nan); /* that is no NaN */
        code = given == COLL__INFINITY ? f.infinity : code;
        code = given > greatest ? f.nan : code;
        sign = given > greatest ? 0 : sign;
    }
    return (uint32_t)code | sign;
}

COLL__INLINE float coll__widen(const struct coll__small_float f, uint32_t code)
{
    const int32_t magnitude = (int32_t)(code & ((UINT32_C(1) << f.sign) - 1));
    const float denormal = (float)magnitude * coll__power(1 - f.bias - f.mantissa);
    const int32_t normal = (magnitude << (23 - f.mantissa)) + ((127 - f.bias) << 23);
    int32_t bits = magnitude < 1 << f.mantissa ? (int32_t)coll__f32_bits(denormal) : normal;
    uint32_t sign = code >> f.sign << 31;

    if (f.nan != 0) {
        const int32_t greatest = f.infinity - (f.infinity == f.nan);
        bits = magnitude == f.infinity ? COLL__INFINITY : bits;
        bits = magnitude > greatest ? COLL__NAN : bits;
        sign = magnitude > greatest ? 0 : sign;
    }
    return coll__f32_of_bits((uint32_t)bits | sign);
}

#endif
