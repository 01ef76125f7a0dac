/* What formats there are, what an encoding takes, and the public functions. */
#include <stdbool.h>
#include <stdlib.h>

#include "codec/kernels.h"
#include "engine/status.h"
#include "reduce/element.h"
#include "reduce/reduce.h"

/* A format's blocks lie one after the other, each with its own head (scales) before its codes; some
 * have a head before all blocks of a unit. */
struct format {
    const char *name;
    uint32_t bits; /* of a code */
    uint32_t least_block, most_block; /* 0: no blocks */
    uint32_t head, unit_head; /* bytes */
    uint32_t unit; /* elements */
    uint32_t flags; /* that it takes */
    bool scales; /* whether there is a choice of scales */
    bool rotates;
};

enum { SHORT_UNIT = 128 }; /* elements: a multiple of all blocks, and of what is rotated together */

enum { BOTH = COLL_CODEC_STOCHASTIC | COLL_CODEC_SYMMETRIC };

#define CAST(NAME) {.name = NAME, .bits = 16, .unit = SHORT_UNIT, .flags = COLL_CODEC_STOCHASTIC}
#define BLOCKS(NAME, BITS, HEAD, FLAGS, SCALES) \
    {.name = NAME,                              \
     .bits = BITS,                              \
     .least_block = 32,                         \
     .most_block = 128,                         \
     .head = HEAD,                              \
     .unit = SHORT_UNIT,                        \
     .flags = FLAGS,                            \
     .scales = SCALES,                          \
     .rotates = true}
#define MICRO(NAME, BITS, FLAGS) \
    {.name = NAME,               \
     .bits = BITS,               \
     .least_block = 32,          \
     .most_block = 32,           \
     .head = 1,                  \
     .unit = SHORT_UNIT,         \
     .flags = FLAGS,             \
     .rotates = true}

#define NV(NAME, FLAGS)      \
    {.name = NAME,           \
     .bits = 4,              \
     .least_block = 16,      \
     .most_block = 16,       \
     .head = 1,              \
     .unit_head = 4,         \
     .unit = COLL__UNIT_MAX, \
     .flags = FLAGS,         \
     .rotates = true}

static const struct format formats[COLL_CODEC_COUNT] = {
    [COLL_CODEC_BF16] = CAST("bf16"),
    [COLL_CODEC_F16] = CAST("f16"),
    [COLL_CODEC_INT8] = BLOCKS("int8", 8, 2, BOTH, true),
    [COLL_CODEC_INT4] = BLOCKS("int4", 4, 2, BOTH, true),
    [COLL_CODEC_INT2] = BLOCKS("int2", 2, 2, BOTH, true),
    [COLL_CODEC_UINT8] = BLOCKS("uint8", 8, 8, COLL_CODEC_STOCHASTIC, false),
    [COLL_CODEC_UINT8_ZERO] = BLOCKS("uint8_zero", 8, 5, COLL_CODEC_STOCHASTIC, false),
    [COLL_CODEC_E3M0] = BLOCKS("e3m0", 4, 2, COLL_CODEC_STOCHASTIC, true),
    [COLL_CODEC_MXINT8] = MICRO("mxint8", 8, BOTH),
    [COLL_CODEC_MXFP8_E4M3] = MICRO("mxfp8_e4m3", 8, COLL_CODEC_STOCHASTIC),
    [COLL_CODEC_MXFP8_E5M2] = MICRO("mxfp8_e5m2", 8, COLL_CODEC_STOCHASTIC),
    [COLL_CODEC_MXFP4] = MICRO("mxfp4", 4, COLL_CODEC_STOCHASTIC),
    [COLL_CODEC_NVFP4] = NV("nvfp4", COLL_CODEC_STOCHASTIC),
    [COLL_CODEC_NVINT4] = NV("nvint4", BOTH),
    [COLL_CODEC_TOPK] = {.name = "topk",
                         .bits = 8,
                         .unit = COLL__UNIT_MAX}, /* of sizes of its own */
};

/* NULL if there is none. */
static const struct format *format_of(uint32_t number)
{
    const bool known = number < COLL_CODEC_COUNT && formats[number].name != NULL;
    return known ? &formats[number] : NULL;
}

const char *coll_codec_name(uint32_t format)
{
    const struct format *f = format_of(format);
    return f == NULL ? "unknown codec" : f->name;
}

/* ---- checks ------------------------------------------------------------------------------------- */

static bool power_between(uint32_t value, uint32_t least, uint32_t most)
{
    return value >= least && value <= most && (value & (value - 1)) == 0;
}

static coll_status check(const struct coll_codec *given)
{
    const struct format *f = given == NULL ? NULL : format_of(given->format);
    const coll_status bad = COLL_INVALID_ARGUMENT;

    if (f == NULL) {
        return coll__error(bad, "there is no codec number %u", given == NULL ? 0 : given->format);
    }
    const char *name = f->name;
    const uint32_t lacking = given->flags & ~f->flags;
    if (f->most_block == 0 && given->block != 0) {
        return coll__error(bad, "codec %s: it has no blocks, so block must be 0, not %u", name,
                           given->block);
    }
    if (f->most_block == f->least_block && given->block != f->most_block) {
        return coll__error(bad, "codec %s: its block is %u, not %u", name, f->most_block,
                           given->block);
    }
    if (f->most_block != 0 && !power_between(given->block, f->least_block, f->most_block)) {
        return coll__error(bad, "codec %s: block is 32, 64 or 128, not %u", name, given->block);
    }
    if (!f->scales && given->scale != 0) {
        return coll__error(bad, "codec %s: there is no choice of scales", name);
    }
    if (given->scale > COLL_SCALE_BF16) {
        return coll__error(bad, "codec %s: scale is f16 or bf16, not number %u", name,
                           given->scale);
    }
    if (!f->rotates && given->hadamard != 0) {
        return coll__error(bad, "codec %s: it is not rotated", name);
    }
    if (given->hadamard != 0 && !power_between(given->hadamard, 32, 128)) {
        return coll__error(bad, "codec %s: hadamard is 0, 32, 64 or 128, not %u", name,
                           given->hadamard);
    }
    if (given->format != COLL_CODEC_TOPK && given->keep != 0) {
        return coll__error(bad, "codec %s: it keeps all elements, so keep must be 0, not %u", name,
                           given->keep);
    }
    if (given->format == COLL_CODEC_TOPK && (given->keep == 0 || given->keep > COLL__UNIT_MAX)) {
        return coll__error(bad, "codec topk: keep is 1 to %d of each %d, not %u", COLL__UNIT_MAX,
                           COLL__UNIT_MAX, given->keep);
    }
    if ((lacking & COLL_CODEC_STOCHASTIC) != 0) {
        return coll__error(bad, "codec %s: it is not rounded stochastically", name);
    }
    if ((lacking & COLL_CODEC_SYMMETRIC) != 0) {
        return coll__error(bad, "codec %s: it has no integers to be symmetric", name);
    }
    if (lacking != 0) {
        return coll__error(bad, "codec %s: unknown flags %#x", name, lacking);
    }
    return COLL_OK;
}

static const struct coll__codec_kernels *kernels_for(uint32_t isa)
{
    if (isa >= COLL_ISA_COUNT || !coll_isa_available(isa)) {
        return NULL;
    }
#if defined(__x86_64__)
    if (isa == COLL_ISA_AVX2 || (isa == COLL_ISA_AUTO && coll_isa_available(COLL_ISA_AVX2))) {
        return &coll__codec_kernels_avx2;
    }
#endif
    return &coll__codec_kernels_scalar;
}

/* ---- sizes -------------------------------------------------------------------------------------- */

uint32_t coll__encoded_topk(uint32_t keep)
{
    return 4 + (keep * 12 + 7) / 8 + (keep * 2 + 7) / 8;
}

uint32_t coll__encoded_rest(const struct coll__codec *codec, uint32_t count)
{
    const struct format *f = &formats[codec->given.format];
    const uint32_t block = codec->given.block;
    const uint32_t heads = block == 0 ? 0 : (count + block - 1) / block;

    if (codec->given.keep > 0 && count > 0) {
        return coll__encoded_topk(count < codec->given.keep ? count : codec->given.keep);
    }
    return count == 0 ? 0 : f->unit_head + heads * f->head + (count * f->bits + 7) / 8;
}

uint8_t coll__last_bits(const struct coll__codec *codec, uint32_t count)
{
    const uint32_t used = count * formats[codec->given.format].bits % 8;
    return (uint8_t)(used == 0 ? 0xFF : (1u << used) - 1);
}

uint64_t coll__encoded_bytes(const struct coll__codec *codec, uint64_t count)
{
    return count / codec->unit * codec->unit_bytes +
           coll__encoded_rest(codec, (uint32_t)(count % codec->unit));
}

static struct coll__codec with_sizes(const struct coll_codec *given)
{
    struct coll__codec codec = {.given = *given, .unit = formats[given->format].unit};

    codec.unit_bytes = coll__encoded_rest(&codec, codec.unit);
    return codec;
}

coll_status coll__codec_open(const struct coll_codec *given, uint32_t isa,
                             struct coll__codec *codec)
{
    const struct coll__codec_kernels *kernels = kernels_for(isa);

    COLL_TRY(check(given));
    if (kernels == NULL) {
        return isa >= COLL_ISA_COUNT
                   ? coll__error(COLL_INVALID_ARGUMENT, "there is no instruction set %u", isa)
                   : coll__error(COLL_UNSUPPORTED, "this CPU lacks the instruction set %u", isa);
    }
    *codec = with_sizes(given);
    codec->kernels = kernels;
    return COLL_OK;
}

/* ---- of f32, by the instruction set --------------------------------------------------------------- */

void coll__encode(const struct coll__codec *codec, const struct coll__codec_key *key,
                  const float *from, uint64_t first, uint64_t count, uint8_t *to)
{
    codec->kernels->encode(codec, key, from, first, count, to);
}

void coll__decode(const struct coll__codec *codec, const struct coll__codec_key *key,
                  const uint8_t *from, uint64_t first, uint64_t count, float *to)
{
    codec->kernels->decode(codec, key, from, first, count, to, false);
}

void coll__decode_add(const struct coll__codec *codec, const struct coll__codec_key *key,
                      const uint8_t *from, uint64_t first, uint64_t count, float *sum)
{
    codec->kernels->decode(codec, key, from, first, count, sum, true);
}

/* ---- of all floats, in the public API -------------------------------------------------------------- */

static float f32_of(uint32_t dtype, const void *element)
{
    if (dtype == COLL_F64) {
        return (float)*(const coll__mem_f64 *)element;
    }
    const uint16_t half = *(const coll__mem_u16 *)element;
    return dtype == COLL_F16 ? coll__f32_of_f16(half) : coll__f32_of_bf16(half);
}

static void put(uint32_t dtype, void *element, float value, bool sum)
{
    if (dtype == COLL_F64) {
        coll__mem_f64 *to = element;
        *to = coll__f64_canonical(sum ? *to + (double)value : (double)value);
        return;
    }
    coll__mem_u16 *to = element;
    const float both = sum ? f32_of(dtype, element) + value : value;
    *to = dtype == COLL_F16 ? coll__f16_of_f32(both) : coll__bf16_of_f32(both);
}

static coll_status check_call(const struct coll__codec *codec, const void *to, const void *from,
                              uint64_t first, uint64_t count, uint32_t dtype)
{
    if (dtype > COLL_BF16) {
        return coll__error(COLL_UNSUPPORTED, "codec %s: only floats can be encoded, not %s",
                           formats[codec->given.format].name, coll_dtype_name(dtype));
    }
    if ((count > 0 && (to == NULL || from == NULL)) || count > SIZE_MAX / sizeof(double)) {
        return coll__error(COLL_INVALID_ARGUMENT, "codec %s: there is no array of %llu elements",
                           formats[codec->given.format].name, (unsigned long long)count);
    }
    if (first % codec->unit != 0) {
        return coll__error(COLL_INVALID_ARGUMENT,
                           "codec %s: the first element is number %llu, not a multiple of %u",
                           formats[codec->given.format].name, (unsigned long long)first,
                           codec->unit);
    }
    return COLL_OK;
}

coll_status coll_codec_check(const struct coll_codec *codec)
{
    return check(codec);
}

uint32_t coll_codec_unit(const struct coll_codec *codec)
{
    return check(codec) == COLL_OK ? formats[codec->format].unit : 0;
}

uint64_t coll_encoded_bytes(const struct coll_codec *codec, uint64_t count)
{
    if (check(codec) != COLL_OK) {
        return 0;
    }
    const struct coll__codec open = with_sizes(codec);
    return coll__encoded_bytes(&open, count);
}

coll_status coll_encode_local(void *to, const void *from, uint64_t first, uint64_t count,
                              uint32_t dtype, const struct coll_codec *codec, uint64_t rotation,
                              uint64_t rounding, uint32_t isa)
{
    const struct coll__codec_key key = {rotation, rounding};
    struct coll__codec open;
    struct coll__fpenv env;
    float piece[COLL__UNIT_MAX];
    const size_t size = coll_dtype_size(dtype);

    COLL_TRY(coll__codec_open(codec, isa, &open));
    COLL_TRY(check_call(&open, to, from, first, count, dtype));
    coll__fpenv_enter(&env);
    if (dtype == COLL_F32) {
        coll__encode(&open, &key, from, first, count, to);
    } else {
        for (uint64_t i = 0, n; i < count; i += n) {
            n = count - i < COLL__UNIT_MAX ? count - i : COLL__UNIT_MAX;
            for (uint64_t j = 0; j < n; j++) {
                piece[j] = f32_of(dtype, (const char *)from + (i + j) * size);
            }
            coll__encode(&open, &key, piece, first + i, n,
                         (uint8_t *)to + coll__encoded_bytes(&open, i));
        }
    }
    coll__fpenv_leave(&env);
    return COLL_OK;
}

static coll_status decode_local(void *to, const void *from, uint64_t first, uint64_t count,
                                uint32_t dtype, const struct coll_codec *codec, uint64_t rotation,
                                uint32_t isa, bool sum)
{
    const struct coll__codec_key key = {rotation, 0};
    struct coll__codec open;
    struct coll__fpenv env;
    float piece[COLL__UNIT_MAX];
    const size_t size = coll_dtype_size(dtype);

    COLL_TRY(coll__codec_open(codec, isa, &open));
    COLL_TRY(check_call(&open, to, from, first, count, dtype));
    coll__fpenv_enter(&env);
    if (dtype == COLL_F32) {
        (sum ? coll__decode_add : coll__decode)(&open, &key, from, first, count, to);
    } else {
        for (uint64_t i = 0, n; i < count; i += n) {
            n = count - i < COLL__UNIT_MAX ? count - i : COLL__UNIT_MAX;
            coll__decode(&open, &key, (const uint8_t *)from + coll__encoded_bytes(&open, i),
                         first + i, n, piece);
            for (uint64_t j = 0; j < n; j++) {
                put(dtype, (char *)to + (i + j) * size, piece[j], sum);
            }
        }
    }
    coll__fpenv_leave(&env);
    return COLL_OK;
}

coll_status coll_decode_local(void *to, const void *from, uint64_t first, uint64_t count,
                              uint32_t dtype, const struct coll_codec *codec, uint64_t rotation,
                              uint32_t isa)
{
    return decode_local(to, from, first, count, dtype, codec, rotation, isa, false);
}

coll_status coll_decode_add_local(void *sum, const void *from, uint64_t first, uint64_t count,
                                  uint32_t dtype, const struct coll_codec *codec, uint64_t rotation,
                                  uint32_t isa)
{
    return decode_local(sum, from, first, count, dtype, codec, rotation, isa, true);
}
