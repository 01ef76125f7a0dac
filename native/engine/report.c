/* What a member reports in a round: of every tag how far it has settled, and where each operation
 * stands that may not be settled everywhere. The bytes are in docs/wire-protocol.md.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "wire/round.h"

static void write_entry(struct coll__writer *writer, uint32_t place, uint64_t number,
                        uint32_t standing, uint32_t flags, uint32_t root)
{
    const uint8_t bytes[4] = {(uint8_t)standing, (uint8_t)flags, 0, 0};
    coll__write32(writer, place);
    coll__write64(writer, number);
    coll__write(writer, bytes, sizeof bytes);
    coll__write32(writer, root);
}

/* The rank without which it cannot go on. */
static uint32_t root_of(const struct coll_operation *operation)
{
    const struct coll__descriptor *call = &operation->call;
    if (coll__is_pair(call->kind))
        return operation->started && operation->asked.root != COLL_ANY ? operation->partner
                                                                       : COLL__NO_RANK;
    return coll__kind_is_rooted(call->kind) && call->root < operation->view->size ? call->root
                                                                                  : COLL__NO_RANK;
}

static void write_operation(struct coll__writer *writer, uint32_t place,
                            const struct coll_operation *operation)
{
    uint32_t flags = operation->agree.retained ? COLL__ENTRY_RETAINED : 0;
    if (!(operation->asked.flags & (COLL_NOT_ATOMIC | COLL_NO_REPEAT)))
        flags |= COLL__ENTRY_REPEATABLE;
    if (operation->idle)
        flags |= COLL__ENTRY_IDLE;
    write_entry(writer, place, operation->number, operation->agree.phase, flags,
                root_of(operation));
}

static void write_entries(struct coll__writer *writer, const struct coll_group *group)
{
    uint32_t count = 0;
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        for (const struct coll_operation *at = tag->oldest; at; at = at->newer)
            count += at->started || at->veto.status != COLL_OK;
        for (const struct coll__retained *at = tag->retained; at; at = at->next)
            count++;
        for (uint32_t i = 0; i < tag->ahead_count; i++)
            count += !coll__tag_retained(tag, tag->ahead[i]);
    }
    coll__write32(writer, count);
    uint32_t place = 0;
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next, place++) {
        for (const struct coll_operation *at = tag->oldest; at; at = at->newer)
            if (at->started || at->veto.status != COLL_OK)
                write_operation(writer, place, at);
        for (uint32_t i = 0; i < tag->ahead_count; i++)
            if (!coll__tag_retained(tag, tag->ahead[i]))
                write_entry(writer, place, tag->ahead[i], COLL__SETTLED, COLL__ENTRY_REPEATABLE,
                            COLL__NO_RANK);
        for (const struct coll__retained *at = tag->retained; at; at = at->next)
            write_entry(writer, place, at->number, COLL__SETTLED,
                        COLL__ENTRY_RETAINED | COLL__ENTRY_REPEATABLE, COLL__NO_RANK);
    }
}

static void write_vetoes(struct coll__writer *writer, const struct coll_group *group)
{
    uint32_t count = 0;
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next)
        for (const struct coll_operation *at = tag->oldest; at; at = at->newer)
            count += at->veto.status != COLL_OK;
    coll__write32(writer, count);
    uint32_t place = 0;
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next, place++) {
        for (const struct coll_operation *at = tag->oldest; at; at = at->newer) {
            if (at->veto.status == COLL_OK)
                continue;
            const char *text = at->veto.text ? at->veto.text : "";
            size_t length = strnlen(text, COLL__VETO_TEXT_MAX);
            coll__write32(writer, place);
            coll__write64(writer, at->number);
            coll__write32(writer, at->veto.status);
            coll__write32(writer, (uint32_t)at->veto.culprit);
            coll__write32(writer, (uint32_t)length);
            coll__write(writer, text, length);
        }
    }
}

void coll__report_make(struct coll_group *group)
{
    struct coll__writer writer = {0};
    uint8_t epoch[COLL__EPOCH_BYTES];
    coll__epoch_encode(&group->seal.epoch, epoch);
    coll__write(&writer, epoch, sizeof epoch);
    coll__write(&writer, group->engine->host.peer_id, 16);
    uint32_t tags = 0;
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next)
        tags++;
    coll__write32(&writer, tags);
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        coll__write32(&writer, tag->tag);
        coll__write32(&writer, tag->role);
        coll__write(&writer, tag->peer, sizeof tag->peer);
        coll__write64(&writer, tag->settled);
    }
    write_entries(&writer, group);
    write_vetoes(&writer, group);
    free(group->report);
    group->report = NULL;
    group->report_length = 0;
    if (writer.failed || writer.length > COLL__PAYLOAD_MAX) {
        free(writer.bytes); /* it cannot report, so it will be evicted */
        return;
    }
    group->report = writer.bytes;
    group->report_length = (uint32_t)writer.length;
}
