/* The kernels for AVX2 and F16C. Most are the plain loops again, which the compiler vectorises.
 * Those that widen 16-bit floats are written out here: the compiler does not find the conversion
 * instructions of f16, and shuffles bf16 about more than it must.
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
#define COLL__OWN_HALF 1

#define INLINE COLL__TARGET static inline

enum { LANES = 16 }; /* elements per step */

/* Sixteen elements widened, in an order that load and store agree on. */
struct wide {
    __m256 low, high;
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
    _mm_storeu_si128(halves, _mm256_cvtps_ph(canonical(x.low), _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(canonical(x.high), _MM_FROUND_TO_NEAREST_INT));
}

/* bf16 is the upper half of f32. Unpacking works within 128-bit lanes, and so does the packing
 * that undoes it. */
INLINE struct wide bf16_load(const void *from)
{
    const __m256i halves = _mm256_loadu_si256(from), zero = _mm256_setzero_si256();
    return (struct wide){_mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, halves)),
                         _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, halves))};
}

INLINE __m256i bf16_round(__m256 value)
{
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    const __m256 rounded = _mm256_castsi256_ps(_mm256_add_epi32(bits, up));
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000));
    const __m256 unordered = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    return _mm256_srli_epi32(_mm256_castps_si256(_mm256_blendv_ps(rounded, nan, unordered)), 16);
}

INLINE void bf16_store(void *to, struct wide x)
{
    _mm256_storeu_si256(to, _mm256_packus_epi32(bf16_round(x.low), bf16_round(x.high)));
}

/* The last elements, fewer than LANES, go through a vector of their own. */
#define HALF_BINARY(TYPE, OP, OPERATION)                                                         \
    INLINE void TYPE##_##OP##_step(void *output, const void *left, const void *right)            \
    {                                                                                            \
        const struct wide a = TYPE##_load(left), b = TYPE##_load(right);                         \
        TYPE##_store(output, (struct wide){OPERATION(a.low, b.low), OPERATION(a.high, b.high)}); \
    }                                                                                            \
    COLL__TARGET static void TYPE##_##OP(void *output, const void *left, const void *right,      \
                                         size_t count)                                           \
    {                                                                                            \
        coll__mem_u16 *out = output;                                                             \
        const coll__mem_u16 *a = left, *b = right;                                               \
        for (; count >= LANES; count -= LANES, out += LANES, a += LANES, b += LANES) {           \
            TYPE##_##OP##_step(out, a, b);                                                       \
        }                                                                                        \
        if (count > 0) {                                                                         \
            uint16_t x[LANES] = {0}, y[LANES] = {0};                                             \
            memcpy(x, a, count * sizeof *x);                                                     \
            memcpy(y, b, count * sizeof *y);                                                     \
            TYPE##_##OP##_step(x, x, y);                                                         \
            memcpy(out, x, count * sizeof *x);                                                   \
        }                                                                                        \
    }

#define HALF_DIVIDE(TYPE)                                                                        \
    INLINE void TYPE##_divide_step(void *data, __m256 divisor)                                   \
    {                                                                                            \
        const struct wide a = TYPE##_load(data);                                                 \
        TYPE##_store(                                                                            \
            data, (struct wide){_mm256_div_ps(a.low, divisor), _mm256_div_ps(a.high, divisor)}); \
    }                                                                                            \
    COLL__TARGET static void TYPE##_divide(void *data, size_t count, uint32_t divisor)           \
    {                                                                                            \
        coll__mem_u16 *inout = data;                                                             \
        const __m256 d = _mm256_set1_ps((float)divisor);                                         \
        for (; count >= LANES; count -= LANES, inout += LANES) {                                 \
            TYPE##_divide_step(inout, d);                                                        \
        }                                                                                        \
        if (count > 0) {                                                                         \
            uint16_t x[LANES] = {0};                                                             \
            memcpy(x, inout, count * sizeof *x);                                                 \
            TYPE##_divide_step(x, d);                                                            \
            memcpy(inout, x, count * sizeof *x);                                                 \
        }                                                                                        \
    }

HALF_BINARY(f16, sum, _mm256_add_ps)
HALF_BINARY(f16, prod, _mm256_mul_ps)
HALF_DIVIDE(f16)
HALF_BINARY(bf16, sum, _mm256_add_ps)
HALF_BINARY(bf16, prod, _mm256_mul_ps)
HALF_DIVIDE(bf16)

#include "reduce/kernels_template.h"

#else
typedef int coll__avx2_is_x86_only; /* a translation unit must not be empty */
#endif
