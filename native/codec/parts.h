/* What the families have in common. A part of kernels_template.h, as they are: compiled once per
 * instruction set, from plain loops of fixed length that the compiler vectorises. */
#ifndef COLL_CODEC_PARTS_H
#define COLL_CODEC_PARTS_H

#include "codec/number.h"

#define INLINE COLL__TARGET static inline __attribute__((always_inline, unused))

/* All blocks but those of 16 are multiples of it. */
enum { RUN = 32 };

/* The kernel of a format, from one that knows at compile time whether it rounds stochastically. */
#define ENCODER(NAME)                                                                           \
    COLL__TARGET static void NAME##_encode(const struct coll_codec *codec, const float *from,   \
                                           uint32_t count, const uint32_t *random, uint8_t *to) \
    {                                                                                           \
        if (random != NULL) {                                                                   \
            NAME##_encode_all(codec, from, count, random, to, true);                            \
        } else {                                                                                \
            NAME##_encode_all(codec, from, count, NULL, to, false);                             \
        }                                                                                       \
    }

/* Likewise, from one that knows whether it adds. */
#define DECODER(NAME)                                                                           \
    COLL__TARGET static void NAME##_decode(const struct coll_codec *codec, const uint8_t *from, \
                                           uint32_t count, float *to, bool sum)                 \
    {                                                                                           \
        if (sum) {                                                                              \
            NAME##_decode_all(codec, from, count, to, true);                                    \
        } else {                                                                                \
            NAME##_decode_all(codec, from, count, to, false);                                   \
        }                                                                                       \
    }

INLINE uint32_t word(const uint32_t *random, uint32_t i, bool stochastic)
{
    return stochastic ? random[i] : 0;
}

INLINE void put(float *to, float value, bool sum)
{
    *to = sum ? coll__f32_canonical(*to + value) : value;
}

/* The bits of the greatest magnitude; COLL__INFINITY and above if there is an infinity or a NaN. */
INLINE uint32_t greatest(const float *x, uint32_t count)
{
    int32_t most = 0;
    for (uint32_t i = 0; i < count; i++) {
        const int32_t magnitude = (int32_t)(coll__f32_bits(x[i]) & 0x7FFFFFFFu);
        most = magnitude > most ? magnitude : most;
    }
    return (uint32_t)most;
}

INLINE uint32_t greatest_of_block(const float *x, uint32_t block)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < block; i += RUN) {
        const uint32_t of_run = greatest(x + i, RUN);
        most = of_run > most ? of_run : most;
    }
    return most;
}

/* ---- codes of less than a byte: the first of them in the low bits ------------------------------- */

/* The codes that share a byte are taken as one word, in which they have a byte each. */
INLINE void pack(const uint8_t *codes, uint32_t count, int bits, uint8_t *to)
{
    if (bits == 4) {
        const coll__mem_u16 *pairs = (const void *)codes;
        COLL__ROLLED
        for (uint32_t i = 0; i < count / 2; i++) {
            to[i] = (uint8_t)((pairs[i] & 0x0F) | (pairs[i] >> 4 & 0xF0));
        }
    } else if (bits == 2) {
        const coll__mem_u32 *fours = (const void *)codes;
        COLL__ROLLED
        for (uint32_t i = 0; i < count / 4; i++) {
            const uint32_t four = fours[i] & 0x03030303;
            to[i] = (uint8_t)(four | four >> 6 | four >> 12 | four >> 18);
        }
    }
}

INLINE void unpack(const uint8_t *from, uint32_t count, int bits, uint8_t *codes)
{
    if (bits == 4) {
        coll__mem_u16 *pairs = (void *)codes;
        for (uint32_t i = 0; i < count / 2; i++) {
            pairs[i] = (uint16_t)((from[i] | (uint32_t)from[i] << 4) & 0x0F0F);
        }
    } else if (bits == 2) {
        coll__mem_u32 *fours = (void *)codes;
        for (uint32_t i = 0; i < count / 4; i++) {
            const uint32_t byte = from[i];
            fours[i] = (byte | byte << 6 | byte << 12 | byte << 18) & 0x03030303;
        }
    }
}

/* ---- integers in two's complement -------------------------------------------------------------- */

/* The integers between `least` and `most` nearest to x * factor. */
INLINE void encode_integers(const float *x, uint32_t count, int bits, float factor, float least,
                            float most, const uint32_t *random, bool stochastic, uint8_t *to)
{
    uint8_t packed[RUN], *codes = bits == 8 ? to : packed;
    COLL__INDEPENDENT
    COLL__ROLLED
    for (uint32_t i = 0; i < count; i++) {
        const float v = coll__clamp(x[i] * factor, least, most);
        codes[i] = (uint8_t)coll__rounded(v, word(random, i, stochastic), stochastic);
    }
    pack(codes, count, bits, to);
}

INLINE void decode_integers(const uint8_t *from, uint32_t count, int bits, float factor, float *to,
                            bool sum)
{
    uint8_t unpacked[RUN];
    const uint8_t *codes = bits == 8 ? from : unpacked;
    const int unused = 32 - bits;
    unpack(from, count, bits, unpacked);
    COLL__INDEPENDENT
    COLL__ROLLED
    for (uint32_t i = 0; i < count; i++) {
        const int32_t code = (int32_t)((uint32_t)codes[i] << unused) >> unused;
        put(to + i, (float)code * factor, sum);
    }
}

/* The range of codes: COLL_CODEC_SYMMETRIC leaves the most negative one out. */
INLINE float least_integer(const struct coll_codec *codec, int bits)
{
    const int half = 1 << (bits - 1);
    return (float)((codec->flags & COLL_CODEC_SYMMETRIC) != 0 ? 1 - half : -half);
}

INLINE float most_integer(int bits)
{
    return (float)((1 << (bits - 1)) - 1);
}

/* ---- small floats ------------------------------------------------------------------------------- */

INLINE void encode_floats(const struct coll__small_float f, const float *x, uint32_t count,
                          float factor, const uint32_t *random, bool stochastic, uint8_t *to)
{
    uint8_t packed[RUN], *codes = f.sign == 7 ? to : packed;
    COLL__INDEPENDENT
    COLL__ROLLED
    for (uint32_t i = 0; i < count; i++) {
        codes[i] = (uint8_t)coll__narrow(f, x[i] * factor, word(random, i, stochastic), stochastic);
    }
    pack(codes, count, f.sign + 1, to);
}

INLINE void decode_floats(const struct coll__small_float f, const uint8_t *from, uint32_t count,
                          float factor, float *to, bool sum)
{
    uint8_t unpacked[RUN];
    const uint8_t *codes = f.sign == 7 ? from : unpacked;
    unpack(from, count, f.sign + 1, unpacked);
    COLL__INDEPENDENT
    COLL__ROLLED
    for (uint32_t i = 0; i < count; i++) {
        put(to + i, coll__widen(f, codes[i]) * factor, sum);
    }
}

/* ---- scales of 16 bits -------------------------------------------------------------------------- */

/* The least f16 or bf16 that is not below `value` >= 0; for bf16, and as 0, not a denormal (whose
 * reciprocal may be no f32). What is above the greatest of them is NaN. */
INLINE uint16_t scale_above(uint32_t scale, float value)
{
    const uint32_t bits = coll__f32_bits(value);
    uint32_t code;

    if (scale == COLL_SCALE_BF16) {
        code = (bits + 0xFFFFu) >> 16;
        code = code < 0x0080 ? 0x0080 : code;
        return (uint16_t)(code < 0x7F80 ? code : 0x7FC0);
    }
    if (bits >= 0x47800000u) {
        return 0x7E00;
    }
    if (bits >= 0x38800000u) { /* normal in f16 */
        code = (bits - (112u << 23) + 0x1FFFu) >> 13;
        return (uint16_t)(code < 0x7C00 ? code : 0x7E00);
    }
    const float steps = value * 0x1p24f;
    code = (uint32_t)steps;
    code += (float)code < steps;
    return (uint16_t)(code > 0 ? code : 1);
}

INLINE float take_scale(uint32_t scale, const uint8_t **from)
{
    uint16_t code;
    memcpy(&code, *from, sizeof code);
    *from += sizeof code;
    return coll__f32_canonical(scale == COLL_SCALE_BF16 ? coll__f32_of_bf16(code)
                                                        : coll__f32_of_f16(code));
}

/* The scale with which `amax`, the bits of the greatest magnitude, is at most `range`; NaN if there is
 * none. Returns where the codes begin. */
INLINE uint8_t *put_scale(uint32_t scale, uint32_t amax, float range, uint8_t *to, float *value)
{
    const float least = amax < COLL__INFINITY ? coll__f32_of_bits(amax) / range : coll__nan();
    const uint16_t code = scale_above(scale, least);
    const uint8_t *from = to;

    memcpy(to, &code, sizeof code);
    *value = take_scale(scale, &from);
    return to + sizeof code;
}

#endif
