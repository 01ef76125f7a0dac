/* A small seeded generator (splitmix64): the same seed gives the same damage. */
#ifndef DRIVEN_RANDOM_H
#define DRIVEN_RANDOM_H

#include <stdint.h>

struct driven_random {
    uint64_t state;
};

static inline uint64_t driven_random_next(struct driven_random *random)
{
    uint64_t value = random->state += 0x9E3779B97F4A7C15u;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}

/* 0 .. limit - 1; `limit` is not 0, and small enough that the bias does not matter here. */
static inline uint64_t driven_random_below(struct driven_random *random, uint64_t limit)
{
    return driven_random_next(random) % limit;
}

#endif
