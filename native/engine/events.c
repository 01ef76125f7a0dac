/* What a group tells the membership layer: a bounded queue behind an eventfd. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/engine.h"

coll_status coll__events_open(struct coll_group *group)
{
    group->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (group->event_fd < 0)
        return coll__error(COLL_SYSTEM_ERROR, "cannot make an eventfd: raise the limit of open "
                                              "files (ulimit -n)");
    group->events = calloc(COLL__EVENT_QUEUE, sizeof *group->events);
    if (group->events)
        return COLL_OK;
    close(group->event_fd);
    return coll__error(COLL_NO_MEMORY, "no memory for a group");
}

void coll__events_close(struct coll_group *group)
{
    close(group->event_fd);
    free(group->events);
}

static struct coll_event *append(struct coll_group *group, enum coll_event_kind kind, uint64_t view,
                                 const uint8_t *peer, const char *text)
{
    /* It fills only if nobody listens. What repeats by itself gives way first. */
    bool repeats = kind == COLL_EVENT_PEER_UNREACHABLE;
    if (group->event_count >= (repeats ? COLL__EVENT_QUEUE / 2 : COLL__EVENT_QUEUE))
        return NULL;
    struct coll_event *event =
        &group->events[(group->event_head + group->event_count) % COLL__EVENT_QUEUE];
    memset(event, 0, sizeof *event);
    event->kind = kind;
    event->view = view;
    if (peer)
        memcpy(event->peer, peer, sizeof event->peer);
    snprintf(event->text, sizeof event->text, "%s", text ? text : "");
    if (group->event_count++ == 0)
        coll__signal(group->event_fd);
    return event;
}

void coll__emit(struct coll_group *group, enum coll_event_kind kind, uint64_t view,
                const uint8_t *peer, const char *text)
{
    append(group, kind, view, peer, text);
}

void coll__emit_lost(struct coll_group *group, uint64_t view, const uint8_t *peer,
                     enum coll_certain certain, const char *text)
{
    struct coll_event *event = append(group, COLL_EVENT_PEER_LOST, view, peer, text);
    if (event)
        event->certain = certain;
}
