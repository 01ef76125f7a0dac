/* HMAC-SHA256 (FIPS 180-4, RFC 2104), for the proof of the view key in the hello. */
#ifndef COLL_WIRE_SHA256_H
#define COLL_WIRE_SHA256_H

#include <stddef.h>
#include <stdint.h>

void coll__hmac_sha256(const uint8_t *key, size_t key_length, const uint8_t *data, size_t length,
                       uint8_t mac[32]);
/* 1 if equal, in time that does not depend on where they differ. */
int coll__equal_constant_time(const uint8_t *a, const uint8_t *b, size_t length);

#endif
