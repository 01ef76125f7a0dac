/* The elements of greatest magnitude of each 4096: two magnitudes in bf16, then 12 bits for where each is,
 * then 2 bits for which of the magnitudes, with which sign. A part of kernels_template.h. */

enum { INDEX_BITS = 12, VALUE_BITS = 2 };

INLINE void put_bits(uint8_t *to, uint32_t at, uint32_t value)
{
    const uint32_t shifted = value << at % 8; /* of at most 12 bits, so in at most three bytes */
    for (uint32_t i = 0; shifted >> 8 * i != 0; i++) {
        to[at / 8 + i] |= (uint8_t)(shifted >> 8 * i);
    }
}

INLINE uint32_t index_at(const uint8_t *from, uint32_t i)
{
    const uint8_t *bytes = from + i * INDEX_BITS / 8;
    return i % 2 == 0 ? bytes[0] | (bytes[1] & 15u) << 8 : bytes[0] >> 4 | (uint32_t)bytes[1] << 4;
}

INLINE uint32_t how_many_from(const int32_t *magnitudes, uint32_t count, int32_t least)
{
    int32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        found += magnitudes[i] >= least;
    }
    return (uint32_t)found;
}

/* The magnitude that `keep` reach and no greater one does, bit by bit; 0 if fewer are not 0. */
INLINE int32_t threshold(const int32_t *magnitudes, uint32_t count, uint32_t keep)
{
    int32_t found = 0;
    for (int bit = 30; bit >= 0; bit--) {
        const int32_t higher = found | 1 << bit;
        found = how_many_from(magnitudes, count, higher) >= keep ? higher : found;
    }
    return found;
}

/* The indices of those above the threshold, and of the first ones at it, `keep` in all, or fewer if
 * there are not so many that are not 0. */
INLINE uint32_t chosen(const int32_t *magnitudes, uint32_t count, uint32_t keep, uint16_t *indices)
{
    const int32_t least = threshold(magnitudes, count, keep);
    uint32_t n = 0, ties = least == 0 ? 0 : keep - how_many_from(magnitudes, count, least + 1);

    for (uint32_t i = 0; i < count; i += RUN) {
        const uint32_t end = count - i < RUN ? count : i + RUN;
        if (how_many_from(magnitudes + i, end - i, least) == 0) {
            continue; /* most runs */
        }
        for (uint32_t j = i; j < end; j++) {
            const bool tie = magnitudes[j] == least && ties > 0;
            if (magnitudes[j] > least || tie) {
                indices[n++] = (uint16_t)j;
                ties -= tie;
            }
        }
    }
    return n;
}

INLINE uint16_t mean_of(double sum, uint32_t n)
{
    const uint16_t mean = coll__bf16_of_f32(n == 0 ? 0 : (float)(sum / n));
    return mean < 0x7F7F ? mean : 0x7F7F; /* the greatest number */
}

COLL__TARGET static void topk_encode(const struct coll_codec *codec, const float *from,
                                     uint32_t count, const uint32_t *random, uint8_t *to)
{
    const uint32_t keep = codec->keep < count ? codec->keep : count;
    uint8_t *places = to + 2 * sizeof(uint16_t);
    uint8_t *values = places + (keep * INDEX_BITS + 7) / 8;
    uint16_t means[2] = {0x7FC0, 0x7FC0}, indices[COLL__UNIT_MAX];
    int32_t magnitudes[COLL__UNIT_MAX], least = INT32_MAX, most = 0;
    double sums[2] = {0, 0};
    uint32_t counts[2] = {0, 0};

    (void)random;
    memset(to, 0, coll__encoded_topk(keep));
    if (greatest(from, count) >= COLL__INFINITY) {
        memcpy(to, means, sizeof means);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        magnitudes[i] = (int32_t)(coll__f32_bits(from[i]) & 0x7FFFFFFFu);
    }
    const uint32_t n = chosen(magnitudes, count, keep, indices);
    for (uint32_t i = 0; i < n; i++) {
        const int32_t magnitude = magnitudes[indices[i]];
        least = magnitude < least ? magnitude : least;
        most = magnitude > most ? magnitude : most;
    }
    const float middle = n == 0 ? 0
                                : coll__f32_of_bits((uint32_t)least) * 0.5f +
                                      coll__f32_of_bits((uint32_t)most) * 0.5f;
    for (uint32_t i = 0; i < keep; i++) {
        /* What is missing is said by saying the last one again. */
        const uint32_t at = n == 0 ? 0 : indices[i < n ? i : n - 1];
        const uint32_t bits = coll__f32_bits(from[at]),
                       high = from[at] > middle || -from[at] > middle;
        put_bits(places, i * INDEX_BITS, at);
        put_bits(values, i * VALUE_BITS, high | bits >> 31 << 1);
        sums[high] += i < n ? coll__f32_of_bits(bits & 0x7FFFFFFFu) : 0;
        counts[high] += i < n;
    }
    means[0] = mean_of(sums[0], counts[0]);
    means[1] = mean_of(sums[1], counts[1]);
    memcpy(to, means, sizeof means);
}

INLINE void topk_decode_all(const struct coll_codec *codec, const uint8_t *from, uint32_t count,
                            float *to, bool sum)
{
    const uint32_t keep = codec->keep < count ? codec->keep : count;
    const uint8_t *places = from + 2 * sizeof(uint16_t);
    const uint8_t *codes = places + (keep * INDEX_BITS + 7) / 8;
    float decoded[COLL__UNIT_MAX], *values = sum ? decoded : to;
    uint16_t means[2];

    memcpy(means, from, sizeof means);
    const float magnitudes[2] = {coll__f32_canonical(coll__f32_of_bf16(means[0])),
                                 coll__f32_canonical(coll__f32_of_bf16(means[1]))};
    const float rest = magnitudes[0] != magnitudes[0] ? magnitudes[0] : 0;
    for (uint32_t i = 0; i < count; i++) {
        values[i] = rest;
    }
    for (uint32_t i = 0; i < keep && rest == 0; i++) {
        const uint32_t code = codes[i / 4] >> i % 4 * VALUE_BITS & 3;
        const uint32_t at = index_at(places, i);
        if (at < count) { /* else it is not ours */
            values[at] = (code & 2) != 0 ? -magnitudes[code & 1] : magnitudes[code & 1];
        }
    }
    for (uint32_t i = 0; sum && i < count; i++) {
        put(to + i, values[i], true);
    }
}
DECODER(topk)
