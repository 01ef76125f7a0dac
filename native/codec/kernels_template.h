/* The kernels as plain loops, included once per instruction set. The includer defines
 *
 *   COLL__TARGET   the attribute that lets the compiler use the instruction set
 *   COLL__AVX2     (optional) that it has AVX2's intrinsics
 *   COLL__TABLE    the name of the struct coll__codec_kernels to define
 *
 * and the compiler vectorises. */
#include <string.h>

#include "codec/kernels.h"
#include "codec/random.h"

#if defined(__clang__)
#define COLL__INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#define COLL__ROLLED
#else
#define COLL__INDEPENDENT _Pragma("GCC ivdep")
#define COLL__ROLLED _Pragma("GCC unroll 1") /* lest it be unrolled before it is vectorised */
#endif

#include "codec/parts.h"

#include "codec/affine.h"
#include "codec/cast.h"
#include "codec/e3m0.h"
#include "codec/integers.h"
#include "codec/microscaling.h"
#include "codec/nv.h"
#include "codec/rotate.h"
#include "codec/topk.h"

/* ---- a piece of an array ------------------------------------------------------------------------ */

COLL__TARGET static void fill_words(uint64_t key, uint64_t first, uint32_t count, uint32_t *words)
{
    for (uint32_t i = 0; i < count; i += COLL__SEED_RUN, words += COLL__SEED_RUN) {
        const uint64_t seed = coll__seed(key, first + i);
        const uint32_t low = (uint32_t)seed, high = (uint32_t)(seed >> 32);
        for (uint32_t j = 0; j < COLL__SEED_RUN; j++) {
            words[j] = coll__word(low, high, j);
        }
    }
}

COLL__TARGET static void add(float *sum, const float *x, uint32_t count)
{
    COLL__INDEPENDENT
    for (uint32_t i = 0; i < count; i++) {
        sum[i] = coll__f32_canonical(sum[i] + x[i]);
    }
}

/* What is done at once: whole units, or the last, short one. */
INLINE uint32_t piece_of(const struct coll__codec *codec, uint64_t count)
{
    const uint32_t most = codec->unit > COLL__PIECE ? codec->unit : COLL__PIECE;
    if (count >= most) {
        return most;
    }
    return (uint32_t)(count < codec->unit ? count : count - count % codec->unit);
}

COLL__TARGET static void encode(const struct coll__codec *codec, const struct coll__codec_key *key,
                                const float *from, uint64_t first, uint64_t count, uint8_t *to)
{
    const struct coll_codec *given = &codec->given;
    const struct coll__codec_format *format = &codec->kernels->format[given->format];
    const bool stochastic = (given->flags & COLL_CODEC_STOCHASTIC) != 0;
    float copy[COLL__UNIT_MAX];
    uint32_t random[COLL__UNIT_MAX];
    uint8_t whole[COLL__UNIT_BYTES_MAX];

    while (count > 0) {
        const uint32_t n = piece_of(codec, count);
        const bool is_short = n < codec->unit;
        const size_t bytes = (size_t)coll__encoded_bytes(codec, n);
        const uint32_t turned = rotated(given, n);
        const float *x = is_short || turned > 0 ? copy : from;
        if (turned > 0) {
            rotate(given, key->rotation, first, from, turned, copy);
        }
        if (is_short) {
            memcpy(copy + turned, from + turned, (n - turned) * sizeof *from);
            for (uint32_t i = n; i < codec->unit; i++) {
                copy[i] = copy[n - 1];
            }
        }
        if (stochastic) {
            fill_words(key->rounding, first, is_short ? codec->unit : n, random);
        }
        format->encode(given, x, n, stochastic ? random : NULL, is_short ? whole : to);
        if (is_short) {
            memcpy(to, whole, bytes);
            to[bytes - 1] &= coll__last_bits(codec, n);
        }
        from += n;
        first += n;
        count -= n;
        to += bytes;
    }
}

COLL__TARGET static void decode(const struct coll__codec *codec, const struct coll__codec_key *key,
                                const uint8_t *from, uint64_t first, uint64_t count, float *to,
                                bool sum)
{
    const struct coll_codec *given = &codec->given;
    const struct coll__codec_format *format = &codec->kernels->format[given->format];
    float values[COLL__UNIT_MAX];
    uint8_t whole[COLL__UNIT_BYTES_MAX];

    while (count > 0) {
        const uint32_t n = piece_of(codec, count);
        const bool is_short = n < codec->unit;
        const size_t bytes = (size_t)coll__encoded_bytes(codec, n);
        const uint32_t turned = rotated(given, n);
        float *x = is_short || (turned > 0 && sum) ? values : to;
        if (is_short) {
            memset(whole, 0, codec->unit_bytes);
            memcpy(whole, from, bytes);
        }
        format->decode(given, is_short ? whole : from, n, x, sum && x == to);
        if (turned > 0) {
            rotate_back(given, key->rotation, first, x, turned);
        }
        if (x != to && sum) {
            add(to, x, n);
        } else if (x != to) {
            memcpy(to, x, n * sizeof *to);
        }
        from += bytes;
        first += n;
        count -= n;
        to += n;
    }
}

#define COLL__FORMAT(NAME) {NAME##_encode, NAME##_decode}

const struct coll__codec_kernels COLL__TABLE = {
    .format = {[COLL_CODEC_BF16] = COLL__FORMAT(bf16),
               [COLL_CODEC_F16] = COLL__FORMAT(f16),
               [COLL_CODEC_INT8] = COLL__FORMAT(int8),
               [COLL_CODEC_INT4] = COLL__FORMAT(int4),
               [COLL_CODEC_INT2] = COLL__FORMAT(int2),
               [COLL_CODEC_UINT8] = COLL__FORMAT(uint8),
               [COLL_CODEC_UINT8_ZERO] = COLL__FORMAT(uint8_zero),
               [COLL_CODEC_E3M0] = COLL__FORMAT(e3m0),
               [COLL_CODEC_MXINT8] = COLL__FORMAT(mxint8),
               [COLL_CODEC_MXFP8_E4M3] = COLL__FORMAT(mxfp8_e4m3),
               [COLL_CODEC_MXFP8_E5M2] = COLL__FORMAT(mxfp8_e5m2),
               [COLL_CODEC_MXFP4] = COLL__FORMAT(mxfp4),
               [COLL_CODEC_NVFP4] = COLL__FORMAT(nvfp4),
               [COLL_CODEC_NVINT4] = COLL__FORMAT(nvint4),
               [COLL_CODEC_TOPK] = COLL__FORMAT(topk)},
    .encode = encode,
    .decode = decode,
};
