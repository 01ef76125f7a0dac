/* Division of integers by one divisor, for AVX2, which has no such instruction: multiply by the
 * reciprocal. A part of avx2.c.
 *
 * The reciprocal is rounded up to BITS+1 bits, with which the quotient is exact (Granlund and
 * Montgomery, "Division by Invariant Integers using Multiplication", 1994, figure 4.1). Its top bit
 * is always set, so only the low BITS are kept:
 *
 *      high     = n * low >> BITS
 *      quotient = (n + high) >> log2 of the divisor, rounded up
 *
 * where n + high is halved while it is added up, lest it overflow. Bytes are divided as 16 bits. A
 * divisor that the type does not hold is as good as 2^BITS: the quotient is 0. Signed numbers are
 * divided by magnitude, which rounds toward zero.
 */
#ifndef COLL_REDUCE_AVX2_DIVIDE_H
#define COLL_REDUCE_AVX2_DIVIDE_H

struct reciprocal {
    __m256i low;        /* in every lane */
    __m128i half, rest; /* shift counts, 1 and the other ones; both 0 if the divisor is 1 */
};

INLINE struct reciprocal reciprocal_of(uint32_t divisor, unsigned bits)
{
    const unsigned __int128 one = (unsigned __int128)1 << bits;
    const unsigned __int128 d = divisor < one ? divisor : one;
    int length = 0;

    while ((unsigned __int128)1 << length < d) {
        length++;
    }
    const uint64_t low = (uint64_t)((((unsigned __int128)1 << length) - d) * one / d + 1);
    const int half = length > 0;
    return (struct reciprocal){
        .low = bits == 16   ? _mm256_set1_epi16((short)low)
               : bits == 32 ? _mm256_set1_epi32((int)low)
                            : _mm256_set1_epi64x((long long)low),
        .half = _mm_cvtsi32_si128(half),
        .rest = _mm_cvtsi32_si128(length - half),
    };
}

INLINE __m256i high16(__m256i a, __m256i b)
{
    return _mm256_mulhi_epu16(a, b);
}

INLINE __m256i high32(__m256i a, __m256i b)
{
    const __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(a, b), 32);
    return _mm256_blend_epi32(even, _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b), 0xAA);
}

/* As on paper, with digits of 32 bits. */
INLINE __m256i high64(__m256i a, __m256i b)
{
    const __m256i digit = _mm256_set1_epi64x(0xFFFFFFFF);
    const __m256i a1 = _mm256_srli_epi64(a, 32), b1 = _mm256_srli_epi64(b, 32);
    const __m256i x = _mm256_add_epi64(_mm256_mul_epu32(a1, b),
                                       _mm256_srli_epi64(_mm256_mul_epu32(a, b), 32));
    const __m256i y = _mm256_add_epi64(_mm256_mul_epu32(a, b1), _mm256_and_si256(x, digit));
    return _mm256_add_epi64(_mm256_mul_epu32(a1, b1),
                            _mm256_add_epi64(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(y, 32)));
}

#define QUOTIENT(BITS)                                                                    \
    INLINE __m256i quotient##BITS(__m256i n, struct reciprocal d)                         \
    {                                                                                     \
        const __m256i high = high##BITS(n, d.low);                                        \
        const __m256i half = _mm256_srl_epi##BITS(_mm256_sub_epi##BITS(n, high), d.half); \
        return _mm256_srl_epi##BITS(_mm256_add_epi##BITS(high, half), d.rest);            \
    }
QUOTIENT(16)
QUOTIENT(32)
QUOTIENT(64)

INLINE __m256i quotient8(__m256i n, struct reciprocal d)
{
    const __m256i zero = _mm256_setzero_si256();
    return _mm256_packus_epi16(quotient16(_mm256_unpacklo_epi8(n, zero), d),
                               quotient16(_mm256_unpackhi_epi8(n, zero), d));
}

#define SIGNED_QUOTIENT(BITS)                                                        \
    INLINE __m256i signed_quotient##BITS(__m256i n, struct reciprocal d)             \
    {                                                                                \
        return _mm256_sign_epi##BITS(quotient##BITS(_mm256_abs_epi##BITS(n), d), n); \
    }
SIGNED_QUOTIENT(8)
SIGNED_QUOTIENT(16)
SIGNED_QUOTIENT(32)

INLINE __m256i signed_quotient64(__m256i n, struct reciprocal d)
{
    const __m256i sign = _mm256_cmpgt_epi64(_mm256_setzero_si256(), n); /* 0 or all ones */
    const __m256i magnitude = _mm256_sub_epi64(_mm256_xor_si256(n, sign), sign);
    return _mm256_sub_epi64(_mm256_xor_si256(quotient64(magnitude, d), sign), sign);
}

#define INTEGER_DIVIDE(TYPE, SIZE, BITS, QUOTIENT_OF)                                  \
    COLL__TARGET static void TYPE##_divide(void *data, size_t count, uint32_t divisor) \
    {                                                                                  \
        char *inout = data;                                                            \
        const size_t bytes = count * (SIZE), whole = bytes / STEP * STEP;              \
        const struct reciprocal d = reciprocal_of(divisor, BITS);                      \
        for (size_t i = 0; i < whole; i += STEP) {                                     \
            const __m256i n = _mm256_loadu_si256((const void *)(inout + i));           \
            _mm256_storeu_si256((void *)(inout + i), QUOTIENT_OF(n, d));               \
        }                                                                              \
        if (whole < bytes) {                                                           \
            __m256i n = _mm256_setzero_si256();                                        \
            memcpy(&n, inout + whole, bytes - whole);                                  \
            n = QUOTIENT_OF(n, d);                                                     \
            memcpy(inout + whole, &n, bytes - whole);                                  \
        }                                                                              \
    }
INTEGER_DIVIDE(i8, 1, 16, signed_quotient8)
INTEGER_DIVIDE(i16, 2, 16, signed_quotient16)
INTEGER_DIVIDE(i32, 4, 32, signed_quotient32)
INTEGER_DIVIDE(i64, 8, 64, signed_quotient64)
INTEGER_DIVIDE(u8, 1, 16, quotient8)
INTEGER_DIVIDE(u16, 2, 16, quotient16)
INTEGER_DIVIDE(u32, 4, 32, quotient32)
INTEGER_DIVIDE(u64, 8, 64, quotient64)

#endif
