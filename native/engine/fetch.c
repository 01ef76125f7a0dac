/* The asker's side of fetching: where chunks go, and how a fetch ends. */
#include "engine/fetch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

static struct coll_fetch *find(struct coll__link *link, uint64_t number)
{
    struct coll_fetch *fetch = link->fetches;
    while (fetch && fetch->number != number)
        fetch = fetch->next;
    return fetch;
}

static void finish(struct coll_fetch *fetch, coll_status status, const char *text)
{
    struct coll_engine *engine = fetch->engine;
    struct coll_fetch **at = &fetch->link->fetches;
    while (*at != fetch)
        at = &(*at)->next;
    *at = fetch->next;
    /* A connection may be receiving into the place at this moment. */
    if (status != COLL_OK && fetch->place)
        fetch->link->transport->revoke(fetch->link, fetch);
    fetch->link = NULL;
    fetch->place = NULL;
    fetch->status = status;
    snprintf(fetch->text, sizeof fetch->text, "%s", text);
    if (fetch->released) {
        engine->operations--;
        free(fetch);
    } else {
        coll__wake_callers(engine);
    }
}

/* Whether a chunk is a possible part of the fetch's answer. */
static bool fits(const struct coll_fetch *fetch, const struct coll__frame *frame)
{
    uint64_t total = frame->call.count;
    return total <= fetch->capacity && (!fetch->begun || total == fetch->total) &&
           frame->offset <= total && frame->length <= total - frame->offset &&
           frame->length <= total - fetch->arrived && (frame->length > 0 || total == 0);
}

void coll__fetch_place(struct coll__link *link, const struct coll__frame *frame,
                       struct coll__placement *placement)
{
    struct coll_fetch *fetch = frame->type == COLL__FRAME_CHUNK ? find(link, frame->operation)
                                                                : NULL;
    if (!fetch || !fetch->place || (frame->flags & COLL__FLAG_ABSENT) || !fits(fetch, frame))
        return;
    placement->fetch = fetch;
    placement->direct = fetch->place + frame->offset;
}

static coll_status hear_chunk(struct coll__link *link, const struct coll__frame *frame,
                              const uint8_t *payload, const struct coll__placement *placement)
{
    struct coll_fetch *fetch = find(link, frame->operation);
    if (!fetch)
        return COLL_OK; /* it ended with an error meanwhile */
    if (frame->flags & COLL__FLAG_ABSENT) {
        char text[160];
        snprintf(text, sizeof text, "'%s' does not have what was asked for", link->name);
        finish(fetch, COLL_UNSUPPORTED, text);
        return COLL_OK;
    }
    if (!fits(fetch, frame))
        return COLL_INVALID_ARGUMENT;
    if (fetch->place && frame->length > 0 && placement->direct != fetch->place + frame->offset)
        memcpy(fetch->place + frame->offset, payload, frame->length);
    fetch->begun = true;
    fetch->total = frame->call.count;
    fetch->arrived += frame->length;
    if (fetch->arrived == fetch->total)
        finish(fetch, COLL_OK, "");
    return COLL_OK;
}

coll_status coll__fetch_deliver(struct coll__link *link, const struct coll__frame *frame,
                                const uint8_t *payload, const struct coll__placement *placement)
{
    if (frame->type == COLL__FRAME_CHUNK)
        return hear_chunk(link, frame, payload, placement);
    if (frame->length == 0 || frame->length > COLL_FETCH_REQUEST_MAX ||
        frame->call.count > COLL_FETCH_ANSWER_MAX ||
        coll__serve_count(link->engine, link) >= COLL__SERVES_MAX)
        return COLL_INVALID_ARGUMENT;
    coll__serve_hear(link, frame, payload);
    return COLL_OK;
}

void coll__fetch_lost(struct coll__link *link, const char *why)
{
    char text[160];
    snprintf(text, sizeof text, "'%.60s' is lost: %.80s", link->name, why);
    while (link->fetches)
        finish(link->fetches, COLL_PEER_LOST, text);
}

void coll__fetch_link_closed(struct coll__link *link)
{
    coll__fetch_lost(link, "it is in no view with us any more");
    struct coll_engine *engine = link->engine;
    for (struct coll__serve *serve = engine->serving.all; serve;) {
        struct coll__serve *next = serve->next;
        if (serve->link == link) {
            serve->link = NULL;
            serve->cut = serve->bytes;
            if (serve->state == COLL__SERVE_QUEUED)
                coll__serve_free(engine, serve);
            else if (serve->state == COLL__SERVE_ANSWERED && serve->slices == 0)
                coll__serve_returned(engine, serve);
        }
        serve = next;
    }
    link->answers = NULL;
}
