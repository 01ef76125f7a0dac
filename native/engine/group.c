/* Groups and their views: which links are needed, which operations are numbered how, and what
 * breaks a group. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"
#include "engine/process.h"

static const uint64_t SECOND = 1000000000;

uint32_t coll__rank_of(const struct coll__view *view, const uint8_t peer[16])
{
    uint32_t rank = 0;
    while (rank < view->size && memcmp(view->members[rank].id, peer, 16) != 0)
        rank++;
    return rank;
}

struct coll__tag *coll__tag_find(struct coll__view *view, uint32_t tag)
{
    for (struct coll__tag *at = view->tags; at; at = at->next)
        if (at->tag == tag)
            return at;
    struct coll__tag *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    made->tag = tag;
    made->following = view->first_operation;
    made->settled = view->first_operation - 1;
    made->next = view->tags;
    view->tags = made;
    return made;
}

struct coll_operation *coll__operation_find(struct coll__view *view, uint32_t tag, uint64_t number)
{
    struct coll_operation *operation = view->operations[number % COLL__OP_BUCKETS];
    while (operation && (operation->number != number || operation->tag != tag))
        operation = operation->next;
    return operation;
}

struct coll__view *coll__frame_view(struct coll_engine *engine, const struct coll__frame *frame)
{
    for (struct coll_group *group = engine->groups; group; group = group->next) {
        if (group->id != frame->group)
            continue;
        struct coll__view *view = group->committed;
        if (view && view->number == frame->view && view->term == frame->term)
            return view;
        /* A peer that has committed before us may be ahead: its frames wait for our commit. */
        view = group->prepared;
        if (view && view->number == frame->view && view->term == frame->term)
            return view;
        return NULL;
    }
    return NULL;
}

/* ---- views ---------------------------------------------------------------------------------- */

void coll__view_release(struct coll__view *view)
{
    if (--view->references > 0)
        return;
    coll_plan_free(view->reduce_plan);
    for (uint32_t root = 0; view->broadcast_plans && root < view->size; root++)
        coll_plan_free(view->broadcast_plans[root]);
    free(view->broadcast_plans);
    while (view->tags) {
        struct coll__tag *tag = view->tags;
        view->tags = tag->next;
        free(tag);
    }
    for (uint32_t rank = 0; rank < view->size; rank++)
        free(view->members[rank].farewells);
    free(view);
}

static void release_link(struct coll__link *link)
{
    if (!link || --link->references > 0)
        return;
    struct coll__link **at = &link->engine->host.links;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    coll__process_unwatch(link);
    coll__link_drop(link);
    link->transport->close(link);
}

/* End everything in a view and let its links go. Its memory lives as long as its operations. */
static void retire_view(struct coll__view *view, coll_status status, const char *text)
{
    for (uint32_t i = 0; i < COLL__OP_BUCKETS; i++)
        while (view->operations[i])
            coll__operation_finish(view->operations[i], status, -1, text);
    for (uint32_t rank = 0; rank < view->size; rank++) {
        release_link(view->members[rank].link);
        view->members[rank].link = NULL;
    }
    coll__view_release(view);
}

static coll_status new_view(struct coll_group *group, const struct coll_view *given,
                            struct coll__view **made)
{
    struct coll__view *view = calloc(1, sizeof *view + given->size * sizeof(struct coll__member));
    if (!view)
        return COLL_NO_MEMORY;
    view->references = 1;
    view->group = group;
    view->term = given->term;
    view->number = given->number;
    view->first_operation = given->first_operation;
    view->rank = given->rank;
    view->size = given->size;
    memcpy(view->key, given->key, sizeof view->key);
    view->broadcast_plans = calloc(given->size, sizeof(struct coll_plan *));
    if (!view->broadcast_plans || coll_plan_make(COLL_ALL_REDUCE, given->rank, given->size, 0,
                                                 &view->reduce_plan) != COLL_OK) {
        coll__view_release(view);
        return COLL_NO_MEMORY;
    }
    for (uint32_t rank = 0; rank < given->size; rank++) {
        struct coll__member *member = &view->members[rank];
        memcpy(member->id, given->peers[rank].id, sizeof member->id);
        snprintf(member->name, sizeof member->name, "%s", given->peers[rank].name);
    }
    *made = view;
    return COLL_OK;
}

static coll_status connect_member(struct coll_engine *engine, struct coll__member *member,
                                  const struct coll_peer *peer)
{
    struct coll__link *link = coll__link_find(&engine->host, peer->id);
    if (link) {
        COLL_TRY(link->transport->update(link, peer));
    } else {
        COLL_TRY(coll__transports[0]->open(&engine->host, peer, &link));
        link->next = engine->host.links;
        engine->host.links = link;
    }
    link->references++;
    member->link = link;
    coll__process_watch(link, peer->process);
    return COLL_OK;
}

static void report_if_ready(struct coll_group *group)
{
    struct coll__view *view = group->prepared;
    if (!view || view->ready_reported)
        return;
    for (uint32_t rank = 0; rank < view->size; rank++)
        if (rank != view->rank && !view->members[rank].link->up)
            return;
    view->ready_reported = true;
    coll__emit(group->engine, COLL_EVENT_VIEW_READY, group->id, view->number, NULL, NULL);
}

coll_status coll__group_prepare(struct coll_group *group, const struct coll_view *given)
{
    struct coll__view *view;
    COLL_TRY(new_view(group, given, &view));
    struct coll__view *previous = group->prepared;
    group->prepared = view; /* before dialling: the hello needs the key */
    for (uint32_t rank = 0; rank < view->size; rank++) {
        if (rank == view->rank)
            continue;
        coll_status status = connect_member(group->engine, &view->members[rank],
                                            &given->peers[rank]);
        if (status != COLL_OK) {
            group->prepared = previous;
            retire_view(view, COLL_CANCELLED, "");
            return status;
        }
    }
    /* Released after the new one is linked, so that links they share stay up. */
    if (previous)
        retire_view(previous, COLL_CANCELLED, "");
    view->unreachable_check = coll__now() + SECOND;
    report_if_ready(group);
    return COLL_OK;
}

coll_status coll__group_commit(struct coll_group *group, uint64_t term, uint64_t number,
                               uint64_t first_operation)
{
    struct coll__view *view = group->prepared;
    if (!view || view->term != term || view->number != number)
        return coll__error(COLL_INVALID_ARGUMENT, "view %llu of term %llu was not prepared",
                           (unsigned long long)number, (unsigned long long)term);
    struct coll__view *previous = group->committed;
    group->committed = view;
    group->prepared = NULL;
    group->broken = COLL_OK;
    /* Evidence from before names the older view, and counts no more: it is given again. */
    for (uint32_t rank = 0; rank < view->size; rank++)
        if (view->members[rank].link)
            view->members[rank].link->lost_reported = 0;
    /* Tags made by early frames counted from the prepared number. */
    view->first_operation = first_operation;
    for (struct coll__tag *tag = view->tags; tag; tag = tag->next) {
        tag->following = first_operation;
        tag->settled = first_operation - 1;
    }
    if (group->last_operation < first_operation - 1)
        group->last_operation = first_operation - 1;
    if (previous)
        retire_view(previous, COLL_CANCELLED, "the view changed while the operation was pending");
    if (view->aborted != COLL_OK)
        coll__group_break(group, view->aborted, view->aborted_culprit, view->aborted_text, NULL);
    return COLL_OK;
}

void coll__group_discard(struct coll_group *group)
{
    struct coll__view *view = group->prepared;
    group->prepared = NULL;
    if (view)
        retire_view(view, COLL_CANCELLED, "");
}

void coll__group_close(struct coll_group *group)
{
    struct coll_engine *engine = group->engine;
    coll__moment_forget(group);
    coll__inspect_free(group);
    coll__group_discard(group);
    struct coll__view *view = group->committed;
    group->committed = NULL;
    if (view)
        retire_view(view, COLL_CLOSED, "the group was closed while the operation was pending");
    struct coll_group **at = &engine->groups;
    while (*at != group)
        at = &(*at)->next;
    *at = group->next;
}

/* ---- breaking ------------------------------------------------------------------------------- */

/* Which operations a blow spares, because they have succeeded elsewhere. */
struct spared {
    const struct coll__frame *abort; /* what its sender has settled in this tag; NULL: nothing */
    const struct coll__member *leaver; /* what it had finished; NULL: nothing */
};

static bool is_spared(const struct coll_operation *operation, struct spared spared)
{
    if (spared.abort && operation->tag == spared.abort->tag)
        return operation->number <= spared.abort->watermark;
    for (uint32_t i = 0; spared.leaver && i < spared.leaver->farewell_count; i++)
        if (spared.leaver->farewells[i].tag == operation->tag)
            return operation->number <= spared.leaver->farewells[i].last;
    return false;
}

/* The first blow breaks the group; each ends the operations that it does not spare. */
static void strike(struct coll_group *group, coll_status status, int32_t culprit, const char *text,
                   struct spared spared)
{
    struct coll__view *view = group->committed;
    if (!view)
        return;
    bool first = group->broken == COLL_OK;
    if (first) {
        group->broken = status;
        group->broken_culprit = culprit;
        snprintf(group->broken_text, sizeof group->broken_text, "%s", text);
    }
    for (uint32_t i = 0; i < COLL__OP_BUCKETS; i++) {
        struct coll_operation *operation = view->operations[i];
        while (operation) {
            struct coll_operation *next = operation->next;
            if (!is_spared(operation, spared))
                coll__operation_finish(operation, status, culprit, text);
            operation = next;
        }
    }
    if (first)
        coll__emit(group->engine, COLL_EVENT_BROKEN, group->id, view->number, NULL, text);
}

void coll__group_break(struct coll_group *group, coll_status status, int32_t culprit,
                       const char *text, const struct coll__frame *abort)
{
    strike(group, status, culprit, text, (struct spared){.abort = abort});
}

void coll__group_fail_peer(struct coll_group *group, coll_status status, const uint8_t peer[16],
                           bool left, const char *text)
{
    struct coll__view *view = group->committed;
    uint32_t rank = view ? coll__rank_of(view, peer) : 0;
    if (!view || rank == view->size) {
        coll__group_break(group, status, -1, text, NULL);
        return;
    }
    struct coll__member *member = &view->members[rank];
    member->gone = true;
    strike(group, status, (int32_t)rank, text, (struct spared){.leaver = left ? member : NULL});
}

/* ---- links ---------------------------------------------------------------------------------- */

struct coll__link *coll__link_find(struct coll__host *host, const uint8_t peer[16])
{
    struct coll__link *link = host->links;
    while (link && memcmp(link->peer, peer, 16) != 0)
        link = link->next;
    return link;
}

void coll__link_init(struct coll__link *link, struct coll__host *host,
                     const struct coll__transport *transport, const struct coll_peer *peer)
{
    link->engine = coll__engine_of(host);
    link->host = host;
    link->transport = transport;
    memcpy(link->peer, peer->id, sizeof link->peer);
    snprintf(link->name, sizeof link->name, "%s", peer->name);
    link->control_tail = &link->control_head;
}

void coll__link_up(struct coll__link *link)
{
    link->up = true;
    link->lost_reported = 0;
    for (struct coll_group *group = link->engine->groups; group; group = group->next)
        report_if_ready(group);
}

void coll__link_down(struct coll__link *link)
{
    link->up = false;
}

void coll__link_lost(struct coll__link *link, const char *text, enum coll_certain certain)
{
    if (link->lost_reported > certain)
        return;
    link->lost_reported = certain + 1;
    for (struct coll_group *group = link->engine->groups; group; group = group->next)
        if (group->committed &&
            coll__rank_of(group->committed, link->peer) < group->committed->size)
            coll__emit_lost(link->engine, group->id, group->committed->number, link->peer, certain,
                            text);
}

const uint8_t *coll__view_key(struct coll__host *host, uint32_t group_id, uint64_t term,
                              uint64_t number, const uint8_t peer[16])
{
    const struct coll__frame name = {.group = group_id, .term = term, .view = number};
    struct coll__view *view = coll__frame_view(coll__engine_of(host), &name);
    return view && coll__rank_of(view, peer) < view->size ? view->key : NULL;
}

bool coll__view_for_link(const struct coll__link *link, uint32_t *group_id, uint64_t *term,
                         uint64_t *number, const uint8_t **key)
{
    for (struct coll_group *group = link->engine->groups; group; group = group->next) {
        struct coll__view *candidates[2] = {group->prepared, group->committed};
        for (int i = 0; i < 2; i++) {
            struct coll__view *view = candidates[i];
            if (!view || coll__rank_of(view, link->peer) == view->size)
                continue;
            /* A committed view is known to both; a prepared one perhaps not yet to the other. */
            if (i == 0 && group->committed &&
                coll__rank_of(group->committed, link->peer) < group->committed->size)
                continue;
            *group_id = group->id;
            *term = view->term;
            *number = view->number;
            *key = view->key;
            return true;
        }
    }
    return false;
}

void coll__count_sent(struct coll__link *link, struct coll__slice *slice, uint64_t bytes,
                      bool again)
{
    struct coll_operation *operation = slice->operation;
    if (!operation)
        return;
    uint32_t rank = coll__rank_of(operation->view, link->peer);
    if (rank == operation->view->size)
        return;
    operation->uses[rank].sent_bytes += bytes;
    operation->uses[rank].resent += again;
}

void coll__group_tick(struct coll_group *group, uint64_t now)
{
    struct coll__view *view = group->committed;
    coll_status before = group->broken;
    for (uint32_t i = 0; view && i < COLL__OP_BUCKETS; i++) {
        struct coll_operation *operation = view->operations[i];
        while (operation) {
            struct coll_operation *next = operation->next;
            coll__operation_tick(operation, now);
            if (group->broken != before)
                return; /* it failed and took the others with it */
            operation = next;
        }
    }
    view = group->prepared;
    if (!view || view->ready_reported || now < view->unreachable_check)
        return;
    view->unreachable_check = now + SECOND;
    for (uint32_t rank = 0; rank < view->size; rank++) {
        struct coll__link *link = view->members[rank].link;
        if (link && !link->up) {
            char text[200];
            link->transport->explain(link, text, sizeof text);
            coll__emit(group->engine, COLL_EVENT_PEER_UNREACHABLE, group->id, view->number,
                       view->members[rank].id, text);
        }
    }
}
