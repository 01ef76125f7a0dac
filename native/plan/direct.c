/* Direct all-reduce: every rank hears every other one, without a detour.
 *
 * Segment s belongs to rank s-1 (mod size), as in the ring. Each rank sends each other one its
 * input for that one's segment; an owner keeps what comes until it has it from all, reduces in the
 * canonical order and sends the result to all:
 *
 *      message 0   r ──► owner(s)   input of segment s        reduce-scatter
 *      message 1   owner(s) ──► r   the reduced segment       all-gather
 *
 * Two steps whatever the size, and as many bytes on each rank as the ring moves: the plan for links
 * that do not share anything, such as memory. The order of additions is the ring's, so are the bits.
 *
 * In place nothing is overwritten too early: an owner sends the final bytes of a slice only after it
 * has taken every rank's input for it.
 *
 * Whole is the plan for what is so small that only the number of hops counts: all send everything to
 * all, and everybody reduces everything.
 */
#include "plan.h"

static coll_status check(uint32_t rank, uint32_t size)
{
    return size == 0 || rank >= size || size > INT32_MAX / 8 ? COLL_INVALID_ARGUMENT : COLL_OK;
}

coll_status coll__plan_direct(uint32_t rank, uint32_t size, struct coll_plan **plan)
{
    struct coll_plan *made = NULL;
    coll_status status = check(rank, size);
    if (status == COLL_OK)
        status = coll__plan_new(rank, size, size, 4 * size, &made);
    if (status != COLL_OK)
        return status;
    uint32_t mine = (rank + 1) % size;
    int32_t reduce = -1;
    /* Finished slices before fresh ones, and each rank begins with another neighbour. */
    for (uint32_t k = 1; k < size; k++)
        coll__plan_add(made, (struct coll_step){
                                 .kind = COLL_STEP_RECV_KEEP,
                                 .peer = (rank + k) % size,
                                 .segment = mine,
                                 .message = 0,
                                 .after = -1,
                             });
    if (size > 1)
        reduce = coll__plan_add(
            made,
            (struct coll_step){
                .kind = COLL_STEP_REDUCE, .peer = rank, .segment = mine, .final = 1, .after = -1});
    for (uint32_t k = 1; k < size; k++) {
        uint32_t peer = (rank + k) % size;
        uint32_t theirs = (peer + 1) % size;
        coll__plan_add(made, (struct coll_step){
                                 .kind = COLL_STEP_SEND,
                                 .peer = peer,
                                 .segment = mine,
                                 .message = 1,
                                 .source = COLL_FROM_OUTPUT,
                                 .after = reduce,
                             });
        coll__plan_add(made, (struct coll_step){
                                 .kind = COLL_STEP_RECV,
                                 .peer = peer,
                                 .segment = theirs,
                                 .message = 1,
                                 .after = -1,
                             });
        coll__plan_add(made, (struct coll_step){
                                 .kind = COLL_STEP_SEND,
                                 .peer = peer,
                                 .segment = theirs,
                                 .message = 0,
                                 .source = COLL_FROM_INPUT,
                                 .after = -1,
                             });
    }
    *plan = made;
    return COLL_OK;
}

coll_status coll__plan_whole(uint32_t rank, uint32_t size, struct coll_plan **plan)
{
    struct coll_plan *made = NULL;
    coll_status status = check(rank, size);
    if (status == COLL_OK)
        status = coll__plan_new(rank, size, size, 2 * size, &made);
    if (status != COLL_OK)
        return status;
    for (uint32_t k = 1; k < size; k++) {
        uint32_t peer = (rank + k) % size;
        coll__plan_add(made, (struct coll_step){
                                 .kind = COLL_STEP_SEND,
                                 .peer = peer,
                                 .segment = COLL_ALL_SEGMENTS,
                                 .source = COLL_FROM_INPUT,
                                 .after = -1,
                             });
        coll__plan_add(made, (struct coll_step){
                                 .kind = COLL_STEP_RECV_KEEP,
                                 .peer = peer,
                                 .segment = COLL_ALL_SEGMENTS,
                                 .after = -1,
                             });
    }
    if (size > 1)
        coll__plan_add(made, (struct coll_step){
                                 .kind = COLL_STEP_REDUCE,
                                 .peer = rank,
                                 .segment = COLL_ALL_SEGMENTS,
                                 .final = 1,
                                 .after = -1,
                             });
    *plan = made;
    return COLL_OK;
}
