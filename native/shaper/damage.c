/* Bytes that arrive otherwise than they were sent: what a CRC must find. */
#include "shaper.h"

#include <string.h>

static size_t flip(struct driven_random *random, uint8_t *bytes, size_t length)
{
    bytes[driven_random_below(random, length)] ^= (uint8_t)(1u << driven_random_below(random, 8));
    return length;
}

/* A piece of the chunk: where, and how long. */
static size_t piece(struct driven_random *random, size_t length, size_t *size)
{
    size_t most = length < SHAPER_DAMAGE_ROOM ? length : SHAPER_DAMAGE_ROOM;
    *size = 1 + driven_random_below(random, most);
    return driven_random_below(random, length - *size + 1);
}

static size_t truncate(struct driven_random *random, uint8_t *bytes, size_t length)
{
    size_t size, from = piece(random, length, &size);
    memmove(bytes + from, bytes + from + size, length - from - size);
    return length - size;
}

static size_t duplicate(struct driven_random *random, uint8_t *bytes, size_t length)
{
    size_t size, from = piece(random, length, &size);
    memmove(bytes + from + size, bytes + from, length - from);
    return length + size;
}

size_t shaper_damage_apply(struct shaper_damage *pending, struct shaper_damage *done,
                           struct driven_random *random, uint8_t *bytes, size_t length)
{
    if (pending->flip && length > 0) {
        length = flip(random, bytes, length);
        pending->flip--;
        done->flip++;
    }
    if (pending->duplicate && length > 0) {
        length = duplicate(random, bytes, length);
        pending->duplicate--;
        done->duplicate++;
    }
    if (pending->truncate && length > 0) {
        length = truncate(random, bytes, length);
        pending->truncate--;
        done->truncate++;
    }
    return length;
}
