/* Public functions on operations: argument checks, issue, wait. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"

static coll_status forked_error(void)
{
    return coll__error(COLL_FORKED,
                       "this handle belongs to the parent process; join anew in the child");
}

static coll_status check_call(const struct coll_group *group, const struct coll_call *call)
{
    if (call->kind >= COLL_KIND_COUNT)
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no operation", call->kind);
    if (call->kind != COLL_ALL_REDUCE && call->kind != COLL_BROADCAST)
        return COLL_OK;
    size_t element = coll_dtype_size(call->dtype);
    if (element == 0)
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no dtype", call->dtype);
    if (call->kind == COLL_ALL_REDUCE && call->op >= COLL_REDOP_COUNT)
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no reduction", call->op);
    if (call->count > SIZE_MAX / 2 / element)
        return coll__error(COLL_INVALID_ARGUMENT, "count %llu is too large",
                           (unsigned long long)call->count);
    if (call->count > 0 && (!call->input || !call->output))
        return coll__error(COLL_INVALID_ARGUMENT, "input and output must not be NULL");
    if (call->kind == COLL_BROADCAST && group->committed && call->root >= group->committed->size)
        return coll__error(COLL_INVALID_ARGUMENT, "root %u is no rank of a view of %u peers",
                           call->root, group->committed->size);
    const uint8_t *input = call->input;
    const uint8_t *output = call->output;
    size_t bytes = call->count * element;
    if (input != output && input < output + bytes && output < input + bytes)
        return coll__error(COLL_INVALID_ARGUMENT,
                           "input and output overlap; they must be the same or apart");
    return COLL_OK;
}

static coll_status plan_of(struct coll__view *view, const struct coll_call *call,
                           const struct coll_plan **plan)
{
    *plan = NULL;
    if (call->kind == COLL_ALL_REDUCE && call->count > 0)
        *plan = view->reduce_plan;
    if (call->kind == COLL_BROADCAST && call->count > 0) {
        struct coll_plan **cached = &view->broadcast_plans[call->root];
        if (!*cached)
            COLL_TRY(coll_plan_make(COLL_BROADCAST, view->rank, view->size, call->root, cached));
        *plan = *cached;
    }
    return COLL_OK;
}

static void fill(struct coll_operation *operation, const struct coll_call *call,
                 const struct coll_plan *plan)
{
    struct coll_engine *engine = operation->engine;
    bool reduces = call->kind == COLL_ALL_REDUCE;
    bool moves = reduces || call->kind == COLL_BROADCAST;
    operation->call = (struct coll__descriptor){
        .kind = (uint8_t)call->kind,
        .dtype = moves ? (uint8_t)call->dtype : 0,
        .op = reduces ? (uint8_t)call->op : 0,
        .root = call->kind == COLL_BROADCAST ? call->root : 0,
        .count = moves ? call->count : 0,
    };
    operation->plan = plan;
    operation->element = moves ? (uint32_t)coll_dtype_size(call->dtype) : 1;
    operation->input = call->input;
    operation->output = call->output;
    operation->small = operation->call.count * operation->element <= COLL__SMALL_BYTES;
    operation->in_place_atomic = plan && call->input == call->output &&
                                 !(call->flags & COLL_NOT_ATOMIC);
    if (reduces) {
        operation->reduce = coll__reduce_select(call->dtype, call->op, engine->host.options.isa);
        if (call->op == COLL_AVG)
            operation->divide = coll__divide_select(call->dtype, engine->host.options.isa);
    }
    operation->info.number = operation->number;
    operation->info.view = operation->view->number;
    operation->info.entered_ns = coll__now();
    operation->info.links = operation->view->size;
    operation->warn_at = operation->info.entered_ns + engine->host.options.stall_ns;
    operation->stall_check = operation->info.entered_ns + COLL__STALL_NS;
    if (call->timeout_ns > 0)
        operation->deadline = operation->info.entered_ns + call->timeout_ns;
}

/* Announce what only we can: credit to those who will send us much, answers to those who asked. */
static void announce(struct coll_operation *operation)
{
    const struct coll__view *view = operation->view;
    for (uint32_t rank = 0; rank < view->size; rank++) {
        bool due = operation->wants_open[rank];
        for (uint32_t i = 0;
             !operation->small && operation->plan && !due && i < operation->plan->info.steps; i++)
            due = operation->plan->steps[i].kind != COLL_STEP_SEND &&
                  operation->plan->steps[i].peer == rank;
        if (due)
            coll__tell_open(operation, rank);
    }
}

static coll_status start(struct coll_operation *operation)
{
    struct coll__view *view = operation->view;
    const struct coll__descriptor *call = &operation->call;
    /* A small reduction depends on every rank's input, so having its result proves that all take
     * part with the same call. Everything else needs the tokens. */
    bool proves_itself = call->kind == COLL_ALL_REDUCE && call->count > 0 && operation->small;
    coll__agree_issue(&operation->agree, proves_itself);
    if (!coll__check_calls(operation))
        return COLL_OK; /* it has failed, and says why when waited for */
    if (view->size == 1 && operation->input != operation->output && call->count > 0)
        memcpy(operation->output, operation->input, call->count * operation->element);
    if (call->kind == COLL_BROADCAST && view->rank == call->root &&
        operation->input != operation->output && view->size > 1)
        memcpy(operation->output, operation->input, call->count * operation->element);
    if (operation->plan)
        COLL_TRY(coll__execute_start(operation));
    announce(operation);
    COLL_TRY(coll__take_early(operation));
    coll__operation_progress(operation);
    return COLL_OK;
}

static coll_status broken_error(const struct coll_group *group)
{
    return coll__error(group->broken, "%s", group->broken_text);
}

/* Under the lock. */
static coll_status issue(struct coll_group *group, const struct coll_call *call,
                         struct coll_operation **out)
{
    struct coll__view *view = group->committed;
    if (!view)
        return coll__error(COLL_CLOSED, "the group has no committed view");
    if (group->broken != COLL_OK)
        return broken_error(group);
    COLL_TRY(check_call(group, call));
    const struct coll_plan *plan;
    COLL_TRY(plan_of(view, call, &plan));
    struct coll__tag *tag = coll__tag_find(view, call->tag);
    if (!tag)
        return coll__error(COLL_NO_MEMORY, "no memory for an operation");
    struct coll_operation *operation = coll__operation_find(view, call->tag, tag->following);
    if (!operation)
        COLL_TRY(coll__operation_new(view, call->tag, tag->following, &operation));
    tag->following++;
    if (operation->number > group->last_operation)
        group->last_operation = operation->number;
    fill(operation, call, plan);
    coll__reached(operation, COLL_PHASE_ISSUED);
    operation->references++;
    coll_status status = start(operation);
    if (status != COLL_OK)
        coll__operation_fail(operation, status, (int32_t)view->rank,
                             status == COLL_NO_MEMORY ? "out of memory" : "malformed data");
    *out = operation;
    return COLL_OK;
}

coll_status coll_issue(struct coll_group *group, const struct coll_call *call,
                       struct coll_operation **operation)
{
    if (atomic_load(&group->engine->forked))
        return forked_error();
    coll__lock(group->engine);
    coll_status status = issue(group, call, operation);
    if (status == COLL_OK && !(*operation)->finished)
        coll__wake_driver(group->engine);
    coll__unlock(group->engine);
    return status;
}

static coll_status status_of(const struct coll_operation *operation)
{
    return operation->finished ? operation->status : COLL_IN_PROGRESS;
}

static void fill_info(const struct coll_operation *operation, struct coll_info *info)
{
    *info = operation->info;
    for (uint32_t rank = 0; rank < operation->view->size; rank++) {
        info->sent_bytes += operation->uses[rank].sent_bytes;
        info->received_bytes += operation->uses[rank].received_bytes;
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
    coll_status status = issue(group, call, &operation);
    if (status != COLL_OK) {
        coll__unlock(engine);
        return status;
    }
    if (!operation->finished)
        coll__drive(operation, coll__now() + wait_ns);
    status = status_of(operation);
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

void coll_operation_abort(struct coll_operation *operation, coll_status status, const char *text)
{
    if (atomic_load(&operation->engine->forked))
        return;
    coll__lock(operation->engine);
    coll__operation_fail(operation, status, (int32_t)operation->view->rank, text ? text : "");
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
    const struct coll__link_use *use = &operation->uses[i];
    const struct coll__flow *flow = &operation->flows[i];
    *info = (struct coll_link_info){
        .peer = i,
        .sent_bytes = use->sent_bytes,
        .received_bytes = use->received_bytes,
        .blocked_ns = use->blocked_ns + (flow->head ? coll__now() - flow->blocked_since : 0),
        .resent_slices = use->resent,
    };
    coll__unlock(operation->engine);
    return COLL_OK;
}

const char *coll_operation_error(struct coll_operation *operation)
{
    return operation->error ? operation->error : "";
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
    coll__operation_fail(operation, COLL_CANCELLED, (int32_t)operation->view->rank,
                         "the operation was released before it had finished");
    coll__operation_unref(operation);
    coll__engine_let_go(engine);
}
