/* Fixed views: nobody decides about them, so they end where a coordinator would have to decide.
 *
 *      a member is lost ──┐
 *      a veto ────────────┼─► the view is to end ──► everything ends with one error, the others are
 *      another's BREAK ───┘    (the first counts)     told, and later calls fail with the same
 *
 * Whoever is told tells all others, since the one who was first may not reach everybody, or die of what
 * it has seen. A cause is found in the middle of something, an operation that is issued or a frame that
 * is taken, so the end comes a moment later, when nobody holds anything that ends.
 *
 * A member that goes says goodbye when all that it has called is done here and everybody has what it
 * owes. After that nothing it does counts; only an operation that it has not called breaks the view.
 */
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "wire/round.h"

static const uint64_t LAST_WORDS_NS = 500000000;

/* ---- the end --------------------------------------------------------------------------------- */

static void tell(const struct coll_group *group)
{
    const struct coll__view *view = group->committed;
    const uint32_t culprit = coll__rank_of(view, group->broken_culprit);
    const struct coll__frame frame = {
        .type = COLL__FRAME_BREAK,
        .flags = COLL__FLAG_ACK_NOW,
        .group = group->id,
        .term = view->term,
        .view = view->number,
        .message = group->broken,
        .call.root = culprit < view->size ? culprit : COLL__NO_RANK,
    };
    const uint8_t *text = (const uint8_t *)group->broken_text;
    for (uint32_t rank = 0; rank < view->size; rank++)
        if (view->members[rank].link)
            coll__send_control(view->members[rank].link, &frame, text,
                               (uint32_t)strlen(group->broken_text));
}

static void end(struct coll_group *group)
{
    const struct coll__view *view = group->committed;
    const uint32_t culprit = coll__rank_of(view, group->broken_culprit);
    group->broken = group->ending;
    group->ending = COLL_OK;
    group->seal.sealed = 1; /* nothing of this view concerns us any more */
    coll__group_end_all(group, group->broken, culprit < view->size ? (int32_t)culprit : -1,
                        group->broken_text, true);
    tell(group);
    coll__emit(group, COLL_EVENT_BROKEN, view->number, group->broken_culprit, group->broken_text);
}

void coll__fixed_end(struct coll_engine *engine)
{
    if (!engine->endings)
        return;
    engine->endings = false;
    for (struct coll_group *group = engine->groups; group; group = group->next)
        if (group->ending != COLL_OK)
            end(group);
}

static void end_soon(struct coll_group *group, coll_status status, uint32_t culprit)
{
    const struct coll__view *view = group->committed;
    memset(group->broken_culprit, 0, sizeof group->broken_culprit);
    if (culprit < view->size)
        memcpy(group->broken_culprit, view->members[culprit].id, sizeof group->broken_culprit);
    group->ending = status;
    group->engine->endings = true;
}

/* ---- what it comes of ------------------------------------------------------------------------- */

void coll__fixed_break(struct coll_group *group, coll_status status, int32_t culprit,
                       const char *text)
{
    if (group->broken != COLL_OK || group->ending != COLL_OK)
        return;
    snprintf(group->broken_text, sizeof group->broken_text,
             "%.880s; the group is broken for good: destroy the process group and make a new one",
             text);
    end_soon(group, status, culprit < 0 ? COLL__NO_RANK : (uint32_t)culprit);
}

coll_status coll__fixed_hear(struct coll_group *group, const struct coll__frame *frame,
                             const uint8_t *payload)
{
    const uint32_t culprit = frame->call.root;
    if (!group->committed->fixed || frame->length >= sizeof group->broken_text ||
        frame->message <= COLL_IN_PROGRESS || frame->message > COLL_UNDECIDED ||
        (culprit != COLL__NO_RANK && culprit >= group->committed->size))
        return COLL_INVALID_ARGUMENT;
    if (group->broken != COLL_OK || group->ending != COLL_OK)
        return COLL_OK;
    snprintf(group->broken_text, sizeof group->broken_text, "%.*s", (int)frame->length,
             (const char *)payload);
    end_soon(group, (coll_status)frame->message, culprit);
    return COLL_OK;
}

void coll__fixed_veto(struct coll_operation *operation)
{
    const struct coll__veto *veto = &operation->veto;
    const struct coll__view *view = operation->view;
    char text[COLL__TEXT], name[160];
    coll__name_describe(operation, name, sizeof name);
    if (veto->culprit == (int32_t)view->rank)
        snprintf(text, sizeof text, "%s, in %s: %s", coll__who(view, view->rank).text, name,
                 veto->text ? veto->text : "");
    else
        snprintf(text, sizeof text, "%s", veto->text ? veto->text : "");
    /* Of two that call different things nobody can tell which one is wrong. */
    coll__fixed_break(operation->group, veto->status,
                      veto->status == COLL_MISMATCH ? -1 : veto->culprit, text);
}

void coll__fixed_lost(struct coll__link *link, const char *why)
{
    /* What it said last comes first: that it leaves, or why the view is broken. */
    const uint64_t now = coll__now();
    if (link->lost_since == 0)
        link->lost_since = now;
    if (!link->engine->quiet && now - link->lost_since < LAST_WORDS_NS)
        return;
    for (struct coll_group *group = link->engine->groups; group; group = group->next) {
        const struct coll__view *view = group->committed;
        const uint32_t rank = view && view->fixed ? coll__rank_of(view, link->peer) : UINT32_MAX;
        if (rank == UINT32_MAX || rank == view->size || view->members[rank].goodbye)
            continue;
        char text[COLL__TEXT];
        snprintf(text, sizeof text, "%s is lost: %s", coll__who(view, rank).text, why);
        coll__fixed_break(group, COLL_PEER_LOST, (int32_t)rank, text);
    }
}

void coll__fixed_close(struct coll_group *group)
{
    const struct coll__view *view = group->committed;
    char text[COLL__TEXT];
    snprintf(text, sizeof text, "%s has closed the group without waiting for what it had called",
             coll__who(view, view->rank).text);
    coll__group_end_all(group, COLL_CLOSED, -1, COLL__CLOSED_TEXT, true);
    coll__fixed_break(group, COLL_PEER_LOST, (int32_t)view->rank, text);
    coll__fixed_end(group->engine);
}

/* ---- those who have gone ----------------------------------------------------------------------- */

/* A member that has gone and that the operation waits for, which it has not called; size: there is
 * none. What it had called is done, and everybody has been told. */
static uint32_t gone_without(const struct coll_operation *operation)
{
    const struct coll__view *view = operation->group->committed;
    const struct coll__tag *order = operation->order;
    uint32_t gone = view->size, left = 0;
    for (uint32_t rank = 0; rank < view->size; rank++) {
        const struct coll__member *member = &view->members[rank];
        if (order->role == COLL__TOGETHER) {
            if (member->goodbye && rank < order->ranks && order->heard[rank] < operation->number)
                return rank;
        } else if (memcmp(order->peer, member->id, sizeof member->id) == 0) {
            return member->goodbye ? rank : view->size;
        } else if (rank != view->rank && member->goodbye) {
            gone = rank;
        } else {
            left += rank != view->rank;
        }
    }
    return order->role != COLL__TOGETHER && left == 0 ? gone
                                                      : view->size; /* of a receive from any */
}

static void break_without(const struct coll_operation *operation, uint32_t rank)
{
    char text[COLL__TEXT], call[128], name[160];
    coll__call_describe(&operation->call, call, sizeof call);
    coll__name_describe(operation, name, sizeof name);
    snprintf(text, sizeof text,
             "%s has left the group (it called destroy_process_group, or its program ended) before "
             "it took part in %s, %s, which %s has called",
             coll__who(operation->view, rank).text, call, name,
             coll__who(operation->view, operation->view->rank).text);
    coll__fixed_break(operation->group, COLL_PEER_LOST, (int32_t)rank, text);
}

void coll__fixed_tick(struct coll_group *group)
{
    const struct coll__view *view = group->committed;
    bool gone = false;
    for (uint32_t rank = 0; rank < view->size; rank++)
        gone |= view->members[rank].goodbye;
    for (const struct coll__tag *tag = gone ? group->tags : NULL; tag; tag = tag->next) {
        for (const struct coll_operation *at = tag->oldest; at; at = at->newer) {
            const uint32_t rank = gone_without(at);
            if (rank < view->size)
                break_without(at, rank);
        }
    }
}
