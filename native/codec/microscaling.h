/* Microscaling, by the specification of the Open Compute Project (OCP Microscaling Formats, version
 * 1.0): blocks of 32 with a scale that is a power of two, as its exponent (E8M0). A part of
 * kernels_template.h. */

enum { E8M0_NAN = 255 };

/* The greatest power of two that is not above the greatest magnitude, divided by the greatest power
 * of two among the elements, 2^`top`; not below the code `lowest`. */
INLINE uint8_t power_scale(uint32_t amax, int top, int lowest)
{
    const int code = (int)(amax >> 23) - top;
    return (uint8_t)(code > lowest ? code : lowest);
}

INLINE float e8m0_value(uint8_t code, int top)
{
    return code == E8M0_NAN ? coll__nan() : coll__power(code - 127 - top);
}

/* Integers count in units of 2^-6. So a scale below 2^-121 would have a reciprocal that is no f32. */
enum { MXINT8_UNIT = 6 };

INLINE void mxint8_encode_all(const struct coll_codec *codec, const float *from, uint32_t count,
                              const uint32_t *random, uint8_t *to, bool stochastic)
{
    const float least = least_integer(codec, 8), most = most_integer(8);

    for (uint32_t i = 0; i < count; i += RUN, to += 1 + RUN) {
        const uint32_t amax = greatest(from + i, RUN);
        if (amax >= COLL__INFINITY) {
            to[0] = E8M0_NAN;
            memset(to + 1, 0, RUN);
            continue;
        }
        to[0] = power_scale(amax, 0, MXINT8_UNIT);
        encode_integers(from + i, RUN, 8, coll__power(127 + MXINT8_UNIT - to[0]), least, most,
                        stochastic ? random + i : NULL, stochastic, to + 1);
    }
}
ENCODER(mxint8)

INLINE void mxint8_decode_all(const struct coll_codec *codec, const uint8_t *from, uint32_t count,
                              float *to, bool sum)
{
    (void)codec;
    for (uint32_t i = 0; i < count; i += RUN, from += 1 + RUN) {
        decode_integers(from + 1, RUN, 8, e8m0_value(from[0], MXINT8_UNIT), to + i, sum);
    }
}
DECODER(mxint8)

/* ---- small floats ------------------------------------------------------------------------------- */

INLINE uint32_t greatest_number(const float *x, uint32_t count)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t magnitude = coll__f32_bits(x[i]) & 0x7FFFFFFFu;
        most = magnitude > most && magnitude < COLL__INFINITY ? magnitude : most;
    }
    return most;
}

/* Those that have a NaN of their own spare the rest of the block; this is rare, and done with the same
 * code, in which all others do without it. `top`: the greatest power of two among the elements. */
INLINE void mxfp_encode(const struct coll__small_float f, int top, const float *from,
                        uint32_t count, const uint32_t *random, uint8_t *to, bool stochastic)
{
    const uint32_t bytes = RUN * (uint32_t)(f.sign + 1) / 8;
    struct coll__small_float finite = f;

    finite.nan = finite.infinity = 0;
    for (uint32_t i = 0; i < count; i += RUN, to += bytes) {
        const uint32_t *words = stochastic ? random + i : NULL;
        uint32_t amax = greatest(from + i, RUN);
        const bool number = amax < COLL__INFINITY;
        if (!number && f.nan == 0) {
            *to++ = E8M0_NAN;
            memset(to, 0, bytes);
            continue;
        }
        amax = number ? amax : greatest_number(from + i, RUN);
        const uint8_t scale = power_scale(amax, top, 0);
        const float factor = coll__power(127 - scale);
        *to++ = scale;
        if (number) {
            encode_floats(finite, from + i, RUN, factor, words, stochastic, to);
        } else {
            encode_floats(f, from + i, RUN, factor, words, stochastic, to);
        }
    }
}

INLINE void mxfp_decode(const struct coll__small_float f, const uint8_t *from, uint32_t count,
                        float *to, bool sum)
{
    for (uint32_t i = 0; i < count; i += RUN, from += RUN * (f.sign + 1) / 8) {
        const float scale = e8m0_value(*from++, 0);
        decode_floats(f, from, RUN, scale, to + i, sum);
    }
}

#define MXFP(NAME, FORMAT, TOP)                                                        \
    INLINE void NAME##_encode_all(const struct coll_codec *codec, const float *from,   \
                                  uint32_t count, const uint32_t *random, uint8_t *to, \
                                  bool stochastic)                                     \
    {                                                                                  \
        (void)codec;                                                                   \
        mxfp_encode(FORMAT, TOP, from, count, random, to, stochastic);                 \
    }                                                                                  \
    ENCODER(NAME)                                                                      \
    INLINE void NAME##_decode_all(const struct coll_codec *codec, const uint8_t *from, \
                                  uint32_t count, float *to, bool sum)                 \
    {                                                                                  \
        (void)codec;                                                                   \
        mxfp_decode(FORMAT, from, count, to, sum);                                     \
    }                                                                                  \
    DECODER(NAME)
MXFP(mxfp8_e4m3, COLL__E4M3, 8)
MXFP(mxfp8_e5m2, COLL__E5M2, 15)
MXFP(mxfp4, COLL__E2M1, 2)
