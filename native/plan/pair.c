/* Pair: one sends the buffer, the other receives it. */
#include "plan.h"

coll_status coll__plan_pair(uint32_t kind, uint32_t rank, uint32_t size, uint32_t peer,
                            struct coll_plan **plan)
{
    if (peer >= size || peer == rank) {
        return COLL_INVALID_ARGUMENT;
    }
    struct coll_plan *made = NULL;
    coll_status status = coll__plan_new(rank, size, 1, 1, &made);
    if (status != COLL_OK) {
        return status;
    }
    if (kind == COLL_SEND) {
        coll__plan_send(made, peer, 0, 0, -1);
    } else {
        coll__plan_receive(made, COLL_STEP_RECV, peer, 0, 0);
    }
    *plan = made;
    return COLL_OK;
}
