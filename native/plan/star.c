/* Star: the root speaks to each, and nobody else speaks.
 *
 * A scatter and a gather have no better plan where links share nothing: each block travels once. A
 * broadcast pays for it with size-1 times the bytes at the root, and saves all hops but one: the plan
 * for what is small, and for memory, where what was written once is read by all.
 */
#include "plan.h"

coll_status coll__plan_star(uint32_t kind, uint32_t rank, uint32_t size, uint32_t root,
                            struct coll_plan **plan)
{
    if (rank >= size || root >= size || size > INT32_MAX / 2 ||
        (kind != COLL_BROADCAST && kind != COLL_GATHER && kind != COLL_SCATTER)) {
        return COLL_INVALID_ARGUMENT;
    }
    const bool blocks = kind != COLL_BROADCAST;
    struct coll_plan *made = NULL;
    coll_status status = coll__plan_new(rank, size, blocks ? size : 1, size, &made);
    if (status != COLL_OK) {
        return status;
    }
    for (uint32_t k = 1; k < size; k++) {
        const uint32_t peer = (rank + k) % size;
        const uint32_t leaf = rank == root ? peer : rank;
        const uint32_t segment = blocks ? leaf : 0;
        if (rank != root && peer != root) {
            continue;
        }
        if ((rank == root) != (kind == COLL_GATHER)) {
            coll__plan_send(made, peer, segment, 0, -1);
        } else {
            coll__plan_receive(made, COLL_STEP_RECV, peer, segment, 0);
        }
    }
    *plan = made;
    return COLL_OK;
}
