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
