/* Public functions on operations: issue, wait, ask. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

static coll_status forked_error(void)
{
    return coll__error(COLL_FORKED,
                       "this handle belongs to the parent process; join anew in the child");
}

coll_status coll_call_extents(const struct coll_call *call, uint32_t rank, uint32_t size,
                              uint64_t *input, uint64_t *output)
{
    struct coll__extents extents;
    if (rank >= size || call->kind >= COLL_KIND_COUNT || !coll__extents(call, rank, size, &extents))
        return coll__error(COLL_INVALID_ARGUMENT, "no such call");
    *input = extents.input;
    *output = extents.output;
    return COLL_OK;
}

coll_status coll_issue(struct coll_group *group, const struct coll_call *call,
                       struct coll_operation **operation)
{
    if (atomic_load(&group->engine->forked))
        return forked_error();
    coll__lock(group->engine);
    coll_status status = coll__issue(group, call, operation);
    if (status == COLL_OK && !(*operation)->finished && !call->awaited)
        coll__wake_driver(group->engine);
    coll__unlock(group->engine);
    return status;
}

coll_status coll_refuse(struct coll_group *group, uint32_t tag, coll_status status,
                        const char *text, struct coll_operation **operation)
{
    if (atomic_load(&group->engine->forked))
        return forked_error();
    coll__lock(group->engine);
    coll_status refused = coll__refuse(group, tag, status, text ? text : "", operation);
    coll__unlock(group->engine);
    return refused;
}

static coll_status status_of(const struct coll_operation *operation)
{
    return operation->finished ? operation->status : COLL_IN_PROGRESS;
}

static uint32_t parts_of(const struct coll_operation *operation)
{
    return coll__is_whole(operation) ? operation->series->parts : 1;
}

static const struct coll_operation *part_of(const struct coll_operation *operation, uint32_t i)
{
    return coll__is_whole(operation) ? operation->series->part[i] : operation;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static void fill_info(const struct coll_operation *operation, struct coll_info *info)
{
    *info = operation->info;
    info->links = operation->view->size;
    info->partner = operation->partner;
    info->parts = parts_of(operation);
    for (uint32_t i = 0; i < info->parts; i++) {
        const struct coll_operation *part = part_of(operation, i);
        for (uint32_t rank = 0; rank < part->view->size; rank++) {
            info->sent_bytes += part->uses[rank].sent_bytes;
            info->received_bytes += part->uses[rank].received_bytes;
        }
        if (part == operation)
            continue;
        info->first_byte_ns = earlier(info->first_byte_ns, part->info.first_byte_ns);
        if (info->last_byte_ns < part->info.last_byte_ns)
            info->last_byte_ns = part->info.last_byte_ns;
        info->sent_bytes += part->info.sent_bytes;
        info->received_bytes += part->info.received_bytes;
        info->retries += part->info.retries;
    }
}

coll_status coll_wait(struct coll_operation *operation, uint64_t wait_ns)
{
    struct coll_engine *engine = operation->engine;
    if (atomic_load(&engine->forked))
        return forked_error();
    coll__lock(engine);
    uint64_t now = coll__now();
    coll__drive(operation, wait_ns > UINT64_MAX - now ? UINT64_MAX : now + wait_ns);
    coll_status status = status_of(operation);
    coll__unlock(engine);
    return status;
}

coll_status coll_run(struct coll_group *group, const struct coll_call *call, uint64_t wait_ns,
                     struct coll_operation **out, struct coll_info *info)
{
    struct coll_engine *engine = group->engine;
    *out = NULL;
    if (atomic_load(&engine->forked))
        return forked_error();
    coll__lock(engine);
    struct coll_operation *operation;
    coll_status status = coll__issue(group, call, &operation);
    if (status != COLL_OK) {
        coll__unlock(engine);
        return status;
    }
    if (!operation->finished)
        coll__drive(operation, coll__now() + wait_ns);
    status = status_of(operation);
    if (status == COLL_OK && parts_of(operation) > 1)
        status = COLL_IN_PROGRESS; /* it has more to tell */
    if (info)
        fill_info(operation, info);
    if (status == COLL_OK)
        coll__operation_unref(operation);
    else
        *out = operation;
    coll__unlock(engine);
    return status;
}

coll_status coll_test(struct coll_operation *operation)
{
    if (atomic_load(&operation->engine->forked))
        return forked_error();
    coll__lock(operation->engine);
    coll_status status = status_of(operation);
    coll__unlock(operation->engine);
    return status;
}

void coll_operation_notify(struct coll_operation *operation, int fd)
{
    if (atomic_load(&operation->engine->forked))
        return;
    coll__lock(operation->engine);
    operation->notify_fd = fd;
    if (operation->finished && fd >= 0)
        coll__signal(fd);
    coll__unlock(operation->engine);
}

void coll_operation_veto(struct coll_operation *operation, coll_status status, const char *text)
{
    if (atomic_load(&operation->engine->forked))
        return;
    coll__lock(operation->engine);
    if (coll__is_whole(operation))
        coll__series_veto(operation->series, status, text ? text : "");
    else if (!operation->finished)
        coll__operation_veto(operation, status, (int32_t)operation->view->rank, text ? text : "");
    coll__unlock(operation->engine);
}

void coll_operation_get_info(struct coll_operation *operation, struct coll_info *info)
{
    memset(info, 0, sizeof *info);
    if (atomic_load(&operation->engine->forked))
        return;
    coll__lock(operation->engine);
    fill_info(operation, info);
    coll__unlock(operation->engine);
}

coll_status coll_operation_link(struct coll_operation *operation, uint32_t i,
                                struct coll_link_info *info)
{
    if (atomic_load(&operation->engine->forked))
        return forked_error();
    if (i >= operation->view->size)
        return coll__error(COLL_INVALID_ARGUMENT, "the view has %u ranks", operation->view->size);
    coll__lock(operation->engine);
    *info = (struct coll_link_info){.peer = i};
    for (uint32_t at = 0; at < parts_of(operation); at++) {
        const struct coll_operation *part = part_of(operation, at);
        uint32_t rank = part->view == operation->view
                            ? i
                            : coll__rank_of(part->view, operation->view->members[i].id);
        if (rank == part->view->size)
            continue;
        const struct coll__link_use *use = &part->uses[rank];
        const struct coll__flow *flow = &part->flows[rank];
        info->sent_bytes += use->sent_bytes;
        info->received_bytes += use->received_bytes;
        info->blocked_ns += use->blocked_ns + (flow->head ? coll__now() - flow->blocked_since : 0);
        info->resent_slices += use->resent;
    }
    coll__unlock(operation->engine);
    return COLL_OK;
}

coll_status coll_operation_part(struct coll_operation *operation, uint32_t i,
                                struct coll_part *part)
{
    if (atomic_load(&operation->engine->forked))
        return forked_error();
    if (i >= parts_of(operation))
        return coll__error(COLL_INVALID_ARGUMENT, "the operation has %u parts",
                           parts_of(operation));
    coll__lock(operation->engine);
    const struct coll_operation *at = part_of(operation, i);
    coll_segment_range(at->asked.count, parts_of(operation), i, &part->begin, &part->end);
    part->view = at->info.view;
    coll__unlock(operation->engine);
    return COLL_OK;
}

const char *coll_operation_error(struct coll_operation *operation)
{
    return operation->error ? operation->error : "";
}

int coll_operation_unknown(struct coll_operation *operation)
{
    return operation->unknown;
}

int32_t coll_operation_culprit(struct coll_operation *operation)
{
    return operation->culprit;
}

void coll_operation_release(struct coll_operation *operation)
{
    if (!operation || atomic_load(&operation->engine->forked))
        return;
    struct coll_engine *engine = operation->engine;
    coll__lock(engine);
    operation->notify_fd = -1;
    static const char *why = "the operation was released before it had finished";
    if (!operation->finished && coll__is_whole(operation)) {
        coll__series_veto(operation->series, COLL_CANCELLED, why);
        coll__series_let_go(operation->series);
    } else if (!operation->finished) {
        coll__operation_veto(operation, COLL_CANCELLED, (int32_t)operation->view->rank, why);
        coll__operation_let_go(operation);
    }
    coll__operation_unref(operation);
    coll__engine_let_go(engine);
}
