/* Arrays that do not lie in one piece: a few nested loops over runs of adjacent elements. Places in
 * such an array are counted as if it were packed, in the order of its indices, so that the rest of the
 * engine need not know; what goes in and out of it is packed and unpacked slice by slice, while the
 * slice is in the cache. */
#include <string.h>

#include "engine/engine.h"
#include "reduce/copy.h"

enum { STREAM_RUN = 256 }; /* bytes of runs that are worth to be written past the cache */

static bool add_loop(struct coll__form *form, uint64_t count, int64_t step)
{
    if (form->loops == COLL__FORM_LOOPS)
        return false;
    memmove(form->counts + 1, form->counts, form->loops * sizeof *form->counts);
    memmove(form->steps + 1, form->steps, form->loops * sizeof *form->steps);
    form->counts[0] = count;
    form->steps[0] = step;
    form->loops++;
    return true;
}

/* Loops that go on where the next inner one ends are one loop. */
coll_status coll__form_make(struct coll__form *form, const struct coll_strides *given,
                            uint64_t count, uint64_t element)
{
    *form = (struct coll__form){.run = element};
    if (!given)
        return COLL_OK;
    uint64_t all = 1;
    for (uint32_t i = given->dims; i-- > 0;) {
        const uint64_t length = given->shape[i];
        const int64_t step = given->strides[i];
        if (length == 0 || all > UINT64_MAX / 64 / length)
            return count == 0 && length == 0
                       ? COLL_OK
                       : coll__error(COLL_INVALID_ARGUMENT, "strides of another count");
        all *= length;
        if (length == 1)
            continue;
        const int64_t most = INT64_MAX / 64 /
                             (int64_t)length; /* all dimensions together fit, too */
        if (step > most || step < -most)
            return coll__error(COLL_INVALID_ARGUMENT, "strides that no memory has");
        if (form->loops == 0 && step == (int64_t)form->run)
            form->run *= length;
        else if (form->loops > 0 && step == form->steps[0] * (int64_t)form->counts[0])
            form->counts[0] *= length;
        else if (!add_loop(form, length, step))
            return coll__error(COLL_UNSUPPORTED,
                               "an array with more than %d nested loops; copy it first",
                               COLL__FORM_LOOPS);
    }
    if (all != count)
        return coll__error(COLL_INVALID_ARGUMENT, "strides of another count");
    return COLL_OK;
}

void coll__form_reach(const struct coll__form *form, uint64_t bytes, int64_t *low, int64_t *high)
{
    *low = 0;
    *high = (int64_t)(form->loops == 0 ? bytes : form->run);
    for (uint32_t i = 0; i < form->loops; i++) {
        int64_t last = form->steps[i] * (int64_t)(form->counts[i] - 1);
        *(last < 0 ? low : high) += last;
    }
}

/* Loops by their steps: each must step over all that those with smaller ones reach. */
bool coll__form_is_distinct(const struct coll__form *form)
{
    bool done[COLL__FORM_LOOPS] = {false};
    uint64_t reach = form->run;
    for (uint32_t round = 0; round < form->loops; round++) {
        uint32_t least = COLL__FORM_LOOPS;
        uint64_t step = UINT64_MAX;
        for (uint32_t i = 0; i < form->loops; i++) {
            uint64_t size = (uint64_t)(form->steps[i] < 0 ? -form->steps[i] : form->steps[i]);
            if (!done[i] && size < step) {
                least = i;
                step = size;
            }
        }
        if (least == COLL__FORM_LOOPS || step < reach)
            return false;
        done[least] = true;
        reach += step * (form->counts[least] - 1);
    }
    return true;
}

/* A place in the array: the run, and what is left of it. */
struct cursor {
    const struct coll__form *form;
    uint8_t *at;
    uint64_t left;
    uint64_t index[COLL__FORM_LOOPS];
};

static struct cursor begin(const struct coll__form *form, uint8_t *base, uint64_t offset)
{
    struct cursor cursor = {.form = form, .at = base + offset % form->run};
    uint64_t run = offset / form->run;
    for (uint32_t i = form->loops; i-- > 0;) {
        cursor.index[i] = run % form->counts[i];
        run /= form->counts[i];
        cursor.at += form->steps[i] * (int64_t)cursor.index[i];
    }
    cursor.left = form->run - offset % form->run;
    return cursor;
}

/* To the beginning of the next run. */
static void next_run(struct cursor *cursor)
{
    const struct coll__form *form = cursor->form;
    cursor->at -= form->run - cursor->left;
    cursor->left = form->run;
    for (uint32_t i = form->loops; i-- > 0;) {
        if (++cursor->index[i] < form->counts[i]) {
            cursor->at += form->steps[i];
            return;
        }
        cursor->at -= form->steps[i] * (int64_t)(form->counts[i] - 1);
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
                        uint64_t count)
{
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

static void walk(const struct coll__form *form, uint8_t *base, uint64_t offset, uint64_t length,
                 uint8_t *packed, bool gathers, bool stream)
{
    const uint32_t last = form->loops - 1;
    struct cursor cursor = begin(form, base, offset);
    while (length > 0) {
        if (cursor.left == form->run && length >= form->run) {
            /* As many whole runs as the innermost loop has left. */
            uint64_t runs = form->counts[last] - cursor.index[last];
            if (runs > length / form->run)
                runs = length / form->run;
            (gathers ? gather_runs(packed, cursor.at, form->steps[last], form->run, runs)
                     : scatter_runs(cursor.at, packed, form->steps[last], form->run, runs, stream));
            packed += runs * form->run;
            length -= runs * form->run;
            cursor.index[last] += runs - 1;
            cursor.at += form->steps[last] * (int64_t)(runs - 1);
            next_run(&cursor);
            continue;
        }
        uint64_t part = length < cursor.left ? length : cursor.left;
        if (gathers)
            memcpy(packed, cursor.at, part);
        else
            memcpy(cursor.at, packed, part);
        packed += part;
        length -= part;
        cursor.at += part;
        cursor.left -= part;
        if (cursor.left == 0)
            next_run(&cursor);
    }
}

void coll__form_gather(const struct coll__form *form, const uint8_t *base, uint64_t offset,
                       uint64_t length, uint8_t *packed)
{
    if (length > 0 && form->loops == 0)
        coll__copy(packed, base + offset, length);
    else if (length > 0)
        walk(form, (uint8_t *)base, offset, length, packed, true, false);
}

void coll__form_scatter(const struct coll__form *form, uint8_t *base, uint64_t offset,
                        uint64_t length, const uint8_t *packed, bool stream)
{
    if (length == 0)
        return;
    if (form->loops > 0)
        walk(form, base, offset, length, (uint8_t *)packed, false, stream);
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
    if (form->loops == 0)
        return base + offset;
    struct cursor cursor = begin(form, base, offset);
    if (cursor.left < *length)
        *length = cursor.left;
    return cursor.at;
}
