/* Frames that came too early: of operations that were not issued here yet, of views that are not
 * installed yet. They are kept within the sender's window, which they leave when they are consumed. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

/* The payload has left our window, where only that of DATA was counted. */
void coll__consume(struct coll__link *link, const struct coll__frame *frame)
{
    if (frame->type == COLL__FRAME_DATA && (frame->flags & COLL__FLAG_EAGER))
        link->eager_consumed += frame->length;
}

static struct coll__early *early_new(struct coll__link *link, const struct coll__frame *frame,
                                     const uint8_t *payload)
{
    struct coll__early *early = coll__take(link->engine, sizeof *early + frame->length);
    if (!early)
        return NULL;
    early->next = NULL;
    early->link = link;
    early->arrived = coll__now();
    early->frame = *frame;
    if (payload)
        memcpy(early->payload, payload, frame->length);
    return early;
}

/* Whether what was kept is what was sent: the sender may have let us go meanwhile. */
static bool is_intact(const struct coll__link *link)
{
    return !link->transport->intact || link->transport->intact(link);
}

/* Whether the sender had the right to send the payload without credit: only that is kept. */
static bool has_window(const struct coll__link *link, const struct coll__frame *frame)
{
    return (frame->flags & COLL__FLAG_EAGER) &&
           link->eager_received - link->eager_consumed <= COLL__EAGER_WINDOW;
}

coll_status coll__keep_early(struct coll_operation *operation, struct coll__link *link,
                             const struct coll__frame *frame, const uint8_t *payload)
{
    if (!has_window(link, frame))
        return COLL_INVALID_ARGUMENT;
    struct coll__early *early = early_new(link, frame, payload);
    if (!early)
        return COLL_NO_MEMORY;
    if (!is_intact(link)) {
        coll__give(early->link->engine, early);
        return COLL_CLOSED;
    }
    *operation->early_tail = early;
    operation->early_tail = &early->next;
    return COLL_OK;
}

void coll__arrived(struct coll_operation *operation, uint64_t at)
{
    if (operation->info.first_byte_ns == 0)
        operation->info.first_byte_ns = at;
    operation->info.last_byte_ns = at;
}

coll_status coll__take_early(struct coll_operation *operation)
{
    while (operation->early && !operation->finished) {
        struct coll__early *early = operation->early;
        operation->early = early->next;
        if (!operation->early)
            operation->early_tail = &operation->early;
        uint32_t rank = coll__rank_of(operation->view, early->link->peer);
        coll_status status = coll__execute_data(operation, NULL, rank, &early->frame,
                                                early->payload, NULL);
        coll__consume(early->link, &early->frame);
        operation->uses[rank].received_bytes += early->frame.length + COLL__FRAME_BYTES;
        coll__arrived(operation, early->arrived);
        coll__give(early->link->engine, early);
        if (status != COLL_OK)
            return status;
    }
    return COLL_OK;
}

void coll__drop_early(struct coll_operation *operation)
{
    while (operation->early) {
        struct coll__early *early = operation->early;
        operation->early = early->next;
        coll__consume(early->link, &early->frame);
        coll__give(early->link->engine, early);
    }
    operation->early_tail = &operation->early;
}

coll_status coll__keep_later(struct coll_group *group, struct coll__link *link,
                             const struct coll__frame *frame, const uint8_t *payload)
{
    /* Without credit a peer sends no more than its window, and few frames besides. */
    bool data = frame->type == COLL__FRAME_DATA;
    if ((data && !has_window(link, frame)) || group->later_count >= COLL__LATER_MAX)
        return COLL_INVALID_ARGUMENT;
    struct coll__early *early = early_new(link, frame, payload);
    if (!early)
        return COLL_NO_MEMORY;
    if (!is_intact(link)) {
        coll__give(early->link->engine, early);
        return COLL_CLOSED;
    }
    if (!group->later)
        group->later_tail = &group->later;
    *group->later_tail = early;
    group->later_tail = &early->next;
    group->later_count++;
    return COLL_OK;
}

void coll__drop_later(struct coll_group *group, const struct coll__link *link)
{
    struct coll__early **at = &group->later;
    while (*at) {
        struct coll__early *early = *at;
        if (link && early->link != link) {
            at = &early->next;
            continue;
        }
        *at = early->next;
        group->later_count--;
        coll__consume(early->link, &early->frame);
        coll__give(early->link->engine, early);
    }
    group->later_tail = at;
}
