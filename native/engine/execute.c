/* Running a plan: slices of the segments go out as soon as the bytes they depend on are there,
 * and what arrives is reduced or stored at once. Ranges are inherited: what came in as one slice
 * goes on as one slice, so peers need not agree on a slice size, and the result does not depend
 * on it. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"
#include "reduce/copy.h"
#include "wire/crc32c.h"

/* Of one step's result some may be sent encoded and some not. */
enum { CODED_FAN = 1 << 30 };

static uint32_t choose_slice(const struct coll_operation *operation, uint64_t segment_bytes)
{
    uint32_t chosen = operation->engine->host.options.slice_bytes;
    if (chosen == 0) {
        /* Eight slices keep the pipeline busy; large ones amortise the system calls. */
        chosen = 32 << 10;
        while (chosen < COLL__SLICE_MAX && segment_bytes > (uint64_t)chosen * 8)
            chosen *= 2;
    }
    if (operation->small && chosen > COLL__SMALL_BYTES)
        chosen = COLL__SMALL_BYTES;
    const uint32_t unit = operation->coding ? (uint32_t)operation->coding->granule
                                            : operation->element;
    return chosen < unit ? unit : chosen / unit * unit;
}

/* A small payload is copied, since it outlives the operation: it may have to be sent again after it,
 * and to a link that takes its copy at once only if it is not taken at once. */
static coll_status own(struct coll_operation *operation, struct coll__slice *slice)
{
    struct coll_engine *engine = operation->engine;
    slice->frame.length = (uint32_t)(slice->coded || slice->ready
                                         ? coll__wire_bytes(operation, slice->range)
                                         : slice->range);
    uint8_t *owned = coll__take(engine, slice->frame.length);
    if (!owned)
        return COLL_NO_MEMORY;
    slice->summed = !engine->host.options.no_checksums;
    if (slice->summed)
        slice->frame.payload_crc = coll__slice_copy_summed(slice, owned);
    else
        coll__slice_copy(slice, slice->frame.length, owned, false);
    coll__slice_return(slice);
    slice->form = NULL;
    slice->ready |= slice->coded;
    slice->coded = 0;
    slice->payload = slice->owned = owned;
    return COLL_OK;
}

/* What a slice of a SEND step, from `offset` of its segment, has as its payload. */
static void point(struct coll_operation *operation, uint32_t index, uint64_t offset,
                  const uint8_t *staged, struct coll__slice *slice)
{
    const struct coll_step *step = &operation->plan->steps[index];
    const struct coll__run *run = &operation->run[index];
    const bool input = step->source == COLL_FROM_INPUT;
    const struct coll__form *form = input ? &operation->input_form
                                          : coll__output_form_of(operation, run);
    const uint8_t *made = run->coded && step->after >= 0
                              ? coll__coding_made(operation, (uint32_t)step->after, offset)
                              : NULL;
    slice->step = index;
    slice->ready = made != NULL;
    slice->coded = run->coded && !made;
    slice->form = made || (!run->coded && (coll__form_is_plain(form) || staged)) ? NULL : form;
    slice->payload = made    ? made
                     : input ? operation->input + run->input + offset
                             : coll__output_of(operation, run) + run->output + offset;
    slice->fan = (uint32_t)(operation->plan->relations[index].fan + 1);
    slice->fan |= slice->fan && run->coded ? CODED_FAN : 0;
}

/* Queue bytes [offset, offset + length) of a SEND step's segment. */
static coll_status send_range(struct coll_operation *operation, uint32_t index, uint64_t offset,
                              uint64_t length, uint8_t *staged)
{
    struct coll_engine *engine = operation->engine;
    const struct coll_step *step = &operation->plan->steps[index];
    struct coll__flow *flow = &operation->flows[step->peer];
    const struct coll__transport *transport = flow->link->transport;
    /* Memory has no round trips that more would have to be under way for. */
    int32_t paced = operation->small || !operation->view->local
                        ? -1
                        : operation->plan->relations[index].answer;
    bool owns = operation->small && !transport->copies;
    if (operation->run[index].coded)
        staged = NULL; /* it holds what is not encoded */
    while (length > 0) {
        bool whole = !operation->small || length < operation->slice_bytes;
        uint64_t part = whole ? length : operation->slice_bytes;
        struct coll__slice *slice = coll__slice_new(engine);
        if (!slice)
            return COLL_NO_MEMORY;
        coll__operation_frame(operation, step->peer, COLL__FRAME_DATA, &slice->frame);
        slice->frame.message = step->message;
        slice->frame.offset = offset;
        slice->operation = operation;
        operation->references++;
        slice->range = part;
        point(operation, index, offset, staged, slice);
        slice->paced = paced < 0 ? NULL : &operation->run[paced];
        if (owns && own(operation, slice) != COLL_OK) {
            coll__slice_release(&engine->host, slice);
            return COLL_NO_MEMORY;
        }
        if (!owns)
            coll__slice_borrow(slice, &operation->borrowed);
        if (staged) {
            slice->staged = staged;
            slice->stager = transport;
            transport->restage(&engine->host, staged);
        }
        coll__flow_push(flow, slice, step->after >= 0);
        offset += part;
        length -= part;
    }
    transport->kick(flow->link);
    /* What could not be copied at once outlives the operation all the same. */
    for (struct coll__slice *slice = operation->small ? flow->head : NULL; slice;
         slice = slice->next)
        if (!slice->owned)
            COLL_TRY(own(operation, slice));
    return COLL_OK;
}

/* Whether a step is the first to put something of its own in the output. */
static bool begins(const struct coll_step *step)
{
    return (step->kind == COLL_STEP_REDUCE || step->kind == COLL_STEP_RECV_REDUCE) &&
           step->source == COLL_FROM_INPUT;
}

uint64_t coll__execute_scratch(const struct coll_operation *operation)
{
    const struct coll_plan *plan = operation->plan;
    struct coll__run run = {0};
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < plan->info.steps; i++) {
        if (begins(&plan->steps[i])) {
            coll__layout_segment(operation, plan->info.segments, plan->steps[i].segment, &run);
            bytes += run.scratch ? run.bytes : 0;
        }
    }
    return bytes;
}

/* There what is reduced here for others lies end to end. */
static void place_in_scratch(struct coll_operation *operation)
{
    const struct coll_plan *plan = operation->plan;
    uint64_t at = 0;
    for (uint32_t i = 0; i < plan->info.steps; i++) {
        if (operation->run[i].scratch && begins(&plan->steps[i])) {
            operation->run[i].output = at;
            at += operation->run[i].bytes;
        }
    }
    for (uint32_t i = 0; i < plan->info.steps; i++) {
        uint32_t first = i;
        while (operation->run[i].scratch && plan->steps[first].after >= 0)
            first = (uint32_t)plan->steps[first].after;
        operation->run[i].output = operation->run[first].output;
    }
}

coll_status coll__execute_start(struct coll_operation *operation)
{
    const struct coll_plan *plan = operation->plan;
    uint32_t steps = plan->info.steps;
    if (steps == 0)
        return COLL_OK;
    /* One block: the steps' progress, then the scratch of kept.c. */
    operation->run = coll__take_zeroed(operation->engine,
                                       steps * sizeof *operation->run +
                                           2 * operation->view->size * sizeof *operation->sources);
    if (!operation->run)
        return COLL_NO_MEMORY;
    operation->sources = (const uint8_t **)(operation->run + steps);
    uint64_t longest = 0;
    for (uint32_t i = 0; i < steps; i++) {
        const struct coll_step *step = &plan->steps[i];
        struct coll__run *run = &operation->run[i];
        coll__layout_segment(operation, plan->info.segments, step->segment, run);
        if (run->bytes > longest)
            longest = run->bytes;
        if (coll__step_receives(step))
            operation->pending_bytes += run->bytes;
    }
    if (coll__reduces(operation->call.kind) && operation->scratch)
        place_in_scratch(operation);
    if (operation->coding)
        COLL_TRY(coll__coding_start(operation));
    operation->slice_bytes = choose_slice(operation, longest);
    if (operation->in_place_atomic && operation->pending_bytes > 0)
        COLL_TRY(operation->series ? coll__series_shadow(operation)
                                   : coll__shadow_take(operation->engine, operation->output_bytes,
                                                       &operation->shadow));
    for (uint32_t i = 0; i < steps; i++)
        if (plan->steps[i].kind == COLL_STEP_SEND && plan->steps[i].after < 0)
            COLL_TRY(send_range(operation, i, 0, operation->run[i].bytes, NULL));
    return COLL_OK;
}

/* The receiving step that a DATA frame belongs to, or -1 if it fits none; *length: how much of the
 * segment it has. */
static int32_t step_of(const struct coll_operation *operation, uint32_t rank,
                       const struct coll__frame *frame, uint64_t *length)
{
    const struct coll_plan *plan = operation->plan;
    for (uint32_t i = 0; operation->run && i < plan->info.steps; i++) {
        const struct coll_step *step = &plan->steps[i];
        if (!coll__step_receives(step) || step->peer != rank || step->message != frame->message)
            continue;
        const struct coll__run *run = &operation->run[i];
        const uint64_t unit = operation->coding ? operation->coding->granule : operation->element;
        if (frame->length == 0 || frame->offset > run->bytes || frame->offset % unit != 0)
            return -1;
        *length = frame->length;
        if (run->coded &&
            !coll__wire_covers(operation, run->bytes - frame->offset, frame->length, length))
            return -1;
        if (*length > run->bytes - frame->offset || *length > run->bytes - run->arrived ||
            (*length % unit != 0 && *length != run->bytes - frame->offset))
            return -1;
        return (int32_t)i;
    }
    return -1;
}

coll_status coll__execute_save(struct coll_operation *operation, uint64_t offset, uint64_t length)
{
    if (!operation->shadow)
        return COLL_OK;
    /* A slice whose connection broke half-way is placed twice; the second time its place holds no
     * input any more. */
    for (uint32_t i = operation->saved_count; operation->placed_again && i-- > 0;)
        if (operation->saved[i].offset == offset && operation->saved[i].length == length)
            return COLL_OK;
    if (operation->saved_count == operation->saved_capacity) {
        uint32_t capacity = operation->saved_capacity ? operation->saved_capacity * 2 : 16;
        struct coll__saved *saved = coll__take(operation->engine,
                                               capacity * sizeof *operation->saved);
        if (!saved)
            return COLL_NO_MEMORY;
        if (operation->saved)
            memcpy(saved, operation->saved, operation->saved_count * sizeof *saved);
        coll__give(operation->engine, operation->saved);
        operation->saved = saved;
        operation->saved_capacity = capacity;
    }
    uint8_t *shadow = operation->shadow + offset;
    const struct coll__form *form = &operation->output_form;
    if (!coll__form_is_coarse(form, offset, length)) {
        coll__form_gather(form, operation->output, offset, length, shadow, false);
    } else {
        for (uint64_t done = 0, part; done < length; done += part) {
            part = length - done;
            const uint8_t *from = coll__form_piece(form, operation->output, offset + done, &part);
            if (operation->bytes >= COLL__STREAM_BYTES)
                coll__stream(shadow + done, from, part);
            else
                coll__copy(shadow + done, from, part);
        }
        if (operation->bytes >= COLL__STREAM_BYTES)
            coll__stream_fence();
    }
    operation->saved[operation->saved_count++] = (struct coll__saved){offset, length};
    return COLL_OK;
}

void coll__execute_restore(struct coll_operation *operation)
{
    for (uint32_t i = 0; i < operation->saved_count; i++) {
        const struct coll__saved *saved = &operation->saved[i];
        coll__form_scatter(&operation->output_form, operation->output, saved->offset, saved->length,
                           operation->shadow + saved->offset, false);
    }
    operation->saved_count = 0;
}

void coll__execute_place(struct coll_operation *operation, uint32_t rank,
                         const struct coll__frame *frame, struct coll__placement *placement)
{
    uint64_t length;
    int32_t index = step_of(operation, rank, frame, &length);
    if (index < 0 || operation->plan->steps[index].kind != COLL_STEP_RECV ||
        operation->run[index].coded)
        return;
    const struct coll__run *run = &operation->run[index];
    uint64_t at = run->output + frame->offset;
    uint8_t *place = coll__form_whole(coll__output_form_of(operation, run),
                                      coll__output_of(operation, run), at, frame->length);
    if (!place)
        return;
    if (operation->plan->relations[index].first_write && !run->scratch &&
        coll__execute_save(operation, at, frame->length) != COLL_OK)
        return; /* not in place, then: delivery tries again and reports */
    placement->operation = operation;
    placement->direct = place;
}

coll_status coll__execute_follow(struct coll_operation *operation, uint32_t index, uint64_t offset,
                                 uint64_t length, uint8_t *staged)
{
    const struct coll__relation *of = operation->plan->relations;
    const struct coll_step *steps = operation->plan->steps;
    for (int32_t i = of[index].first_dependent; i >= 0; i = of[i].next_dependent)
        if (steps[i].kind == COLL_STEP_SEND)
            COLL_TRY(send_range(operation, (uint32_t)i, offset, length, staged));
    /* Which overwrites what was sent, if that was copied. */
    for (int32_t i = of[index].first_dependent; i >= 0; i = of[i].next_dependent)
        if (steps[i].kind == COLL_STEP_REDUCE)
            COLL_TRY(coll__kept_own(operation, (uint32_t)i, offset, length));
    return COLL_OK;
}

/* output = op(payload, input), all in one piece. */
static void add_piece(const struct coll_operation *operation, const struct coll_step *step,
                      uint8_t *output, const uint8_t *input, const uint8_t *payload,
                      uint64_t length)
{
    size_t count = length / operation->element;
    struct coll__fpenv env;
    coll__fpenv_enter(&env);
    operation->reduce(output, payload, input, count);
    if (step->final && operation->divide)
        operation->divide(output, count, operation->view->size);
    coll__fpenv_leave(&env);
}

/* The same wherever the arrays lie: piece by piece, or by way of the cache if the pieces are short. */
static coll_status add(struct coll_operation *operation, uint32_t index, uint64_t offset,
                       uint64_t length, const uint8_t *payload)
{
    struct coll_engine *engine = operation->engine;
    const struct coll_step *step = &operation->plan->steps[index];
    const struct coll__run *run = &operation->run[index];
    const uint64_t at = run->output + offset, input_at = run->input + offset;
    uint8_t *base = coll__output_of(operation, run);
    const struct coll__form *from = &operation->input_form;
    const struct coll__form *to = coll__output_form_of(operation, run);
    if (coll__form_is_coarse(from, input_at, length) && coll__form_is_coarse(to, at, length)) {
        for (uint64_t done = 0, part; done < length; done += part) {
            part = length - done;
            uint8_t *output = coll__form_piece(to, base, at + done, &part);
            const uint8_t *input = coll__form_piece(from, (uint8_t *)operation->input,
                                                    input_at + done, &part);
            add_piece(operation, step, output, input, payload + done, part);
        }
        return COLL_OK;
    }
    uint8_t *packed = coll__take(engine, length);
    if (!packed)
        return COLL_NO_MEMORY;
    coll__form_gather(from, operation->input, input_at, length, packed, false);
    uint8_t *place = coll__form_whole(to, base, at, length);
    add_piece(operation, step, place ? place : packed, packed, payload, length);
    if (!place)
        coll__form_scatter(to, base, at, length, packed, operation->bytes >= COLL__STREAM_BYTES);
    coll__give(engine, packed);
    return COLL_OK;
}

/* One slice of a RECV or a RECV_REDUCE. */
static coll_status take(struct coll_operation *operation, uint32_t index, uint64_t offset,
                        uint64_t length, const uint8_t *payload, bool placed)
{
    const struct coll_step *step = &operation->plan->steps[index];
    const struct coll__run *run = &operation->run[index];
    uint64_t at = run->output + offset;
    uint8_t *base = coll__output_of(operation, run);
    const struct coll__form *form = coll__output_form_of(operation, run);
    if (run->coded && step->kind == COLL_STEP_RECV)
        return coll__coding_take(operation, index, offset, length, payload);
    if (operation->plan->relations[index].first_write && !placed && !run->scratch)
        COLL_TRY(coll__execute_save(operation, at, length));
    if (run->coded) {
        coll__coding_reduce(operation, index, offset, length, (const uint8_t *[]){payload, NULL},
                            2);
        return COLL_OK;
    }
    if (step->kind == COLL_STEP_RECV_REDUCE)
        return add(operation, index, offset, length, payload);
    if (payload != coll__form_whole(form, base, at, length))
        coll__form_scatter(form, base, at, length, payload, operation->bytes >= COLL__STREAM_BYTES);
    return COLL_OK;
}

coll_status coll__execute_data(struct coll_operation *operation, struct coll__link *link,
                               uint32_t rank, const struct coll__frame *frame,
                               const uint8_t *payload, const struct coll__placement *placement)
{
    uint64_t length;
    int32_t index = step_of(operation, rank, frame, &length);
    if (index < 0)
        return COLL_INVALID_ARGUMENT;
    uint32_t kind = operation->plan->steps[index].kind;
    struct coll__run *run = &operation->run[index];
    coll__reached(operation,
                  kind == COLL_STEP_RECV ? COLL_PHASE_ALL_GATHER : COLL_PHASE_REDUCE_SCATTER);
    if (kind == COLL_STEP_RECV_KEEP)
        COLL_TRY(coll__kept_add(operation, (uint32_t)index, link, frame->offset, length, payload,
                                frame->length));
    else
        COLL_TRY(take(operation, (uint32_t)index, frame->offset, length, payload,
                      placement && placement->direct));
    if (link && link->transport->intact && !link->transport->intact(link))
        return COLL_CLOSED;
    run->arrived += length;
    operation->pending_bytes -= length;
    if (kind == COLL_STEP_RECV_REDUCE)
        coll__reached(operation, COLL_PHASE_BETWEEN);
    return coll__execute_follow(operation, (uint32_t)index, frame->offset, length, NULL);
}
