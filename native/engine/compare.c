/* Whether all ranks call the same thing: every frame about an operation carries the sender's call. */
#include <stdio.h>

#include "engine/engine.h"

struct coll__descriptor coll__call_to(const struct coll_operation *operation, uint32_t rank)
{
    struct coll__descriptor call = operation->call;
    if (call.kind == COLL_ALL_TO_ALL && operation->started && operation->layout.to)
        call.count = coll__layout_block(operation, rank, true);
    return call;
}

static struct coll__descriptor call_from(const struct coll_operation *operation, uint32_t rank)
{
    struct coll__descriptor call = operation->call;
    call.kind = coll__counterpart(call.kind);
    if (call.kind == COLL_ALL_TO_ALL && operation->layout.to)
        call.count = coll__layout_block(operation, rank, false);
    return call;
}

/* Whether a rank calls what we do. */
bool coll__agrees(const struct coll_operation *operation, uint32_t rank,
                  const struct coll__descriptor *theirs)
{
    const struct coll__descriptor ours = call_from(operation, rank);
    return coll__descriptor_equal(theirs, &ours);
}

/* The ranks called the same, but their views make different plans of it: that must not begin. */
static void plans_differ(struct coll_operation *operation, uint32_t culprit)
{
    const struct coll__view *view = operation->view;
    char text[COLL__TEXT], call[128], name[160], plan[64];
    coll__call_describe(&operation->call, call, sizeof call);
    coll__name_describe(operation, name, sizeof name);
    int length = snprintf(text, sizeof text,
                          "ranks would carry out %s, %s, by different plans:", call, name);
    const char *separator = " ";
    for (uint32_t rank = 0; rank < view->size && length < (int)sizeof text; rank++) {
        const bool mine = rank == view->rank;
        if (!mine && !operation->seen[rank])
            continue;
        coll__plan_describe(mine ? &operation->call : &operation->calls[rank], plan, sizeof plan);
        length += snprintf(text + length, sizeof text - (size_t)length, "%s%s by %s", separator,
                           coll__who(view, rank).text, plan);
        separator = ", ";
    }
    if (length < (int)sizeof text)
        snprintf(text + length, sizeof text - (size_t)length,
                 "; plans follow from the table and the levels of the view, so somebody's differ: "
                 "run the same version everywhere%s, or ask for an algorithm",
                 coll__advice(view, " and call sync()"));
    coll__operation_veto(operation, COLL_MISMATCH, (int32_t)culprit, text);
}

static void mismatch(struct coll_operation *operation)
{
    struct coll__view *view = operation->view;
    char text[COLL__TEXT], call[128], name[160];
    coll__name_describe(operation, name, sizeof name);
    int length = snprintf(text, sizeof text, "ranks called different things as %s:", name);
    const char *separator = " ";
    int32_t culprit = -1;
    for (uint32_t rank = 0; rank < view->size && culprit < 0; rank++)
        if (operation->seen[rank] && !coll__agrees(operation, rank, &operation->calls[rank]))
            culprit = (int32_t)rank;
    if (culprit >= 0) {
        const struct coll__descriptor wanted = call_from(operation, (uint32_t)culprit);
        if (coll__descriptor_same_call(&operation->calls[culprit], &wanted)) {
            plans_differ(operation, (uint32_t)culprit);
            return;
        }
    }
    const bool exchange = coll__is_pair(operation->call.kind);
    const struct coll__descriptor ours = culprit < 0 || exchange
                                             ? operation->call
                                             : call_from(operation, (uint32_t)culprit);
    const bool pair = culprit >= 0 && ours.kind == COLL_ALL_TO_ALL &&
                      operation->calls[culprit].kind == COLL_ALL_TO_ALL;
    for (uint32_t rank = 0; rank < view->size; rank++) {
        bool mine = rank == view->rank;
        /* Of other pairs' counts in an all_to_all there is nothing to say. */
        if (!mine && (!operation->seen[rank] || (pair && rank != (uint32_t)culprit)))
            continue;
        coll__call_describe(mine ? &ours : &operation->calls[rank], call, sizeof call);
        if (length < (int)sizeof text)
            length += snprintf(text + length, sizeof text - (size_t)length, "%s%s called %s",
                               separator, coll__who(view, rank).text, call);
        separator = ", ";
    }
    if (length < (int)sizeof text && pair)
        length += snprintf(text + length, sizeof text - (size_t)length,
                           ", where count is of what goes from rank %d to rank %u", culprit,
                           view->rank);
    if (length < (int)sizeof text)
        snprintf(text + length, sizeof text - (size_t)length, "; %s",
                 exchange ? "both must have the same dtype and count"
                          : "every rank must make the same calls in the same order");
    coll__operation_veto(operation, COLL_MISMATCH, culprit, text);
}

/* Rank has issued the operation, with this call. False: the calls differ, and it is vetoed. */
bool coll__hear_call(struct coll_operation *operation, uint32_t rank,
                     const struct coll__frame *frame)
{
    operation->seen[rank] = true;
    operation->calls[rank] = frame->call;
    if (!operation->started || coll__agrees(operation, rank, &frame->call))
        return true;
    mismatch(operation);
    return false;
}

bool coll__check_calls(struct coll_operation *operation)
{
    for (uint32_t rank = 0; rank < operation->view->size; rank++) {
        if (operation->seen[rank] && !coll__agrees(operation, rank, &operation->calls[rank])) {
            mismatch(operation);
            return false;
        }
    }
    return true;
}
