/* Public functions on rounds: checks and the lock. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "wire/round.h"

static coll_status forked_error(void)
{
    return coll__error(COLL_FORKED, "this handle belongs to the parent process");
}

coll_status coll_group_seal(struct coll_group *group, const uint8_t bytes[COLL_EPOCH_BYTES])
{
    struct coll__epoch epoch;
    if (atomic_load(&group->engine->forked))
        return forked_error();
    coll__epoch_decode(bytes, &epoch);
    coll__lock(group->engine);
    coll__round_seal(group, &epoch);
    coll__unlock(group->engine);
    return COLL_OK;
}

coll_status coll_group_judge(struct coll_group *group, const uint8_t *verdict, size_t length)
{
    if (atomic_load(&group->engine->forked))
        return forked_error();
    coll__lock(group->engine);
    coll_status status = coll__round_judge(group, verdict, length);
    coll__wake_driver(group->engine);
    coll__unlock(group->engine);
    if (status == COLL_INVALID_ARGUMENT)
        return coll__error(status, "the verdict is malformed, or of a round that is not ours");
    return status;
}

coll_status coll_group_relay(struct coll_group *group, const uint8_t peer[16], uint32_t kind,
                             const uint8_t *message, size_t length)
{
    if (atomic_load(&group->engine->forked))
        return forked_error();
    struct coll__epoch epoch;
    if ((kind != COLL_ROUND_SEAL && kind != COLL_ROUND_VERDICT) || length < COLL__EPOCH_BYTES ||
        length > COLL__PAYLOAD_MAX)
        return coll__error(COLL_INVALID_ARGUMENT, "this is no message to pass on");
    coll__epoch_decode(message, &epoch);
    struct coll__frame frame = {
        .type = kind == COLL_ROUND_SEAL ? COLL__FRAME_SEAL : COLL__FRAME_VERDICT,
        .flags = COLL__FLAG_ACK_NOW,
        .group = group->id,
        .term = epoch.view_term,
        .view = epoch.view,
    };
    coll__lock(group->engine);
    struct coll__link *link = coll__link_find(&group->engine->host, peer);
    if (link)
        coll__send_control(link, &frame, message, (uint32_t)length);
    coll__wake_driver(group->engine);
    coll__unlock(group->engine);
    return link ? COLL_OK : coll__error(COLL_INVALID_ARGUMENT, "there is no link to this peer");
}

coll_status coll_group_next_message(struct coll_group *group, uint32_t *kind, uint8_t *buffer,
                                    size_t capacity, size_t *length)
{
    if (atomic_load(&group->engine->forked))
        return forked_error();
    coll__lock(group->engine);
    struct coll__letter *letter = group->letters;
    coll_status status = COLL_IN_PROGRESS;
    if (letter && letter->length > capacity) {
        *length = letter->length;
        status = coll__error(COLL_INVALID_ARGUMENT, "the message has %u bytes", letter->length);
    } else if (letter) {
        group->letters = letter->next;
        *kind = letter->kind;
        *length = letter->length;
        memcpy(buffer, letter->bytes, letter->length);
        free(letter);
        status = COLL_OK;
    }
    coll__unlock(group->engine);
    return status;
}
