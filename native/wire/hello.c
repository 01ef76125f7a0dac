/* Encoding and decoding of the three hello messages: bytes from strangers, so every length is
 * checked and nothing is allocated. */
#include "wire/hello.h"

#include "wire/bytes.h"
#include "wire/sha256.h"

/* Every message: 8 bytes of magic, u32 total length, then the fields. */
static const char MAGIC[9] = "COLLPEER";
enum { PROOF_AT = COLL__WELCOME_BYTES - 32 };

static void put_prefix(uint8_t *out, uint32_t length)
{
    memset(out, 0, length);
    memcpy(out, MAGIC, 8);
    coll__put32(out + 8, length);
}

uint32_t coll__hello_length(const uint8_t in[12], uint32_t shortest)
{
    uint32_t length = coll__get32(in + 8);
    if (memcmp(in, MAGIC, 8) != 0 || length < shortest || length > COLL__HELLO_MAX)
        return 0;
    return length;
}

void coll__hello_encode(const struct coll__hello *hello, uint8_t out[COLL__HELLO_BYTES])
{
    put_prefix(out, COLL__HELLO_BYTES);
    coll__put16(out + 12, hello->version_low);
    coll__put16(out + 14, hello->version_high);
    coll__put32(out + 16, hello->features);
    coll__put32(out + 20, hello->group);
    coll__put16(out + 24, hello->slot);
    coll__put16(out + 26, hello->flags);
    coll__put64(out + 32, hello->term);
    coll__put64(out + 40, hello->view);
    memcpy(out + 48, hello->from, 16);
    memcpy(out + 64, hello->to, 16);
    memcpy(out + 80, hello->nonce, 32);
}

coll_status coll__hello_decode(const uint8_t *in, uint32_t length, struct coll__hello *hello)
{
    if (length < COLL__HELLO_BYTES || coll__hello_length(in, COLL__HELLO_BYTES) != length)
        return COLL_INVALID_ARGUMENT;
    hello->version_low = coll__get16(in + 12);
    hello->version_high = coll__get16(in + 14);
    hello->features = coll__get32(in + 16);
    hello->group = coll__get32(in + 20);
    hello->slot = coll__get16(in + 24);
    hello->flags = coll__get16(in + 26);
    hello->term = coll__get64(in + 32);
    hello->view = coll__get64(in + 40);
    memcpy(hello->from, in + 48, 16);
    memcpy(hello->to, in + 64, 16);
    memcpy(hello->nonce, in + 80, 32);
    return hello->version_low <= hello->version_high ? COLL_OK : COLL_INVALID_ARGUMENT;
}

void coll__welcome_encode(const struct coll__welcome *welcome, uint8_t out[COLL__WELCOME_BYTES])
{
    put_prefix(out, COLL__WELCOME_BYTES);
    coll__put16(out + 12, welcome->verdict);
    coll__put16(out + 14, welcome->version_low);
    coll__put16(out + 16, welcome->version_high);
    coll__put32(out + 20, welcome->features);
    memcpy(out + 24, welcome->nonce, 32);
    memcpy(out + PROOF_AT, welcome->proof, 32);
}

coll_status coll__welcome_decode(const uint8_t *in, uint32_t length, struct coll__welcome *welcome)
{
    if (length < COLL__WELCOME_BYTES || coll__hello_length(in, COLL__WELCOME_BYTES) != length)
        return COLL_INVALID_ARGUMENT;
    welcome->verdict = coll__get16(in + 12);
    welcome->version_low = coll__get16(in + 14);
    welcome->version_high = coll__get16(in + 16);
    welcome->features = coll__get32(in + 20);
    memcpy(welcome->nonce, in + 24, 32);
    memcpy(welcome->proof, in + PROOF_AT, 32);
    return COLL_OK;
}

void coll__proof_encode(const uint8_t proof[32], uint8_t out[COLL__PROOF_BYTES])
{
    /* Shorter than the others: no room for a magic of 8 and a length, and none is needed. */
    memcpy(out, "PROOF\0\0\0", 8);
    memcpy(out + 8, proof, 32);
}

coll_status coll__proof_decode(const uint8_t *in, uint32_t length, uint8_t proof[32])
{
    if (length != COLL__PROOF_BYTES || memcmp(in, "PROOF\0\0\0", 8) != 0)
        return COLL_INVALID_ARGUMENT;
    memcpy(proof, in + 8, 32);
    return COLL_OK;
}

void coll__hello_prove(const uint8_t key[32], char role, const uint8_t *hello,
                       uint32_t hello_length, const uint8_t *welcome, uint32_t welcome_length,
                       uint8_t proof[32])
{
    uint8_t said[1 + 2 * COLL__HELLO_MAX];
    said[0] = (uint8_t)role;
    memcpy(said + 1, hello, hello_length);
    memcpy(said + 1 + hello_length, welcome, welcome_length);
    coll__hmac_sha256(key, 32, said, 1 + hello_length + welcome_length, proof);
}
