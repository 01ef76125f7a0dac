/* Public functions on fetching: argument checks and the lock. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

static coll_status forked(const struct coll_engine *engine)
{
    if (!atomic_load(&engine->forked))
        return COLL_OK;
    return coll__error(COLL_FORKED,
                       "this handle belongs to the parent process; join anew in the child");
}

/* ---- asking ------------------------------------------------------------------------------- */

static struct coll__link *link_to(const struct coll_group *group, const uint8_t peer[16])
{
    const struct coll__view *views[2] = {group->committed, group->prepared};
    for (int i = 0; i < 2; i++) {
        uint32_t rank = views[i] ? coll__rank_of(views[i], peer) : 0;
        if (views[i] && rank < views[i]->size && views[i]->members[rank].link)
            return views[i]->members[rank].link;
    }
    return NULL;
}

static coll_status start(struct coll_group *group, const uint8_t peer[16], const void *request,
                         uint32_t request_bytes, struct coll_fetch *fetch)
{
    struct coll__link *link = link_to(group, peer);
    if (!link || link->lost_reported)
        return coll__error(COLL_PEER_LOST, "no link to the peer that was to be asked");
    uint32_t count = 0;
    for (const struct coll_fetch *other = link->fetches; other; other = other->next)
        count++;
    if (count >= COLL_FETCH_OUTSTANDING)
        return coll__error(COLL_IN_PROGRESS, "%d fetches are under way to '%s' already",
                           COLL_FETCH_OUTSTANDING, link->name);
    fetch->link = link;
    fetch->number = ++group->engine->serving.fetches;
    fetch->next = link->fetches;
    link->fetches = fetch;
    group->engine->operations++;
    const struct coll__frame frame = {
        .type = COLL__FRAME_FETCH,
        .group = group->id,
        .operation = fetch->number,
        .call.count = fetch->capacity,
    };
    coll__send_control(link, &frame, request, request_bytes);
    coll__wake_driver(group->engine);
    return COLL_OK;
}

coll_status coll_fetch_start(struct coll_group *group, const uint8_t peer[16], const void *request,
                             uint32_t request_bytes, void *place, uint64_t capacity,
                             struct coll_fetch **out)
{
    if (!request || request_bytes == 0 || request_bytes > COLL_FETCH_REQUEST_MAX || !place ||
        capacity > COLL_FETCH_ANSWER_MAX)
        return coll__error(COLL_INVALID_ARGUMENT,
                           "a fetch needs a request of 1 to %d bytes and a place of at most %d",
                           COLL_FETCH_REQUEST_MAX, COLL_FETCH_ANSWER_MAX);
    COLL_TRY(forked(group->engine));
    struct coll_fetch *fetch = calloc(1, sizeof *fetch);
    if (!fetch)
        return coll__error(COLL_NO_MEMORY, "no memory for a fetch");
    fetch->engine = group->engine;
    fetch->place = place;
    fetch->capacity = capacity;
    fetch->status = COLL_IN_PROGRESS;
    coll__lock(group->engine);
    coll_status status = start(group, peer, request, request_bytes, fetch);
    coll__unlock(group->engine);
    if (status != COLL_OK) {
        free(fetch);
        return status;
    }
    *out = fetch;
    return COLL_OK;
}

struct several {
    struct coll_fetch *const *fetches;
    uint32_t count;
};

static uint32_t first_ended(const struct several *several)
{
    uint32_t i = 0;
    while (i < several->count && several->fetches[i]->status == COLL_IN_PROGRESS)
        i++;
    return i;
}

static bool any_ended(const void *argument)
{
    const struct several *several = argument;
    return first_ended(several) < several->count;
}

coll_status coll_fetch_wait(struct coll_fetch *const *fetches, uint32_t count, uint64_t wait_ns,
                            uint32_t *ended)
{
    if (count == 0)
        return coll__error(COLL_INVALID_ARGUMENT, "there is no fetch to wait for");
    struct coll_engine *engine = fetches[0]->engine;
    COLL_TRY(forked(engine));
    const struct several several = {fetches, count};
    uint64_t now = coll__now();
    coll__lock(engine);
    coll__drive_until(engine, any_ended, &several,
                      wait_ns < UINT64_MAX - now ? now + wait_ns : UINT64_MAX);
    uint32_t first = first_ended(&several);
    coll__unlock(engine);
    if (first == count)
        return COLL_IN_PROGRESS;
    *ended = first;
    return COLL_OK;
}

coll_status coll_fetch_result(struct coll_fetch *fetch, uint64_t *bytes)
{
    COLL_TRY(forked(fetch->engine));
    coll__lock(fetch->engine);
    coll_status status = fetch->status;
    if (status == COLL_OK)
        *bytes = fetch->total;
    else if (status != COLL_IN_PROGRESS)
        coll__error(status, "%s", fetch->text);
    coll__unlock(fetch->engine);
    return status;
}

void coll_fetch_release(struct coll_fetch *fetch)
{
    if (!fetch || atomic_load(&fetch->engine->forked))
        return;
    struct coll_engine *engine = fetch->engine;
    coll__lock(engine);
    if (fetch->status == COLL_IN_PROGRESS) {
        fetch->link->transport->revoke(fetch->link, fetch);
        fetch->place = NULL;
        fetch->released = true; /* the rest of the answer still comes */
    } else {
        engine->operations--;
        free(fetch);
    }
    coll__engine_let_go(engine);
}

/* ---- serving ------------------------------------------------------------------------------ */

coll_status coll_serve(struct coll_engine *engine, int on)
{
    COLL_TRY(forked(engine));
    coll__lock(engine);
    engine->serving.on = on != 0;
    for (struct coll__serve *serve = engine->serving.all; serve && !on;) {
        struct coll__serve *next = serve->next;
        if (serve->state == COLL__SERVE_QUEUED)
            coll__serve_refuse(engine, serve);
        serve = next;
    }
    coll__unlock(engine);
    return COLL_OK;
}

int coll_serve_fd(struct coll_engine *engine)
{
    return engine->serving.fd;
}

static struct coll__serve *next_of(struct coll_engine *engine, enum coll__serve_state state)
{
    struct coll__serve *serve = engine->serving.all;
    while (serve && serve->state != state)
        serve = serve->next;
    return serve;
}

coll_status coll_serve_next(struct coll_engine *engine, int done_only, struct coll_request *request)
{
    COLL_TRY(forked(engine));
    coll__lock(engine);
    coll_status status = COLL_OK;
    struct coll__serve *serve = next_of(engine, COLL__SERVE_DONE);
    if (serve) {
        *request = (struct coll_request){.ticket = serve->ticket, .group = serve->group};
        memcpy(request->peer, serve->request.peer, sizeof request->peer);
        coll__serve_free(engine, serve);
    } else if (!done_only && (serve = next_of(engine, COLL__SERVE_QUEUED))) {
        *request = serve->request;
        serve->state = COLL__SERVE_TAKEN;
    } else {
        uint64_t count;
        ssize_t ignored = read(engine->serving.fd, &count, sizeof count);
        (void)ignored;
        status = COLL_IN_PROGRESS;
    }
    coll__unlock(engine);
    return status;
}

coll_status coll_serve_answer(struct coll_engine *engine, uint64_t ticket, const void *data,
                              uint64_t bytes)
{
    if (!data && bytes > 0)
        return coll__error(COLL_INVALID_ARGUMENT, "data must not be NULL");
    COLL_TRY(forked(engine));
    coll__lock(engine);
    coll_status status = COLL_OK;
    struct coll__serve *serve = coll__serve_find(engine, ticket);
    if (!serve || serve->state != COLL__SERVE_TAKEN) {
        status = coll__error(COLL_INVALID_ARGUMENT, "ticket %llu waits for no answer",
                             (unsigned long long)ticket);
    } else if (!serve->link) {
        coll__serve_free(engine, serve);
        status = coll__error(COLL_PEER_LOST, "who asked for it is gone");
    } else if (bytes > serve->request.capacity) {
        status = coll__error(COLL_INVALID_ARGUMENT, "an answer of %llu bytes to who takes %llu",
                             (unsigned long long)bytes,
                             (unsigned long long)serve->request.capacity);
        coll__serve_refuse(engine, serve);
    } else {
        coll__serve_begin(serve, data, bytes);
        coll__wake_driver(engine);
    }
    coll__unlock(engine);
    return status;
}

void coll_serve_refuse(struct coll_engine *engine, uint64_t ticket)
{
    if (atomic_load(&engine->forked))
        return;
    coll__lock(engine);
    struct coll__serve *serve = coll__serve_find(engine, ticket);
    if (serve && serve->state == COLL__SERVE_TAKEN)
        coll__serve_refuse(engine, serve);
    coll__unlock(engine);
}

void coll_serve_revoke(struct coll_engine *engine, uint64_t ticket)
{
    if (atomic_load(&engine->forked))
        return;
    coll__lock(engine);
    struct coll__serve *serve = coll__serve_find(engine, ticket);
    if (serve && serve->state == COLL__SERVE_ANSWERED)
        coll__serve_revoke(engine, serve);
    else if (serve && serve->state == COLL__SERVE_DONE)
        coll__serve_free(engine, serve);
    coll__unlock(engine);
}
