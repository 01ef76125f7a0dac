/* SHA-256 (FIPS 180-4) and HMAC (RFC 2104). A few hundred bytes per connection go through here,
 * so this is the plain version; it neither allocates nor branches on what it hashes. */
#include <string.h>

#include "collectives.h"
#include "wire/sha256.h"

enum { BLOCK = 64, DIGEST = 32 };

struct sha256 {
    uint32_t state[8];
    uint64_t length;        /* bytes hashed so far */
    uint8_t block[BLOCK];   /* length % BLOCK of them are filled */
};

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate_right(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

static void compress(uint32_t state[8], const uint8_t block[BLOCK])
{
    uint32_t w[64];
    uint32_t s[8]; /* a..h of the standard */

    for (unsigned t = 0; t < 16; t++) {
        const uint8_t *p = block + (size_t)t * 4;
        w[t] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    for (unsigned t = 16; t < 64; t++) {
        const uint32_t x = w[t - 15], y = w[t - 2];
        const uint32_t sigma0 = rotate_right(x, 7) ^ rotate_right(x, 18) ^ x >> 3;
        const uint32_t sigma1 = rotate_right(y, 17) ^ rotate_right(y, 19) ^ y >> 10;
        w[t] = w[t - 16] + sigma0 + w[t - 7] + sigma1;
    }
    memcpy(s, state, sizeof s);
    for (unsigned t = 0; t < 64; t++) {
        const uint32_t sum1 = rotate_right(s[4], 6) ^ rotate_right(s[4], 11) ^
                              rotate_right(s[4], 25);
        const uint32_t choice = (s[4] & s[5]) ^ (~s[4] & s[6]);
        const uint32_t t1 = s[7] + sum1 + choice + round_constants[t] + w[t];
        const uint32_t sum0 = rotate_right(s[0], 2) ^ rotate_right(s[0], 13) ^
                              rotate_right(s[0], 22);
        const uint32_t majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + sum0 + majority;
    }
    for (unsigned i = 0; i < 8; i++) {
        state[i] += s[i];
    }
}

static void sha256_start(struct sha256 *hash)
{
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(hash->state, initial, sizeof initial);
    hash->length = 0;
}

static void sha256_add(struct sha256 *hash, const uint8_t *data, size_t length)
{
    while (length > 0) {
        const size_t filled = (size_t)(hash->length % BLOCK);
        const size_t piece = length < BLOCK - filled ? length : BLOCK - filled;
        memcpy(hash->block + filled, data, piece);
        hash->length += piece;
        data += piece;
        length -= piece;
        if (hash->length % BLOCK == 0) {
            compress(hash->state, hash->block);
        }
    }
}

static void sha256_finish(struct sha256 *hash, uint8_t digest[DIGEST])
{
    const uint64_t bits = hash->length * 8;
    const size_t filled = (size_t)(hash->length % BLOCK);
    uint8_t tail[BLOCK + 8] = {0x80}; /* padding up to 56 mod 64, then the length */
    const size_t padding = (filled < 56 ? 56 : 56 + BLOCK) - filled;

    for (size_t i = 0; i < 8; i++) {
        tail[padding + i] = (uint8_t)(bits >> (56 - 8 * i));
    }
    sha256_add(hash, tail, padding + 8);
    for (size_t i = 0; i < DIGEST; i++) {
        digest[i] = (uint8_t)(hash->state[i / 4] >> (24 - 8 * (i % 4)));
    }
}

void coll__hmac_sha256(const uint8_t *key, size_t key_length, const uint8_t *data, size_t length,
                       uint8_t mac[32])
{
    struct sha256 hash;
    uint8_t block_key[BLOCK] = {0};
    uint8_t pad[BLOCK];
    uint8_t inner[DIGEST];

    if (key_length > BLOCK) {
        sha256_start(&hash);
        sha256_add(&hash, key, key_length);
        sha256_finish(&hash, block_key);
    } else if (key_length > 0) {
        memcpy(block_key, key, key_length);
    }
    for (size_t i = 0; i < BLOCK; i++) {
        pad[i] = block_key[i] ^ 0x36;
    }
    sha256_start(&hash);
    sha256_add(&hash, pad, BLOCK);
    sha256_add(&hash, data, length);
    sha256_finish(&hash, inner);
    for (size_t i = 0; i < BLOCK; i++) {
        pad[i] = block_key[i] ^ 0x5c;
    }
    sha256_start(&hash);
    sha256_add(&hash, pad, BLOCK);
    sha256_add(&hash, inner, DIGEST);
    sha256_finish(&hash, mac);
}

int coll__equal_constant_time(const uint8_t *a, const uint8_t *b, size_t length)
{
    volatile uint8_t difference = 0; /* volatile: no early way out for the compiler */

    for (size_t i = 0; i < length; i++) {
        difference = (uint8_t)(difference | (a[i] ^ b[i]));
    }
    return difference == 0;
}

void coll_hmac_sha256(const uint8_t *key, size_t key_length, const uint8_t *data, size_t length,
                      uint8_t mac[32])
{
    coll__hmac_sha256(key, key_length, data, length, mac);
}
