/* What peers tell each other about operations: where an arriving frame belongs and what is answered.
 * What comes too early is kept in early.c, differences between calls are found in compare.c. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"

enum { AHEAD_MAX = 1 << 20 }; /* operations that a peer may be ahead of us in one tag */

void coll__peer_consumed(struct coll__link *link, uint64_t consumed)
{
    if (consumed > link->eager_consumed_by_peer && consumed <= link->eager_sent)
        link->eager_consumed_by_peer = consumed;
}

/* ---- telling ---------------------------------------------------------------------------- */

static void tell(struct coll_operation *operation, uint32_t rank, const struct coll__frame *frame)
{
    struct coll__link *link = operation->view->members[rank].link;
    if (link)
        coll__send_control(link, frame, NULL, 0);
}

void coll__tell_open(struct coll_operation *operation, uint32_t rank)
{
    struct coll__frame frame;
    coll__operation_frame(operation, rank, COLL__FRAME_OPEN, &frame);
    tell(operation, rank, &frame);
}

void coll__ask(struct coll_operation *operation, uint32_t rank, uint16_t flags)
{
    struct coll__frame frame;
    coll__operation_frame(operation, rank, COLL__FRAME_QUERY, &frame);
    frame.flags |= flags;
    tell(operation, rank, &frame);
}

void coll__tell_tokens(struct coll_operation *operation)
{
    uint32_t round, rank;
    while (coll__agree_next(&operation->agree, &round, &rank)) {
        struct coll__frame frame;
        if (coll__is_pair(operation->call.kind))
            rank = operation->partner;
        coll__operation_frame(operation, rank, COLL__FRAME_TOKEN, &frame);
        frame.message = round;
        tell(operation, rank, &frame);
        coll__reached(operation, COLL_PHASE_TOKENS);
    }
}

void coll__tell_watermark(struct coll__tag *tag, struct coll__view *view)
{
    struct coll__frame frame = {
        .type = COLL__FRAME_WATERMARK,
        .group = view->group->id,
        .tag = tag->tag,
        .term = view->term,
        .view = view->number,
        .watermark = tag->settled,
    };
    for (uint32_t rank = 0; rank < view->size; rank++)
        if (view->members[rank].link)
            coll__send_control(view->members[rank].link, &frame, NULL, 0);
    tag->told = tag->settled;
}

/* ---- hearing ---------------------------------------------------------------------------- */

static coll_status hear_data(struct coll_operation *operation, struct coll__link *link,
                             uint32_t rank, const struct coll__frame *frame, const uint8_t *payload,
                             const struct coll__placement *placement)
{
    if (!coll__hear_call(operation, rank, frame)) {
        coll__consume(link, frame);
        return COLL_OK;
    }
    if (!operation->started)
        return coll__keep_early(operation, link, frame, payload);
    /* Of a call that differs from another rank's nothing was begun, and the verdict is to come. */
    if (operation->let_go || operation->veto.status == COLL_MISMATCH) {
        coll__consume(link, frame);
        return COLL_OK;
    }
    coll__arrived(operation, coll__now());
    operation->uses[rank].received_bytes += frame->length + COLL__FRAME_BYTES;
    coll_status status = coll__execute_data(operation, link, rank, frame, payload, placement);
    coll__consume(link, frame);
    if (status == COLL_NO_MEMORY) {
        coll__operation_veto(operation, COLL_NO_MEMORY, (int32_t)operation->view->rank,
                             "out of memory in the middle of an operation");
        return COLL_OK;
    }
    if (status == COLL_CLOSED) /* the sender has let us go meanwhile, and so will the view */
        return COLL_OK;
    coll__operation_progress(operation);
    return status;
}

static void hear_open(struct coll_operation *operation, uint32_t rank,
                      const struct coll__frame *frame)
{
    if (frame->flags & COLL__FLAG_ABSENT) {
        operation->absent[rank] = frame->offset + 1;
        return;
    }
    if (frame->flags & COLL__FLAG_DONE) {
        coll__agree_told(&operation->agree);
        coll__operation_progress(operation);
        return;
    }
    if (!coll__hear_call(operation, rank, frame))
        return;
    operation->flows[rank].credit = true;
    if (operation->flows[rank].head)
        operation->flows[rank].link->transport->kick(operation->flows[rank].link);
}

/* A QUERY about an operation that has no entry here: it has succeeded, or was not issued yet. */
static void answer(struct coll__tag *tag, struct coll__link *link, const struct coll__frame *asked,
                   bool over)
{
    struct coll__frame frame = {
        .type = COLL__FRAME_OPEN,
        .flags = over ? COLL__FLAG_DONE : COLL__FLAG_ABSENT,
        .group = asked->group,
        .tag = asked->tag,
        .term = asked->term,
        .view = asked->view,
        .operation = asked->operation,
        .offset = tag->following - 1,
        .call.kind = coll__counterpart(asked->call.kind),
    };
    if (!(asked->flags & COLL__FLAG_SUPPLY)) {
        coll__send_control(link, &frame, NULL, 0);
        return;
    }
    const struct coll__retained *retained = coll__tag_retained(tag, asked->operation);
    if (!retained)
        return;
    frame.type = COLL__FRAME_SUPPLY;
    frame.flags = 0;
    frame.offset = retained->view;
    coll__send_control(link, &frame, retained->payload, (uint32_t)retained->length);
}

static coll_status hear_supply(struct coll_operation *operation, const struct coll__frame *frame,
                               const uint8_t *payload)
{
    if (operation->agree.phase != COLL__AWAITING)
        return COLL_OK;
    if (frame->length != operation->bytes)
        return COLL_INVALID_ARGUMENT;
    if (!operation->let_go)
        coll__form_scatter(&operation->output_form, operation->output, 0, operation->bytes, payload,
                           false);
    coll__agree_supplied(&operation->agree);
    operation->info.view = frame->offset;
    coll__operation_finish(operation, COLL_OK, -1, NULL);
    return COLL_OK;
}

void coll__place(struct coll__link *link, const struct coll__frame *frame,
                 struct coll__placement *placement)
{
    *placement = (struct coll__placement){0};
    if (coll__is_fetch(frame))
        coll__fetch_place(link, frame, placement);
    if (frame->type != COLL__FRAME_DATA)
        return;
    struct coll_group *group = coll__group_find(link->engine, frame->group);
    if (!group || !group->committed ||
        coll__seal_fence(&group->seal, frame->term, frame->view) != COLL__FENCE_NOW)
        return;
    uint32_t rank = coll__rank_of(group->committed, link->peer);
    struct coll__tag *order = coll__order_of_frame(group, link->peer, frame);
    struct coll_operation *operation = order ? coll__operation_find(group, order, frame->operation)
                                             : NULL;
    if (rank < group->committed->size && operation && !operation->let_go &&
        operation->agree.phase == COLL__RUNNING && coll__agrees(operation, rank, &frame->call))
        coll__execute_place(operation, rank, frame, placement);
}

void coll__unplace(struct coll__placement *placement)
{
    if (placement->operation)
        placement->operation->placed_again = true;
    *placement = (struct coll__placement){0};
}

/* A frame about an operation of the committed view, which is not sealed. */
static coll_status hear(struct coll_group *group, struct coll__link *link, uint32_t rank,
                        const struct coll__frame *frame, const uint8_t *payload,
                        const struct coll__placement *placement)
{
    struct coll__tag *tag = coll__order_of_frame(group, link->peer, frame);
    if (!tag)
        return COLL_NO_MEMORY;
    coll__tag_hear(tag, rank, frame->watermark);
    if (frame->type == COLL__FRAME_WATERMARK)
        return COLL_OK;
    struct coll_operation *operation = coll__operation_find(group, tag, frame->operation);
    bool over = !operation && frame->operation < tag->following;
    if (over || (!operation && group->broken != COLL_OK)) {
        if (frame->type == COLL__FRAME_QUERY && over)
            answer(tag, link, frame, true);
        coll__consume(link, frame);
        return COLL_OK;
    }
    if (frame->type == COLL__FRAME_SUPPLY)
        return operation ? hear_supply(operation, frame, payload) : COLL_OK;
    if (frame->type == COLL__FRAME_OPEN && (frame->flags & COLL__FLAG_ABSENT) && !operation)
        return COLL_OK;
    if (!operation) {
        if (frame->operation - tag->following > AHEAD_MAX)
            return COLL_INVALID_ARGUMENT;
        COLL_TRY(coll__operation_new(group, tag, frame->operation, &operation));
        operation->heard = ++group->heard;
        if (tag->role == COLL__RECEIVING) {
            coll__pair_match(group, tag);
            operation = coll__operation_find(group, tag, frame->operation);
            if (!operation) { /* it has ended already */
                coll__consume(link, frame);
                return COLL_OK;
            }
        }
    }
    switch ((enum coll__frame_type)frame->type) {
    case COLL__FRAME_DATA:
        return hear_data(operation, link, rank, frame, payload, placement);
    case COLL__FRAME_OPEN:
        hear_open(operation, rank, frame);
        return COLL_OK;
    case COLL__FRAME_QUERY:
        if (frame->flags & COLL__FLAG_SUPPLY) /* we await it, too: whoever asks, asks again */
            return COLL_OK;
        if (!coll__hear_call(operation, rank, frame))
            return COLL_OK;
        if (!operation->started) {
            operation->wants_open[rank] = true;
            if (!coll__waits_its_turn(operation)) /* else it is not absent */
                answer(tag, link, frame, false);
        } else if (!operation->let_go) {
            coll__tell_open(operation, rank);
            coll__operation_progress(operation);
        }
        return COLL_OK;
    case COLL__FRAME_TOKEN:
        if (!coll__hear_call(operation, rank, frame))
            return COLL_OK;
        if (!coll__agree_hear(&operation->agree, frame->message))
            return COLL_INVALID_ARGUMENT;
        coll__operation_progress(operation);
        return COLL_OK;
    case COLL__FRAME_SUPPLY:
    case COLL__FRAME_WATERMARK:
    case COLL__FRAME_GOODBYE:
    case COLL__FRAME_VOID:
    case COLL__FRAME_ALIVE:
    case COLL__FRAME_SEAL:
    case COLL__FRAME_REPORT:
    case COLL__FRAME_VERDICT:
    case COLL__FRAME_TAKEN:
    case COLL__FRAME_FETCH:
    case COLL__FRAME_CHUNK:
    case COLL__FRAME_BREAK:
    case COLL__FRAME_TYPE_END:
        break;
    }
    return COLL_INVALID_ARGUMENT;
}

/* ---- a frame has arrived -------------------------------------------------------------------- */

static bool is_of_round(const struct coll__frame *frame)
{
    return frame->type == COLL__FRAME_SEAL || frame->type == COLL__FRAME_VERDICT;
}

static coll_status dispatch(struct coll__link *link, const struct coll__frame *frame,
                            const uint8_t *payload, const struct coll__placement *placement)
{
    struct coll_group *group = coll__group_find(link->engine, frame->group);
    if (!group || (!group->committed && !group->prepared)) {
        coll__consume(link, frame);
        return COLL_OK;
    }
    if (frame->type == COLL__FRAME_REPORT || frame->type == COLL__FRAME_TAKEN) {
        if (!group->committed || !group->committed->fixed)
            coll__round_hear(group, link, frame, payload);
        return COLL_OK;
    }
    enum coll__fence fence = coll__seal_fence(&group->seal, frame->term, frame->view);
    if (fence == COLL__FENCE_LATER)
        return coll__keep_later(group, link, frame, payload);
    if (!group->committed) { /* of a view that can only be older than our first */
        coll__consume(link, frame);
        return COLL_OK;
    }
    /* A stranger to the view has links because of another. */
    uint32_t rank = coll__rank_of(group->committed, link->peer);
    bool member = rank < group->committed->size;
    if (frame->type == COLL__FRAME_GOODBYE && frame->length > 0)
        return COLL_INVALID_ARGUMENT;
    if (member && frame->type == COLL__FRAME_GOODBYE)
        coll__member_leaves(&group->committed->members[rank]);
    else if (member && frame->type == COLL__FRAME_BREAK)
        return fence == COLL__FENCE_NOW ? coll__fixed_hear(group, frame, payload) : COLL_OK;
    else if (member && is_of_round(frame) && !group->committed->fixed)
        coll__round_hear(group, link, frame, payload);
    else if (member && fence == COLL__FENCE_NOW)
        return hear(group, link, rank, frame, payload, placement);
    else
        coll__consume(link, frame);
    return COLL_OK;
}

void coll__take_later(struct coll_group *group)
{
    /* What is still to come is kept again, behind. A verdict may be among them: it closes links, with
     * which goes what they have sent, and calls this again. */
    for (uint32_t count = group->later_count; count > 0 && group->later; count--) {
        struct coll__early *early = group->later;
        group->later = early->next;
        group->later_count--;
        dispatch(early->link, &early->frame, early->payload, NULL);
        coll__give(group->engine, early);
    }
}

coll_status coll__deliver(struct coll__link *link, const struct coll__frame *frame,
                          const uint8_t *payload, const struct coll__placement *placement)
{
    if (coll__is_fetch(frame))
        return coll__fetch_deliver(link, frame, payload, placement);
    if (frame->type == COLL__FRAME_DATA && (frame->flags & COLL__FLAG_EAGER))
        link->eager_received += frame->length;
    if (frame->type == COLL__FRAME_VOID) {
        /* What the payload would have taken of the window, given back at once. */
        if ((frame->flags & COLL__FLAG_EAGER) && frame->offset <= COLL__PAYLOAD_MAX) {
            link->eager_received += frame->offset;
            link->eager_consumed += frame->offset;
        }
        return COLL_OK;
    }
    coll_status status = dispatch(link, frame, payload, placement);
    if (status != COLL_NO_MEMORY)
        return status;
    /* The frame counts as arrived and will not come again, so its operation cannot succeed. */
    struct coll_group *group = coll__group_find(link->engine, frame->group);
    struct coll__tag *order = group && group->committed
                                  ? coll__order_of_frame(group, link->peer, frame)
                                  : NULL;
    struct coll_operation *operation = order ? coll__operation_find(group, order, frame->operation)
                                             : NULL;
    if (operation)
        coll__operation_veto(operation, COLL_NO_MEMORY, (int32_t)group->committed->rank,
                             "out of memory for what a peer has sent");
    return COLL_OK;
}
