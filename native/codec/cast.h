/* f16 and bf16: no blocks, no scales. A part of kernels_template.h. */

#define CAST(NAME, NARROW, WIDEN)                                                        \
    INLINE void NAME##_encode_all(const struct coll_codec *codec, const float *from,     \
                                  uint32_t count, const uint32_t *random, uint8_t *to,   \
                                  bool stochastic)                                       \
    {                                                                                    \
        coll__mem_u16 *out = (void *)to;                                                 \
        (void)codec;                                                                     \
        COLL__INDEPENDENT                                                                \
        for (uint32_t i = 0; i < count; i++) {                                           \
            out[i] = (uint16_t)NARROW(from[i], word(random, i, stochastic), stochastic); \
        }                                                                                \
    }                                                                                    \
    ENCODER(NAME)                                                                        \
    INLINE void NAME##_decode_all(const struct coll_codec *codec, const uint8_t *from,   \
                                  uint32_t count, float *to, bool sum)                   \
    {                                                                                    \
        const coll__mem_u16 *in = (const void *)from;                                    \
        (void)codec;                                                                     \
        COLL__INDEPENDENT                                                                \
        for (uint32_t i = 0; i < count; i++) {                                           \
            put(to + i, WIDEN(in[i]), sum);                                              \
        }                                                                                \
    }                                                                                    \
    DECODER(NAME)

#define NARROW_F16(V, RANDOM, STOCHASTIC) coll__narrow(COLL__F16, V, RANDOM, STOCHASTIC)
#define WIDEN_F16(CODE) coll__widen(COLL__F16, CODE)
CAST(bf16, coll__bf16_rounded, coll__f32_of_bf16)
CAST(f16, NARROW_F16, WIDEN_F16)
