/* Reducing what several ranks have sent at once: their slices of a segment are kept until the one that
 * was missing has come, and are then reduced in the order that the plan says. Ranks may cut their slices
 * differently; what is reduced together is what all kept slices cover. This rank's own operand is its
 * input, or what an earlier step of the segment has made of it. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"
#include "reduce/copy.h"
#include "reduce/many.h"

static void free_kept(struct coll_engine *engine, struct coll__kept *kept)
{
    if (kept->link)
        kept->link->transport->release(kept->link, kept->hold);
    coll__give(engine, kept);
}

void coll__kept_drop(struct coll_operation *operation)
{
    for (uint32_t i = 0; operation->run && i < operation->plan->info.steps; i++) {
        struct coll__run *run = &operation->run[i];
        while (run->kept) {
            struct coll__kept *kept = run->kept;
            run->kept = kept->next;
            free_kept(operation->engine, kept);
        }
    }
}

static struct coll__kept *keep(struct coll_engine *engine, struct coll__link *link,
                               const uint8_t *payload, uint64_t length)
{
    uint64_t hold = link && link->transport->hold ? link->transport->hold(link, payload) : 0;
    struct coll__kept *kept = coll__take(engine, sizeof *kept + (hold ? 0 : length));
    if (!kept) {
        if (hold)
            link->transport->release(link, hold);
        return NULL;
    }
    kept->link = hold ? link : NULL;
    kept->hold = hold;
    kept->payload = hold ? payload : kept->copy;
    if (!hold)
        coll__copy(kept->copy, payload, length);
    return kept;
}

/* What a REDUCE reduces: where the operands are at some place of its segment, in the order of the ranks
 * that they are from. */
struct operands {
    uint32_t reduce; /* the step */
    uint32_t count, own; /* own: which of them is this rank's */
    const uint8_t **at; /* operation->sources */
};

/* The operands at `offset` of the segment; returns how far all of them reach. */
static uint64_t gather(struct coll_operation *operation, uint64_t offset, struct operands *operands)
{
    const struct coll__relation *relations = operation->plan->relations;
    const uint32_t reduce = operands->reduce;
    const struct coll_step *step = &operation->plan->steps[reduce];
    const struct coll__run *run = &operation->run[reduce];
    const uint8_t *own = step->source == COLL_FROM_INPUT
                             ? operation->input + run->input
                             : coll__output_of(operation, run) + run->output;
    uint64_t length = run->bytes - offset;
    operands->count = 0;
    for (int32_t i = relations[reduce].first_operand; i >= 0 && length > 0;
         i = relations[i].next_operand) {
        const struct coll__kept *kept = operation->run[i].kept;
        if (i == (int32_t)reduce)
            operands->own = operands->count;
        if (i != (int32_t)reduce || step->after >= 0) {
            if (!kept || kept->offset > offset)
                return 0;
            uint64_t left = kept->offset + kept->length - offset;
            length = left < length ? left : length;
        }
        const uint64_t skip = i == (int32_t)reduce ? 0 : offset - kept->offset;
        operands->at[operands->count++] = i == (int32_t)reduce
                                              ? own + offset
                                              : kept->payload +
                                                    (run->coded ? coll__wire_bytes(operation, skip)
                                                                : skip);
    }
    return length;
}

/* How many of the operands are from ranks before this one. */
static uint32_t before(const struct coll_operation *operation, uint32_t reduce, uint32_t rank)
{
    const struct coll_plan *plan = operation->plan;
    uint32_t count = 0;
    for (int32_t i = plan->relations[reduce].first_operand; i >= 0;
         i = plan->relations[i].next_operand)
        count += (i == (int32_t)reduce ? plan->info.rank : plan->steps[i].peer) < rank;
    return count;
}

/* `length` bytes, `skip` bytes behind where the operands are, beginning with rank `first`. */
static void reduce_from(struct coll_operation *operation, const struct operands *operands,
                        uint32_t first, uint64_t skip, uint64_t length,
                        const struct coll__sink *sinks, size_t sink_count)
{
    const uint32_t n = operands->count;
    const void **ordered = (const void **)(operands->at + operation->view->size);
    const struct coll__reduction reduction = {
        .reduce = operation->reduce,
        .divide = operation->plan->steps[operands->reduce].final ? operation->divide : NULL,
        .divisor = operation->view->size,
        .element = operation->element,
    };
    uint32_t from = before(operation, operands->reduce, first);
    for (uint32_t k = 0; k < n; k++)
        ordered[k] = operands->at[(from + k) % n] + skip;
    coll__reduce_many(&reduction, sinks, sink_count, ordered, n, length / operation->element);
}

/* The whole buffer is small, and goes to one place. The operands are `offset` bytes in it. */
static void reduce_all(struct coll_operation *operation, const struct operands *operands,
                       uint64_t offset, uint64_t skip, uint64_t length, uint8_t *output)
{
    uint32_t segments = operation->plan->info.segments;
    uint64_t first = offset + skip, last = first + length;
    for (uint32_t segment = 0; segment < segments; segment++) {
        uint64_t begin, end;
        coll_segment_range(operation->call.count, segments, segment, &begin, &end);
        begin *= operation->element;
        end *= operation->element;
        begin = begin > first ? begin : first;
        end = end < last ? end : last;
        const struct coll__sink sink = {.at = output + (begin - first)};
        if (begin < end)
            reduce_from(operation, operands, segment, begin - offset, end - begin, &sink, 1);
    }
}

/* Who is done with is let go. False: what an operand's link gave was not there any more. */
static bool advance(struct coll_operation *operation, uint32_t reduce, uint64_t upto)
{
    const struct coll__relation *relations = operation->plan->relations;
    bool intact = true;
    for (int32_t i = relations[reduce].first_operand; i >= 0; i = relations[i].next_operand) {
        struct coll__run *run = &operation->run[i];
        struct coll__kept *kept = run->kept;
        if (!kept)
            continue; /* the input */
        if (kept->link && !kept->link->transport->intact(kept->link))
            intact = false;
        if (kept->offset + kept->length == upto) {
            run->kept = kept->next;
            free_kept(operation->engine, kept);
        }
    }
    return intact;
}

/* `length` bytes of what a step reduces, `skip` bytes behind where the operands are; it is `at` in the
 * output, and in one piece. */
static void reduce_piece(struct coll_operation *operation, const struct operands *operands,
                         uint64_t offset, uint64_t skip, uint64_t length,
                         const struct coll__sink *sinks, size_t sink_count)
{
    const struct coll_step *step = &operation->plan->steps[operands->reduce];
    if (step->segment == COLL_ALL_SEGMENTS)
        reduce_all(operation, operands, offset, skip, length, sinks[0].at);
    else
        reduce_from(operation, operands, step->peer, skip, length, sinks, sink_count);
}

/* Where our input or our output is not in one piece: piece by piece, or by way of the cache if the
 * pieces are short. The result may take the place of our input there. */
static coll_status reduce_forms(struct coll_operation *operation, const struct operands *operands,
                                uint64_t offset, uint64_t length, uint8_t *staged,
                                bool stream_staged)
{
    const struct coll__run *run = &operation->run[operands->reduce];
    const bool given = operation->plan->steps[operands->reduce].source == COLL_FROM_INPUT;
    uint8_t *place = coll__output_of(operation, run);
    const struct coll__form *to = coll__output_form_of(operation, run);
    const struct coll__form *from = given ? &operation->input_form : to;
    const uint8_t *base = given ? operation->input : place;
    const uint64_t at = (given ? run->input : run->output) + offset;
    const bool coarse = coll__form_is_coarse(from, at, length) &&
                        coll__form_is_coarse(to, run->output + offset, length);
    const bool stream = operation->bytes >= COLL__STREAM_BYTES;
    uint8_t *packed = coarse ? NULL : coll__take(operation->engine, length);
    if (!coarse && !packed)
        return COLL_NO_MEMORY;
    const uint8_t **own = &operands->at[operands->own];
    if (!coarse)
        coll__form_gather(from, base, at, length, packed, false);
    for (uint64_t done = 0, part; done < length; done += part) {
        part = length - done;
        uint8_t *output = packed ? packed + done
                                 : coll__form_piece(to, place, run->output + offset + done, &part);
        const uint8_t *input = packed ? packed + done
                                      : coll__form_piece(from, (uint8_t *)base, at + done, &part);
        *own = input - done; /* the others are where the first byte is */
        const struct coll__sink sinks[2] = {
            {.at = output, .stream = stream && !packed},
            {.at = staged + (staged ? done : 0), .stream = stream_staged}};
        reduce_piece(operation, operands, offset, done, part, sinks, staged ? 2 : 1);
    }
    if (packed)
        coll__form_scatter(to, place, run->output + offset, length, packed, stream);
    coll__give(operation->engine, packed);
    return COLL_OK;
}

/* What a step adds that has come encoded. */
static void reduce_coded(struct coll_operation *operation, const struct operands *operands,
                         uint64_t offset, uint64_t length)
{
    const uint32_t n = operands->count;
    const uint8_t **ordered = operands->at + operation->view->size;
    const uint32_t from = before(operation, operands->reduce,
                                 operation->plan->steps[operands->reduce].peer);
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t operand = (from + k) % n;
        ordered[k] = operand == operands->own ? NULL : operands->at[operand];
    }
    coll__coding_reduce(operation, operands->reduce, offset, length, ordered, n);
}

/* Whether somebody is sent what a step makes. */
static bool is_sent(const struct coll_plan *plan, uint32_t index)
{
    int32_t i = plan->relations[index].first_dependent;
    while (i >= 0 && plan->steps[i].kind != COLL_STEP_SEND)
        i = plan->relations[i].next_dependent;
    return i >= 0;
}

static coll_status reduce_next(struct coll_operation *operation, const struct operands *operands,
                               uint64_t length)
{
    const uint32_t index = operands->reduce;
    struct coll__run *run = &operation->run[index];
    struct coll__host *host = &operation->engine->host;
    uint64_t offset = run->arrived, at = run->output + offset;
    if (operation->plan->relations[index].first_write && !run->scratch)
        COLL_TRY(coll__execute_save(operation, at, length));
    /* Where the others read it, and to the caller, at once. */
    const struct coll__transport *local = !run->coded && is_sent(operation->plan, index)
                                              ? operation->view->local
                                              : NULL;
    bool stream = false;
    uint8_t *staged = local ? local->stage(host, length, &stream) : NULL;
    const struct coll__sink sinks[2] = {{.at = coll__output_of(operation, run) + at,
                                         .stream = operation->bytes >= COLL__STREAM_BYTES},
                                        {.at = staged, .stream = stream}};
    coll_status status = COLL_OK;
    struct coll__fpenv env;
    coll__fpenv_enter(&env);
    if (run->coded)
        reduce_coded(operation, operands, offset, length);
    else if (coll__form_is_plain(&operation->input_form) &&
             coll__form_is_plain(coll__output_form_of(operation, run)))
        reduce_piece(operation, operands, offset, 0, length, sinks, staged ? 2 : 1);
    else
        status = reduce_forms(operation, operands, offset, length, staged, stream);
    coll__fpenv_leave(&env);
    if (stream || operation->bytes >= COLL__STREAM_BYTES)
        coll__stream_fence();
    run->arrived += length;
    coll__reached(operation, COLL_PHASE_BETWEEN);
    if (!advance(operation, index, run->arrived))
        status = COLL_CLOSED;
    else if (status == COLL_OK)
        status = coll__execute_follow(operation, index, offset, length, staged);
    if (staged)
        local->unstage(host, staged);
    return status;
}

static void insert(struct coll__run *run, struct coll__kept *kept, uint64_t offset, uint64_t length)
{
    struct coll__kept **at = &run->kept;
    kept->offset = offset;
    kept->length = length;
    while (*at && (*at)->offset < offset)
        at = &(*at)->next;
    kept->next = *at;
    *at = kept;
}

/* What all have given. */
static coll_status reduce_all_there_is(struct coll_operation *operation, uint32_t reduce)
{
    struct operands operands = {.reduce = reduce, .at = operation->sources};
    uint64_t together;
    while ((together = gather(operation, operation->run[reduce].arrived, &operands)) > 0)
        COLL_TRY(reduce_next(operation, &operands, together));
    return COLL_OK;
}

coll_status coll__kept_add(struct coll_operation *operation, uint32_t index,
                           struct coll__link *link, uint64_t offset, uint64_t length,
                           const uint8_t *payload, uint64_t payload_bytes)
{
    struct coll__kept *kept = keep(operation->engine, link, payload, payload_bytes);
    if (!kept)
        return COLL_NO_MEMORY;
    insert(&operation->run[index], kept, offset, length);
    return reduce_all_there_is(operation, (uint32_t)operation->plan->relations[index].reduce);
}

coll_status coll__kept_own(struct coll_operation *operation, uint32_t index, uint64_t offset,
                           uint64_t length)
{
    struct coll__kept *kept = coll__take(operation->engine, sizeof *kept);
    if (!kept)
        return COLL_NO_MEMORY;
    *kept = (struct coll__kept){0};
    insert(&operation->run[index], kept, offset, length);
    return reduce_all_there_is(operation, index);
}
