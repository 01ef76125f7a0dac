/* Blocks of integers with a scale of 16 bits. A part of kernels_template.h. */

/* The scale is the quantum: what 1 stands for. */
INLINE void integer_encode(const struct coll_codec *codec, int bits, const float *from,
                           uint32_t count, const uint32_t *random, uint8_t *to, bool stochastic)
{
    const uint32_t block = codec->block, run_bytes = (uint32_t)(RUN * bits / 8);
    const float least = least_integer(codec, bits), most = most_integer(bits);

    for (uint32_t i = 0; i < count; i += block) {
        float scale;
        to = put_scale(codec->scale, greatest_of_block(from + i, block), -least, to, &scale);
        if (scale != scale) {
            memset(to, 0, block * (uint32_t)bits / 8);
            to += block * (uint32_t)bits / 8;
            continue;
        }
        for (uint32_t j = i; j < i + block; j += RUN) {
            encode_integers(from + j, RUN, bits, 1.0f / scale, least, most,
                            stochastic ? random + j : NULL, stochastic, to);
            to += run_bytes;
        }
    }
}

INLINE void integer_decode(const struct coll_codec *codec, int bits, const uint8_t *from,
                           uint32_t count, float *to, bool sum)
{
    const uint32_t block = codec->block;

    for (uint32_t i = 0; i < count; i += block) {
        const float scale = take_scale(codec->scale, &from);
        for (uint32_t j = i; j < i + block; j += RUN) {
            decode_integers(from, RUN, bits, scale, to + j, sum);
            from += RUN * bits / 8;
        }
    }
}

#define INTEGER(NAME, BITS)                                                            \
    INLINE void NAME##_encode_all(const struct coll_codec *codec, const float *from,   \
                                  uint32_t count, const uint32_t *random, uint8_t *to, \
                                  bool stochastic)                                     \
    {                                                                                  \
        integer_encode(codec, BITS, from, count, random, to, stochastic);              \
    }                                                                                  \
    ENCODER(NAME)                                                                      \
    INLINE void NAME##_decode_all(const struct coll_codec *codec, const uint8_t *from, \
                                  uint32_t count, float *to, bool sum)                 \
    {                                                                                  \
        integer_decode(codec, BITS, from, count, to, sum);                             \
    }                                                                                  \
    DECODER(NAME)
INTEGER(int8, 8)
INTEGER(int4, 4)
INTEGER(int2, 2)
