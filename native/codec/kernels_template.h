/* The kernels as plain loops, included once per instruction set. The includer defines
 *
 *   COLL__TARGET   the attribute that lets the compiler use the instruction set
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

#include "codec/cast.h"
#include "codec/integers.h"
#include "codec/microscaling.h"

/* ---- a piece of an array ------------------------------------------------------------------------ */

COLL__TARGET static void fill_words(uint64_t key, uint64_t first, uint32_t count, uint32_t *words)
{
    for (uint32_t i = 0; i < count; i += COLL__SEED_RUN) {
        const uint64_t seed = coll__seed(key, first + i);
        const uint32_t low = (uint32_t)seed, high = (uint32_t)(seed >> 32);
        for (uint32_t j = 0; j < COLL__SEED_RUN; j++) {
            words[i + j] = coll__word(low, high, j);
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
        const float *x = from;
        if (is_short) {
            memcpy(copy, from, n * sizeof *from);
            for (uint32_t i = n; i < codec->unit; i++) {
                copy[i] = from[n - 1];
            }
            x = copy;
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

    (void)key;
    while (count > 0) {
        const uint32_t n = piece_of(codec, count);
        const bool is_short = n < codec->unit;
        const size_t bytes = (size_t)coll__encoded_bytes(codec, n);
        float *x = is_short ? values : to;
        if (is_short) {
            memset(whole, 0, codec->unit_bytes);
            memcpy(whole, from, bytes);
        }
        format->decode(given, is_short ? whole : from, n, x, sum && x == to);
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
               [COLL_CODEC_MXINT8] = COLL__FORMAT(mxint8)},
    .encode = encode,
    .decode = decode,
};
