/* Resumed operations: what has been reduced before a member was lost is kept.
 *
 *      the whole        ┌──────────────────────────────────────────────┐   what the caller holds
 *      its parts        │ 0 │ 1 │ 2 │ 3 │ 4 │ 5 │ 6 │ 7 │ 8 │ 9 │ ...  │   operations k, k+1, ...
 *                         ✓   ✓   ✓   ►   ►   ►   ►   .   .   .
 *                                     └ at most so many are under way, the first one first
 *
 * Each part is an operation like any other, with a number, an agreement and contributors of its own.
 * All are issued at once, and a part starts when the one COLL__PARTS_AT_ONCE before it has ended here;
 * so that is all that a death can undo, and the verdict has it repeated by those who are left.
 *
 * The whole ends when all parts have. It ends well if all stand; if a part fails, the group is broken
 * and so all later parts fail with the same error, and those before it are undone here.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

bool coll__is_whole(const struct coll_operation *operation)
{
    return operation->series && operation->series->whole == operation;
}

uint32_t coll__series_parts(const struct coll_call *call)
{
    uint64_t element = coll_dtype_size(call->dtype);
    if (!(call->flags & COLL_RESUME) || element == 0)
        return 1;
    uint64_t parts = call->count / (COLL__PART_BYTES / element);
    return parts > COLL__PARTS ? COLL__PARTS : parts > 1 ? (uint32_t)parts : 1;
}

coll_status coll__series_new(struct coll_group *group, uint32_t tag, uint32_t parts,
                             struct coll__series **made)
{
    struct coll_engine *engine = group->engine;
    struct coll__series *series = coll__take_zeroed(engine,
                                                    sizeof *series + parts * sizeof *series->part);
    if (!series)
        return COLL_NO_MEMORY;
    struct coll__tag *order = coll__tag_find(group, tag, COLL__TOGETHER, NULL);
    if (!order || coll__operation_make(group, order, 0, &series->whole) != COLL_OK) {
        coll__give(engine, series);
        return COLL_NO_MEMORY;
    }
    series->whole->series = series;
    series->whole->info.entered_ns = coll__now();
    *made = series;
    return COLL_OK;
}

void coll__series_free(struct coll__series *series)
{
    struct coll_engine *engine = series->whole->engine;
    for (uint32_t i = 0; i < series->parts; i++)
        coll__operation_unref(series->part[i]);
    coll__give(engine, series);
}

void coll__series_add(struct coll__series *series, struct coll_operation *operation)
{
    uint32_t i = series->parts++;
    if (i == 0)
        series->whole->info.number = operation->number;
    series->part[i] = operation;
    operation->series = series;
    if (i >= COLL__PARTS_AT_ONCE)
        operation->after = series->part[i - COLL__PARTS_AT_ONCE];
    series->whole->references++; /* until it has ended */
}

coll_status coll__series_shadow(struct coll_operation *operation)
{
    struct coll__series *series = operation->series;
    if (!series->shadow) {
        series->shadow_bytes = operation->asked.count * operation->element;
        COLL_TRY(coll__shadow_take(operation->engine, series->shadow_bytes, &series->shadow));
    }
    operation->shadow = series->shadow; /* parts are at the same places in both */
    return COLL_OK;
}

static void finish(struct coll__series *series)
{
    struct coll_operation *whole = series->whole;
    whole->finished = true;
    whole->info.done_ns = coll__now();
    for (uint32_t i = 0; i < series->parts && whole->status != COLL_OK; i++)
        if (series->part[i]->status == COLL_OK)
            coll__operation_restore(series->part[i]);
    for (uint32_t i = 0; i < series->parts && whole->status == COLL_OK; i++)
        coll__coding_commit(series->part[i]);
    if (series->shadow)
        coll__shadow_give(whole->engine, series->shadow, series->shadow_bytes);
    if (whole->notify_fd >= 0)
        coll__signal(whole->notify_fd);
    coll__wake_callers(whole->engine);
}

void coll__series_ended(struct coll_operation *operation)
{
    struct coll__series *series = operation->series;
    struct coll_operation *whole = series->whole;
    series->ended++;
    /* Members go and never come, and a later end is in no older view: who is in the last one has
     * contributed to all parts. */
    if (whole->status == COLL_OK) {
        operation->view->references++;
        coll__view_release(whole->view);
        whole->view = operation->view;
        whole->info.view = operation->info.view;
        whole->status = operation->status;
        whole->culprit = operation->culprit;
        whole->error = operation->error ? strdup(operation->error) : NULL;
    }
    whole->unknown |= operation->unknown;
    operation->group->turns = operation->engine->turns = true;
    if (series->ended == series->parts)
        finish(series);
    coll__operation_unref(whole);
}

void coll__series_veto(struct coll__series *series, coll_status status, const char *text)
{
    for (uint32_t i = 0; i < series->parts; i++)
        if (!coll__waits_its_turn(series->part[i]))
            coll__operation_veto(series->part[i], status, (int32_t)series->part[i]->view->rank,
                                 text);
}

void coll__series_let_go(struct coll__series *series)
{
    for (uint32_t i = 0; i < series->parts; i++) {
        struct coll_operation *part = series->part[i];
        if (part->finished)
            coll__operation_restore(part);
        else
            coll__operation_let_go(part);
        part->let_go = true;
    }
}
