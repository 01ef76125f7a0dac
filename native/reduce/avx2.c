/* The kernels for AVX2 and F16C. All but the three below are the plain loops again, which the
 * compiler vectorises; it does not find the f16 conversions by itself.
 *
 * vcvtph2ps and vcvtps2ph agree with coll__f32_of_f16 and coll__f16_of_f32 on everything but
 * NaN payloads, and those are replaced before the conversion back.
 */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "reduce/element.h"

#define COLL__TARGET __attribute__((target("avx2,f16c")))
#define COLL__TABLE coll__kernels_avx2
#define COLL__OWN_F16 1

COLL__TARGET static inline __m256 f16_load(const void *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(from));
}

COLL__TARGET static inline void f16_store(void *to, __m256 value)
{
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000));
    value = _mm256_blendv_ps(value, nan, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    _mm_storeu_si128(to, _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

/* The last elements, fewer than 8, go through a vector of their own. */
#define F16_BINARY(NAME, OPERATION)                                                                \
    COLL__TARGET static void NAME(void *output, const void *left, const void *right, size_t count) \
    {                                                                                              \
        coll__mem_u16 *out = output;                                                               \
        const coll__mem_u16 *a = left, *b = right;                                                 \
        size_t i = 0;                                                                              \
        for (; i + 8 <= count; i += 8) {                                                           \
            f16_store(out + i, OPERATION(f16_load(a + i), f16_load(b + i)));                       \
        }                                                                                          \
        if (i < count) {                                                                           \
            uint16_t x[8] = {0}, y[8] = {0};                                                       \
            memcpy(x, a + i, (count - i) * sizeof *x);                                             \
            memcpy(y, b + i, (count - i) * sizeof *y);                                             \
            f16_store(x, OPERATION(f16_load(x), f16_load(y)));                                     \
            memcpy(out + i, x, (count - i) * sizeof *x);                                           \
        }                                                                                          \
    }
F16_BINARY(f16_sum, _mm256_add_ps)
F16_BINARY(f16_prod, _mm256_mul_ps)

COLL__TARGET static void f16_divide(void *data, size_t count, uint32_t divisor)
{
    coll__mem_u16 *inout = data;
    const __m256 d = _mm256_set1_ps((float)divisor);
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        f16_store(inout + i, _mm256_div_ps(f16_load(inout + i), d));
    }
    if (i < count) {
        uint16_t x[8] = {0};
        memcpy(x, inout + i, (count - i) * sizeof *x);
        f16_store(x, _mm256_div_ps(f16_load(x), d));
        memcpy(inout + i, x, (count - i) * sizeof *x);
    }
}

#include "reduce/kernels_template.h"

#else
typedef int coll__avx2_is_x86_only; /* a translation unit must not be empty */
#endif
