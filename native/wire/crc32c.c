/* CRC-32C, two ways: eight table look-ups per eight bytes, and the crc32 instruction of SSE 4.2
 * together with carry-less multiplication.
 *
 * The instruction takes eight bytes per cycle but three cycles to answer, so three pieces of the
 * data ("lanes") are under way at once. In the meantime the multiplier, another unit, works on a
 * fourth piece: it moves 64 bytes on to where the next 64 are, and so on to the piece's end.
 *
 *      |---- folded ----|---- lane 0 ----|---- lane 1 ----|---- lane 2 ----|
 *
 * A CRC is the remainder of a polynomial, so the CRC of the whole is that of lane 2 plus (xor)
 * those of the pieces before it, shifted by the bits that follow them: a multiplication by a
 * constant power of x. That is one carry-less multiplication, and the crc32 instruction itself
 * takes the remainder of the product. What is shorter than such a block goes through lanes alone.
 *
 * The copying form is the same loop with stores in it: the data is read once.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "collectives.h"
#include "wire/crc32c.h"

/* ---- tables ------------------------------------------------------------------------------ */

/* table[k][byte]: what `byte` adds to the CRC when k more bytes follow it in the group. */
static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void make_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc & 1u) != 0 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
        }
        table[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            const uint32_t crc = table[k - 1][byte];
            table[k][byte] = crc >> 8 ^ table[0][crc & 0xFFu];
        }
    }
}

static uint32_t crc_table(uint32_t crc, const uint8_t *p, size_t length)
{
    (void)pthread_once(&table_once, make_table);
    crc = ~crc;
    for (; length >= 8; p += 8, length -= 8) {
        const uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                                    (uint32_t)p[3] << 24);
        crc = table[7][low & 0xFFu] ^ table[6][low >> 8 & 0xFFu] ^ table[5][low >> 16 & 0xFFu] ^
              table[4][low >> 24] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^
              table[0][p[7]];
    }
    for (; length > 0; p++, length--) {
        crc = crc >> 8 ^ table[0][(crc ^ *p) & 0xFFu];
    }
    return ~crc;
}

/* ---- SSE 4.2 ------------------------------------------------------------------------------ */

#if defined(__x86_64__)

#if defined(__clang__) /* a part of SSE 4.2 that it counts as a feature of its own */
#define FEATURES "sse4.2,crc32,pclmul"
#else
#define FEATURES "sse4.2,pclmul"
#endif
#define TARGET __attribute__((target(FEATURES)))
#define INLINE_TARGET __attribute__((target(FEATURES), always_inline)) static inline

/* Bytes per lane, and x^(8 * lane - 33) and x^(16 * lane - 33) modulo the polynomial, reflected.
 * 33: the remainder of a product that the crc32 instruction takes is multiplied by x^32, and the
 * product of two reflected numbers is one bit short. */
struct lanes {
    size_t bytes;
    uint32_t once, twice;
};
static const struct lanes lanes_middle = {256, 0xB9E02B86, 0xDD7E3B0C};
static const struct lanes lanes_short = {64, 0x9E4ADDF8, 0x0D3B6092};

/* Take eight bytes from `from`, and leave them in `to` unless that is NULL. */
INLINE_TARGET uint64_t crc_word(uint64_t crc, uint8_t *to, const uint8_t *from)
{
    uint64_t word;

    memcpy(&word, from, sizeof word);
    if (to != NULL) {
        memcpy(to, &word, sizeof word);
    }
    return _mm_crc32_u64(crc, word);
}

/* Three lanes. */
INLINE_TARGET uint64_t crc_lanes(uint64_t crc, uint8_t *to, const uint8_t *from,
                                 const struct lanes *lanes)
{
    const size_t lane = lanes->bytes;
    uint64_t crc1 = 0, crc2 = 0;

    for (size_t i = 0; i < lane; i += 16) {
        for (size_t j = i; j < i + 16; j += 8) {
            crc = crc_word(crc, to != NULL ? to + j : NULL, from + j);
            crc1 = crc_word(crc1, to != NULL ? to + lane + j : NULL, from + lane + j);
            crc2 = crc_word(crc2, to != NULL ? to + 2 * lane + j : NULL, from + 2 * lane + j);
        }
    }
    const __m128i factors = _mm_set_epi64x((long long)lanes->once, (long long)lanes->twice);
    const __m128i crcs = _mm_set_epi64x((long long)crc1, (long long)crc);
    const __m128i product = _mm_xor_si128(_mm_clmulepi64_si128(crcs, factors, 0x00),
                                          _mm_clmulepi64_si128(crcs, factors, 0x11));
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product)) ^ crc2;
}

/* A block, in steps: FOLD_STEP bytes keep the multiplier busy about as long as LANE_STEP bytes of
 * each lane keep crc32. */
enum { STEPS = 32, FOLD_STEP = 64, LANE_STEP = 48 };
enum { FOLDED = FOLD_STEP * (STEPS + 1), LANE = LANE_STEP * STEPS, BLOCK = FOLDED + 3 * LANE };

INLINE_TARGET __m128i take(uint8_t *to, const uint8_t *from)
{
    const __m128i x = _mm_loadu_si128((const __m128i_u *)from);

    if (to != NULL) {
        _mm_storeu_si128((__m128i_u *)to, x);
    }
    return x;
}

/* What x adds to the data as many bytes further on as `powers` say: powers of x, one for each half,
 * less the 33 above. */
INLINE_TARGET __m128i fold(__m128i x, __m128i powers)
{
    return _mm_xor_si128(_mm_clmulepi64_si128(x, powers, 0x00),
                         _mm_clmulepi64_si128(x, powers, 0x11));
}

INLINE_TARGET uint64_t crc_step(uint64_t crc, uint8_t *to, const uint8_t *from)
{
    for (size_t i = 0; i < LANE_STEP; i += 8) {
        crc = crc_word(crc, to != NULL ? to + i : NULL, from + i);
    }
    return crc;
}

INLINE_TARGET uint64_t crc_block(uint64_t crc, uint8_t *to, const uint8_t *from)
{
    const __m128i by_64 = _mm_set_epi64x(0x9E4ADDF8, 0x740EEF02); /* x^(8*64-33), with 64 more */
    const __m128i by_16 = _mm_set_epi64x(0x493C7D27, 0xF20C0DFE); /* x^(8*16-33), likewise */
#define AT(OFFSET) (to != NULL ? to + (OFFSET) : NULL), from + (OFFSET)
    __m128i x0 = take(AT(0)), x1 = take(AT(16)), x2 = take(AT(32)), x3 = take(AT(48));
    uint64_t crc0 = 0, crc1 = 0, crc2 = 0;

    x0 = _mm_xor_si128(x0, _mm_cvtsi64_si128((long long)crc));
    for (size_t i = 0; i < STEPS; i++) {
        const size_t at = FOLD_STEP * (i + 1), lane = FOLDED + LANE_STEP * i;
        /* Out of cache: the pieces are too short for the CPU to see where they lead. */
        const uintptr_t next = (uintptr_t)from + BLOCK + (FOLD_STEP + 3 * LANE_STEP) * i;
        for (size_t line = 0; line < 256; line += 64) {
            _mm_prefetch((const char *)(next + line), _MM_HINT_T0);
        }
        x0 = _mm_xor_si128(fold(x0, by_64), take(AT(at)));
        crc0 = crc_step(crc0, AT(lane));
        x1 = _mm_xor_si128(fold(x1, by_64), take(AT(at + 16)));
        crc1 = crc_step(crc1, AT(lane + LANE));
        x2 = _mm_xor_si128(fold(x2, by_64), take(AT(at + 32)));
        crc2 = crc_step(crc2, AT(lane + 2 * LANE));
        x3 = _mm_xor_si128(fold(x3, by_64), take(AT(at + 48)));
    }
#undef AT
    x1 = _mm_xor_si128(fold(x0, by_16), x1);
    x2 = _mm_xor_si128(fold(x1, by_16), x2);
    x3 = _mm_xor_si128(fold(x2, by_16), x3);
    crc = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(x3));
    crc = _mm_crc32_u64(crc, (uint64_t)_mm_extract_epi64(x3, 1));
    /* x^(8 * k * LANE - 33) for k = 2 and 1, and for k = 3 */
    const __m128i lanes = _mm_set_epi64x(0x9EF68D35, 0x359674F7);
    const __m128i product = _mm_xor_si128(
        fold(_mm_set_epi64x((long long)crc1, (long long)crc0), lanes),
        _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc), _mm_cvtsi32_si128((int)0x005BB964),
                             0));
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product)) ^ crc2;
}

/* `to` is a constant NULL or never NULL: the compiler makes two functions of this. */
INLINE_TARGET uint32_t crc_hardware(uint32_t start, uint8_t *to, const uint8_t *from, size_t length)
{
    const struct lanes *const sizes[] = {&lanes_middle, &lanes_short};
    uint64_t crc = ~start;

#define ADVANCE(BYTES)                         \
    do {                                       \
        to = to != NULL ? to + (BYTES) : NULL; \
        from += (BYTES);                       \
        length -= (BYTES);                     \
    } while (0)
    while (length >= BLOCK) {
        crc = crc_block(crc, to, from);
        ADVANCE(BLOCK);
    }
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        while (length >= 3 * sizes[k]->bytes) {
            crc = crc_lanes(crc, to, from, sizes[k]);
            ADVANCE(3 * sizes[k]->bytes);
        }
    }
    while (length >= 8) {
        crc = crc_word(crc, to, from);
        ADVANCE(8);
    }
    while (length > 0) {
        if (to != NULL) {
            *to = *from;
        }
        crc = _mm_crc32_u8((uint32_t)crc, *from);
        ADVANCE(1);
    }
#undef ADVANCE
    return ~(uint32_t)crc;
}

TARGET static uint32_t crc_sse42(uint32_t crc, const uint8_t *from, size_t length)
{
    return crc_hardware(crc, NULL, from, length);
}

TARGET __attribute__((nonnull)) static uint32_t crc_sse42_copy(uint32_t crc, uint8_t *to,
                                                               const uint8_t *from, size_t length)
{
    return crc_hardware(crc, to, from, length);
}

/* The one flag is called AVX2 in the API for the kernels' sake; every CPU with AVX2 has these. */
static int use_hardware(uint32_t isa)
{
    /* 0 is unknown, 1 no, 2 yes; threads that race here store the same. */
    static atomic_int known;
    int answer = atomic_load_explicit(&known, memory_order_relaxed);

    if (answer == 0) {
        answer = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul") ? 2 : 1;
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == 2 && isa != COLL_ISA_SCALAR;
}

#endif

/* ---- entry points ------------------------------------------------------------------------- */

uint32_t coll_crc32c(uint32_t crc, const void *data, size_t length, uint32_t isa)
{
#if defined(__x86_64__)
    if (use_hardware(isa)) {
        return crc_sse42(crc, data, length);
    }
#endif
    (void)isa;
    return crc_table(crc, data, length);
}

uint32_t coll_crc32c_copy(uint32_t crc, void *destination, const void *source, size_t length,
                          uint32_t isa)
{
    if (length == 0) {
        return crc; /* NULL is allowed then */
    }
#if defined(__x86_64__)
    if (use_hardware(isa)) {
        return crc_sse42_copy(crc, destination, source, length);
    }
#endif
    (void)isa;
    memcpy(destination, source, length);
    return crc_table(crc, source, length);
}

uint32_t coll__crc32c(uint32_t crc, const void *data, size_t length)
{
    return coll_crc32c(crc, data, length, COLL_ISA_AUTO);
}

uint32_t coll__crc32c_copy(uint32_t crc, void *destination, const void *source, size_t length)
{
    return coll_crc32c_copy(crc, destination, source, length, COLL_ISA_AUTO);
}
