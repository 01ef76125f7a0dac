/* What peers tell each other about operations: where an arriving frame belongs, what is answered,
 * and how a difference between two calls is noticed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"
#include "wire/bytes.h"

enum { AHEAD_MAX = 1 << 20 }; /* operations that a peer may be ahead of us in one tag */

void coll__peer_consumed(struct coll__link *link, uint64_t consumed)
{
    if (consumed > link->eager_consumed_by_peer && consumed <= link->eager_sent)
        link->eager_consumed_by_peer = consumed;
}

/* The payload has left our window. */
static void consume(struct coll__link *link, const struct coll__frame *frame)
{
    if (frame->flags & COLL__FLAG_EAGER)
        link->eager_consumed += frame->length;
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
    coll__operation_frame(operation, COLL__FRAME_OPEN, &frame);
    tell(operation, rank, &frame);
}

void coll__ask(struct coll_operation *operation, uint32_t rank)
{
    struct coll__frame frame;
    coll__operation_frame(operation, COLL__FRAME_QUERY, &frame);
    tell(operation, rank, &frame);
}

void coll__tell_tokens(struct coll_operation *operation)
{
    uint32_t round, rank;
    while (coll__agree_next(&operation->agree, &round, &rank)) {
        struct coll__frame frame;
        coll__operation_frame(operation, COLL__FRAME_TOKEN, &frame);
        frame.message = round;
        tell(operation, rank, &frame);
        coll__reached(operation, COLL_PHASE_TOKENS);
    }
}

static void send_abort(struct coll__link *link, struct coll__frame *frame, coll_status status,
                       int32_t culprit, const char *text)
{
    uint8_t payload[COLL__ABORT_BYTES + COLL__ABORT_TEXT_MAX];
    struct coll__abort abort = {
        .status = status,
        .culprit = culprit,
        .text = text,
        .text_length = (uint32_t)strlen(text),
    };
    frame->type = COLL__FRAME_ABORT;
    coll__send_control(link, frame, payload, coll__abort_encode(&abort, payload));
}

void coll__tell_abort(struct coll_operation *operation, coll_status status, int32_t culprit,
                      const char *text)
{
    struct coll__frame frame;
    coll__operation_frame(operation, COLL__FRAME_ABORT, &frame);
    for (uint32_t rank = 0; rank < operation->view->size; rank++)
        if (operation->view->members[rank].link)
            send_abort(operation->view->members[rank].link, &frame, status, culprit, text);
}

/* ---- hearing ---------------------------------------------------------------------------- */

static void mismatch(struct coll_operation *operation)
{
    struct coll__view *view = operation->view;
    char text[COLL__TEXT], call[128], name[80];
    coll__name_describe(operation, name, sizeof name);
    int length = snprintf(text, sizeof text, "ranks called different things as %s:", name);
    const char *separator = " ";
    int32_t culprit = -1;
    for (uint32_t rank = 0; rank < view->size; rank++) {
        bool mine = rank == view->rank;
        if (!mine && !operation->seen[rank])
            continue;
        if (!mine && !coll__descriptor_equal(&operation->calls[rank], &operation->call) &&
            culprit < 0)
            culprit = (int32_t)rank;
        coll__call_describe(mine ? &operation->call : &operation->calls[rank], call, sizeof call);
        if (length < (int)sizeof text)
            length += snprintf(text + length, sizeof text - (size_t)length,
                               "%s'%s' (rank %u) called %s", separator, view->members[rank].name,
                               rank, call);
        separator = ", ";
    }
    if (length < (int)sizeof text)
        snprintf(text + length, sizeof text - (size_t)length,
                 "; every rank must make the same calls in the same order");
    coll__operation_fail(operation, COLL_MISMATCH, culprit, text);
}

/* Rank has issued the operation, with this call. False: the calls differ, and it has failed. */
static bool hear_call(struct coll_operation *operation, uint32_t rank,
                      const struct coll__frame *frame)
{
    operation->seen[rank] = true;
    operation->calls[rank] = frame->call;
    if (operation->agree.phase == COLL__ABSENT ||
        coll__descriptor_equal(&frame->call, &operation->call))
        return true;
    mismatch(operation);
    return false;
}

bool coll__check_calls(struct coll_operation *operation)
{
    for (uint32_t rank = 0; rank < operation->view->size; rank++) {
        if (operation->seen[rank] &&
            !coll__descriptor_equal(&operation->calls[rank], &operation->call)) {
            mismatch(operation);
            return false;
        }
    }
    return true;
}

static coll_status keep_early(struct coll_operation *operation, struct coll__link *link,
                              const struct coll__frame *frame, const uint8_t *payload)
{
    /* Only what the sender had the right to send without credit is kept. */
    if (!(frame->flags & COLL__FLAG_EAGER) ||
        link->eager_received - link->eager_consumed > COLL__EAGER_WINDOW)
        return COLL_INVALID_ARGUMENT;
    struct coll__early *early = malloc(sizeof *early + frame->length);
    if (!early)
        return COLL_NO_MEMORY;
    early->next = NULL;
    early->link = link;
    early->frame = *frame;
    memcpy(early->payload, payload, frame->length);
    *operation->early_tail = early;
    operation->early_tail = &early->next;
    return COLL_OK;
}

coll_status coll__take_early(struct coll_operation *operation)
{
    while (operation->early && !operation->finished) {
        struct coll__early *early = operation->early;
        operation->early = early->next;
        if (!operation->early)
            operation->early_tail = &operation->early;
        uint32_t rank = coll__rank_of(operation->view, early->link->peer);
        coll_status status = coll__execute_data(operation, rank, &early->frame, early->payload,
                                                NULL);
        consume(early->link, &early->frame);
        operation->uses[rank].received_bytes += early->frame.length + COLL__FRAME_BYTES;
        free(early);
        if (status != COLL_OK)
            return status;
    }
    return COLL_OK;
}

void coll__drop_early(struct coll_operation *operation)
{
    while (operation->early) {
        struct coll__early *early = operation->early;
        operation->early = early->next;
        consume(early->link, &early->frame);
        free(early);
    }
    operation->early_tail = &operation->early;
}

static coll_status hear_data(struct coll_operation *operation, struct coll__link *link,
                             uint32_t rank, const struct coll__frame *frame, const uint8_t *payload,
                             const struct coll__placement *placement)
{
    if (!hear_call(operation, rank, frame)) {
        consume(link, frame);
        return COLL_OK;
    }
    if (operation->agree.phase == COLL__ABSENT)
        return keep_early(operation, link, frame, payload);
    uint64_t now = coll__now();
    if (operation->info.first_byte_ns == 0)
        operation->info.first_byte_ns = now;
    operation->info.last_byte_ns = now;
    operation->uses[rank].received_bytes += frame->length + COLL__FRAME_BYTES;
    coll_status status = coll__execute_data(operation, rank, frame, payload, placement);
    consume(link, frame);
    if (status == COLL_NO_MEMORY) {
        coll__operation_fail(operation, COLL_NO_MEMORY, (int32_t)operation->view->rank,
                             "out of memory in the middle of an operation");
        return COLL_OK;
    }
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
    if (frame->flags & COLL__FLAG_DONE)
        return;
    if (!hear_call(operation, rank, frame))
        return;
    operation->flows[rank].credit = true;
    if (operation->flows[rank].head)
        operation->flows[rank].link->transport->kick(operation->flows[rank].link);
}

/* A QUERY about an operation that is not issued here: it is over, or not there yet. */
static void answer(struct coll__view *view, struct coll__link *link,
                   const struct coll__frame *asked, bool over)
{
    struct coll_group *group = view->group;
    struct coll__frame frame = *asked;
    struct coll__tag *tag = coll__tag_find(view, asked->tag);
    frame.watermark = tag ? tag->settled : 0;
    if (view == group->committed && group->broken != COLL_OK &&
        asked->operation > frame.watermark) {
        send_abort(link, &frame, group->broken, group->broken_culprit, group->broken_text);
        return;
    }
    frame = (struct coll__frame){
        .type = COLL__FRAME_OPEN,
        .flags = over ? COLL__FLAG_DONE : COLL__FLAG_ABSENT,
        .group = asked->group,
        .tag = asked->tag,
        .term = asked->term,
        .view = asked->view,
        .operation = asked->operation,
        .attempt = asked->attempt,
        .offset = tag ? tag->following - 1 : 0,
    };
    coll__send_control(link, &frame, NULL, 0);
}

static void hear_abort(struct coll__view *view, const struct coll__frame *frame,
                       const uint8_t *payload)
{
    struct coll__abort abort;
    char text[COLL__ABORT_TEXT_MAX + 1];
    if (coll__abort_decode(payload, frame->length, &abort) != COLL_OK)
        return;
    memcpy(text, abort.text, abort.text_length);
    text[abort.text_length] = '\0';
    if (view == view->group->committed) {
        coll__group_break(view->group, (coll_status)abort.status, abort.culprit, text, frame);
    } else if (view->aborted == COLL_OK) {
        view->aborted = (coll_status)abort.status;
        view->aborted_culprit = abort.culprit;
        snprintf(view->aborted_text, sizeof view->aborted_text, "%.*s", COLL__TEXT - 1, text);
    }
}

static coll_status hear_goodbye(struct coll__view *view, struct coll__link *link, uint32_t rank,
                                const struct coll__frame *frame, const uint8_t *payload)
{
    struct coll__member *member = &view->members[rank];
    if (frame->length % 12 != 0)
        return COLL_INVALID_ARGUMENT;
    uint32_t count = frame->length / 12;
    struct coll__farewell *farewells = calloc(count + 1, sizeof *farewells);
    if (!farewells)
        return COLL_NO_MEMORY;
    for (uint32_t i = 0; i < count; i++) {
        farewells[i].tag = coll__get32(payload + (size_t)i * 12);
        farewells[i].last = coll__get64(payload + (size_t)i * 12 + 4);
    }
    free(member->farewells);
    member->farewells = farewells;
    member->farewell_count = count;
    link->goodbye = true;
    return COLL_OK;
}

void coll__place(struct coll__link *link, const struct coll__frame *frame,
                 struct coll__placement *placement)
{
    *placement = (struct coll__placement){0};
    if (frame->type != COLL__FRAME_DATA)
        return;
    struct coll__view *view = coll__frame_view(link->engine, frame);
    if (!view || view != view->group->committed)
        return;
    uint32_t rank = coll__rank_of(view, link->peer);
    struct coll_operation *operation = coll__operation_find(view, frame->tag, frame->operation);
    if (rank < view->size && operation && operation->agree.phase == COLL__RUNNING &&
        frame->attempt == operation->attempt &&
        coll__descriptor_equal(&frame->call, &operation->call))
        coll__execute_place(operation, rank, frame, placement);
}

void coll__unplace(struct coll__placement *placement)
{
    if (placement->operation)
        placement->operation->placed_again = true;
    *placement = (struct coll__placement){0};
}

static coll_status dispatch(struct coll__link *link, const struct coll__frame *frame,
                            const uint8_t *payload, const struct coll__placement *placement)
{
    struct coll__view *view = coll__frame_view(link->engine, frame);
    uint32_t rank = view ? coll__rank_of(view, link->peer) : 0;
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
    /* Fenced: an older view's frame never reaches a newer one. */
    if (!view || rank == view->size) {
        consume(link, frame);
        return COLL_OK;
    }
    if (frame->type == COLL__FRAME_GOODBYE)
        return hear_goodbye(view, link, rank, frame, payload);
    if (frame->type == COLL__FRAME_ABORT) {
        hear_abort(view, frame, payload);
        return COLL_OK;
    }
    struct coll__tag *tag = coll__tag_find(view, frame->tag);
    if (!tag)
        return COLL_NO_MEMORY;
    struct coll_operation *operation = coll__operation_find(view, frame->tag, frame->operation);
    bool over = !operation && frame->operation < tag->following;
    bool broken = view == view->group->committed && view->group->broken != COLL_OK;
    if (over || (broken && !operation)) {
        if (frame->type == COLL__FRAME_QUERY)
            answer(view, link, frame, over);
        consume(link, frame);
        return COLL_OK;
    }
    if (frame->type == COLL__FRAME_OPEN && (frame->flags & COLL__FLAG_ABSENT) && !operation)
        return COLL_OK;
    if (!operation) {
        if (frame->operation - tag->following > AHEAD_MAX)
            return COLL_INVALID_ARGUMENT;
        COLL_TRY(coll__operation_new(view, frame->tag, frame->operation, &operation));
    }
    if (frame->attempt != operation->attempt) {
        consume(link, frame);
        return COLL_OK;
    }
    switch ((enum coll__frame_type)frame->type) {
    case COLL__FRAME_DATA:
        return hear_data(operation, link, rank, frame, payload, placement);
    case COLL__FRAME_OPEN:
        hear_open(operation, rank, frame);
        return COLL_OK;
    case COLL__FRAME_QUERY:
        if (!hear_call(operation, rank, frame))
            return COLL_OK;
        if (operation->agree.phase == COLL__ABSENT) {
            operation->wants_open[rank] = true;
            answer(view, link, frame, false);
        } else {
            coll__tell_open(operation, rank);
        }
        return COLL_OK;
    case COLL__FRAME_TOKEN:
        if (!hear_call(operation, rank, frame))
            return COLL_OK;
        if (!coll__agree_hear(&operation->agree, frame->message))
            return COLL_INVALID_ARGUMENT;
        coll__operation_progress(operation);
        return COLL_OK;
    case COLL__FRAME_ABORT:
    case COLL__FRAME_GOODBYE:
    case COLL__FRAME_VOID:
    case COLL__FRAME_ALIVE:
    case COLL__FRAME_TYPE_END:
        break;
    }
    return COLL_INVALID_ARGUMENT;
}

coll_status coll__deliver(struct coll__link *link, const struct coll__frame *frame,
                          const uint8_t *payload, const struct coll__placement *placement)
{
    coll_status status = dispatch(link, frame, payload, placement);
    if (status != COLL_NO_MEMORY)
        return status;
    /* The frame counts as arrived and will not come again, so its operation cannot succeed. */
    struct coll__view *view = coll__frame_view(link->engine, frame);
    if (view && view == view->group->committed)
        coll__group_break(view->group, COLL_NO_MEMORY, (int32_t)view->rank,
                          "out of memory for what a peer has sent", NULL);
    return COLL_OK;
}
