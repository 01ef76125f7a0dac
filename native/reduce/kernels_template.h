/* The kernels as plain loops, included once per instruction set. The includer defines
 *
 *   COLL__TARGET   the attribute that lets the compiler use the instruction set
 *   COLL__TABLE    the name of the struct coll__kernels to define
 *   COLL__OWN_FLOAT (optional) that it has defined min and max of all floats, and everything of
 *                  f16 and bf16, itself
 *   COLL__OWN_INTEGER_DIVIDE (optional) the same of the division of integers
 *
 * and the compiler vectorises. Every loop says that its iterations are independent: without it
 * the compiler would check for overlap at run time and take the slow path when `output` is `a`.
 */
#include "reduce/element.h"
#include "reduce/kernels.h"

#if defined(__clang__)
#define COLL__INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define COLL__INDEPENDENT _Pragma("GCC ivdep")
#endif

#define COLL__BINARY(NAME, TYPE, EXPRESSION)                                                       \
    COLL__TARGET static void NAME(void *output, const void *left, const void *right, size_t count) \
    {                                                                                              \
        coll__mem_##TYPE *out = output;                                                            \
        const coll__mem_##TYPE *in_a = left, *in_b = right;                                        \
        COLL__INDEPENDENT                                                                          \
        for (size_t i = 0; i < count; i++) {                                                       \
            const coll__mem_##TYPE a = in_a[i], b = in_b[i];                                       \
            out[i] = (coll__mem_##TYPE)(EXPRESSION);                                               \
        }                                                                                          \
    }

/* `SETUP` declares the number `d`, in the type that it is done in, from the `PARAMETER`. */
#define COLL__EACH(NAME, TYPE, PARAMETER, SETUP, EXPRESSION)           \
    COLL__TARGET static void NAME(void *data, size_t count, PARAMETER) \
    {                                                                  \
        coll__mem_##TYPE *inout = data;                                \
        SETUP;                                                         \
        COLL__INDEPENDENT                                              \
        for (size_t i = 0; i < count; i++) {                           \
            const coll__mem_##TYPE a = inout[i];                       \
            inout[i] = (coll__mem_##TYPE)(EXPRESSION);                 \
        }                                                              \
    }
#define COLL__DIVIDE(NAME, TYPE, SETUP, EXPRESSION) \
    COLL__EACH(NAME, TYPE, uint32_t divisor, SETUP, EXPRESSION)
#define COLL__SCALE(NAME, TYPE, SETUP, EXPRESSION) \
    COLL__EACH(NAME, TYPE, double factor, SETUP, EXPRESSION)

/* ---- floating point ---------------------------------------------------------------------- */

COLL__BINARY(f64_sum, f64, coll__f64_canonical(a + b))
COLL__BINARY(f64_prod, f64, coll__f64_canonical((a) * (b)))
COLL__DIVIDE(f64_divide, f64, const double d = divisor, coll__f64_canonical(a / d))
COLL__SCALE(f64_scale, f64, const double d = factor, coll__f64_canonical((a) * (d)))

COLL__BINARY(f32_sum, f32, coll__f32_canonical(a + b))
COLL__BINARY(f32_prod, f32, coll__f32_canonical((a) * (b)))
COLL__DIVIDE(f32_divide, f32, const float d = (float)divisor, coll__f32_canonical(a / d))
COLL__SCALE(f32_scale, f32, const float d = (float)factor, coll__f32_canonical((a) * (d)))

#if !defined(COLL__OWN_FLOAT)
COLL__BINARY(f64_min, u64, coll__min_f64(a, b))
COLL__BINARY(f64_max, u64, coll__max_f64(a, b))
COLL__BINARY(f32_min, u32, coll__min_f32(a, b))
COLL__BINARY(f32_max, u32, coll__max_f32(a, b))

COLL__BINARY(bf16_sum, u16, coll__bf16_of_f32(coll__f32_of_bf16(a) + coll__f32_of_bf16(b)))
COLL__BINARY(bf16_prod, u16, coll__bf16_of_f32(coll__f32_of_bf16(a) * coll__f32_of_bf16(b)))
COLL__BINARY(bf16_min, u16, coll__min_bf16(a, b))
COLL__BINARY(bf16_max, u16, coll__max_bf16(a, b))
COLL__DIVIDE(bf16_divide, u16, const float d = (float)divisor,
             coll__bf16_of_f32(coll__f32_of_bf16(a) / d))
COLL__SCALE(bf16_scale, u16, const float d = (float)factor,
            coll__bf16_of_f32(coll__f32_of_bf16(a) * d))

COLL__BINARY(f16_sum, u16, coll__f16_of_f32(coll__f32_of_f16(a) + coll__f32_of_f16(b)))
COLL__BINARY(f16_prod, u16, coll__f16_of_f32(coll__f32_of_f16(a) * coll__f32_of_f16(b)))
COLL__BINARY(f16_min, u16, coll__min_f16(a, b))
COLL__BINARY(f16_max, u16, coll__max_f16(a, b))
COLL__DIVIDE(f16_divide, u16, const float d = (float)divisor,
             coll__f16_of_f32(coll__f32_of_f16(a) / d))
COLL__SCALE(f16_scale, u16, const float d = (float)factor,
            coll__f16_of_f32(coll__f32_of_f16(a) * d))
#endif

/* ---- integers ---------------------------------------------------------------------------- */

/* Sum and product are the same for signed and unsigned. The factors of narrow types are widened
 * to unsigned first, since they would be promoted to int, which may overflow. */
COLL__BINARY(x8_sum, u8, (uint32_t)a + b)
COLL__BINARY(x8_prod, u8, (uint32_t)(a) * (b))
COLL__BINARY(x16_sum, u16, (uint32_t)a + b)
COLL__BINARY(x16_prod, u16, (uint32_t)(a) * (b))
COLL__BINARY(x32_sum, u32, a + b)
COLL__BINARY(x32_prod, u32, (a) * (b))
COLL__BINARY(x64_sum, u64, a + b)
COLL__BINARY(x64_prod, u64, (a) * (b))

#define COLL__INTEGER_MINMAX(TYPE)                \
    COLL__BINARY(TYPE##_min, TYPE, a < b ? a : b) \
    COLL__BINARY(TYPE##_max, TYPE, a > b ? a : b)
COLL__INTEGER_MINMAX(i8)
COLL__INTEGER_MINMAX(i16)
COLL__INTEGER_MINMAX(i32)
COLL__INTEGER_MINMAX(i64)
COLL__INTEGER_MINMAX(u8)
COLL__INTEGER_MINMAX(u16)
COLL__INTEGER_MINMAX(u32)
COLL__INTEGER_MINMAX(u64)

/* Bits do not care about the width. */
#define COLL__BITWISE(TYPE)               \
    COLL__BINARY(TYPE##_band, TYPE, a &b) \
    COLL__BINARY(TYPE##_bor, TYPE, a | b) \
    COLL__BINARY(TYPE##_bxor, TYPE, a ^ b)
COLL__BITWISE(u8)
COLL__BITWISE(u16)
COLL__BITWISE(u32)
COLL__BITWISE(u64)

COLL__BINARY(bool_and, u8, (a != 0) & (b != 0))
COLL__BINARY(bool_or, u8, (a != 0) | (b != 0))
COLL__BINARY(bool_xor, u8, (a != 0) ^ (b != 0))

#if !defined(COLL__OWN_INTEGER_DIVIDE)
/* There is no vector division of integers, but a floating-point quotient cut off is the right
 * one where the type is wide enough: a quotient that is not an integer is at least 1/d away from
 * the next, which is a relative distance above 1/(|a| + d). f32 (24 bits) does for 16-bit
 * elements, whose divisor may be clamped to 2^16 (beyond it the quotient is 0 anyway), f64 (53
 * bits) for 32-bit elements. */
#define COLL__F32_DIVISOR const float d = divisor < 0x10000u ? (float)divisor : 65536.0f
COLL__DIVIDE(i8_divide, i8, COLL__F32_DIVISOR, (int32_t)((float)a / d))
COLL__DIVIDE(i16_divide, i16, COLL__F32_DIVISOR, (int32_t)((float)a / d))
COLL__DIVIDE(i32_divide, i32, const double d = divisor, (double)a / d)
COLL__DIVIDE(i64_divide, i64, const int64_t d = divisor, a / d)
COLL__DIVIDE(u8_divide, u8, COLL__F32_DIVISOR, (int32_t)((float)a / d))
COLL__DIVIDE(u16_divide, u16, COLL__F32_DIVISOR, (int32_t)((float)a / d))
COLL__DIVIDE(u32_divide, u32, const double d = divisor, (double)a / d)
COLL__DIVIDE(u64_divide, u64, const uint64_t d = divisor, a / d)
#endif

/* ---- the table --------------------------------------------------------------------------- */

#define COLL__ARITHMETIC(ARITHMETIC, ORDER)                                                        \
    [COLL_SUM] = ARITHMETIC##_sum, [COLL_AVG] = ARITHMETIC##_sum, [COLL_PROD] = ARITHMETIC##_prod, \
    [COLL_MIN] = ORDER##_min, [COLL_MAX] = ORDER##_max
#define COLL__ROW(ARITHMETIC, ORDER) \
    {COLL__ARITHMETIC(ARITHMETIC, ORDER), [COLL_SCALED_SUM] = ARITHMETIC##_sum}
#define COLL__INTEGER_ROW(ARITHMETIC, ORDER, BITS)                                            \
    {COLL__ARITHMETIC(ARITHMETIC, ORDER), [COLL_BAND] = BITS##_band, [COLL_BOR] = BITS##_bor, \
     [COLL_BXOR] = BITS##_bxor}

const struct coll__kernels COLL__TABLE = {
    .reduce = {[COLL_F64] = COLL__ROW(f64, f64),
               [COLL_F32] = COLL__ROW(f32, f32),
               [COLL_F16] = COLL__ROW(f16, f16),
               [COLL_BF16] = COLL__ROW(bf16, bf16),
               [COLL_I8] = COLL__INTEGER_ROW(x8, i8, u8),
               [COLL_I16] = COLL__INTEGER_ROW(x16, i16, u16),
               [COLL_I32] = COLL__INTEGER_ROW(x32, i32, u32),
               [COLL_I64] = COLL__INTEGER_ROW(x64, i64, u64),
               [COLL_U8] = COLL__INTEGER_ROW(x8, u8, u8),
               [COLL_U16] = COLL__INTEGER_ROW(x16, u16, u16),
               [COLL_U32] = COLL__INTEGER_ROW(x32, u32, u32),
               [COLL_U64] = COLL__INTEGER_ROW(x64, u64, u64),
               [COLL_BOOL] = {[COLL_SUM] = bool_or,
                              [COLL_PROD] = bool_and,
                              [COLL_MIN] = bool_and,
                              [COLL_MAX] = bool_or,
                              [COLL_BAND] = bool_and,
                              [COLL_BOR] = bool_or,
                              [COLL_BXOR] = bool_xor}},
    .divide = {[COLL_F64] = f64_divide,
               [COLL_F32] = f32_divide,
               [COLL_F16] = f16_divide,
               [COLL_BF16] = bf16_divide,
               [COLL_I8] = i8_divide,
               [COLL_I16] = i16_divide,
               [COLL_I32] = i32_divide,
               [COLL_I64] = i64_divide,
               [COLL_U8] = u8_divide,
               [COLL_U16] = u16_divide,
               [COLL_U32] = u32_divide,
               [COLL_U64] = u64_divide},
    .scale = {[COLL_F64] = f64_scale,
              [COLL_F32] = f32_scale,
              [COLL_F16] = f16_scale,
              [COLL_BF16] = bf16_scale},
};
