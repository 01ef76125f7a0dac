/* The life of an operation: made (by the caller, or by the first frame about it), run, finished.
 *
 *      frame comes ──► absent ─┐
 *                              ├─► running ──► complete ──► settled ──► finished (COLL_OK)
 *      caller issues ──────────┘      ▲  └──┬──────┘
 *                                     │   sealed: the verdict says what becomes of it
 *                                     │     ├──► finished (COLL_OK, or an error; inputs restored)
 *                                     └─────┴──► again, in the next view
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"

struct coll_operation *coll__operation_find(struct coll_group *group, const struct coll__tag *order,
                                            uint64_t number)
{
    struct coll_operation *operation = group->operations[number % COLL__OP_BUCKETS];
    while (operation && (operation->number != number || operation->order != order))
        operation = operation->next;
    return operation;
}

coll_status coll__operation_enter(struct coll_operation *operation)
{
    struct coll__view *view = operation->group->committed;
    uint32_t n = view->size;
    size_t each = sizeof *operation->flows + sizeof *operation->uses + sizeof *operation->calls +
                  sizeof *operation->absent + sizeof *operation->seen +
                  sizeof *operation->wants_open;
    uint8_t *arrays = coll__take_zeroed(operation->engine, n * each);
    if (!arrays)
        return COLL_NO_MEMORY;
    for (uint32_t rank = 0; operation->view && rank < operation->view->size; rank++) {
        operation->info.sent_bytes += operation->uses[rank].sent_bytes;
        operation->info.received_bytes += operation->uses[rank].received_bytes;
    }
    coll__give(operation->engine, operation->flows);
    /* One block, the widest alignment first. */
    operation->flows = (struct coll__flow *)arrays;
    operation->uses = (struct coll__link_use *)(operation->flows + n);
    operation->calls = (struct coll__descriptor *)(operation->uses + n);
    operation->absent = (uint64_t *)(operation->calls + n);
    operation->seen = (uint8_t *)(operation->absent + n);
    operation->wants_open = operation->seen + n;
    for (uint32_t rank = 0; rank < n; rank++) {
        operation->flows[rank].operation = operation;
        operation->flows[rank].rank = rank;
        operation->flows[rank].link = view->members[rank].link;
    }
    view->references++;
    if (operation->view)
        coll__view_release(operation->view);
    operation->view = view;
    return COLL_OK;
}

void coll__operation_list(struct coll_operation *operation)
{
    struct coll_operation **bucket =
        &operation->group->operations[operation->number % COLL__OP_BUCKETS];
    operation->next = *bucket;
    *bucket = operation;
    operation->listed = true;
}

void coll__operation_unlist(struct coll_operation *operation)
{
    struct coll_operation **at =
        &operation->group->operations[operation->number % COLL__OP_BUCKETS];
    while (*at != operation)
        at = &(*at)->next;
    *at = operation->next;
    operation->listed = false;
}

coll_status coll__operation_make(struct coll_group *group, struct coll__tag *order, uint64_t number,
                                 struct coll_operation **made)
{
    struct coll_operation *operation = coll__take_zeroed(group->engine, sizeof *operation);
    if (!operation)
        return COLL_NO_MEMORY;
    operation->engine = group->engine;
    operation->group = group;
    operation->tag = order->tag;
    operation->order = order;
    operation->number = number;
    operation->notify_fd = -1;
    operation->early_tail = &operation->early;
    operation->veto.culprit = -1;
    if (coll__operation_enter(operation) != COLL_OK) {
        coll__give(group->engine, operation);
        return COLL_NO_MEMORY;
    }
    coll__agree_init(&operation->agree, operation->view->rank, operation->view->size);
    operation->references = 1;
    group->references++;
    operation->engine->operations++;
    *made = operation;
    return COLL_OK;
}

coll_status coll__operation_new(struct coll_group *group, struct coll__tag *order, uint64_t number,
                                struct coll_operation **made)
{
    COLL_TRY(coll__operation_make(group, order, number, made));
    coll__operation_list(*made);
    return COLL_OK;
}

void coll__operation_unref(struct coll_operation *operation)
{
    struct coll_engine *engine = operation->engine;
    if (--operation->references > 0)
        return;
    engine->operations--;
    if (coll__is_whole(operation))
        coll__series_free(operation->series);
    coll__group_unref(operation->group);
    coll__kept_drop(operation); /* it needs the plan, which is the view's */
    coll__view_release(operation->view);
    coll__give(engine, operation->run);
    coll__coding_free(operation);
    coll__give(engine, operation->saved);
    free(operation->error);
    free(operation->veto.text);
    coll__give(engine, operation->layout.block);
    coll__form_free(engine, &operation->input_form);
    coll__form_free(engine, &operation->output_form);
    coll__give(engine, operation->flows);
    coll__give(engine, operation);
}

static void revoke(struct coll_operation *operation)
{
    for (uint32_t rank = 0; rank < operation->view->size; rank++) {
        const struct coll__link *link = operation->view->members[rank].link;
        if (link)
            link->transport->revoke((struct coll__link *)link, operation);
    }
    while (operation->borrowed) {
        struct coll__slice *slice = operation->borrowed;
        operation->borrowed = slice->borrow_next;
        if (operation->borrowed)
            operation->borrowed->borrow_link = &operation->borrowed;
        slice->borrow_link = NULL;
        coll__slice_void(slice);
    }
}

static void drop_flows(struct coll_operation *operation)
{
    for (uint32_t rank = 0; rank < operation->view->size; rank++)
        coll__flow_drop(&operation->flows[rank]);
}

void coll__operation_quiesce(struct coll_operation *operation)
{
    operation->references++;
    drop_flows(operation);
    coll__kept_drop(operation);
    revoke(operation);
    coll__operation_unref(operation);
}

void coll__operation_restore(struct coll_operation *operation)
{
    if (operation->let_go)
        return;
    if (operation->shadow)
        coll__execute_restore(operation);
    if (operation->scratch && operation->input == operation->scratch) {
        uint64_t own;
        uint64_t bytes = coll__layout_own(operation, &own);
        memcpy(operation->output + own, operation->scratch, bytes);
    }
}

static void drop_buffers(struct coll_operation *operation)
{
    coll__coding_drop(operation);
    if (operation->shadow && !operation->series)
        coll__shadow_give(operation->engine, operation->shadow, operation->output_bytes);
    if (operation->scratch)
        coll__shadow_give(operation->engine, operation->scratch, operation->scratch_bytes);
    operation->shadow = operation->scratch = NULL;
    operation->saved_count = 0;
}

void coll__operation_finish(struct coll_operation *operation, coll_status status, int32_t culprit,
                            const char *text)
{
    if (operation->finished)
        return;
    struct coll_engine *engine = operation->engine;
    operation->finished = true;
    operation->status = status;
    operation->culprit = culprit;
    operation->info.done_ns = coll__now();
    if (text && *text)
        operation->error = strdup(text);
    if (status != COLL_OK) {
        if (operation->agree.phase != COLL__ABSENT || !operation->issued)
            coll__inspect_keep(operation);
        operation->info.view = operation->view->number;
        coll__operation_quiesce(operation);
        coll__operation_restore(operation);
    } else if (!operation->small) { /* what is small and on its way still has to arrive */
        drop_flows(operation); /* of one that all have there is nothing, but by no_agreement */
        revoke(operation);
    }
    if (status != COLL_OK || !operation->series) /* a part may be undone with the whole */
        drop_buffers(operation);
    coll__coding_drop(operation);
    if (status == COLL_OK && !operation->series)
        coll__coding_commit(operation);
    coll__drop_early(operation);
    if (operation->notify_fd >= 0)
        coll__signal(operation->notify_fd);
    coll__wake_callers(engine);
    if (operation->series)
        coll__series_ended(operation);
    if (!operation->listed)
        return;
    coll__operation_unlist(operation);
    struct coll__tag *tag = operation->order;
    if (operation->issued) {
        /* For a round, which a fixed view has none of. Without memory for it nobody can be supplied,
         * and a round may evict us for that, no more. */
        if (status == COLL_OK && operation->agree.retained && operation->view->size > 1 &&
            !operation->let_go && !operation->engine->host.options.no_agreement &&
            !operation->view->fixed)
            coll__tag_retain(tag, operation);
        coll__tag_settle(tag, operation);
    }
    coll__operation_unref(operation);
}

void coll__operation_reset(struct coll_operation *operation)
{
    coll__operation_restore(operation);
    drop_buffers(operation);
    coll__coding_reset(operation);
    coll__drop_early(operation);
    coll__kept_drop(operation);
    coll__give(operation->engine, operation->run);
    operation->run = NULL;
    operation->plan = NULL;
    operation->pending_bytes = 0;
    operation->placed_again = false;
    operation->started = false;
}

/* Once in a while for all of a group: their report names each. */
static void emit_veto(struct coll_group *group, const char *text)
{
    uint64_t now = coll__now();
    if (now < group->veto_again)
        return;
    group->veto_again = now + COLL__STALL_NS;
    coll__emit(group, COLL_EVENT_VETO, group->committed->number, NULL, text);
}

void coll__operation_veto(struct coll_operation *operation, coll_status status, int32_t culprit,
                          const char *text)
{
    struct coll__veto *veto = &operation->veto;
    if (operation->finished || (veto->status != COLL_OK && status != COLL_MISMATCH) ||
        veto->status == status)
        return;
    if (veto->status == COLL_OK)
        veto->since = coll__now();
    /* It must not stand because all have it complete: they have different things. */
    if (status == COLL_MISMATCH && operation->agree.phase == COLL__COMPLETE)
        operation->agree.phase = COLL__RUNNING;
    veto->status = status;
    veto->culprit = culprit;
    free(veto->text);
    veto->text = strdup(text);
    if (operation->group->committed->fixed) {
        coll__fixed_veto(operation);
        return;
    }
    emit_veto(operation->group, text);
    /* If it stands for all that, the whole it is a part of is not to go on, unless that has
     * succeeded somewhere, too. */
    struct coll__series *series = operation->series;
    struct coll_operation *last = series ? series->part[series->parts - 1] : operation;
    if (last != operation)
        coll__operation_veto(last, status, culprit, text);
}

void coll__operation_let_go(struct coll_operation *operation)
{
    if (operation->finished || operation->let_go)
        return;
    coll__operation_quiesce(operation);
    coll__operation_restore(operation);
    operation->let_go = true;
}

void coll__operation_progress(struct coll_operation *operation)
{
    if (operation->finished || operation->let_go || operation->group->seal.sealed ||
        operation->veto.status == COLL_MISMATCH)
        return;
    if (operation->agree.phase == COLL__RUNNING && operation->pending_bytes == 0 &&
        (!coll__is_pair(operation->call.kind) || coll__pair_is_whole(operation))) {
        coll__reached(operation, COLL_PHASE_COMPLETE);
        coll__agree_complete(&operation->agree);
    }
    if (operation->agree.phase < COLL__COMPLETE || operation->agree.phase == COLL__AWAITING)
        return;
    operation->references++;
    coll__tell_tokens(operation);
    if (operation->agree.phase == COLL__SETTLED) {
        operation->info.view = operation->view->number;
        coll__operation_finish(operation, COLL_OK, -1, NULL);
    }
    coll__operation_unref(operation);
}

static void give_up(struct coll_operation *operation, uint64_t now)
{
    char text[COLL__TEXT], call[128], name[160], missing[580];
    coll__name_describe(operation, name, sizeof name);
    coll__call_describe(&operation->call, call, sizeof call);
    int32_t culprit = coll__missing_describe(operation, missing, sizeof missing);
    snprintf(text, sizeof text,
             "%s gave up on %s, %s, after %.1f s: %s; call it there, or allow more time",
             coll__who(operation->view, operation->view->rank).text, call, name,
             (double)(now - operation->info.entered_ns) / 1e9, missing);
    coll__operation_veto(operation, COLL_TIMEOUT, culprit, text);
}

/* Once: who is absent, long before the timeout says so. */
static void warn(struct coll_operation *operation, uint64_t now)
{
    const struct coll__view *view = operation->view;
    char text[COLL__TEXT], call[128], name[160], missing[580];
    coll__name_describe(operation, name, sizeof name);
    coll__call_describe(&operation->call, call, sizeof call);
    coll__missing_describe(operation, missing, sizeof missing);
    snprintf(text, sizeof text, "%s has waited %.1f s in %s, %s: %s",
             coll__who(view, view->rank).text, (double)(now - operation->info.entered_ns) / 1e9,
             call, name, missing);
    operation->warn_at = 0;
    coll__emit(view->group, COLL_EVENT_STALLED, view->number, NULL, text);
}

void coll__operation_tick(struct coll_operation *operation, uint64_t now)
{
    struct coll_group *group = operation->group;
    if (coll__waits_its_turn(operation))
        return; /* whoever it waits for speaks for it */
    if (operation->deadline != 0 && now >= operation->deadline && operation->veto.status == COLL_OK)
        give_up(operation, now);
    if (operation->warn_at != 0 && now >= operation->warn_at)
        warn(operation, now);
    if (now < operation->stall_check)
        return;
    operation->stall_check = now + COLL__STALL_NS;
    if (group->seal.sealed)
        return;
    /* No round has decided about it yet. One that stands has been decided about: another round
     * would only void the result that is on its way. */
    if (operation->veto.status != COLL_OK && operation->agree.phase != COLL__AWAITING)
        emit_veto(group, operation->veto.text);
    if (!operation->started)
        return;
    if (operation->agree.phase == COLL__AWAITING) {
        coll__ask(operation, operation->supplier, COLL__FLAG_SUPPLY);
        return;
    }
    /* A mismatch that puts no frame in flight is found here, and so is who is absent; and somebody
     * may know already that all are complete. */
    bool pair = coll__is_pair(operation->call.kind);
    for (uint32_t rank = 0; rank < operation->view->size; rank++)
        if (rank != operation->view->rank && (!pair || rank == operation->partner) &&
            (!operation->seen[rank] || operation->agree.phase == COLL__COMPLETE))
            coll__ask(operation, rank, 0);
}
