/* Arithmetic on one element: what every kernel must agree with, bit for bit.
 *
 * f16 and bf16. Both operands are widened to f32 (exactly), the operation is carried out in f32,
 * and the result is rounded to the nearest 16-bit value, ties to even. So what travels between
 * two hops of a ring is always the 16-bit type, and a sum over n ranks is rounded n-1 times, in
 * the order of the ring. The rounding to f32 in between never changes an f16 result (24 >= 2*11+2
 * bits, so double rounding is innocuous for + * /); for bf16 the same holds of normal results.
 *
 * NaN. Whether an operation yields the first operand's NaN, the second's, or the default one
 * depends on the instruction chosen and on the order in which a compiler puts the operands, so
 * every NaN result is replaced by one canonical, positive, quiet NaN.
 *
 * min and max are done on the bits: mapping negative values to their ones' complement (sign bit
 * apart) turns the order of floats, -0 < +0 included, into that of signed integers.
 *
 * Integers wrap: they are added and multiplied as unsigned numbers.
 */
#ifndef COLL_REDUCE_ELEMENT_H
#define COLL_REDUCE_ELEMENT_H

#include <stdint.h>
#include <string.h>

#define COLL__INLINE static inline __attribute__((always_inline, unused))

/* Elements in the caller's memory: any alignment, any effective type. */
#define COLL__MEMORY __attribute__((aligned(1), may_alias))
typedef double COLL__MEMORY coll__mem_f64;
typedef float COLL__MEMORY coll__mem_f32;
typedef int8_t COLL__MEMORY coll__mem_i8;
typedef int16_t COLL__MEMORY coll__mem_i16;
typedef int32_t COLL__MEMORY coll__mem_i32;
typedef int64_t COLL__MEMORY coll__mem_i64;
typedef uint8_t COLL__MEMORY coll__mem_u8;
typedef uint16_t COLL__MEMORY coll__mem_u16;
typedef uint32_t COLL__MEMORY coll__mem_u32;
typedef uint64_t COLL__MEMORY coll__mem_u64;

COLL__INLINE uint32_t coll__f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

COLL__INLINE float coll__f32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

COLL__INLINE double coll__f64_of_bits(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

COLL__INLINE float coll__f32_canonical(float value)
{
    return value != value ? coll__f32_of_bits(UINT32_C(0x7FC00000)) : value;
}

COLL__INLINE double coll__f64_canonical(double value)
{
    return value != value ? coll__f64_of_bits(UINT64_C(0x7FF8000000000000)) : value;
}

COLL__INLINE float coll__f32_of_bf16(uint16_t value)
{
    return coll__f32_of_bits((uint32_t)value << 16);
}

COLL__INLINE uint16_t coll__bf16_of_f32(float value)
{
    const uint32_t bits = coll__f32_bits(value);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16; /* may carry to Inf */
    return (uint16_t)(value != value ? 0x7FC0u : rounded);
}

COLL__INLINE float coll__f32_of_f16(uint16_t value)
{
    const uint32_t sign = ((uint32_t)value & 0x8000u) << 16;
    const uint32_t magnitude = (uint32_t)value & 0x7FFFu;
    uint32_t bits;

    if (magnitude >= 0x7C00u) { /* Inf and NaN */
        bits = 0x7F800000u | (magnitude & 0x3FFu) << 13;
    } else if (magnitude >= 0x0400u) {
        bits = (magnitude << 13) + (112u << 23); /* the biases are 15 and 127 */
    } else { /* zero and denormals: a multiple of 2^-24, normal in f32 */
        bits = coll__f32_bits((float)magnitude * 0x1p-24f);
    }
    return coll__f32_of_bits(sign | bits);
}

COLL__INLINE uint16_t coll__f16_of_f32(float value)
{
    const uint32_t bits = coll__f32_bits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7FFFFFFFu;

    if (magnitude > 0x7F800000u) {
        return 0x7E00u;
    }
    if (magnitude >= 0x47800000u) { /* 65536 and above, Inf */
        return (uint16_t)(sign | 0x7C00u);
    }
    if (magnitude >= 0x38800000u) { /* normal in f16; rounding may carry to Inf */
        magnitude -= 112u << 23;
        return (uint16_t)(sign | (magnitude + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13);
    }
    if (magnitude <= 0x33000000u) { /* at most half of the smallest denormal */
        return (uint16_t)sign;
    }
    /* Denormal in f16: the mantissa counted in units of 2^-24. */
    const uint32_t shift = 126u - (magnitude >> 23); /* 14..24 */
    const uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
    const uint32_t half = UINT32_C(1) << (shift - 1);
    const uint32_t odd = (mantissa >> shift) & 1u;
    return (uint16_t)(sign | (mantissa + half - 1u + odd) >> shift);
}

/* coll__order_<float>: its bits as an integer that compares as the float does; its own inverse.
 * coll__min_<float>, coll__max_<float>: on bits. */
#define COLL__MINMAX(NAME, UINT, SINT, BITS, POSITIVE, INFINITY_BITS, NAN_BITS)      \
    COLL__INLINE UINT coll__order_##NAME(UINT x)                                     \
    {                                                                                \
        return (UINT)(x ^ ((UINT)(0u - (UINT)(x >> (BITS - 1))) & (UINT)POSITIVE));  \
    }                                                                                \
    COLL__INLINE int coll__nan_##NAME(UINT a, UINT b)                                \
    {                                                                                \
        return ((UINT)(a & (UINT)POSITIVE) > (UINT)INFINITY_BITS) |                  \
               ((UINT)(b & (UINT)POSITIVE) > (UINT)INFINITY_BITS);                   \
    }                                                                                \
    COLL__INLINE UINT coll__min_##NAME(UINT a, UINT b)                               \
    {                                                                                \
        const SINT x = (SINT)coll__order_##NAME(a), y = (SINT)coll__order_##NAME(b); \
        const UINT least = coll__order_##NAME((UINT)(x < y ? x : y));                \
        return coll__nan_##NAME(a, b) ? (UINT)NAN_BITS : least;                      \
    }                                                                                \
    COLL__INLINE UINT coll__max_##NAME(UINT a, UINT b)                               \
    {                                                                                \
        const SINT x = (SINT)coll__order_##NAME(a), y = (SINT)coll__order_##NAME(b); \
        const UINT most = coll__order_##NAME((UINT)(x > y ? x : y));                 \
        return coll__nan_##NAME(a, b) ? (UINT)NAN_BITS : most;                       \
    }

COLL__MINMAX(f64, uint64_t, int64_t, 64, 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000, 0x7FF8000000000000)
COLL__MINMAX(f32, uint32_t, int32_t, 32, 0x7FFFFFFF, 0x7F800000, 0x7FC00000)
COLL__MINMAX(f16, uint16_t, int16_t, 16, 0x7FFF, 0x7C00, 0x7E00)
COLL__MINMAX(bf16, uint16_t, int16_t, 16, 0x7FFF, 0x7F80, 0x7FC0)

#endif
