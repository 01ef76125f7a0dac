/* The randomised Hadamard transform: elements of a group get pseudo-random signs, and are then replaced
 * by their sums and differences with all the others. It spreads what is large in one element over the
 * group. Decoding is the same backwards. A part of kernels_template.h.
 *
 * H is its own inverse but for the size of the group, a power of two, which is divided out in powers of
 * two on both sides: so nothing is rounded but the sums. The sums are made in pairs of distance 1, 2, 4
 * and so on. */

/* x[i], x[i + distance] become their sum and difference. */
INLINE void butterflies(float *x, uint32_t size, uint32_t distance)
{
    for (uint32_t i = 0; i < size; i += 2 * distance) {
        float *one = x + i, *other = one + distance;
        COLL__INDEPENDENT
        COLL__ROLLED
        for (uint32_t j = 0; j < distance; j++) {
            const float a = one[j], b = other[j];
            one[j] = a + b;
            other[j] = a - b;
        }
    }
}

#if COLL__AVX2
/* Those of distances below a vector: each element plus its partner, after every second one of the pairs
 * was negated. */
INLINE __m256 paired(__m256 x, __m256 partners, int negated)
{
    const __m256 negative = _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
    switch (negated) {
    case 0xAA:
        return _mm256_add_ps(partners, _mm256_blend_ps(x, negative, 0xAA));
    case 0xCC:
        return _mm256_add_ps(partners, _mm256_blend_ps(x, negative, 0xCC));
    }
    return _mm256_add_ps(partners, _mm256_blend_ps(x, negative, 0xF0));
}

INLINE void near_butterflies(float *x, uint32_t size)
{
    for (uint32_t i = 0; i < size; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        v = paired(v, _mm256_permute_ps(v, 0xB1), 0xAA);
        v = paired(v, _mm256_permute_ps(v, 0x4E), 0xCC);
        v = paired(v, _mm256_permute2f128_ps(v, v, 1), 0xF0);
        _mm256_storeu_ps(x + i, v);
    }
}
#else
INLINE void near_butterflies(float *x, uint32_t size)
{
    butterflies(x, size, 1);
    butterflies(x, size, 2);
    butterflies(x, size, 4);
}
#endif

INLINE void hadamard(float *x, uint32_t count, uint32_t size)
{
    for (uint32_t i = 0; i < count; i += size) {
        near_butterflies(x + i, size);
        butterflies(x + i, size, 8);
        butterflies(x + i, size, 16);
        if (size > 32) {
            butterflies(x + i, size, 32);
        }
        if (size > 64) {
            butterflies(x + i, size, 64);
        }
    }
}

/* to[i] = +-from[i] * factor; `first` is the number of the first one, a multiple of 64. */
INLINE void with_signs(float *to, const float *from, uint32_t count, float factor, uint64_t key,
                       uint64_t first)
{
    for (uint32_t i = 0; i < count; i += 32, from += 32, to += 32) {
        const uint64_t seed = coll__seed(key, first + i);
        const uint32_t signs = (uint32_t)(i % COLL__SEED_RUN == 0 ? seed : seed >> 32);
        COLL__INDEPENDENT
        for (uint32_t j = 0; j < 32; j++) {
            const uint32_t sign = signs << (31 - j) & 0x80000000u;
            const float by = coll__f32_of_bits(coll__f32_bits(factor) ^ sign);
            to[j] = coll__f32_canonical(from[j] * by);
        }
    }
}

/* How many of `count` elements are rotated: what does not fill a group at the end of the array is not. */
INLINE uint32_t rotated(const struct coll_codec *codec, uint32_t count)
{
    return codec->hadamard == 0 ? 0 : count - count % codec->hadamard;
}

INLINE int shift_of(uint32_t size)
{
    return size == 32 ? 2 : 3; /* half of its logarithm; the other half is divided out in the end */
}

COLL__TARGET static void rotate(const struct coll_codec *codec, uint64_t key, uint64_t first,
                                const float *from, uint32_t count, float *to)
{
    with_signs(to, from, count, coll__power(-shift_of(codec->hadamard)), key, first);
    if (codec->hadamard == 32) {
        hadamard(to, count, 32);
    } else if (codec->hadamard == 64) {
        hadamard(to, count, 64);
    } else {
        hadamard(to, count, 128);
    }
}

COLL__TARGET static void rotate_back(const struct coll_codec *codec, uint64_t key, uint64_t first,
                                     float *x, uint32_t count)
{
    const float factor = coll__power(shift_of(codec->hadamard)) / (float)codec->hadamard;

    if (codec->hadamard == 32) {
        hadamard(x, count, 32);
    } else if (codec->hadamard == 64) {
        hadamard(x, count, 64);
    } else {
        hadamard(x, count, 128);
    }
    with_signs(x, x, count, factor, key, first);
}
