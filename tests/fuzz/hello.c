/* The three messages of the hello: what is decoded is encoded to the same fields again. */
#include "wire/hello.h"

#include <string.h>

#include "world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_hello(const uint8_t *data, uint32_t length)
{
    struct coll__hello hello, again;
    uint8_t bytes[COLL__HELLO_BYTES];
    memset(&hello, 0, sizeof hello);
    memset(&again, 0, sizeof again);
    if (coll__hello_decode(data, length, &hello) != COLL_OK)
        return;
    coll__hello_encode(&hello, bytes);
    WORLD_CHECK(coll__hello_decode(bytes, sizeof bytes, &again) == COLL_OK);
    WORLD_CHECK(memcmp(&hello, &again, sizeof hello) == 0);
    /* As the engine does with a hello of any length that it has taken. */
    uint8_t proof[32];
    coll__hello_prove(hello.nonce, 'a', data, length, bytes, COLL__WELCOME_BYTES - 32, proof);
    coll__hello_prove(hello.nonce, 'd', data, length, data, length, proof);
}

static void check_welcome(const uint8_t *data, uint32_t length)
{
    struct coll__welcome welcome, again;
    uint8_t bytes[COLL__WELCOME_BYTES];
    memset(&welcome, 0, sizeof welcome);
    memset(&again, 0, sizeof again);
    if (coll__welcome_decode(data, length, &welcome) != COLL_OK)
        return;
    coll__welcome_encode(&welcome, bytes);
    WORLD_CHECK(coll__welcome_decode(bytes, sizeof bytes, &again) == COLL_OK);
    WORLD_CHECK(memcmp(&welcome, &again, sizeof welcome) == 0);
}

static void check_proof(const uint8_t *data, uint32_t length)
{
    uint8_t proof[32], bytes[COLL__PROOF_BYTES];
    if (coll__proof_decode(data, length, proof) != COLL_OK)
        return;
    coll__proof_encode(proof, bytes);
    WORLD_CHECK(memcmp(bytes, data, sizeof bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 2 * COLL__HELLO_MAX)
        return 0;
    uint32_t length = (uint32_t)size;
    if (size >= 12) {
        uint32_t told = coll__hello_length(data, COLL__WELCOME_BYTES);
        WORLD_CHECK(told == 0 || (told >= COLL__WELCOME_BYTES && told <= COLL__HELLO_MAX));
    }
    check_hello(data, length);
    check_welcome(data, length);
    check_proof(data, length);
    return 0;
}
