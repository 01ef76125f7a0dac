/* Reading an input as a script: numbers that are small or famous, and zeros past its end. */
#ifndef COLL_FUZZ_INPUT_H
#define COLL_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct input {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t take8(struct input *input)
{
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->at++;
}

/* Small numbers take one byte, larger ones three, and those at a border one again. */
static inline uint64_t take_number(struct input *input)
{
    static const uint64_t borders[] = {
        UINT64_MAX, UINT64_MAX - 1,    (uint64_t)1 << 63, INT64_MAX, UINT32_MAX,
        INT32_MAX,  (uint64_t)1 << 31, (1 << 20) + 1,     1 << 20,   1 << 16,
        1 << 13,    256 << 10,         512 << 10,         1024,      4096,
        65537,
    };
    uint8_t first = take8(input);
    if (first >= 0xF0)
        return borders[first & 15];
    if (first < 0xE0)
        return first;
    uint64_t low = take8(input);
    return (first & 15u) << 16 | (uint64_t)take8(input) << 8 | low;
}

/* `base`, or another number: how far it is from it, in both directions. */
static inline uint64_t take_near(struct input *input, uint64_t base)
{
    uint64_t found = take_number(input);
    return found < 0xC0 ? base + found : found < 0xE0 ? base - (found - 0xBF) : found;
}

/* As many of `length` bytes as there are; the others are zeros. */
static inline void take_bytes(struct input *input, uint8_t *to, size_t length)
{
    size_t part = length < input->left ? length : input->left;
    memcpy(to, input->at, part);
    memset(to + part, 0, length - part);
    input->at += part;
    input->left -= part;
}

#endif
