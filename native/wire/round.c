/* Reports and verdicts as bytes: see round.h. */
#include "wire/round.h"

#include <stdlib.h>
#include <string.h>

#include "wire/bytes.h"

enum { STAND_BYTES = 24, MEMBERS_MAX = 4096 };

void coll__epoch_encode(const struct coll__epoch *epoch, uint8_t out[COLL__EPOCH_BYTES])
{
    coll__put64(out, epoch->term);
    coll__put64(out + 8, epoch->view_term);
    coll__put64(out + 16, epoch->view);
    coll__put64(out + 24, epoch->round);
}

void coll__epoch_decode(const uint8_t in[COLL__EPOCH_BYTES], struct coll__epoch *epoch)
{
    epoch->term = coll__get64(in);
    epoch->view_term = coll__get64(in + 8);
    epoch->view = coll__get64(in + 16);
    epoch->round = coll__get64(in + 24);
}

void coll__write(struct coll__writer *writer, const void *bytes, size_t length)
{
    if (writer->failed)
        return;
    if (writer->length + length > writer->capacity) {
        size_t capacity = (writer->length + length) * 2 + 64;
        uint8_t *grown = realloc(writer->bytes, capacity);
        if (!grown) {
            writer->failed = true;
            return;
        }
        writer->bytes = grown;
        writer->capacity = capacity;
    }
    memcpy(writer->bytes + writer->length, bytes, length);
    writer->length += length;
}

void coll__write32(struct coll__writer *writer, uint32_t value)
{
    uint8_t bytes[4];
    coll__put32(bytes, value);
    coll__write(writer, bytes, sizeof bytes);
}

void coll__write64(struct coll__writer *writer, uint64_t value)
{
    uint8_t bytes[8];
    coll__put64(bytes, value);
    coll__write(writer, bytes, sizeof bytes);
}

/* ---- reading ------------------------------------------------------------------------------- */

struct reader {
    const uint8_t *at;
    size_t left;
    bool failed;
};

static const uint8_t *take(struct reader *reader, size_t length)
{
    static const uint8_t nothing[40];
    if (reader->failed || length > reader->left) {
        reader->failed = true;
        return nothing;
    }
    const uint8_t *found = reader->at;
    reader->at += length;
    reader->left -= length;
    return found;
}

coll_status coll__verdict_decode(const uint8_t *in, size_t length, struct coll__verdict *verdict)
{
    struct reader reader = {.at = in, .left = length};
    struct coll__verdict found = {0};
    const uint8_t *head = take(&reader, COLL__EPOCH_BYTES);
    coll__epoch_decode(head, &found.epoch);
    found.term = coll__get64(take(&reader, 8));
    found.number = coll__get64(take(&reader, 8));
    found.key = take(&reader, 32);
    found.members = coll__get32(take(&reader, 4));
    if (found.members > MEMBERS_MAX)
        return COLL_INVALID_ARGUMENT;
    found.member = take(&reader, (size_t)found.members * 16);
    found.stands = coll__get32(take(&reader, 4));
    if (found.stands > reader.left / STAND_BYTES)
        return COLL_INVALID_ARGUMENT;
    found.stand = take(&reader, (size_t)found.stands * STAND_BYTES);
    found.status = coll__get32(take(&reader, 4));
    found.culprit = take(&reader, 16);
    found.text_length = coll__get32(take(&reader, 4));
    found.text = (const char *)take(&reader, found.text_length);
    if (reader.failed || reader.left > 0 || found.members == 0 ||
        found.status == COLL_IN_PROGRESS || found.text_length > COLL__VETO_TEXT_MAX)
        return COLL_INVALID_ARGUMENT;
    *verdict = found;
    return COLL_OK;
}

void coll__verdict_stand(const struct coll__verdict *verdict, uint32_t i, struct coll__stand *stand)
{
    const uint8_t *at = verdict->stand + (size_t)i * STAND_BYTES;
    stand->tag = coll__get32(at);
    stand->number = coll__get64(at + 4);
    stand->supplier = coll__get32(at + 12);
    stand->sender = coll__get32(at + 16);
    stand->receiver = coll__get32(at + 20);
}
