/* What goes out next on a link. Control frames first, then the flows of small operations in
 * turn, then those of large ones in turn: a small operation never queues behind a large one for
 * longer than the slice that is half written.
 *
 * Data needs credit: the receiver's word that it has issued the operation, so that the payload
 * has a place to go. Without it a bounded window per link may be filled; who wants to send more
 * asks, and the answer comes when the operation is issued. So sockets are always drained, memory
 * stays bounded, and no order of tags among threads can deadlock.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

static void queue_control(struct coll__link *link, struct coll__slice *slice)
{
    slice->next = NULL;
    *link->control_tail = slice;
    link->control_tail = &slice->next;
}

void coll__send_control(struct coll__link *link, const struct coll__frame *frame,
                        const uint8_t *payload, uint32_t length)
{
    struct coll__slice *slice = coll__slice_new(link->engine);
    /* Without memory for 200 bytes the frame is lost; deadlines and QUERY make up for it. */
    if (!slice)
        return;
    slice->frame = *frame;
    if (length > 0) {
        slice->owned = coll__take(link->engine, length);
        if (!slice->owned) {
            coll__slice_release(&link->engine->host, slice);
            return;
        }
        memcpy(slice->owned, payload, length);
        slice->payload = slice->owned;
        slice->frame.length = length;
    }
    queue_control(link, slice);
    link->transport->kick(link);
}

void coll__operation_frame(const struct coll_operation *operation, uint32_t rank, uint8_t type,
                           struct coll__frame *frame)
{
    const struct coll__view *view = operation->view;
    *frame = (struct coll__frame){
        .type = type,
        .group = operation->group->id,
        .tag = operation->tag,
        .term = view->term,
        .view = view->number,
        .operation = operation->number,
        .attempt = (uint32_t)operation->info.retries + 1,
        .watermark = operation->order->settled,
        .call = coll__call_to(operation, rank),
    };
}

static struct coll__flow **ring_of(const struct coll__flow *flow)
{
    return flow->operation->small ? &flow->link->small_flows : &flow->link->bulk_flows;
}

void coll__flow_push(struct coll__flow *flow, struct coll__slice *slice, bool relays)
{
    if (!flow->head) {
        struct coll__flow **ring = ring_of(flow);
        flow->tail = flow->relayed = &flow->head;
        flow->blocked_since = coll__now();
        if (*ring) {
            flow->next = *ring;
            flow->previous = (*ring)->previous;
            flow->previous->next = flow;
            flow->next->previous = flow;
        } else {
            flow->next = flow->previous = *ring = flow;
        }
    }
    /* What is nearly done is still in the cache, and frees those who wait for it. */
    struct coll__slice **at = relays ? flow->relayed : flow->tail;
    slice->next = *at;
    *at = slice;
    if (relays)
        flow->relayed = &slice->next;
    if (!slice->next)
        flow->tail = &slice->next;
}

/* Take the first slice off the flow. */
static void pop(struct coll__flow *flow)
{
    struct coll__slice *slice = flow->head;
    flow->head = slice->next;
    if (flow->relayed == &slice->next)
        flow->relayed = &flow->head;
    if (flow->tail == &slice->next)
        flow->tail = &flow->head;
}

static void leave_ring(struct coll__flow *flow)
{
    struct coll__flow **ring = ring_of(flow);
    flow->operation->uses[flow->rank].blocked_ns += coll__now() - flow->blocked_since;
    flow->blocked_since = 0;
    if (flow->next == flow) {
        *ring = NULL;
    } else {
        flow->previous->next = flow->next;
        flow->next->previous = flow->previous;
        if (*ring == flow)
            *ring = flow->next;
    }
    flow->next = flow->previous = NULL;
}

void coll__flow_drop(struct coll__flow *flow)
{
    if (!flow->head)
        return;
    struct coll_operation *operation = flow->operation;
    operation->references++; /* the slices' references may be the last, and the flow goes too */
    leave_ring(flow);
    while (flow->head) {
        struct coll__slice *slice = flow->head;
        pop(flow);
        coll__slice_release(&operation->engine->host, slice);
    }
    coll__operation_unref(operation);
}

void coll__link_drop(struct coll__link *link)
{
    while (link->small_flows)
        coll__flow_drop(link->small_flows);
    while (link->bulk_flows)
        coll__flow_drop(link->bulk_flows);
    while (link->control_head) {
        struct coll__slice *slice = link->control_head;
        link->control_head = slice->next;
        coll__slice_release(&link->engine->host, slice);
    }
    link->control_tail = &link->control_head;
    coll__fetch_link_closed(link);
}

/* Where a segment's owner waits for another rank, it keeps what this one sends; how far the owner
 * has come shows in what comes back. */
static bool is_too_far(const struct coll__slice *slice)
{
    return slice->paced && slice->frame.offset >= slice->paced->arrived + COLL__AHEAD_BYTES;
}

/* Where the first slice is that is not: what comes back for those before it may have to wait, at other
 * ranks, for what is behind them. */
static struct coll__slice **first_to_go(struct coll__flow *flow)
{
    struct coll__slice **at = &flow->head;
    while (*at && is_too_far(*at))
        at = &(*at)->next;
    return at;
}

/* Have it at the head; false: there is none. Only fresh input is paced, so no relay is passed by. */
static bool bring_forward(struct coll__flow *flow)
{
    struct coll__slice **at = first_to_go(flow), *slice = *at;
    if (!slice || slice == flow->head)
        return slice != NULL;
    *at = slice->next;
    if (!slice->next)
        flow->tail = at;
    slice->next = flow->head;
    flow->head = slice;
    return true;
}

/* Whether an earlier part of the same whole can use the link: what is lost with a member is less if
 * one is finished before the next. */
static bool yields(const struct coll__flow *flow)
{
    const struct coll__series *series = flow->operation->series;
    for (struct coll__flow *other = flow->next; series && other != flow; other = other->next)
        if (other->operation->series == series && other->credit && *first_to_go(other) &&
            other->operation->offset < flow->operation->offset)
            return true;
    return false;
}

/* Whether the next `length` bytes of the flow may go; *eager: without credit. */
static bool may_go(struct coll__link *link, struct coll__flow *flow, uint32_t length, bool *eager)
{
    *eager = !flow->credit;
    if (flow->credit)
        return true;
    uint64_t out = link->eager_sent - link->eager_consumed_by_peer;
    uint64_t limit = flow->operation->small ? COLL__EAGER_WINDOW : COLL__EAGER_BULK;
    if (out + length <= limit) {
        link->eager_sent += length;
        return true;
    }
    if (!flow->asked) {
        flow->asked = true;
        struct coll__slice *slice = coll__slice_new(link->engine);
        if (slice) {
            coll__operation_frame(flow->operation, flow->rank, COLL__FRAME_QUERY, &slice->frame);
            queue_control(link, slice);
        }
    }
    return false;
}

/* What is not in one piece is packed, unless the link copies it anyway. False: no memory. */
static bool pack(struct coll__slice *slice, const struct coll__link *link)
{
    if (!slice->form || link->transport->copies)
        return true;
    uint8_t *packed = coll__take(link->engine, slice->frame.length);
    if (!packed)
        return false;
    if (link->host->options.no_checksums) {
        coll__slice_copy(slice, slice->frame.length, packed, false);
    } else {
        slice->summed = 1;
        slice->frame.payload_crc = coll__slice_copy_summed(slice, packed);
    }
    coll__slice_return(slice);
    slice->form = NULL;
    slice->coded = 0;
    slice->payload = slice->owned = packed;
    return true;
}

/* What the first `length` bytes of the flow are on the wire. */
static uint32_t wire_bytes(const struct coll__flow *flow, uint32_t length)
{
    const struct coll__slice *head = flow->head;
    return head->coded || head->ready ? (uint32_t)coll__wire_bytes(flow->operation, length)
                                      : length;
}

/* The first `length` bytes of the flow, as a slice of their own. NULL: no memory. */
static struct coll__slice *cut(struct coll__flow *flow, uint32_t length)
{
    struct coll__slice *head = flow->head;
    head->frame.length = wire_bytes(flow, length);
    if (head->range == length) {
        if (!pack(head, flow->link))
            return NULL;
        pop(flow);
        return head;
    }
    struct coll__slice *slice = coll__slice_new(flow->link->engine);
    if (!slice)
        return NULL;
    slice->operation = head->operation;
    slice->operation->references++;
    slice->frame = head->frame;
    slice->paced = head->paced;
    slice->fan = head->fan;
    slice->payload = head->payload;
    slice->form = head->form;
    slice->step = head->step;
    slice->coded = head->coded;
    slice->ready = head->ready;
    slice->range = length;
    coll__slice_borrow(slice, &slice->operation->borrowed);
    if (!pack(slice, flow->link)) {
        coll__slice_release(&slice->operation->engine->host, slice);
        return NULL;
    }
    coll__slice_unstage(head);
    head->payload += head->ready ? slice->frame.length : length;
    head->frame.offset += length;
    head->range -= length;
    return slice;
}

static struct coll__slice *serve(struct coll__link *link, struct coll__flow **ring)
{
    struct coll__flow *first = *ring;
    for (struct coll__flow *flow = first; flow;) {
        uint32_t most = flow->operation->slice_bytes;
        uint32_t liked = link->transport->slice_bytes;
        if (liked > 0 && liked < most && link->host->options.slice_bytes == 0)
            most = liked;
        if (flow->operation->coding && most > flow->operation->coding->granule)
            most -= most % (uint32_t)flow->operation->coding->granule;
        const bool ready = bring_forward(flow);
        uint32_t length = flow->head->range < most ? (uint32_t)flow->head->range : most;
        const uint32_t wire = wire_bytes(flow, length);
        bool eager;
        if (ready && !yields(flow) && may_go(link, flow, wire, &eager)) {
            struct coll__slice *slice = cut(flow, length);
            if (!slice) {
                link->eager_sent -= eager ? wire : 0;
                return NULL; /* the next acknowledgement brings another try */
            }
            slice->frame.flags |= eager ? COLL__FLAG_EAGER : 0;
            *ring = flow->next;
            if (!flow->head)
                leave_ring(flow);
            return slice;
        }
        flow = flow->next == first ? NULL : flow->next;
    }
    return NULL;
}

struct coll__slice *coll__pull(struct coll__link *link, bool bulk)
{
    for (int pass = 0; pass < 2; pass++) {
        struct coll__slice *slice = link->control_head;
        if (slice) {
            link->control_head = slice->next;
            if (!link->control_head)
                link->control_tail = &link->control_head;
            return slice;
        }
        slice = serve(link, &link->small_flows);
        if (!slice && bulk)
            slice = coll__fetch_pull(link);
        if (!slice && bulk)
            slice = serve(link, &link->bulk_flows);
        /* A second pass only to send the questions that this one may have queued. */
        if (slice || !link->control_head)
            return slice;
    }
    return NULL;
}
