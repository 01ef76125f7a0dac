/* Sends and receives: operations of two.
 *
 * They run as all others do, from one sender to one receiver, in an order of their own: (tag, sender,
 * receiver). Who calls the k-th send of it meets who calls the k-th receive.
 *
 *      sender      the payload, or (nothing else would tell of an empty one) a QUERY  ──►
 *                                                                  ◄──  a token   receiver
 *
 * The receiver is done when it has everything; its token tells the sender, who is done then. So they
 * have an agreement of two, with one half of the dissemination, and a round finds that it stands iff
 * the receiver has settled it.
 *
 * A receive from any waits in an order from nobody until something is there for which no receive has
 * been called. Then it goes over into that sender's order; it goes back if the sender is lost.
 */
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

static bool is_from_nobody(const struct coll__tag *order)
{
    static const uint8_t nobody[16];
    return memcmp(order->peer, nobody, sizeof nobody) == 0;
}

struct coll__tag *coll__order_of_call(struct coll_group *group, const struct coll_call *call)
{
    if (!coll__is_pair(call->kind))
        return coll__tag_find(group, call->tag, COLL__TOGETHER, NULL);
    const uint8_t *peer = call->root == COLL_ANY ? NULL
                          : call->peers          ? call->peers + 16 * (size_t)call->root
                                                 : group->committed->members[call->root].id;
    return coll__tag_find(group, call->tag,
                          call->kind == COLL_SEND ? COLL__SENDING : COLL__RECEIVING, peer);
}

struct coll__tag *coll__order_of_frame(struct coll_group *group, const uint8_t peer[16],
                                       const struct coll__frame *frame)
{
    switch (frame->call.kind) {
    case COLL_SEND:
        return coll__tag_find(group, frame->tag, COLL__RECEIVING, peer);
    case COLL_RECV:
        return coll__tag_find(group, frame->tag, COLL__SENDING, peer);
    default:
        return coll__tag_find(group, frame->tag, COLL__TOGETHER, NULL);
    }
}

bool coll__pair_is_whole(const struct coll_operation *operation)
{
    return operation->started &&
           (operation->call.kind == COLL_SEND || operation->seen[operation->partner]);
}

/* ---- receives from any ------------------------------------------------------------------------ */

/* The one that has waited longest. */
static struct coll_operation *waiting(const struct coll_group *group, uint32_t tag)
{
    for (const struct coll__tag *order = group->tags; order; order = order->next) {
        if (order->tag != tag || order->role != COLL__RECEIVING || !is_from_nobody(order))
            continue;
        for (struct coll_operation *at = order->oldest; at; at = at->newer)
            if (!at->let_go && at->veto.status == COLL_OK)
                return at;
    }
    return NULL;
}

/* What nobody has called a receive for, of all senders; the first that was heard of, so that nobody
 * has to wait for one who sends more. */
static struct coll_operation *offered(struct coll_group *group, uint32_t tag)
{
    struct coll_operation *first = NULL;
    for (const struct coll__tag *order = group->tags; order; order = order->next) {
        if (order->tag != tag || order->role != COLL__RECEIVING || is_from_nobody(order))
            continue;
        struct coll_operation *next = coll__operation_find(group, order, order->following);
        if (next && (!first || next->heard < first->heard))
            first = next;
    }
    return first;
}

static void move(struct coll_operation *operation, struct coll__tag *to)
{
    coll__tag_leave(operation->order, operation);
    coll__operation_unlist(operation);
    operation->order = to;
    operation->number = operation->info.number = to->following;
    coll__operation_list(operation);
    coll__tag_issue(to, operation);
}

/* It is the receive of what was offered: all that is known of that is its own from now on. */
static void take(struct coll_operation *operation, struct coll_operation *offer)
{
    struct coll__tag *order = offer->order;
    const uint32_t rank = coll__rank_of(operation->view, order->peer);
    operation->seen[rank] = offer->seen[rank];
    operation->calls[rank] = offer->calls[rank];
    operation->wants_open[rank] = offer->wants_open[rank];
    if (offer->early) {
        operation->early = offer->early;
        operation->early_tail = offer->early_tail;
        offer->early = NULL;
        offer->early_tail = &offer->early;
    }
    coll__operation_unlist(offer);
    coll__operation_unref(offer);
    move(operation, order);
}

void coll__pair_match(struct coll_group *group, const struct coll__tag *order)
{
    if (order->role != COLL__RECEIVING || is_from_nobody(order))
        return;
    struct coll_operation *operation;
    while ((operation = waiting(group, order->tag)) && offered(group, order->tag))
        coll__operation_start(operation);
}

/* ---- who it is with --------------------------------------------------------------------------- */

static void veto_gone(struct coll_operation *operation)
{
    char text[COLL__TEXT], name[160];
    coll__name_describe(operation, name, sizeof name);
    snprintf(text, sizeof text, "the other peer of %s, %s, is gone: '%s'%s",
             coll_kind_name(operation->call.kind), name,
             coll__name_of_gone(operation->group, operation->order->peer),
             coll__advice(operation->view, "; call sync() and go on"));
    coll__operation_veto(operation, COLL_PEER_LOST, -1, text);
}

static void veto_alone(struct coll_operation *operation)
{
    char text[COLL__TEXT], name[160];
    coll__name_describe(operation, name, sizeof name);
    snprintf(text, sizeof text, "nobody is left who could send to %s, %s%s",
             coll_kind_name(operation->call.kind), name,
             coll__advice(operation->view, "; call sync() to wait for others"));
    coll__operation_veto(operation, COLL_PEER_LOST, -1, text);
}

bool coll__pair_meet(struct coll_operation *operation)
{
    struct coll_group *group = operation->group;
    const struct coll__view *view = operation->view;
    const bool any = operation->asked.root == COLL_ANY;
    uint32_t partner = coll__rank_of(view, operation->order->peer);
    if (partner == view->size && !any) {
        veto_gone(operation);
        return false;
    }
    if (partner == view->size) {
        struct coll_operation *offer = offered(group, operation->tag);
        if (offer) {
            take(operation, offer);
            partner = coll__rank_of(view, operation->order->peer);
        } else if (!is_from_nobody(operation->order)) { /* the sender that it had is gone */
            struct coll__tag *nobody = coll__tag_find(group, operation->tag, COLL__RECEIVING, NULL);
            move(operation, nobody); /* it is there: the call began in it */
        }
    }
    if (partner == view->size) {
        coll__agree_issue(&operation->agree, false);
        if (view->size == 1)
            veto_alone(operation);
        return false;
    }
    operation->partner = partner;
    return true;
}
