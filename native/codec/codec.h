/* Quantized payloads. A codec cuts an array of f32 into *units* of a fixed number of elements, and
 * encodes each by itself, into a fixed number of bytes, so that slices of whole units can be encoded,
 * sent, decoded and added apart from each other. The last unit of an array may be short: `encoded_bytes`
 * says what it takes.
 *
 * All instruction sets give the same bits: the scalar kernels are what the others are compared with.
 * Everything here is pure; the caller holds a coll__fpenv, and no alignment is required. The formats
 * are defined in docs/codecs.md. */
#ifndef COLL_CODEC_CODEC_H
#define COLL_CODEC_CODEC_H

#include "collectives.h"

struct coll__codec_kernels;

/* A codec that was checked, ready to be used. */
struct coll__codec {
    struct coll_codec given;
    uint32_t unit; /* elements of a whole unit */
    uint32_t unit_bytes; /* of a whole unit, encoded */
    const struct coll__codec_kernels *kernels; /* of one instruction set */
};

/* What the pseudo-random parts of an encoding are functions of. `rotation`: the signs of the Hadamard
 * rotation; whoever decodes has to have the same. `rounding`: stochastic rounding; the encoder's own. */
struct coll__codec_key {
    uint64_t rotation, rounding;
};

/* COLL_INVALID_ARGUMENT, with a text that says what can be, or COLL_UNSUPPORTED for an isa that the CPU
 * lacks. */
coll_status coll__codec_open(const struct coll_codec *given, uint32_t isa,
                             struct coll__codec *codec);

/* Of `count` elements from the beginning of a unit. */
uint64_t coll__encoded_bytes(const struct coll__codec *codec, uint64_t count);

/* In all of these `first` is the index of the first element in the whole array, the beginning of a
 * unit; only the last unit of the array may be short. No two of the arrays overlap. */
void coll__encode(const struct coll__codec *codec, const struct coll__codec_key *key,
                  const float *from, uint64_t first, uint64_t count, uint8_t *to);
void coll__decode(const struct coll__codec *codec, const struct coll__codec_key *key,
                  const uint8_t *from, uint64_t first, uint64_t count, float *to);
/* sum[i] += what is decoded */
void coll__decode_add(const struct coll__codec *codec, const struct coll__codec_key *key,
                      const uint8_t *from, uint64_t first, uint64_t count, float *sum);

#endif
