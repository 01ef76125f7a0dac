/* Which algorithm carries out an operation: what its call asks for, what the view's table says, or
 * what is known to be good. All ranks must choose the same, so nothing counts here but the call and
 * the view. */
#include <stdio.h>

#include "engine/engine.h"
#include "plan/plan.h"

/* What an algorithm can carry out at most. These two overwrite what they have sent, so what they send
 * must be copied at once. */
static uint64_t most_bytes(uint32_t algorithm)
{
    return algorithm == COLL_WHOLE || algorithm == COLL_DOUBLING ? COLL__SMALL_BYTES : UINT64_MAX;
}

/* "ring, direct" */
static void name_others(uint32_t kind, uint64_t bytes, char *text, size_t length)
{
    size_t at = 0;
    text[0] = '\0';
    for (uint32_t other = 0; other < COLL_ALGORITHM_COUNT && at < length; other++)
        if (coll_plan_does(kind, other) && bytes <= most_bytes(other))
            at += (size_t)snprintf(text + at, length - at, "%s%s", at > 0 ? ", " : "",
                                   coll_algorithm_name(other));
}

coll_status coll__check_algorithm(uint32_t kind, uint32_t algorithm, uint64_t bytes)
{
    char others[200];
    if (algorithm >= COLL_ALGORITHM_COUNT)
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no algorithm", algorithm);
    if (coll_plan_does(kind, algorithm) && bytes <= most_bytes(algorithm))
        return COLL_OK;
    name_others(kind, bytes, others, sizeof others);
    if (others[0] == '\0')
        return coll__error(COLL_UNSUPPORTED, "there is one way to do a %s; ask for no algorithm",
                           coll_kind_name(kind));
    if (!coll_plan_does(kind, algorithm))
        return coll__error(COLL_UNSUPPORTED, "algorithm '%s' does no %s; choose from: %s",
                           coll_algorithm_name(algorithm), coll_kind_name(kind), others);
    return coll__error(COLL_UNSUPPORTED,
                       "algorithm '%s' is for up to %llu bytes, and here are %llu; choose from: %s",
                       coll_algorithm_name(algorithm), (unsigned long long)most_bytes(algorithm),
                       (unsigned long long)bytes, others);
}

coll_status coll__check_topology(const struct coll_topology *topology, uint32_t size)
{
    coll_status status = coll__topology_check(topology, size);
    if (status == COLL_INVALID_ARGUMENT)
        return coll__error(status,
                           "a topology has at most %d levels, each within the next, and at "
                           "most %d choices",
                           COLL_LEVELS_MAX, COLL_CHOICES_MAX);
    for (uint32_t i = 0; status == COLL_OK && i < topology->choice_count; i++) {
        const struct coll_choice *choice = &topology->choices[i];
        if (coll__check_algorithm(choice->kind, choice->algorithm, choice->bytes) != COLL_OK)
            status = COLL_INVALID_ARGUMENT;
    }
    return status;
}

static enum coll_algorithm usual(const struct coll_operation *operation)
{
    const struct coll__view *view = operation->view;
    const bool close = view->local || operation->small;
    switch (operation->call.kind) {
    case COLL_ALL_REDUCE:
    case COLL_REDUCE:
        if (operation->small && operation->bytes * (view->size - 1) <= COLL__WHOLE_BYTES)
            return COLL_WHOLE;
        return view->local || operation->call.kind == COLL_REDUCE ? COLL_DIRECT : COLL_RING;
    case COLL_ALL_GATHER:
        return close ? COLL_DIRECT : COLL_RING;
    case COLL_BROADCAST:
        return close ? COLL_STAR : COLL_CHAIN;
    case COLL_GATHER:
    case COLL_SCATTER:
        return COLL_STAR;
    default:
        return COLL_DIRECT;
    }
}

enum coll_algorithm coll__choose_algorithm(const struct coll_operation *operation)
{
    const struct coll_topology *topology = operation->view->topology;
    if (operation->asked.algorithm > 0)
        return (enum coll_algorithm)(operation->asked.algorithm - 1);
    for (uint32_t i = 0; topology && i < topology->choice_count; i++) {
        const struct coll_choice *choice = &topology->choices[i];
        if (choice->kind == operation->call.kind && operation->bytes <= choice->bytes)
            return (enum coll_algorithm)choice->algorithm;
    }
    return usual(operation);
}
