/* Blocks of sign and power of two, or zero (E3M0), with a scale of 16 bits. A part of
 * kernels_template.h. */

/* The greatest power is 16. */
INLINE void e3m0_encode_all(const struct coll_codec *codec, const float *from, uint32_t count,
                            const uint32_t *random, uint8_t *to, bool stochastic)
{
    const uint32_t block = codec->block;

    for (uint32_t i = 0; i < count; i += block) {
        float scale;
        to = put_scale(codec->scale, greatest_of_block(from + i, block), 16, to, &scale);
        if (scale != scale) {
            memset(to, 0, block / 2);
            to += block / 2;
            continue;
        }
        for (uint32_t j = i; j < i + block; j += RUN, to += RUN / 2) {
            encode_floats(COLL__E3M0, from + j, RUN, 1.0f / scale, stochastic ? random + j : NULL,
                          stochastic, to);
        }
    }
}
ENCODER(e3m0)

INLINE void e3m0_decode_all(const struct coll_codec *codec, const uint8_t *from, uint32_t count,
                            float *to, bool sum)
{
    const uint32_t block = codec->block;

    for (uint32_t i = 0; i < count; i += block) {
        const float scale = take_scale(codec->scale, &from);
        for (uint32_t j = i; j < i + block; j += RUN, from += RUN / 2) {
            decode_floats(COLL__E3M0, from, RUN, scale, to + j, sum);
        }
    }
}
DECODER(e3m0)
