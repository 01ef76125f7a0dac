/* Issuing: from a caller's arguments to an operation that runs in the committed view. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"

static coll_status check_call(const struct coll__view *view, const struct coll_call *call)
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
    if (call->kind == COLL_BROADCAST && !call->root_peer && call->root >= view->size)
        return coll__error(COLL_INVALID_ARGUMENT, "root %u is no rank of a view of %u peers",
                           call->root, view->size);
    const uint8_t *input = call->input;
    const uint8_t *output = call->output;
    size_t bytes = call->count * element;
    if (input != output && input < output + bytes && output < input + bytes)
        return coll__error(COLL_INVALID_ARGUMENT,
                           "input and output overlap; they must be the same or apart");
    return COLL_OK;
}

/* What the call is in every view. */
static void fill(struct coll_operation *operation, const struct coll_call *call)
{
    struct coll_engine *engine = operation->engine;
    bool reduces = call->kind == COLL_ALL_REDUCE;
    bool moves = reduces || call->kind == COLL_BROADCAST;
    operation->issued = true;
    operation->asked = *call;
    if (call->kind == COLL_BROADCAST)
        memcpy(operation->root,
               call->root_peer ? call->root_peer : operation->view->members[call->root].id,
               sizeof operation->root);
    operation->call = (struct coll__descriptor){
        .kind = (uint8_t)call->kind,
        .dtype = moves ? (uint8_t)call->dtype : 0,
        .op = reduces || call->kind == COLL_SYNC ? (uint8_t)call->op : 0,
        .count = moves ? call->count : 0,
    };
    operation->element = moves ? (uint32_t)coll_dtype_size(call->dtype) : 1;
    operation->bytes = operation->call.count * operation->element;
    operation->input = call->input;
    operation->output = call->output;
    operation->small = operation->bytes <= COLL__SMALL_BYTES;
    if (reduces) {
        operation->reduce = coll__reduce_select(call->dtype, call->op, engine->host.options.isa);
        if (call->op == COLL_AVG)
            operation->divide = coll__divide_select(call->dtype, engine->host.options.isa);
    }
    operation->info.number = operation->number;
    operation->info.entered_ns = coll__now();
    operation->warn_at = operation->info.entered_ns + engine->host.options.stall_ns;
    operation->stall_check = operation->info.entered_ns + COLL__STALL_NS;
    if (call->timeout_ns > 0)
        operation->deadline = operation->info.entered_ns + call->timeout_ns;
}

/* By what is the same on all ranks alone. */
static enum coll_algorithm choose_algorithm(const struct coll_operation *operation)
{
    const struct coll__view *view = operation->view;
    if (operation->small && operation->bytes * (view->size - 1) <= COLL__WHOLE_BYTES)
        return COLL_WHOLE;
    return view->local ? COLL_DIRECT : COLL_RING;
}

static coll_status choose_plan(struct coll_operation *operation)
{
    struct coll__view *view = operation->view;
    const struct coll__descriptor *call = &operation->call;
    operation->plan = NULL;
    if (call->kind == COLL_ALL_REDUCE && call->count > 0) {
        enum coll_algorithm algorithm = choose_algorithm(operation);
        struct coll_plan **cached = &view->reduce_plans[algorithm];
        if (!*cached)
            COLL_TRY(coll_plan_make(COLL_ALL_REDUCE, algorithm, view->rank, view->size, 0, cached));
        operation->plan = *cached;
    }
    if (call->kind == COLL_BROADCAST && call->count > 0) {
        struct coll_plan **cached = &view->broadcast_plans[call->root];
        if (!*cached)
            COLL_TRY(coll_plan_make(COLL_BROADCAST, 0, view->rank, view->size, call->root, cached));
        operation->plan = *cached;
    }
    operation->in_place_atomic = operation->plan && operation->input == operation->output &&
                                 !(operation->asked.flags & COLL_NOT_ATOMIC);
    return COLL_OK;
}

/* Announce what only we can: credit to those who will send us much, answers to those who asked. */
static void announce(struct coll_operation *operation)
{
    const struct coll__view *view = operation->view;
    for (uint32_t rank = 0; rank < view->size; rank++) {
        bool due = operation->wants_open[rank];
        for (uint32_t i = 0;
             !operation->small && operation->plan && !due && i < operation->plan->info.steps; i++)
            due = coll__step_receives(&operation->plan->steps[i]) &&
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
    coll__agree_issue(&operation->agree,
                      proves_itself || operation->engine->host.options.no_agreement);
    if (!coll__check_calls(operation))
        return COLL_OK; /* vetoed */
    COLL_TRY(choose_plan(operation));
    bool copies = view->size == 1 || (call->kind == COLL_BROADCAST && view->rank == call->root);
    if (copies && operation->input != operation->output && call->count > 0)
        memcpy(operation->output, operation->input, operation->bytes);
    if (operation->plan)
        COLL_TRY(coll__execute_start(operation));
    announce(operation);
    COLL_TRY(coll__take_early(operation));
    coll__operation_progress(operation);
    return COLL_OK;
}

static void veto_rootless(struct coll_operation *operation)
{
    char text[COLL__TEXT], name[80];
    const struct coll__gone *gone = operation->group->gone;
    while (gone && memcmp(gone->id, operation->root, sizeof gone->id) != 0)
        gone = gone->next;
    coll__name_describe(operation, name, sizeof name);
    snprintf(text, sizeof text,
             "the root of broadcast, %s, is gone: '%s'; call sync() and choose another root", name,
             gone ? gone->name : "a peer of an older view");
    coll__operation_veto(operation, COLL_PEER_LOST, -1, text);
}

void coll__operation_start(struct coll_operation *operation)
{
    struct coll__view *view = operation->view;
    operation->started = true;
    if (operation->call.kind == COLL_BROADCAST) {
        operation->call.root = coll__rank_of(view, operation->root);
        if (operation->call.root == view->size) {
            veto_rootless(operation);
            return;
        }
    }
    coll_status status = start(operation);
    if (status != COLL_OK)
        coll__operation_veto(operation, status, (int32_t)view->rank,
                             status == COLL_NO_MEMORY ? "out of memory" : "malformed data");
}

/* Give the call the next number of its tag; nothing is sent yet. */
static coll_status enlist(struct coll_group *group, const struct coll_call *call,
                          struct coll_operation **out)
{
    struct coll__view *view = group->committed;
    if (!view)
        return coll__error(COLL_CLOSED, "the group has no committed view");
    if (group->broken != COLL_OK)
        return coll__error(group->broken, "%s", group->broken_text);
    COLL_TRY(check_call(view, call));
    struct coll__tag *tag = coll__tag_find(group, call->tag);
    if (!tag)
        return coll__error(COLL_NO_MEMORY, "no memory for an operation");
    struct coll_operation *operation = coll__operation_find(group, call->tag, tag->following);
    if (!operation && coll__operation_new(group, call->tag, tag->following, &operation) != COLL_OK)
        return coll__error(COLL_NO_MEMORY, "no memory for an operation");
    coll__tag_issue(tag, operation);
    if (operation->number > group->last_operation)
        group->last_operation = operation->number;
    fill(operation, call);
    operation->references++;
    *out = operation;
    return COLL_OK;
}

coll_status coll__issue(struct coll_group *group, const struct coll_call *call,
                        struct coll_operation **out)
{
    COLL_TRY(enlist(group, call, out));
    coll__reached(*out, COLL_PHASE_ISSUED);
    if (!group->seal.sealed) /* else it starts with the verdict */
        coll__operation_start(*out);
    return COLL_OK;
}

coll_status coll__refuse(struct coll_group *group, uint32_t tag, coll_status status,
                         const char *text, struct coll_operation **out)
{
    const struct coll_call call = {.kind = COLL_BARRIER, .tag = tag};
    COLL_TRY(enlist(group, &call, out));
    coll__operation_let_go(*out); /* so that no verdict starts it */
    coll__operation_veto(*out, status, (int32_t)group->committed->rank, text);
    return COLL_OK;
}
