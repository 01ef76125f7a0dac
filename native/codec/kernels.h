/* What codec/ shares inside: one table of kernels per instruction set, and the numbers of the formats. */
#ifndef COLL_CODEC_KERNELS_H
#define COLL_CODEC_KERNELS_H

#include <stdbool.h>

#include "codec/codec.h"

/* The longest unit, and how much is put into scratch memory at once where units are short. */
enum { COLL__UNIT_MAX = 4096, COLL__UNIT_BYTES_MAX = 8192, COLL__PIECE = 1024 };

/* Bytes that the first `count` elements of a unit take. */
uint32_t coll__encoded_rest(const struct coll__codec *codec, uint32_t count);
/* Bytes that a unit takes of which `keep` elements are kept. */
uint32_t coll__encoded_topk(uint32_t keep);
/* The bits of their last byte that are used. */
uint8_t coll__last_bits(const struct coll__codec *codec, uint32_t count);

/* Both take `count` elements: whole units, or less than one. Then too there are elements for all of it
 * (copies of the last one), and room for all that it is encoded into. */
struct coll__codec_format {
    /* `random`: a word per element, NULL if it is rounded to nearest. */
    void (*encode)(const struct coll_codec *codec, const float *from, uint32_t count,
                   const uint32_t *random, uint8_t *to);
    /* `sum`: what is decoded is added to what is there. */
    void (*decode)(const struct coll_codec *codec, const uint8_t *from, uint32_t count, float *to,
                   bool sum);
};

struct coll__codec_kernels {
    struct coll__codec_format format[COLL_CODEC_COUNT];
    void (*encode)(const struct coll__codec *codec, const struct coll__codec_key *key,
                   const float *from, uint64_t first, uint64_t count, uint8_t *to);
    void (*decode)(const struct coll__codec *codec, const struct coll__codec_key *key,
                   const uint8_t *from, uint64_t first, uint64_t count, float *to, bool sum);
};

extern const struct coll__codec_kernels coll__codec_kernels_scalar;
#if defined(__x86_64__)
extern const struct coll__codec_kernels coll__codec_kernels_avx2; /* needs AVX2 */
#endif

#endif
