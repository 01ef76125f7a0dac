/* The kernels for AVX2 and F16C. Most are the plain loops again, which the compiler vectorises.
 * Written out here is what it does not find: the conversions of f16 and bf16, and the short forms of
 * min and max of floats.
 *
 * vcvtph2ps and vcvtps2ph agree with coll__f32_of_f16 and coll__f16_of_f32 on everything but
 * NaNs, and those are replaced before the conversion back.
 */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "reduce/element.h"

#define COLL__TARGET __attribute__((target("avx2,f16c")))
#define COLL__TABLE coll__kernels_avx2
#define COLL__OWN_FLOAT 1
#define COLL__OWN_INTEGER_DIVIDE 1

#define INLINE COLL__TARGET static inline

enum { STEP = 32 }; /* bytes: a vector */

/* ---- f16 and bf16: widen, operate, round -------------------------------------------------- */

/* Sixteen elements widened, in an order that load and store agree on. */
struct wide {
    __m256 first, second;
};

INLINE __m256 canonical(__m256 value)
{
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000));
    return _mm256_blendv_ps(value, nan, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
}

INLINE struct wide f16_load(const void *from)
{
    const __m128i_u *halves = from;
    return (struct wide){_mm256_cvtph_ps(_mm_loadu_si128(halves)),
                         _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}

INLINE void f16_store(void *to, struct wide x)
{
    __m128i_u *halves = to;
    _mm_storeu_si128(halves, _mm256_cvtps_ph(canonical(x.first), _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(canonical(x.second), _MM_FROUND_TO_NEAREST_INT));
}

/* bf16 is the upper half of f32, so the elements with odd numbers are in their place already. */
INLINE struct wide bf16_load(const void *from)
{
    const __m256i pairs = _mm256_loadu_si256(from);
    const __m256i odd = _mm256_and_si256(pairs, _mm256_set1_epi32((int)0xFFFF0000));
    return (struct wide){_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)),
                         _mm256_castsi256_ps(odd)};
}

/* The upper halves, plus 1 where the lower half rounds up: it is above 0x8000, or at it and the upper
 * half is odd. `average` carries into its top bit (x + 0x7FFE + 1) just when x is above 0x8000.
 * Arithmetic yields quiet NaNs, so the upper half alone tells a NaN from infinity. */
INLINE void bf16_store(void *to, struct wide x)
{
    const __m256i first = _mm256_castps_si256(x.first), second = _mm256_castps_si256(x.second);
    const __m256i upper = _mm256_blend_epi16(_mm256_srli_epi32(first, 16), second, 0xAA);
    const __m256i lower = _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xAA);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi16(1));
    const __m256i average = _mm256_avg_epu16(_mm256_or_si256(lower, odd),
                                             _mm256_set1_epi16(0x7FFE));
    const __m256i rounded = _mm256_add_epi16(upper, _mm256_srli_epi16(average, 15));
    const __m256i magnitude = _mm256_and_si256(upper, _mm256_set1_epi16(0x7FFF));
    const __m256i nan = _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(0x7F80));
    _mm256_storeu_si256(to, _mm256_blendv_epi8(rounded, _mm256_set1_epi16(0x7FC0), nan));
}

#define HALF(TYPE, OP, OPERATION)                                                                \
    INLINE void TYPE##_##OP##_step(void *out, const void *left, const void *right)               \
    {                                                                                            \
        const struct wide a = TYPE##_load(left), b = TYPE##_load(right);                         \
        TYPE##_store(out,                                                                        \
                     (struct wide){OPERATION(a.first, b.first), OPERATION(a.second, b.second)}); \
    }
HALF(f16, sum, _mm256_add_ps)
HALF(f16, prod, _mm256_mul_ps)
HALF(bf16, sum, _mm256_add_ps)
HALF(bf16, prod, _mm256_mul_ps)

#define HALF_BY(TYPE, NAME, OPERATION)                                                      \
    INLINE void TYPE##_##NAME##_step(void *data, __m256 by)                                 \
    {                                                                                       \
        const struct wide a = TYPE##_load(data);                                            \
        TYPE##_store(data, (struct wide){OPERATION(a.first, by), OPERATION(a.second, by)}); \
    }                                                                                       \
    COLL__TARGET static void TYPE##_##NAME(char *inout, size_t bytes, __m256 by)            \
    {                                                                                       \
        const size_t whole = bytes / STEP * STEP;                                           \
        for (size_t i = 0; i < whole; i += STEP) {                                          \
            TYPE##_##NAME##_step(inout + i, by);                                            \
        }                                                                                   \
        if (whole < bytes) {                                                                \
            char x[STEP] = {0};                                                             \
            memcpy(x, inout + whole, bytes - whole);                                        \
            TYPE##_##NAME##_step(x, by);                                                    \
            memcpy(inout + whole, x, bytes - whole);                                        \
        }                                                                                   \
    }
HALF_BY(f16, quotients, _mm256_div_ps)
HALF_BY(f16, products, _mm256_mul_ps)
HALF_BY(bf16, quotients, _mm256_div_ps)
HALF_BY(bf16, products, _mm256_mul_ps)

/* The reciprocal of a power of two is exact, and the divider is slow. */
#define HALF_DIVIDE(TYPE)                                                              \
    COLL__TARGET static void TYPE##_divide(void *data, size_t count, uint32_t divisor) \
    {                                                                                  \
        const float d = (float)divisor;                                                \
        if ((divisor & (divisor - 1)) == 0) {                                          \
            TYPE##_products(data, count * sizeof(uint16_t), _mm256_set1_ps(1.0f / d)); \
        } else {                                                                       \
            TYPE##_quotients(data, count * sizeof(uint16_t), _mm256_set1_ps(d));       \
        }                                                                              \
    }
HALF_DIVIDE(f16)
HALF_DIVIDE(bf16)

#define HALF_SCALE(TYPE)                                                                \
    COLL__TARGET static void TYPE##_scale(void *data, size_t count, double factor)      \
    {                                                                                   \
        TYPE##_products(data, count * sizeof(uint16_t), _mm256_set1_ps((float)factor)); \
    }
HALF_SCALE(f16)
HALF_SCALE(bf16)

/* ---- min and max of floats ---------------------------------------------------------------- */

/* Of two 16-bit floats, one of them negative, the lesser is that with the greater bits (unsigned);
 * if none is, that with the lesser. */
#define HALF_MINMAX(TYPE, OP, OF_NEGATIVE, OF_POSITIVE, INFINITY_BITS, NAN_BITS)                  \
    INLINE void TYPE##_##OP##_step(void *out, const void *left, const void *right)                \
    {                                                                                             \
        const __m256i a = _mm256_loadu_si256(left), b = _mm256_loadu_si256(right);                \
        const __m256i positive = _mm256_set1_epi16(0x7FFF);                                       \
        const __m256i largest = _mm256_max_epi16(_mm256_and_si256(a, positive),                   \
                                                 _mm256_and_si256(b, positive));                  \
        const __m256i nan = _mm256_cmpgt_epi16(largest, _mm256_set1_epi16(INFINITY_BITS));        \
        const __m256i negative = _mm256_srai_epi16(_mm256_or_si256(a, b), 15);                    \
        const __m256i found = _mm256_blendv_epi8(OF_POSITIVE(a, b), OF_NEGATIVE(a, b), negative); \
        _mm256_storeu_si256(out, _mm256_blendv_epi8(found, _mm256_set1_epi16(NAN_BITS), nan));    \
    }
HALF_MINMAX(f16, min, _mm256_max_epu16, _mm256_min_epu16, 0x7C00, 0x7E00)
HALF_MINMAX(f16, max, _mm256_min_epu16, _mm256_max_epu16, 0x7C00, 0x7E00)
HALF_MINMAX(bf16, min, _mm256_max_epu16, _mm256_min_epu16, 0x7F80, 0x7FC0)
HALF_MINMAX(bf16, max, _mm256_min_epu16, _mm256_max_epu16, 0x7F80, 0x7FC0)

/* vminps and vmaxps give the second operand if the two are zeros, so in one of two orders a zero of
 * either sign: `or` finds a negative one, `and` a positive one. All else is the same in both. */
#define FLOAT_MINMAX(TYPE, SUFFIX, REAL, OP, COMBINE, NAN_VALUE)                          \
    INLINE void TYPE##_##OP##_step(void *out, const void *left, const void *right)        \
    {                                                                                     \
        const REAL a = _mm256_loadu_##SUFFIX(left), b = _mm256_loadu_##SUFFIX(right);     \
        const REAL found = _mm256_##COMBINE##_##SUFFIX(_mm256_##OP##_##SUFFIX(a, b),      \
                                                       _mm256_##OP##_##SUFFIX(b, a));     \
        const REAL unordered = _mm256_cmp_##SUFFIX(a, b, _CMP_UNORD_Q);                   \
        _mm256_storeu_##SUFFIX(out, _mm256_blendv_##SUFFIX(found, NAN_VALUE, unordered)); \
    }
#define F32_NAN _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000))
#define F64_NAN _mm256_castsi256_pd(_mm256_set1_epi64x(0x7FF8000000000000))
FLOAT_MINMAX(f32, ps, __m256, min, or, F32_NAN)
FLOAT_MINMAX(f32, ps, __m256, max, and, F32_NAN)
FLOAT_MINMAX(f64, pd, __m256d, min, or, F64_NAN)
FLOAT_MINMAX(f64, pd, __m256d, max, and, F64_NAN)

/* ---- the loops ---------------------------------------------------------------------------- */

/* The last elements, less than a vector, go through one of their own. */
#define STEPS(NAME, SIZE)                                                                          \
    COLL__TARGET static void NAME(void *output, const void *left, const void *right, size_t count) \
    {                                                                                              \
        char *out = output;                                                                        \
        const char *a = left, *b = right;                                                          \
        const size_t bytes = count * (SIZE), whole = bytes / STEP * STEP;                          \
        for (size_t i = 0; i < whole; i += STEP) {                                                 \
            NAME##_step(out + i, a + i, b + i);                                                    \
        }                                                                                          \
        if (whole < bytes) {                                                                       \
            char x[STEP] = {0}, y[STEP] = {0};                                                     \
            memcpy(x, a + whole, bytes - whole);                                                   \
            memcpy(y, b + whole, bytes - whole);                                                   \
            NAME##_step(x, x, y);                                                                  \
            memcpy(out + whole, x, bytes - whole);                                                 \
        }                                                                                          \
    }
STEPS(f16_sum, 2)
STEPS(f16_prod, 2)
STEPS(f16_min, 2)
STEPS(f16_max, 2)
STEPS(bf16_sum, 2)
STEPS(bf16_prod, 2)
STEPS(bf16_min, 2)
STEPS(bf16_max, 2)
STEPS(f32_min, 4)
STEPS(f32_max, 4)
STEPS(f64_min, 8)
STEPS(f64_max, 8)

#include "reduce/avx2_divide.h"

#include "reduce/kernels_template.h"

#else
typedef int coll__avx2_is_x86_only; /* a translation unit must not be empty */
#endif
