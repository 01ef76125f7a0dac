/* Little-endian loads and stores at any alignment. */
#ifndef COLL_WIRE_BYTES_H
#define COLL_WIRE_BYTES_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "payloads travel in the host's byte order, which must be little-endian"
#endif

#define COLL__BYTES(bits)                                                 \
    static inline void coll__put##bits(uint8_t *at, uint##bits##_t value) \
    {                                                                     \
        memcpy(at, &value, sizeof value);                                 \
    }                                                                     \
    static inline uint##bits##_t coll__get##bits(const uint8_t *at)       \
    {                                                                     \
        uint##bits##_t value;                                             \
        memcpy(&value, at, sizeof value);                                 \
        return value;                                                     \
    }

COLL__BYTES(16)
COLL__BYTES(32)
COLL__BYTES(64)

#endif
