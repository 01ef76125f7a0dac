/* Reducing what all ranks have sent at once: their slices of a segment are kept until the one that
 * was missing has come, and are then reduced in the canonical order. Ranks may cut their slices
 * differently; what is reduced together is what all kept slices cover. */
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

/* Where the ranks' inputs are at `offset` of the REDUCE step's segment, by rank, and how far all of
 * them reach. */
static uint64_t gather(struct coll_operation *operation, uint32_t reduce, uint64_t offset,
                       const uint8_t **sources)
{
    const struct coll_plan *plan = operation->plan;
    uint64_t length = operation->run[reduce].bytes - offset;
    sources[operation->view->rank] = operation->input + operation->run[reduce].input + offset;
    for (uint32_t i = 0; i < plan->info.steps && length > 0; i++) {
        const struct coll__run *run = &operation->run[i];
        const struct coll__kept *kept = run->kept;
        if (plan->relations[i].reduce != (int32_t)reduce)
            continue;
        if (!kept || kept->offset > offset)
            return 0;
        uint64_t left = kept->offset + kept->length - offset;
        length = left < length ? left : length;
        sources[plan->steps[i].peer] = kept->payload + (offset - kept->offset);
    }
    return length;
}

/* `length` bytes of one segment, `skip` bytes behind where the sources are. */
static void reduce_segment(struct coll_operation *operation, uint32_t segment, uint64_t skip,
                           uint64_t length, const struct coll__sink *sinks, size_t sink_count)
{
    uint32_t n = operation->view->size;
    const uint8_t **sources = operation->sources;
    const void **ordered = (const void **)(sources + n);
    const struct coll__reduction reduction = {
        .reduce = operation->reduce,
        .divide = operation->divide,
        .divisor = n,
        .element = operation->element,
    };
    uint32_t rank = segment;
    for (uint32_t k = 0; k < n; k++) {
        ordered[k] = sources[rank] + skip;
        rank = rank + 1 == n ? 0 : rank + 1;
    }
    coll__reduce_many(&reduction, sinks, sink_count, ordered, n, length / operation->element);
}

/* The whole buffer is small, and goes to one place. The sources are `offset` bytes in it. */
static void reduce_all(struct coll_operation *operation, uint64_t offset, uint64_t skip,
                       uint64_t length, uint8_t *output)
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
            reduce_segment(operation, segment, begin - offset, end - begin, &sink, 1);
    }
}

/* Who is done with is let go. False: what a source gave was not there any more. */
static bool advance(struct coll_operation *operation, uint32_t reduce, uint64_t upto)
{
    bool intact = true;
    for (uint32_t i = 0; i < operation->plan->info.steps; i++) {
        struct coll__run *run = &operation->run[i];
        struct coll__kept *kept = run->kept;
        if (operation->plan->relations[i].reduce != (int32_t)reduce)
            continue;
        if (kept->link && !kept->link->transport->intact(kept->link))
            intact = false;
        if (kept->offset + kept->length == upto) {
            run->kept = kept->next;
            free_kept(operation->engine, kept);
        }
    }
    return intact;
}

/* `length` bytes of what a step reduces, `skip` bytes behind where the sources are; it is `at` in the
 * output, and in one piece. */
static void reduce_piece(struct coll_operation *operation, const struct coll_step *step,
                         uint64_t offset, uint64_t skip, uint64_t length,
                         const struct coll__sink *sinks, size_t sink_count)
{
    if (step->segment == COLL_ALL_SEGMENTS)
        reduce_all(operation, offset, skip, length, sinks[0].at);
    else
        reduce_segment(operation, step->segment, skip, length, sinks, sink_count);
}

/* Where our input or our output is not in one piece: piece by piece, or by way of the cache if the
 * pieces are short. The result may take the place of our input there. */
static coll_status reduce_forms(struct coll_operation *operation, const struct coll_step *step,
                                uint64_t offset, uint64_t length, const struct coll__run *run,
                                uint8_t *staged, bool stream_staged)
{
    const struct coll__form *from = &operation->input_form, *to = &operation->output_form;
    const bool coarse = coll__form_is_coarse(from, run->input + offset, length) &&
                        coll__form_is_coarse(to, run->output + offset, length);
    const bool stream = operation->bytes >= COLL__STREAM_BYTES;
    uint8_t *packed = coarse ? NULL : coll__take(operation->engine, length);
    if (!coarse && !packed)
        return COLL_NO_MEMORY;
    const uint8_t **own = &operation->sources[operation->view->rank];
    if (!coarse)
        coll__form_gather(from, operation->input, run->input + offset, length, packed);
    for (uint64_t done = 0, part; done < length; done += part) {
        part = length - done;
        uint8_t *output = packed ? packed + done
                                 : coll__form_piece(to, operation->output,
                                                    run->output + offset + done, &part);
        const uint8_t *input = packed ? packed + done
                                      : coll__form_piece(from, (uint8_t *)operation->input,
                                                         run->input + offset + done, &part);
        *own = input - done; /* the others are where the first byte is */
        const struct coll__sink sinks[2] = {
            {.at = output, .stream = stream && !packed},
            {.at = staged + (staged ? done : 0), .stream = stream_staged}};
        reduce_piece(operation, step, offset, done, part, sinks, staged ? 2 : 1);
    }
    if (packed)
        coll__form_scatter(to, operation->output, run->output + offset, length, packed, stream);
    coll__give(operation->engine, packed);
    return COLL_OK;
}

static coll_status reduce_next(struct coll_operation *operation, uint32_t index, uint64_t length)
{
    const struct coll_step *step = &operation->plan->steps[index];
    struct coll__run *run = &operation->run[index];
    struct coll__host *host = &operation->engine->host;
    uint64_t offset = run->arrived, at = run->output + offset;
    COLL_TRY(coll__execute_save(operation, at, length));
    /* Where the others read it, and to the caller, at once. */
    const struct coll__transport *local = operation->plan->relations[index].first_dependent >= 0
                                              ? operation->view->local
                                              : NULL;
    bool stream = false;
    uint8_t *staged = local ? local->stage(host, length, &stream) : NULL;
    const struct coll__sink sinks[2] = {
        {.at = operation->output + at, .stream = operation->bytes >= COLL__STREAM_BYTES},
        {.at = staged, .stream = stream}};
    coll_status status = COLL_OK;
    struct coll__fpenv env;
    coll__fpenv_enter(&env);
    if (!operation->input_form.parts && !operation->output_form.parts)
        reduce_piece(operation, step, offset, 0, length, sinks, staged ? 2 : 1);
    else
        status = reduce_forms(operation, step, offset, length, run, staged, stream);
    coll__fpenv_leave(&env);
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

coll_status coll__kept_add(struct coll_operation *operation, uint32_t index,
                           struct coll__link *link, uint64_t offset, uint64_t length,
                           const uint8_t *payload)
{
    struct coll__kept *kept = keep(operation->engine, link, payload, length);
    if (!kept)
        return COLL_NO_MEMORY;
    kept->offset = offset;
    kept->length = length;
    struct coll__kept **at = &operation->run[index].kept;
    while (*at && (*at)->offset < offset)
        at = &(*at)->next;
    kept->next = *at;
    *at = kept;
    uint32_t reduce = (uint32_t)operation->plan->relations[index].reduce;
    uint64_t together;
    while ((together = gather(operation, reduce, operation->run[reduce].arrived,
                              operation->sources)) > 0)
        COLL_TRY(reduce_next(operation, reduce, together));
    return COLL_OK;
}
