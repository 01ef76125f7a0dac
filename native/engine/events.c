/* What the engine tells the membership layer: a bounded queue behind an eventfd. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

static struct coll_event *append(struct coll_engine *engine, enum coll_event_kind kind,
                                 uint32_t group, uint64_t view, const uint8_t *peer,
                                 const char *text)
{
    /* It fills only if nobody listens. What repeats by itself gives way first. */
    bool repeats = kind == COLL_EVENT_PEER_UNREACHABLE;
    if (engine->event_count >= (repeats ? COLL__EVENT_QUEUE / 2 : COLL__EVENT_QUEUE))
        return NULL;
    struct coll_event *event =
        &engine->events[(engine->event_head + engine->event_count) % COLL__EVENT_QUEUE];
    memset(event, 0, sizeof *event);
    event->kind = kind;
    event->group = group;
    event->view = view;
    if (peer)
        memcpy(event->peer, peer, sizeof event->peer);
    snprintf(event->text, sizeof event->text, "%s", text ? text : "");
    if (engine->event_count++ == 0)
        coll__signal(engine->event_fd);
    return event;
}

void coll__emit(struct coll_engine *engine, enum coll_event_kind kind, uint32_t group,
                uint64_t view, const uint8_t *peer, const char *text)
{
    append(engine, kind, group, view, peer, text);
}

void coll__emit_lost(struct coll_engine *engine, uint32_t group, uint64_t view, const uint8_t *peer,
                     enum coll_certain certain, const char *text)
{
    struct coll_event *event = append(engine, COLL_EVENT_PEER_LOST, group, view, peer, text);
    if (event)
        event->certain = certain;
}
