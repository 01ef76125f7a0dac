/* Blocks of unsigned bytes between their minimum and maximum: with the minimum and a step, or with a
 * scale and a zero point. A part of kernels_template.h. */

/* The reciprocal of a step has to be a number. */
#define LEAST_STEP 0x1p-126f
#define STEPS 255.0f

/* The ends of a block; both NaN if it has an infinity or a NaN, or their distance is no f32. They are
 * compared as integers, in which -0 and NaNs have a place; a zero among them is positive. */
INLINE void ends(const float *x, uint32_t block, float *low, float *high)
{
    int32_t least = INT32_MAX, most = INT32_MIN;

    for (uint32_t i = 0; i < block; i += RUN, x += RUN) {
        int32_t run_least = INT32_MAX, run_most = INT32_MIN;
        for (uint32_t j = 0; j < RUN; j++) {
            const int32_t key = (int32_t)coll__order_f32(coll__f32_bits(x[j]));
            run_least = key < run_least ? key : run_least;
            run_most = key > run_most ? key : run_most;
        }
        least = run_least < least ? run_least : least;
        most = run_most > most ? run_most : most;
    }
    *low = coll__f32_of_bits(coll__order_f32((uint32_t)least)) + 0.0f;
    *high = coll__f32_of_bits(coll__order_f32((uint32_t)most)) + 0.0f;
    if (!(*high - *low < coll__f32_of_bits(COLL__INFINITY))) {
        *low = *high = coll__nan();
    }
}

INLINE float step_of(float low, float high)
{
    const float step = (high - low) / STEPS;
    return step < LEAST_STEP ? LEAST_STEP : step;
}

/* ---- minimum and step --------------------------------------------------------------------------- */

INLINE void uint8_encode_all(const struct coll_codec *codec, const float *from, uint32_t count,
                             const uint32_t *random, uint8_t *to, bool stochastic)
{
    const uint32_t block = codec->block;

    for (uint32_t i = 0; i < count; i += block) {
        float head[2], high;
        ends(from + i, block, &head[0], &high);
        head[1] = step_of(head[0], high);
        memcpy(to, head, sizeof head);
        to += sizeof head;
        if (head[1] != head[1]) {
            memset(to, 0, block);
            to += block;
            continue;
        }
        const float low = head[0], factor = 1.0f / head[1];
        const float *x = from + i;
        const uint32_t *words = stochastic ? random + i : NULL;
        COLL__INDEPENDENT
        for (uint32_t j = 0; j < block; j++) {
            const float v = coll__clamp((x[j] - low) * factor, 0, STEPS);
            to[j] = (uint8_t)coll__rounded(v, word(words, j, stochastic), stochastic);
        }
        to += block;
    }
}
ENCODER(uint8)

INLINE void uint8_decode_all(const struct coll_codec *codec, const uint8_t *from, uint32_t count,
                             float *to, bool sum)
{
    const uint32_t block = codec->block;

    for (uint32_t i = 0; i < count; i += block) {
        float head[2];
        memcpy(head, from, sizeof head);
        from += sizeof head;
        COLL__INDEPENDENT
        for (uint32_t j = 0; j < block; j++) {
            const float value = head[0] + (float)from[j] * head[1];
            put(to + i + j, coll__f32_canonical(value), sum);
        }
        from += block;
    }
}
DECODER(uint8)

/* ---- scale and zero point ------------------------------------------------------------------------ */

INLINE void uint8_zero_encode_all(const struct coll_codec *codec, const float *from, uint32_t count,
                                  const uint32_t *random, uint8_t *to, bool stochastic)
{
    const uint32_t block = codec->block;

    for (uint32_t i = 0; i < count; i += block) {
        float low, high;
        ends(from + i, block, &low, &high);
        low = low > 0 ? 0 : low; /* so that 0 has a code */
        high = high < 0 ? 0 : high;
        const float scale = step_of(low, high), factor = 1.0f / scale;
        memcpy(to, &scale, sizeof scale);
        to += sizeof scale;
        if (scale != scale) {
            memset(to, 0, 1 + block);
            to += 1 + block;
            continue;
        }
        *to = (uint8_t)coll__rounded(coll__clamp(-low * factor, 0, STEPS), 0, false);
        const float zero = (float)*to++;
        const float *x = from + i;
        const uint32_t *words = stochastic ? random + i : NULL;
        COLL__INDEPENDENT
        for (uint32_t j = 0; j < block; j++) {
            const float v = coll__clamp(x[j] * factor + zero, 0, STEPS);
            to[j] = (uint8_t)coll__rounded(v, word(words, j, stochastic), stochastic);
        }
        to += block;
    }
}
ENCODER(uint8_zero)

INLINE void uint8_zero_decode_all(const struct coll_codec *codec, const uint8_t *from,
                                  uint32_t count, float *to, bool sum)
{
    const uint32_t block = codec->block;

    for (uint32_t i = 0; i < count; i += block) {
        float scale;
        memcpy(&scale, from, sizeof scale);
        scale = coll__f32_canonical(scale);
        const int32_t zero = from[sizeof scale];
        from += sizeof scale + 1;
        COLL__INDEPENDENT
        for (uint32_t j = 0; j < block; j++) {
            put(to + i + j, (float)((int32_t)from[j] - zero) * scale, sum);
        }
        from += block;
    }
}
DECODER(uint8_zero)
