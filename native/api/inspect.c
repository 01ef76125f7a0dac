/* Public functions that tell what goes on in a group. */
#include "engine/engine.h"

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
