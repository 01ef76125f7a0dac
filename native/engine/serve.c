/* The source's side of fetching: requests wait for the server's thread; an answer is cut into
 * slices as the link has room, so that nothing of it is queued but a pointer. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

uint32_t coll__serve_count(const struct coll_engine *engine, const struct coll__link *link)
{
    uint32_t count = 0;
    for (const struct coll__serve *serve = engine->serving.all; serve; serve = serve->next)
        count += serve->link == link;
    return count;
}

struct coll__serve *coll__serve_find(struct coll_engine *engine, uint64_t ticket)
{
    struct coll__serve *serve = engine->serving.all;
    while (serve && serve->ticket != ticket)
        serve = serve->next;
    return serve;
}

static void say_no(struct coll__link *link, uint32_t group, uint64_t number)
{
    const struct coll__frame frame = {
        .type = COLL__FRAME_CHUNK,
        .flags = COLL__FLAG_ABSENT,
        .group = group,
        .operation = number,
    };
    coll__send_control(link, &frame, NULL, 0);
}

/* Whether the two are in a view of that group together. */
static bool shares(const struct coll__link *link, uint32_t id)
{
    for (struct coll_group *group = link->engine->groups; group; group = group->next) {
        struct coll__view *views[2] = {group->committed, group->prepared};
        for (int i = 0; i < 2; i++)
            if (group->id == id && views[i] && coll__rank_of(views[i], link->peer) < views[i]->size)
                return true;
    }
    return false;
}

void coll__serve_hear(struct coll__link *link, const struct coll__frame *frame,
                      const uint8_t *payload)
{
    struct coll_engine *engine = link->engine;
    struct coll__serve *serve = NULL;
    if (engine->serving.on && shares(link, frame->group))
        serve = calloc(1, sizeof *serve);
    if (!serve) {
        say_no(link, frame->group, frame->operation);
        return;
    }
    serve->link = link;
    serve->ticket = ++engine->serving.tickets;
    serve->number = frame->operation;
    serve->group = frame->group;
    serve->request = (struct coll_request){
        .ticket = serve->ticket,
        .capacity = frame->call.count,
        .group = frame->group,
        .length = frame->length,
    };
    memcpy(serve->request.peer, link->peer, sizeof serve->request.peer);
    memcpy(serve->request.data, payload, frame->length);
    struct coll__serve **at = &engine->serving.all;
    while (*at)
        at = &(*at)->next;
    *at = serve;
    coll__signal(engine->serving.fd);
}

void coll__serve_free(struct coll_engine *engine, struct coll__serve *serve)
{
    struct coll__serve **at = &engine->serving.all;
    while (*at != serve)
        at = &(*at)->next;
    *at = serve->next;
    free(serve);
}

static void leave_link(struct coll__serve *serve)
{
    struct coll__serve **at = serve->link ? &serve->link->answers : NULL;
    while (at && *at && *at != serve)
        at = &(*at)->answer_next;
    if (at && *at)
        *at = serve->answer_next;
    serve->answer_next = NULL;
}

void coll__serve_returned(struct coll_engine *engine, struct coll__serve *serve)
{
    if (serve->slices > 0 || serve->cut < serve->bytes)
        return;
    if (serve->state == COLL__SERVE_REVOKED) {
        coll__serve_free(engine, serve);
    } else if (serve->state == COLL__SERVE_ANSWERED) {
        serve->state = COLL__SERVE_DONE;
        coll__signal(engine->serving.fd);
    }
}

void coll__serve_begin(struct coll__serve *serve, const uint8_t *data, uint64_t bytes)
{
    struct coll__link *link = serve->link;
    serve->state = COLL__SERVE_ANSWERED;
    serve->data = data;
    serve->bytes = bytes;
    if (bytes == 0) {
        const struct coll__frame frame = {
            .type = COLL__FRAME_CHUNK, .group = serve->group, .operation = serve->number};
        coll__send_control(link, &frame, NULL, 0);
        coll__serve_returned(link->engine, serve);
        return;
    }
    struct coll__serve **at = &link->answers;
    while (*at)
        at = &(*at)->answer_next;
    *at = serve;
    link->transport->kick(link);
}

struct coll__slice *coll__fetch_pull(struct coll__link *link)
{
    struct coll__serve *serve = link->answers;
    if (!serve || (link->bulk_flows && ++link->turns % COLL__FETCH_SHARE != 0))
        return NULL;
    struct coll__slice *slice = coll__slice_new(link->engine);
    if (!slice)
        return NULL; /* the next acknowledgement brings another try */
    uint64_t left = serve->bytes - serve->cut;
    slice->frame = (struct coll__frame){
        .type = COLL__FRAME_CHUNK,
        .length = left < COLL__SLICE_MAX ? (uint32_t)left : COLL__SLICE_MAX,
        .group = serve->group,
        .operation = serve->number,
        .offset = serve->cut,
        .call.count = serve->bytes,
    };
    slice->payload = serve->data + serve->cut;
    slice->serve = serve;
    coll__slice_borrow(slice, &serve->borrowed);
    serve->slices++;
    serve->cut += slice->frame.length;
    if (serve->cut == serve->bytes)
        leave_link(serve);
    return slice;
}

void coll__serve_revoke(struct coll_engine *engine, struct coll__serve *serve)
{
    struct coll__link *link = serve->link;
    bool whole = serve->cut == serve->bytes;
    leave_link(serve);
    if (link)
        link->transport->revoke(link, serve);
    while (serve->borrowed) {
        struct coll__slice *slice = serve->borrowed;
        serve->borrowed = slice->borrow_next;
        if (serve->borrowed)
            serve->borrowed->borrow_link = &serve->borrowed;
        slice->borrow_link = NULL;
        coll__slice_void(slice);
        whole = false; /* as far as we know */
    }
    /* Those that the asker had got already make it whole there, and then this is not looked at. */
    if (!whole && link)
        say_no(link, serve->group, serve->number);
    serve->state = COLL__SERVE_REVOKED;
    serve->cut = serve->bytes;
    coll__serve_returned(engine, serve);
}

void coll__serve_refuse(struct coll_engine *engine, struct coll__serve *serve)
{
    if (serve->link)
        say_no(serve->link, serve->group, serve->number);
    coll__serve_free(engine, serve);
}

void coll__serving_close(struct coll_engine *engine)
{
    while (engine->serving.all)
        coll__serve_free(engine, engine->serving.all);
    if (engine->serving.fd >= 0)
        close(engine->serving.fd);
    engine->serving.fd = -1;
}
