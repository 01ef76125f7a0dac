/* Which algorithm carries out an operation: what its call asks for, what the view's table says, or
 * what is known to be good. All ranks must choose the same, so nothing counts here but the call and
 * the view. */
#include <stdio.h>

#include "engine/engine.h"
#include "plan/plan.h"

/* What an algorithm can carry out at most. These two overwrite what they have sent, so what they send
 * must be copied at once. */
uint64_t coll_plan_limit(uint32_t algorithm)
{
    return algorithm == COLL_WHOLE || algorithm == COLL_DOUBLING ? COLL__SMALL_BYTES : UINT64_MAX;
}

/* "ring, direct" */
static void name_others(uint32_t kind, uint64_t bytes, char *text, size_t length)
{
    size_t at = 0;
    text[0] = '\0';
    for (uint32_t other = 0; other < COLL_ALGORITHM_COUNT && at < length; other++)
        if (coll_plan_does(kind, other) && bytes <= coll_plan_limit(other))
            at += (size_t)snprintf(text + at, length - at, "%s%s", at > 0 ? ", " : "",
                                   coll_algorithm_name(other));
}

coll_status coll__check_algorithm(uint32_t kind, uint32_t algorithm, uint64_t bytes)
{
    char others[200];
    if (algorithm >= COLL_ALGORITHM_COUNT)
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no algorithm", algorithm);
    if (coll_plan_does(kind, algorithm) && bytes <= coll_plan_limit(algorithm))
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
                       coll_algorithm_name(algorithm),
                       (unsigned long long)coll_plan_limit(algorithm), (unsigned long long)bytes,
                       others);
}

coll_status coll__check_topology(const struct coll_topology *topology, uint32_t size)
{
    coll_status status = coll__topology_check(topology, size);
    if (status == COLL_INVALID_ARGUMENT)
        return coll__error(status,
                           "a topology has at most %d levels, each within the next, at most %d "
                           "choices, and for each level a plan, ring or direct, a transport, and "
                           "whether it encodes, which those outside of it then do, too",
                           COLL_LEVELS_MAX, COLL_CHOICES_MAX);
    for (uint32_t i = 0; status == COLL_OK && i < topology->choice_count; i++) {
        const struct coll_choice *choice = &topology->choices[i];
        if (coll__check_algorithm(choice->kind, choice->algorithm, choice->bytes) != COLL_OK)
            status = COLL_INVALID_ARGUMENT;
    }
    return status;
}

coll_status coll__check_transports(const struct coll__view *view,
                                   const struct coll_topology *topology)
{
    static const char *const names[] = {"auto", "shm", "tcp"};
    for (uint32_t rank = 0; rank < view->size; rank++) {
        const struct coll__link *link = view->members[rank].link;
        const uint32_t level = coll__topology_level(topology, view->size, view->rank, rank);
        const uint32_t wanted = level < topology->setting_count
                                    ? topology->settings[level].transport
                                    : COLL_TRANSPORT_AUTO;
        if (!link || wanted == COLL_TRANSPORT_AUTO ||
            link->transport->local == (wanted == COLL_TRANSPORT_SHM))
            continue;
        return coll__error(COLL_UNSUPPORTED,
                           "the plan table has %s for level %u, and %s is reached by %s there; let "
                           "the table say auto, or what it is",
                           names[wanted], level, coll__who(view, rank).text,
                           names[link->transport->local ? COLL_TRANSPORT_SHM : COLL_TRANSPORT_TCP]);
    }
    return COLL_OK;
}

/* `local`: all bytes go through memory. `levelled`: some ranks are nearer to each other than others.
 * An all_reduce and a reduce change together, so that they have the same bits. */
static enum coll_algorithm usual(uint32_t kind, uint64_t bytes, uint32_t size, bool local,
                                 bool levelled)
{
    const bool small = bytes <= COLL__SMALL_BYTES;
    if (levelled && !small && coll_plan_does(kind, COLL_HIERARCHICAL))
        return COLL_HIERARCHICAL;
    switch (kind) {
    case COLL_ALL_REDUCE:
    case COLL_REDUCE:
        if (small && bytes * (size - 1) <= COLL__WHOLE_BYTES)
            return COLL_WHOLE;
        /* Two hops instead of 2(n-1); of two ranks the ring has no more. */
        return local || kind == COLL_REDUCE || (small && size > 2) ? COLL_DIRECT : COLL_RING;
    case COLL_ALL_GATHER:
        return local || small ? COLL_DIRECT : COLL_RING;
    case COLL_BROADCAST:
        return local || small ? COLL_STAR : COLL_CHAIN;
    case COLL_GATHER:
    case COLL_SCATTER:
        return COLL_STAR;
    default:
        return COLL_DIRECT;
    }
}

uint32_t coll_plan_choose(uint32_t kind, uint64_t bytes, uint32_t size, int local,
                          const struct coll_topology *topology)
{
    for (uint32_t i = 0; topology && i < topology->choice_count; i++) {
        const struct coll_choice *choice = &topology->choices[i];
        if (choice->kind == kind && bytes <= choice->bytes)
            return choice->algorithm;
    }
    return usual(kind, bytes, size, local != 0, topology && topology->levels > 0);
}

void coll__choose_plan(struct coll_operation *operation)
{
    const struct coll__view *view = operation->view;
    struct coll__descriptor *call = &operation->call;
    const bool levelled = coll_plan_does(call->kind, COLL_HIERARCHICAL) && view->topology &&
                          view->topology->levels > 0;
    uint32_t chosen;
    if (operation->asked.algorithm > 0)
        chosen = operation->asked.algorithm - 1;
    else if (operation->coding) /* direct encodes twice, whatever the number of ranks */
        chosen = levelled ? COLL_HIERARCHICAL : COLL_DIRECT;
    else
        chosen = coll_plan_choose(call->kind, operation->bytes, view->size, view->local != NULL,
                                  view->topology);
    call->plan = (uint8_t)(1 + chosen);
    call->levels = chosen == COLL_HIERARCHICAL ? view->levels : 0;
}
