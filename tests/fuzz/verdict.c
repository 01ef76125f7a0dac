/* A verdict's bytes: what is decoded lies within them, and every part of it can be read. */
#include <string.h>

#include "wire/bytes.h"
#include "wire/round.h"
#include "world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_within(const uint8_t *data, size_t size, const void *part, size_t length)
{
    const uint8_t *at = part;
    WORLD_CHECK(length == 0 || (at >= data && at + length <= data + size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct coll__verdict verdict;
    struct coll__stand stand;
    uint8_t bytes[24];
    if (coll__verdict_decode(data, size, &verdict) != COLL_OK)
        return 0;
    check_within(data, size, verdict.key, 32);
    check_within(data, size, verdict.member, (size_t)verdict.members * 16);
    check_within(data, size, verdict.stand, (size_t)verdict.stands * sizeof bytes);
    check_within(data, size, verdict.culprit, 16);
    check_within(data, size, verdict.text, verdict.text_length);
    for (uint32_t i = 0; i < verdict.stands; i++) {
        coll__verdict_stand(&verdict, i, &stand);
        coll__put32(bytes, stand.tag);
        coll__put64(bytes + 4, stand.number);
        coll__put32(bytes + 12, stand.supplier);
        coll__put32(bytes + 16, stand.sender);
        coll__put32(bytes + 20, stand.receiver);
        WORLD_CHECK(memcmp(bytes, verdict.stand + (size_t)i * sizeof bytes, sizeof bytes) == 0);
    }
    uint8_t epoch[COLL__EPOCH_BYTES];
    coll__epoch_encode(&verdict.epoch, epoch);
    WORLD_CHECK(memcmp(epoch, data, sizeof epoch) == 0);
    return 0;
}
