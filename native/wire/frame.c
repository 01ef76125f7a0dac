/* Encoding and decoding of frame headers. The decoder sees bytes from outside: it checks before
 * it believes, and allocates nothing. */
#include "wire/frame.h"

#include "wire/bytes.h"
#include "wire/crc32c.h"

enum { MAGIC = 0xC011, CRC_AT = COLL__FRAME_BYTES - 4 };

void coll__frame_encode(const struct coll__frame *frame, uint8_t out[COLL__FRAME_BYTES])
{
    coll__put16(out + 0, MAGIC);
    out[2] = COLL__WIRE_VERSION;
    out[3] = frame->type;
    coll__put16(out + 4, frame->flags);
    coll__put16(out + 6, COLL__FRAME_BYTES);
    coll__put32(out + 8, frame->length);
    coll__put32(out + 12, frame->payload_crc);
    coll__put64(out + 16, frame->sequence);
    coll__put64(out + 24, frame->acknowledged);
    coll__put64(out + 32, frame->consumed);
    coll__put32(out + 40, frame->group);
    coll__put32(out + 44, frame->tag);
    coll__put64(out + 48, frame->term);
    coll__put64(out + 56, frame->view);
    coll__put64(out + 64, frame->operation);
    coll__put64(out + 72, frame->watermark);
    coll__put32(out + 80, frame->attempt);
    coll__put32(out + 84, frame->message);
    coll__put64(out + 88, frame->offset);
    out[96] = frame->call.kind;
    out[97] = frame->call.dtype;
    out[98] = frame->call.op;
    out[99] = (uint8_t)frame->call.codec;
    coll__put32(out + 100, frame->call.root);
    coll__put64(out + 104, frame->call.count);
    coll__put32(out + 112, frame->place);
    coll__put32(out + 116, frame->call.digest);
    out[120] = (uint8_t)(frame->call.algorithm | frame->call.codec >> 8 << 4);
    out[121] = frame->call.plan;
    coll__put16(out + 122, frame->call.levels);
    coll__put32(out + CRC_AT, coll__crc32c(0, out, CRC_AT));
}

coll_status coll__frame_decode(const uint8_t in[COLL__FRAME_BYTES], struct coll__frame *frame)
{
    if (coll__get16(in) != MAGIC || coll__get32(in + CRC_AT) != coll__crc32c(0, in, CRC_AT))
        return COLL_INVALID_ARGUMENT;
    if (in[2] != COLL__WIRE_VERSION)
        return COLL_MISMATCH;
    if (in[3] == 0 || in[3] >= COLL__FRAME_TYPE_END || coll__get16(in + 6) != COLL__FRAME_BYTES ||
        coll__get32(in + 8) > COLL__PAYLOAD_MAX)
        return COLL_INVALID_ARGUMENT;
    frame->type = in[3];
    frame->flags = coll__get16(in + 4);
    frame->length = coll__get32(in + 8);
    frame->payload_crc = coll__get32(in + 12);
    frame->sequence = coll__get64(in + 16);
    frame->acknowledged = coll__get64(in + 24);
    frame->consumed = coll__get64(in + 32);
    frame->group = coll__get32(in + 40);
    frame->tag = coll__get32(in + 44);
    frame->term = coll__get64(in + 48);
    frame->view = coll__get64(in + 56);
    frame->operation = coll__get64(in + 64);
    frame->watermark = coll__get64(in + 72);
    frame->attempt = coll__get32(in + 80);
    frame->message = coll__get32(in + 84);
    frame->offset = coll__get64(in + 88);
    frame->call.kind = in[96];
    frame->call.dtype = in[97];
    frame->call.op = in[98];
    frame->call.codec = (uint16_t)(in[99] | in[120] >> 4 << 8);
    frame->call.root = coll__get32(in + 100);
    frame->call.count = coll__get64(in + 104);
    frame->place = coll__get32(in + 112);
    frame->call.digest = coll__get32(in + 116);
    frame->call.algorithm = in[120] & 15;
    frame->call.plan = in[121];
    frame->call.levels = coll__get16(in + 122);
    return COLL_OK;
}

bool coll__descriptor_same_call(const struct coll__descriptor *a, const struct coll__descriptor *b)
{
    return a->kind == b->kind && a->dtype == b->dtype && a->op == b->op && a->codec == b->codec &&
           a->root == b->root && a->count == b->count && a->digest == b->digest &&
           a->algorithm == b->algorithm;
}

bool coll__descriptor_equal(const struct coll__descriptor *a, const struct coll__descriptor *b)
{
    return coll__descriptor_same_call(a, b) && a->plan == b->plan && a->levels == b->levels;
}
