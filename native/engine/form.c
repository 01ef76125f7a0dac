/* The caller's arrays: one in one piece, one with strides, or a list of any. An array that is not in one
 * piece is a few nested loops over runs of adjacent elements. Places are counted as if all were packed,
 * in the order of the indices and of the list, so that the rest of the engine need not know; what goes
 * in and out is packed and unpacked slice by slice, while the slice is in the cache. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "reduce/copy.h"

enum {
    STREAM_RUN = 256, /* bytes of runs that are worth to be written past the cache */
    SCALED = 8 << 10 /* bytes that are packed and scaled at once, so that they are in L1 */
};

static bool add_loop(struct coll__part *part, uint64_t count, int64_t step)
{
    if (part->loops == COLL__FORM_LOOPS)
        return false;
    memmove(part->counts + 1, part->counts, part->loops * sizeof *part->counts);
    memmove(part->steps + 1, part->steps, part->loops * sizeof *part->steps);
    part->counts[0] = count;
    part->steps[0] = step;
    part->loops++;
    return true;
}

/* Loops that go on where the next inner one ends are one loop. */
static coll_status part_make(struct coll__part *part, const struct coll_array *given,
                             uint64_t element)
{
    const struct coll_strides *strides = given->strides;
    part->loops = 0;
    part->run = strides ? element : given->count * element;
    if (!strides)
        return COLL_OK;
    uint64_t all = 1;
    for (uint32_t i = strides->dims; i-- > 0;) {
        const uint64_t length = strides->shape[i];
        const int64_t step = strides->strides[i];
        if (length == 0 || all > UINT64_MAX / 64 / length)
            return given->count == 0 && length == 0
                       ? COLL_OK
                       : coll__error(COLL_INVALID_ARGUMENT, "strides of another count");
        all *= length;
        if (length == 1)
            continue;
        const int64_t most = INT64_MAX / 64 /
                             (int64_t)length; /* all dimensions together fit, too */
        if (step > most || step < -most)
            return coll__error(COLL_INVALID_ARGUMENT, "strides that no memory has");
        if (part->loops == 0 && step == (int64_t)part->run)
            part->run *= length;
        else if (part->loops > 0 && step == part->steps[0] * (int64_t)part->counts[0])
            part->counts[0] *= length;
        else if (!add_loop(part, length, step))
            return coll__error(COLL_UNSUPPORTED,
                               "an array with more than %d nested loops; copy it first",
                               COLL__FORM_LOOPS);
    }
    if (all != given->count)
        return coll__error(COLL_INVALID_ARGUMENT, "strides of another count");
    return COLL_OK;
}

/* The arrays that have elements; those that follow each other in memory are one unless they are to stay
 * apart. */
static coll_status parts_make(struct coll__form *form, const struct coll_array *arrays, uint32_t n,
                              uint64_t count, uint64_t element)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct coll__part *part = &form->parts[form->count];
        if (arrays[i].count > count - bytes / element)
            return coll__error(
                COLL_INVALID_ARGUMENT,
                "the arrays of the list have more than the %llu elements of the call",
                (unsigned long long)count);
        if (arrays[i].count > 0 && !arrays[i].data)
            return coll__error(COLL_INVALID_ARGUMENT, "input and output must not be NULL");
        COLL_TRY(part_make(part, &arrays[i], element));
        if (arrays[i].count == 0)
            continue;
        if (form->count == 0)
            form->base = arrays[i].data;
        part->index = i;
        part->at = (int64_t)((uintptr_t)arrays[i].data - (uintptr_t)form->base);
        part->begin = bytes;
        part->end = bytes += arrays[i].count * element;
        struct coll__part *last = form->count > 0 ? part - 1 : NULL;
        if (!form->apart && last && last->loops == 0 && part->loops == 0 &&
            last->at + (int64_t)last->run == part->at) {
            last->run += part->run;
            last->end = bytes;
        } else {
            form->count++;
        }
    }
    if (bytes != count * element)
        return coll__error(COLL_INVALID_ARGUMENT,
                           "the arrays of the list have %llu elements, the call has %llu",
                           (unsigned long long)(bytes / element), (unsigned long long)count);
    return COLL_OK;
}

coll_status coll__form_make(struct coll_engine *engine, struct coll__form *form,
                            const struct coll_array *arrays, uint32_t n, bool apart, uint64_t count,
                            uint64_t element)
{
    *form = (struct coll__form){.base = n > 0 ? arrays[0].data : NULL, .apart = apart};
    if (n == 1 && !arrays[0].strides && arrays[0].count == count && !apart)
        return count > 0 && !form->base
                   ? coll__error(COLL_INVALID_ARGUMENT, "input and output must not be NULL")
                   : COLL_OK;
    form->parts = coll__take(engine, (n > 0 ? n : 1) * sizeof *form->parts);
    if (!form->parts)
        return coll__error(COLL_NO_MEMORY, "no memory for an operation");
    coll_status status = parts_make(form, arrays, n, count, element);
    if (status != COLL_OK || form->count == 0 ||
        (form->count == 1 && form->parts[0].loops == 0 && !apart))
        coll__form_free(engine, form); /* there is nothing to tell of one piece */
    return status;
}

void coll__form_free(struct coll_engine *engine, struct coll__form *form)
{
    coll__give(engine, form->parts);
    form->parts = NULL;
    form->count = 0;
}

bool coll__form_same(const struct coll__form *a, const struct coll__form *b)
{
    if (a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++) {
        const struct coll__part *x = &a->parts[i], *y = &b->parts[i];
        if (x->at != y->at || x->end != y->end || x->run != y->run || x->loops != y->loops ||
            memcmp(x->counts, y->counts, x->loops * sizeof *x->counts) != 0 ||
            memcmp(x->steps, y->steps, x->loops * sizeof *x->steps) != 0)
            return false;
    }
    return true;
}

/* ---- what shares memory -------------------------------------------------------------------- */

/* Loops by their steps: each must step over all that those with smaller ones reach. */
static bool is_distinct(const struct coll__part *part)
{
    bool done[COLL__FORM_LOOPS] = {false};
    uint64_t reach = part->run;
    for (uint32_t round = 0; round < part->loops; round++) {
        uint32_t least = COLL__FORM_LOOPS;
        uint64_t step = UINT64_MAX;
        for (uint32_t i = 0; i < part->loops; i++) {
            uint64_t size = (uint64_t)(part->steps[i] < 0 ? -part->steps[i] : part->steps[i]);
            if (!done[i] && size < step) {
                least = i;
                step = size;
            }
        }
        if (least == COLL__FORM_LOOPS || step < reach)
            return false;
        done[least] = true;
        reach += step * (part->counts[least] - 1);
    }
    return true;
}

/* A part in memory: [low, high). */
struct span {
    const struct coll__part *part;
    intptr_t first, low, high;
    intptr_t highest; /* of it and those before it in order */
    bool output;
};

static struct span span_of(const struct coll__part *part, const uint8_t *base, bool output)
{
    const intptr_t first = (intptr_t)base + part->at;
    struct span span = {.part = part, .first = first, .low = first, .output = output};
    span.high = first + (intptr_t)part->run;
    for (uint32_t i = 0; i < part->loops; i++) {
        const int64_t last = part->steps[i] * (int64_t)(part->counts[i] - 1);
        *(last < 0 ? &span.low : &span.high) += last;
    }
    return span;
}

/* Whether the runs of the one lie between those of the other, as columns of a matrix do. */
static bool alternate(const struct span *a, const struct span *b)
{
    if (a->first > b->first)
        return alternate(b, a);
    struct coll__part both = *a->part;
    const uint64_t between = (uint64_t)(b->first - a->first);
    if (between < both.run || both.loops != b->part->loops ||
        memcmp(both.counts, b->part->counts, both.loops * sizeof *both.counts) != 0 ||
        memcmp(both.steps, b->part->steps, both.loops * sizeof *both.steps) != 0)
        return false;
    both.run = between + b->part->run;
    return is_distinct(&both);
}

static int by_place(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    return (x->low > y->low) - (x->low < y->low);
}

/* From the lowest to the highest, each with those before it that reach so far. */
static coll_status check_spans(struct span *spans, uint32_t n)
{
    qsort(spans, n, sizeof *spans, by_place);
    for (uint32_t i = 0; i < n; i++) {
        const struct span *span = &spans[i];
        if (span->output && !is_distinct(span->part))
            return coll__error(COLL_INVALID_ARGUMENT,
                               "elements of the output share memory; pass an array in which each "
                               "has a place of its own");
        for (uint32_t j = i; j-- > 0 && spans[j].highest > span->low;) {
            const struct span *other = &spans[j];
            if (other->high <= span->low || (!span->output && !other->output) ||
                alternate(span, other))
                continue;
            return coll__error(COLL_INVALID_ARGUMENT,
                               span->output && other->output
                                   ? "arrays of the output share memory; pass a list in which each "
                                     "has a place of its own"
                                   : "input and output overlap; they must be the same or apart");
        }
        spans[i].highest = i > 0 && spans[i - 1].highest > span->high ? spans[i - 1].highest
                                                                      : span->high;
    }
    return COLL_OK;
}

/* The parts of a form of so many bytes, none if it is 0; `one`: room for that of one in one piece. */
static uint32_t parts_of(const struct coll__form *form, uint64_t bytes, struct coll__part *one,
                         const struct coll__part **parts)
{
    *one = (struct coll__part){.run = bytes, .end = bytes};
    *parts = form->parts ? form->parts : one;
    return bytes == 0 ? 0 : form->parts ? form->count : 1;
}

coll_status coll__form_check(struct coll_engine *engine, const struct coll__form *input,
                             uint64_t input_bytes, const struct coll__form *output,
                             uint64_t output_bytes)
{
    struct coll__part ones[2];
    const struct coll__part *from, *to;
    const uint32_t inputs = parts_of(input, input_bytes, &ones[0], &from);
    const uint32_t outputs = parts_of(output, output_bytes, &ones[1], &to);
    struct span few[2], *spans = few;
    if (inputs + outputs > 2)
        spans = coll__take(engine, (inputs + (size_t)outputs) * sizeof *spans);
    if (!spans)
        return coll__error(COLL_NO_MEMORY, "no memory for an operation");
    for (uint32_t i = 0; i < inputs; i++)
        spans[i] = span_of(&from[i], input->base, false);
    for (uint32_t i = 0; i < outputs; i++)
        spans[inputs + i] = span_of(&to[i], output->base, true);
    coll_status status = check_spans(spans, inputs + outputs);
    if (spans != few)
        coll__give(engine, spans);
    return status;
}

/* ---- packing ------------------------------------------------------------------------------- */

/* A place in an array: the run, and what is left of it. */
struct cursor {
    const struct coll__part *part;
    uint8_t *at;
    uint64_t left;
    uint64_t index[COLL__FORM_LOOPS];
};

/* `offset` is that in the part. */
static struct cursor begin(const struct coll__part *part, uint8_t *base, uint64_t offset)
{
    struct cursor cursor = {.part = part, .at = base + part->at + offset % part->run};
    uint64_t run = offset / part->run;
    for (uint32_t i = part->loops; i-- > 0;) {
        cursor.index[i] = run % part->counts[i];
        run /= part->counts[i];
        cursor.at += part->steps[i] * (int64_t)cursor.index[i];
    }
    cursor.left = part->run - offset % part->run;
    return cursor;
}

/* To the beginning of the next run. */
static void next_run(struct cursor *cursor)
{
    const struct coll__part *part = cursor->part;
    cursor->at -= part->run - cursor->left;
    cursor->left = part->run;
    for (uint32_t i = part->loops; i-- > 0;) {
        if (++cursor->index[i] < part->counts[i]) {
            cursor->at += part->steps[i];
            return;
        }
        cursor->at -= part->steps[i] * (int64_t)(part->counts[i] - 1);
        cursor->index[i] = 0;
    }
}

/* Copies of a constant length are one instruction; in a transposed array a run is one element. */
#define COPY_EACH(BYTES, TO, FROM)         \
    for (uint64_t i = 0; i < count; i++) { \
        memcpy(TO, FROM, BYTES);           \
        at += step;                        \
        packed += BYTES;                   \
    }
#define COPY_RUNS(TO, FROM)      \
    switch (run) {               \
    case 1:                      \
        COPY_EACH(1, TO, FROM)   \
        break;                   \
    case 2:                      \
        COPY_EACH(2, TO, FROM)   \
        break;                   \
    case 4:                      \
        COPY_EACH(4, TO, FROM)   \
        break;                   \
    case 8:                      \
        COPY_EACH(8, TO, FROM)   \
        break;                   \
    default:                     \
        COPY_EACH(run, TO, FROM) \
    }

static void gather_runs(uint8_t *packed, const uint8_t *at, int64_t step, uint64_t run,
                        uint64_t count, bool stream)
{
    if (stream && run >= STREAM_RUN) {
        for (uint64_t i = 0; i < count; i++) {
            coll__stream(packed, at, run);
            at += step;
            packed += run;
        }
        return;
    }
    COPY_RUNS(packed, at)
}

static void scatter_runs(uint8_t *at, const uint8_t *packed, int64_t step, uint64_t run,
                         uint64_t count, bool stream)
{
    if (stream && run >= STREAM_RUN) {
        for (uint64_t i = 0; i < count; i++) {
            coll__stream(at, packed, run);
            at += step;
            packed += run;
        }
        return;
    }
    COPY_RUNS(at, packed)
}

static void walk(const struct coll__part *part, uint8_t *base, uint64_t offset, uint64_t length,
                 uint8_t *packed, bool gathers, bool stream)
{
    const uint32_t last = part->loops - 1;
    struct cursor cursor = begin(part, base, offset);
    while (length > 0) {
        if (cursor.left == part->run && length >= part->run) {
            /* As many whole runs as the innermost loop has left. */
            uint64_t runs = part->counts[last] - cursor.index[last];
            if (runs > length / part->run)
                runs = length / part->run;
            (gathers ? gather_runs(packed, cursor.at, part->steps[last], part->run, runs, stream)
                     : scatter_runs(cursor.at, packed, part->steps[last], part->run, runs, stream));
            packed += runs * part->run;
            length -= runs * part->run;
            cursor.index[last] += runs - 1;
            cursor.at += part->steps[last] * (int64_t)(runs - 1);
            next_run(&cursor);
            continue;
        }
        uint64_t span = length < cursor.left ? length : cursor.left;
        if (gathers)
            memcpy(packed, cursor.at, span);
        else
            memcpy(cursor.at, packed, span);
        packed += span;
        length -= span;
        cursor.at += span;
        cursor.left -= span;
        if (cursor.left == 0)
            next_run(&cursor);
    }
}

/* The part that the byte at `offset` is in. */
static const struct coll__part *part_at(const struct coll__form *form, uint64_t offset)
{
    uint32_t low = 0, high = form->count;
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        *(form->parts[middle].begin <= offset ? &low : &high) = middle;
    }
    return &form->parts[low];
}

static void copy_parts(const struct coll__form *form, uint8_t *base, uint64_t offset,
                       uint64_t length, uint8_t *packed, bool gathers, bool stream)
{
    const struct coll__part *part = part_at(form, offset);
    for (uint64_t span; length > 0; part++) {
        const uint64_t inside = offset - part->begin;
        uint8_t *at = base + part->at + inside;
        span = part->end - offset < length ? part->end - offset : length;
        if (part->loops > 0)
            walk(part, base, inside, span, packed, gathers, stream);
        else if (stream)
            coll__stream(gathers ? packed : at, gathers ? at : packed, span);
        else
            coll__copy(gathers ? packed : at, gathers ? at : packed, span);
        packed += span;
        offset += span;
        length -= span;
    }
}

static void gather(const struct coll__form *form, const uint8_t *base, uint64_t offset,
                   uint64_t length, uint8_t *packed, bool stream)
{
    if (form->parts)
        copy_parts(form, (uint8_t *)base, offset, length, packed, true, stream);
    else if (stream)
        coll__stream(packed, base + offset, length);
    else
        coll__copy(packed, base + offset, length);
    if (stream)
        coll__stream_fence();
}

void coll__form_gather(const struct coll__form *form, const uint8_t *base, uint64_t offset,
                       uint64_t length, uint8_t *packed, bool stream)
{
    struct coll__fpenv env;
    if (length == 0)
        return;
    if (!form->scale) {
        gather(form, base, offset, length, packed, stream);
        return;
    }
    coll__fpenv_enter(&env);
    for (uint64_t done = 0, part; done < length; done += part) {
        part = length - done < SCALED ? length - done : SCALED;
        gather(form, base, offset + done, part, packed + done, false);
        form->scale(packed + done, part / form->element, form->factor);
    }
    coll__fpenv_leave(&env);
}

void coll__form_scatter(const struct coll__form *form, uint8_t *base, uint64_t offset,
                        uint64_t length, const uint8_t *packed, bool stream)
{
    if (length == 0)
        return;
    if (form->parts)
        copy_parts(form, base, offset, length, (uint8_t *)packed, false, stream);
    else if (stream)
        coll__stream(base + offset, packed, length);
    else
        coll__copy(base + offset, packed, length);
    if (stream)
        coll__stream_fence();
}

uint8_t *coll__form_piece(const struct coll__form *form, uint8_t *base, uint64_t offset,
                          uint64_t *length)
{
    if (!form->parts)
        return base + offset;
    const struct coll__part *part = part_at(form, offset);
    struct cursor cursor = begin(part, base, offset - part->begin);
    if (cursor.left < *length)
        *length = cursor.left;
    return cursor.at;
}

uint8_t *coll__form_whole(const struct coll__form *form, uint8_t *base, uint64_t offset,
                          uint64_t length)
{
    uint64_t piece = length;
    uint8_t *at = coll__form_piece(form, base, offset, &piece);
    return piece == length ? at : NULL;
}

bool coll__form_is_coarse(const struct coll__form *form, uint64_t offset, uint64_t length)
{
    if (!form->parts || form->scale)
        return !form->scale;
    uint64_t runs = 0;
    const struct coll__part *part = part_at(form, offset);
    for (const uint64_t end = offset + length; offset < end; offset = part++->end) {
        const uint64_t upto = part->end < end ? part->end : end;
        runs += (upto - offset) / part->run + (part->loops == 0);
    }
    return runs * COLL__COARSE_BYTES <= length;
}
