/* Blocks of 16 with a scale of 8 bits (E4M3), and an f32 scale for a unit of them: NVFP4, and the same
 * with integers. A part of kernels_template.h. */

enum { NV_BLOCK = 16, NV_CODES = NV_BLOCK / 2, NV_BLOCKS = COLL__UNIT_MAX / NV_BLOCK };

/* The reciprocal of the product of the two least scales, 2^-9 and this, is a number. */
#define LEAST_NV_SCALE 0x1p-117f
#define E4M3_MAX 448.0f

/* The scales of a unit's blocks. `range` is the greatest element. */
INLINE float nv_scales(const float *x, uint32_t blocks, float range, uint8_t *codes, float *scales)
{
    uint32_t amax[NV_BLOCKS], most = 0;

    for (uint32_t i = 0; i < blocks; i++) {
        amax[i] = greatest(x + i * NV_BLOCK, NV_BLOCK);
        most = amax[i] > most && amax[i] < COLL__INFINITY ? amax[i] : most;
    }
    const float all = coll__f32_of_bits(most) / (range * E4M3_MAX);
    const float of_unit = all < LEAST_NV_SCALE ? LEAST_NV_SCALE : all;
    const float factor = 1.0f / (range * of_unit);
    for (uint32_t i = 0; i < blocks; i++) {
        const uint32_t code = coll__narrow(COLL__E4M3, coll__f32_of_bits(amax[i]) * factor, 0,
                                           false);
        codes[i] = (uint8_t)(code == 0 ? 1 : code);
        scales[i] = coll__widen(COLL__E4M3, codes[i]) * of_unit;
    }
    return of_unit;
}

INLINE void nv_encode(const struct coll_codec *codec, const float *from, uint32_t count,
                      const uint32_t *random, uint8_t *to, bool stochastic, bool integers)
{
    const float least = least_integer(codec, 4), most = most_integer(4);
    uint8_t codes[NV_BLOCKS];
    float scales[NV_BLOCKS];

    for (uint32_t i = 0; i < count; i += COLL__UNIT_MAX) {
        const uint32_t n = count - i < COLL__UNIT_MAX ? count - i : COLL__UNIT_MAX;
        const uint32_t blocks = (n + NV_BLOCK - 1) / NV_BLOCK;
        const float of_unit = nv_scales(from + i, blocks, integers ? -least : 6, codes, scales);
        memcpy(to, &of_unit, sizeof of_unit);
        to += sizeof of_unit;
        for (uint32_t j = 0; j < blocks; j++, to += NV_CODES) {
            const uint32_t at = i + j * NV_BLOCK;
            const uint32_t *words = stochastic ? random + at : NULL;
            *to++ = codes[j];
            if (scales[j] != scales[j]) {
                memset(to, 0, NV_CODES);
            } else if (integers) {
                encode_integers(from + at, NV_BLOCK, 4, 1.0f / scales[j], least, most, words,
                                stochastic, to);
            } else {
                encode_floats(COLL__E2M1, from + at, NV_BLOCK, 1.0f / scales[j], words, stochastic,
                              to);
            }
        }
    }
}

INLINE void nv_decode(const uint8_t *from, uint32_t count, float *to, bool sum, bool integers)
{
    float of_unit = 0;

    for (uint32_t i = 0; i < count; i += NV_BLOCK, from += NV_CODES) {
        if (i % COLL__UNIT_MAX == 0) {
            memcpy(&of_unit, from, sizeof of_unit);
            from += sizeof of_unit;
        }
        const float scale = coll__f32_canonical(coll__widen(COLL__E4M3, *from++) * of_unit);
        if (integers) {
            decode_integers(from, NV_BLOCK, 4, scale, to + i, sum);
        } else {
            decode_floats(COLL__E2M1, from, NV_BLOCK, scale, to + i, sum);
        }
    }
}

#define NV(NAME, INTEGERS)                                                             \
    INLINE void NAME##_encode_all(const struct coll_codec *codec, const float *from,   \
                                  uint32_t count, const uint32_t *random, uint8_t *to, \
                                  bool stochastic)                                     \
    {                                                                                  \
        nv_encode(codec, from, count, random, to, stochastic, INTEGERS);               \
    }                                                                                  \
    ENCODER(NAME)                                                                      \
    INLINE void NAME##_decode_all(const struct coll_codec *codec, const uint8_t *from, \
                                  uint32_t count, float *to, bool sum)                 \
    {                                                                                  \
        (void)codec;                                                                   \
        nv_decode(from, count, to, sum, INTEGERS);                                     \
    }                                                                                  \
    DECODER(NAME)
NV(nvfp4, false)
NV(nvint4, true)
