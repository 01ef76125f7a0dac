/* The life of an operation: made (by the caller, or by the first frame about it), run, finished.
 *
 *      frame comes ──► not issued ─┐
 *                                  ├─► running ──► complete ──► settled ──► finished (COLL_OK)
 *      caller issues ──────────────┘       └──────────┴──► finished (an error; inputs restored)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"

coll_status coll__operation_new(struct coll__view *view, uint32_t tag, uint64_t number,
                                struct coll_operation **made)
{
    uint32_t n = view->size;
    struct coll_operation *operation = calloc(1, sizeof *operation);
    if (!operation)
        return COLL_NO_MEMORY;
    size_t each = sizeof *operation->flows + sizeof *operation->uses + sizeof *operation->calls +
                  sizeof *operation->absent + sizeof *operation->seen +
                  sizeof *operation->wants_open;
    uint8_t *arrays = calloc(n, each);
    if (!arrays) {
        free(operation);
        return COLL_NO_MEMORY;
    }
    /* One block, the widest alignment first. */
    operation->flows = (struct coll__flow *)arrays;
    operation->uses = (struct coll__link_use *)(operation->flows + n);
    operation->calls = (struct coll__descriptor *)(operation->uses + n);
    operation->absent = (uint64_t *)(operation->calls + n);
    operation->seen = (uint8_t *)(operation->absent + n);
    operation->wants_open = operation->seen + n;
    operation->engine = view->group->engine;
    operation->view = view;
    view->references++;
    operation->tag = tag;
    operation->number = number;
    operation->attempt = 1;
    operation->notify_fd = -1;
    operation->early_tail = &operation->early;
    coll__agree_init(&operation->agree, view->rank, n);
    for (uint32_t rank = 0; rank < n; rank++) {
        operation->flows[rank].operation = operation;
        operation->flows[rank].rank = rank;
        operation->flows[rank].link = view->members[rank].link;
    }
    struct coll_operation **bucket = &view->operations[number % COLL__OP_BUCKETS];
    operation->next = *bucket;
    *bucket = operation;
    operation->listed = true;
    operation->references = 1;
    operation->engine->operations++;
    *made = operation;
    return COLL_OK;
}

void coll__operation_unref(struct coll_operation *operation)
{
    if (--operation->references > 0)
        return;
    operation->engine->operations--;
    coll__view_release(operation->view);
    free(operation->run);
    free(operation->saved);
    free(operation->error);
    free(operation->flows);
    free(operation);
}

static void unlist(struct coll_operation *operation)
{
    struct coll_operation **at = &operation->view->operations[operation->number % COLL__OP_BUCKETS];
    while (*at != operation)
        at = &(*at)->next;
    *at = operation->next;
    operation->listed = false;
}

/* Nothing may touch the caller's buffers after this. */
static void let_go_of_buffers(struct coll_operation *operation)
{
    for (uint32_t rank = 0; rank < operation->view->size; rank++) {
        struct coll__flow *flow = &operation->flows[rank];
        /* What is owned and on its way after a success still has to arrive. */
        if (operation->status != COLL_OK)
            coll__flow_drop(flow);
        if (flow->link && (!operation->small || operation->status != COLL_OK))
            flow->link->transport->revoke(flow->link, operation);
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

/* Move the watermark: it never passes an operation that is not over, or that failed. */
static void settle(struct coll_operation *operation)
{
    struct coll__tag *tag = coll__tag_find(operation->view, operation->tag);
    if (!tag)
        return;
    if (operation->status != COLL_OK && (tag->failed == 0 || operation->number < tag->failed))
        tag->failed = operation->number;
    while (tag->settled + 1 < tag->following && tag->settled + 1 != tag->failed &&
           !coll__operation_find(operation->view, tag->tag, tag->settled + 1))
        tag->settled++;
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
    if (status != COLL_OK)
        coll__inspect_keep(operation);
    let_go_of_buffers(operation);
    if (operation->shadow) {
        if (status != COLL_OK)
            coll__execute_restore(operation);
        coll__shadow_give(engine, operation->shadow, operation->call.count * operation->element);
        operation->shadow = NULL;
    }
    coll__drop_early(operation);
    if (operation->notify_fd >= 0)
        coll__signal(operation->notify_fd);
    if (engine->waiting_callers > 0)
        pthread_cond_broadcast(&engine->changed);
    if (operation->listed) {
        unlist(operation);
        settle(operation);
        coll__operation_unref(operation);
    }
}

void coll__operation_fail(struct coll_operation *operation, coll_status status, int32_t culprit,
                          const char *text)
{
    if (operation->finished)
        return;
    struct coll_group *group = operation->view->group;
    operation->references++;
    coll__tell_abort(operation, status, culprit, text);
    coll__operation_finish(operation, status, culprit, text);
    coll__group_break(group, status, culprit, text, NULL);
    coll__operation_unref(operation);
}

void coll__operation_progress(struct coll_operation *operation)
{
    if (operation->finished)
        return;
    if (operation->agree.phase == COLL__RUNNING && operation->pending_bytes == 0) {
        coll__reached(operation, COLL_PHASE_COMPLETE);
        coll__agree_complete(&operation->agree);
    }
    if (operation->agree.phase < COLL__COMPLETE)
        return;
    operation->references++;
    coll__tell_tokens(operation);
    if (operation->agree.phase == COLL__SETTLED)
        coll__operation_finish(operation, COLL_OK, -1, NULL);
    coll__operation_unref(operation);
}

/* ---- what people read ------------------------------------------------------------------------ */

void coll__call_describe(const struct coll__descriptor *call, char *text, size_t length)
{
    const char *kind = coll_kind_name(call->kind);
    if (call->kind == COLL_ALL_REDUCE)
        snprintf(text, length, "%s(dtype=%s, op=%s, count=%llu)", kind,
                 coll_dtype_name(call->dtype), coll_redop_name(call->op),
                 (unsigned long long)call->count);
    else if (call->kind == COLL_BROADCAST)
        snprintf(text, length, "%s(dtype=%s, count=%llu, root=%u)", kind,
                 coll_dtype_name(call->dtype), (unsigned long long)call->count, call->root);
    else
        snprintf(text, length, "%s()", kind);
}

void coll__name_describe(const struct coll_operation *operation, char *text, size_t length)
{
    unsigned long long number = operation->number, view = operation->view->number;
    if (operation->tag == COLL_UNTAGGED)
        snprintf(text, length, "operation %llu of view %llu", number, view);
    else
        snprintf(text, length, "operation %llu (tag %u) of view %llu", number, operation->tag,
                 view);
}

/* Who is missing: those that have not issued it, else those whose data has not come. */
static int32_t describe_missing(const struct coll_operation *operation, char *text, size_t length)
{
    const struct coll__view *view = operation->view;
    int32_t culprit = -1;
    size_t at = 0;
    text[0] = '\0';
    for (uint32_t rank = 0; rank < view->size && at < length; rank++) {
        if (rank == view->rank || operation->seen[rank])
            continue;
        if (culprit < 0)
            culprit = (int32_t)rank;
        at += (size_t)snprintf(text + at, length - at, "%s'%s' (rank %u) ", at ? "; " : "",
                               view->members[rank].name, rank);
        if (at < length && operation->absent[rank] > 0)
            at += (size_t)snprintf(text + at, length - at,
                                   "has not called it (its last operation is %llu)",
                                   (unsigned long long)operation->absent[rank] - 1);
        else if (at < length)
            at += (size_t)snprintf(text + at, length - at, "has not been heard about it");
    }
    if (culprit >= 0)
        return culprit;
    for (uint32_t i = 0; operation->run && i < operation->plan->info.steps; i++) {
        const struct coll_step *step = &operation->plan->steps[i];
        if (step->kind != COLL_STEP_SEND && operation->run[i].arrived < operation->run[i].bytes) {
            snprintf(text, length,
                     "all ranks have called it, %llu bytes are still to come from '%s' (rank %u)",
                     (unsigned long long)operation->pending_bytes, view->members[step->peer].name,
                     step->peer);
            return (int32_t)step->peer;
        }
    }
    snprintf(text, length, "all ranks have called it, not all have said that they are done");
    return -1;
}

/* Once: who is absent, long before the timeout says so. */
static void warn(struct coll_operation *operation, uint64_t now)
{
    const struct coll__view *view = operation->view;
    char text[COLL__TEXT], call[128], name[80], missing[600];
    coll__name_describe(operation, name, sizeof name);
    coll__call_describe(&operation->call, call, sizeof call);
    describe_missing(operation, missing, sizeof missing);
    snprintf(text, sizeof text, "'%s' (rank %u) has waited %.1f s in %s, %s: %s",
             view->members[view->rank].name, view->rank,
             (double)(now - operation->info.entered_ns) / 1e9, call, name, missing);
    operation->warn_at = 0;
    coll__emit(operation->engine, COLL_EVENT_STALLED, view->group->id, view->number, NULL, text);
}

void coll__operation_tick(struct coll_operation *operation, uint64_t now)
{
    if (operation->finished || operation->agree.phase == COLL__ABSENT)
        return;
    if (operation->deadline != 0 && now >= operation->deadline) {
        char text[COLL__TEXT], call[128], name[80], missing[600];
        coll__name_describe(operation, name, sizeof name);
        coll__call_describe(&operation->call, call, sizeof call);
        int32_t culprit = describe_missing(operation, missing, sizeof missing);
        snprintf(text, sizeof text,
                 "'%s' (rank %u) gave up on %s, %s, after %.1f s: %s; call it there, or allow more"
                 " time",
                 operation->view->members[operation->view->rank].name, operation->view->rank, call,
                 name, (double)(now - operation->info.entered_ns) / 1e9, missing);
        coll__operation_fail(operation, COLL_TIMEOUT, culprit, text);
        return;
    }
    if (operation->warn_at != 0 && now >= operation->warn_at)
        warn(operation, now);
    if (now < operation->stall_check)
        return;
    /* A mismatch that puts no frame in flight is found here, and so is who is absent. */
    operation->stall_check = now + COLL__STALL_NS;
    for (uint32_t rank = 0; rank < operation->view->size; rank++)
        if (rank != operation->view->rank && !operation->seen[rank])
            coll__ask(operation, rank);
}
