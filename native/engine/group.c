/* Groups: which view is the committed one, how it is replaced at a sync, and what time does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"
#include "engine/process.h"

static const uint64_t SECOND = 1000000000;

struct coll_group *coll__group_find(struct coll_engine *engine, uint32_t id)
{
    struct coll_group *group = engine->groups;
    while (group && group->id != id)
        group = group->next;
    return group;
}

static coll_status connect_member(struct coll_engine *engine, struct coll__member *member,
                                  const struct coll_peer *peer, bool fixed)
{
    struct coll__link *link = coll__link_find(&engine->host, peer->id);
    if (link) {
        COLL_TRY(link->transport->update(link, peer));
    } else {
        coll_status status = COLL_UNSUPPORTED;
        for (uint32_t i = 0; coll__transports[i] && status == COLL_UNSUPPORTED; i++)
            status = coll__transports[i]->open(&engine->host, peer, &link);
        COLL_TRY(status);
        link->next = engine->host.links;
        engine->host.links = link;
    }
    link->keeps |= fixed;
    coll__member_attach(member, link);
    coll__process_watch(link, peer->process);
    return COLL_OK;
}

coll_status coll__group_prepare(struct coll_group *group, const struct coll_view *given)
{
    struct coll__view *view;
    COLL_TRY(coll__view_new(group, given, &view));
    struct coll__view *previous = group->prepared;
    group->prepared = view; /* before dialling: the hello needs the key */
    for (uint32_t rank = 0; rank < view->size; rank++) {
        if (rank == view->rank)
            continue;
        coll_status status = connect_member(group->engine, &view->members[rank],
                                            &given->peers[rank], view->fixed);
        if (status != COLL_OK) {
            group->prepared = previous;
            coll__view_retire(view);
            return status;
        }
    }
    /* Released after the new one is linked, so that links they share stay up. */
    if (previous)
        coll__view_retire(previous);
    view->unreachable_check = coll__now() + SECOND;
    coll__view_report_if_ready(group);
    return COLL_OK;
}

void coll__group_end_all(struct coll_group *group, coll_status status, int32_t culprit,
                         const char *text, bool unknown)
{
    for (uint32_t i = 0; i < COLL__OP_BUCKETS; i++)
        while (group->operations[i]) {
            group->operations[i]->unknown = unknown && group->operations[i]->issued;
            coll__operation_finish(group->operations[i], status, culprit, text);
        }
}

void coll__group_install(struct coll_group *group, struct coll__view *view)
{
    struct coll__view *previous = group->committed;
    group->committed = view;
    coll__view_place(view);
    group->broken = group->ending = COLL_OK;
    memset(group->broken_culprit, 0, sizeof group->broken_culprit);
    /* Evidence from before names the older view, and counts no more: it is given again. */
    for (uint32_t rank = 0; rank < view->size; rank++)
        if (view->members[rank].link)
            view->members[rank].link->lost_since = view->members[rank].link->lost_reported = 0;
    group->veto_again = 0;
    coll__seal_open(&group->seal, view->term, view->number);
    if (previous)
        coll__view_retire(previous);
}

coll_status coll__group_commit(struct coll_group *group, uint64_t term, uint64_t number,
                               uint64_t first_operation, const struct coll_topology *topology)
{
    struct coll__view *view = group->prepared;
    if (!view || view->term != term || view->number != number)
        return coll__error(COLL_INVALID_ARGUMENT, "view %llu of term %llu was not prepared",
                           (unsigned long long)number, (unsigned long long)term);
    struct coll_topology *copy = NULL;
    if (topology) {
        COLL_TRY(coll__check_topology(topology, view->size));
        COLL_TRY(coll__check_transports(view, topology));
        copy = coll__topology_copy(topology, view->size, NULL, view->size);
        if (!copy)
            return coll__error(COLL_NO_MEMORY, "no memory for a view's topology");
    }
    coll__group_end_all(group, COLL_CANCELLED, -1,
                        "the view changed while the operation was pending", false);
    group->prepared = NULL;
    coll__gone_free(group);
    view->first_operation = first_operation;
    view->topology = copy;
    coll__group_install(group, view);
    coll__tags_enter(group, first_operation);
    if (group->last_operation < first_operation - 1)
        group->last_operation = first_operation - 1;
    coll__take_later(group);
    return COLL_OK;
}

coll_status coll__group_choose(struct coll_group *group, const struct coll_choice *choices,
                               uint32_t count)
{
    struct coll__view *view = group->committed;
    if (!view)
        return coll__error(COLL_INVALID_ARGUMENT, "there is no view to choose for");
    struct coll_topology given = {0};
    if (view->topology)
        given = *view->topology;
    given.choices = choices;
    given.choice_count = count;
    COLL_TRY(coll__check_topology(&given, view->size));
    struct coll_topology *copy = coll__topology_copy(&given, view->size, NULL, view->size);
    if (!copy)
        return coll__error(COLL_NO_MEMORY, "no memory for a view's topology");
    free(view->topology);
    view->topology = copy;
    return COLL_OK;
}

void coll__gone_free(struct coll_group *group)
{
    while (group->gone) {
        struct coll__gone *gone = group->gone;
        group->gone = gone->next;
        free(gone);
    }
}

void coll__group_discard(struct coll_group *group)
{
    struct coll__view *view = group->prepared;
    group->prepared = NULL;
    if (view)
        coll__view_retire(view);
}

void coll__group_out(struct coll_group *group, coll_status status, const char *text)
{
    group->broken = status;
    memset(group->broken_culprit, 0, sizeof group->broken_culprit);
    snprintf(group->broken_text, sizeof group->broken_text, "%s", text);
    group->seal.sealed = 1; /* nothing of this view concerns us any more */
    coll__group_end_all(group, status, -1, text, true);
}

void coll__group_close(struct coll_group *group)
{
    struct coll_engine *engine = group->engine;
    coll__moment_forget(group);
    coll__group_discard(group);
    coll__group_end_all(group, COLL_CLOSED, -1, COLL__CLOSED_TEXT, true);
    coll__drop_later(group, NULL);
    struct coll__view *view = group->committed;
    group->committed = NULL;
    if (view)
        coll__view_retire(view);
    coll__tags_free(group);
    coll__letters_free(group);
    coll__gone_free(group);
    coll__inspect_free(group);
    coll__events_close(group);
    struct coll_group **at = &engine->groups;
    while (*at != group)
        at = &(*at)->next;
    *at = group->next;
    coll__group_unref(group);
}

void coll__group_unref(struct coll_group *group)
{
    if (--group->references == 0)
        free(group);
}

/* A call that wanted to end has waited for the coordinator long enough: better out than stuck. */
static bool give_up(struct coll_group *group, uint64_t now)
{
    for (struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        for (struct coll_operation *at = tag->oldest; at; at = at->newer) {
            if (at->veto.status == COLL_OK ||
                now < at->veto.since + group->engine->host.options.recovery_ns)
                continue;
            char text[COLL__TEXT];
            snprintf(text, sizeof text,
                     "%.700s; and the coordinator did not decide about it within %.0f s, so this "
                     "peer is out of the run and the outcome is unknown here: call rejoin()",
                     at->veto.text ? at->veto.text : "",
                     (double)group->engine->host.options.recovery_ns / 1e9);
            at->references++;
            at->unknown = true;
            coll__operation_finish(at, at->veto.status, at->veto.culprit, text);
            coll__operation_unref(at);
            coll__group_out(group, COLL_UNDECIDED, text);
            coll__emit(group, COLL_EVENT_OUT, group->committed->number, NULL, text);
            return true;
        }
    }
    return false;
}

void coll__group_tick(struct coll_group *group, uint64_t now)
{
    if (group->committed && group->broken == COLL_OK) {
        if (group->committed->fixed)
            coll__fixed_tick(group);
        for (struct coll__tag *tag = group->tags; tag; tag = tag->next)
            for (struct coll_operation *at = tag->oldest; at; at = at->newer)
                coll__operation_tick(at, now);
        if (!give_up(group, now))
            coll__tags_tick(group);
    }
    struct coll__view *view = group->prepared;
    if (!view || view->ready_reported || now < view->unreachable_check)
        return;
    view->unreachable_check = now + SECOND;
    for (uint32_t rank = 0; rank < view->size; rank++) {
        struct coll__link *link = view->members[rank].link;
        if (link && !link->up) {
            char text[200];
            link->transport->explain(link, text, sizeof text);
            coll__emit(group, COLL_EVENT_PEER_UNREACHABLE, view->number, view->members[rank].id,
                       text);
        }
    }
}
