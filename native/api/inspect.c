/* Public functions that tell what goes on in a group. */
#include "engine/engine.h"

static bool none_to_be_decided(const void *argument)
{
    const struct coll_group *group = argument;
    return coll__inspect_outstanding(group, true, NULL, 0) == 0;
}

coll_status coll_group_idle(struct coll_group *group, uint64_t wait_ns)
{
    char named[COLL__TEXT / 2];
    struct coll_engine *engine = group->engine;
    if (atomic_load(&engine->forked))
        return coll__error(COLL_FORKED, "this handle belongs to the parent process");
    coll__lock(engine);
    const uint64_t now = coll__now();
    coll__drive_until(engine, none_to_be_decided, group,
                      wait_ns > UINT64_MAX - now ? UINT64_MAX : now + wait_ns);
    const bool left = !none_to_be_decided(group);
    const uint32_t others = coll__inspect_outstanding(group, false, named, sizeof named);
    coll__unlock(engine);
    if (left)
        return COLL_IN_PROGRESS;
    return others == 0
               ? COLL_OK
               : coll__error(COLL_INVALID_ARGUMENT,
                             "%u operation%s outstanding: %s; wait for what "
                             "was called, or cancel it, and call sync() then",
                             others, others == 1 ? " of this peer is" : "s of this peer are",
                             named);
}

coll_status coll_group_operations(struct coll_group *group, uint32_t i,
                                  struct coll_operation_state *state,
                                  struct coll_operation_peer *peers, uint32_t capacity)
{
    if (!state || (capacity > 0 && !peers))
        return coll__error(COLL_INVALID_ARGUMENT, "state and peers must not be NULL");
    if (atomic_load(&group->engine->forked))
        return coll__error(COLL_FORKED, "this handle belongs to the parent process");
    coll__lock(group->engine);
    bool found = coll__inspect(group, i, state, peers, capacity);
    coll__unlock(group->engine);
    return found ? COLL_OK : coll__error(COLL_INVALID_ARGUMENT, "the group has no operation %u", i);
}
