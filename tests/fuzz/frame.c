/* A frame's header: what is decoded is encoded to the same bytes again. The mutator mends magic,
 * version and checksum most of the time, or nothing would ever come behind them. */
#include "wire/frame.h"

#include <string.h>

#include "wire/bytes.h"
#include "wire/crc32c.h"
#include "world.h"

enum { MAGIC = 0xC011, CRC_AT = COLL__FRAME_BYTES - 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t capacity, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t capacity);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct coll__frame frame;
    uint8_t bytes[COLL__FRAME_BYTES];
    if (size != COLL__FRAME_BYTES)
        return 0;
    memset(&frame, 0, sizeof frame);
    if (coll__frame_decode(data, &frame) != COLL_OK)
        return 0;
    WORLD_CHECK(frame.length <= COLL__PAYLOAD_MAX);
    WORLD_CHECK(frame.type > 0 && frame.type < COLL__FRAME_TYPE_END);
    WORLD_CHECK(coll__descriptor_equal(&frame.call, &frame.call));
    coll__frame_encode(&frame, bytes);
    WORLD_CHECK(memcmp(bytes, data, COLL__FRAME_BYTES) == 0);
    return 0;
}

#ifdef COLL_FUZZ
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t capacity, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, capacity);
    if (size < COLL__FRAME_BYTES && capacity >= COLL__FRAME_BYTES) {
        memset(data + size, 0, COLL__FRAME_BYTES - size);
        size = COLL__FRAME_BYTES;
    }
    if (size < COLL__FRAME_BYTES || seed % 16 == 0)
        return size;
    size = COLL__FRAME_BYTES;
    coll__put16(data, MAGIC);
    if (seed % 16 != 1)
        data[2] = COLL__WIRE_VERSION;
    if (seed % 16 != 2)
        coll__put16(data + 6, COLL__FRAME_BYTES);
    coll__put32(data + CRC_AT, coll__crc32c(0, data, CRC_AT));
    return size;
}
#endif
