/* Direct: every rank hears every other one, without a detour.
 *
 * Reductions. Segment s belongs to rank s-1 (mod size), as in the ring. Each rank sends each other
 * one its input for that one's segment; an owner keeps what comes until it has it from all, reduces
 * in the canonical order, and sends the result to whoever is to have it:
 *
 *      message 0   r ──► owner(s)   input of segment s        reduce-scatter
 *      message 1   owner(s) ──► r   the reduced segment       all-gather
 *
 * A reduce_scatter ends after the first half, with its blocks as segments; a reduce sends the second
 * half to the root alone. Two steps whatever the size, and as many bytes on each rank as the ring
 * moves: the plan for links that do not share anything, such as memory. The order of additions is
 * the ring's, so are the bits.
 *
 * In place nothing is overwritten too early: an owner sends the final bytes of a slice only after it
 * has taken every rank's input for it.
 *
 * Exchanges. In an all_gather each rank sends its block to all, in an all_to_all to each what is for
 * it; nothing is passed on.
 *
 * Whole is the plan for reductions of what is so small that only the number of hops counts: all send
 * everything to all (to the root), and everybody (the root) reduces everything.
 */
#include "plan.h"

static coll_status reduction(uint32_t kind, uint32_t rank, uint32_t size, uint32_t root,
                             struct coll_plan **plan)
{
    struct coll_plan *made = NULL;
    coll_status status = coll__plan_new(rank, size, size, 4 * size, &made);
    if (status != COLL_OK)
        return status;
    const uint32_t mine = (rank + 1) % size;
    int32_t reduce = -1;
    /* Finished slices before fresh ones, and each rank begins with another neighbour. */
    for (uint32_t k = 1; k < size; k++)
        coll__plan_receive(made, COLL_STEP_RECV_KEEP, (rank + k) % size, mine, 0);
    if (size > 1)
        reduce = coll__plan_reduce(made, mine, mine, -1, 1);
    for (uint32_t k = 1; k < size; k++) {
        const uint32_t peer = (rank + k) % size;
        const uint32_t theirs = (peer + 1) % size;
        if (kind == COLL_ALL_REDUCE || (kind == COLL_REDUCE && peer == root))
            coll__plan_send(made, peer, mine, 1, reduce);
        if (kind == COLL_ALL_REDUCE || (kind == COLL_REDUCE && rank == root))
            coll__plan_receive(made, COLL_STEP_RECV, peer, theirs, 1);
        coll__plan_send(made, peer, theirs, 0, -1);
    }
    *plan = made;
    return COLL_OK;
}

static coll_status exchange(uint32_t kind, uint32_t rank, uint32_t size, struct coll_plan **plan)
{
    const bool each = kind == COLL_ALL_TO_ALL;
    struct coll_plan *made = NULL;
    coll_status status = coll__plan_new(rank, size, each ? size * size : size, 2 * size, &made);
    if (status != COLL_OK)
        return status;
    for (uint32_t k = 1; k < size; k++) {
        /* In round k all hear one each. */
        const uint32_t to = (rank + k) % size, from = (rank + size - k) % size;
        coll__plan_send(made, to, each ? rank * size + to : rank, 0, -1);
        coll__plan_receive(made, COLL_STEP_RECV, from, each ? from * size + rank : from, 0);
    }
    *plan = made;
    return COLL_OK;
}

coll_status coll__plan_direct(uint32_t kind, uint32_t rank, uint32_t size, uint32_t root,
                              struct coll_plan **plan)
{
    if (size == 0 || rank >= size || size > INT32_MAX / 8)
        return COLL_INVALID_ARGUMENT;
    switch (kind) {
    case COLL_ALL_REDUCE:
    case COLL_REDUCE:
    case COLL_REDUCE_SCATTER:
        return reduction(kind, rank, size, root, plan);
    case COLL_ALL_TO_ALL:
        if (size > UINT16_MAX) /* or the segments could not be numbered */
            return COLL_INVALID_ARGUMENT;
        return exchange(kind, rank, size, plan);
    case COLL_ALL_GATHER:
        return exchange(kind, rank, size, plan);
    default:
        return COLL_INVALID_ARGUMENT;
    }
}

coll_status coll__plan_whole(uint32_t kind, uint32_t rank, uint32_t size, uint32_t root,
                             struct coll_plan **plan)
{
    const bool everybody = kind == COLL_ALL_REDUCE;
    struct coll_plan *made = NULL;
    if (size == 0 || rank >= size || size > INT32_MAX / 8 ||
        (kind != COLL_ALL_REDUCE && kind != COLL_REDUCE))
        return COLL_INVALID_ARGUMENT;
    coll_status status = coll__plan_new(rank, size, size, 2 * size, &made);
    if (status != COLL_OK)
        return status;
    for (uint32_t k = 1; k < size; k++) {
        const uint32_t peer = (rank + k) % size;
        if (everybody || peer == root)
            coll__plan_send(made, peer, COLL_ALL_SEGMENTS, 0, -1);
        if (everybody || rank == root)
            coll__plan_receive(made, COLL_STEP_RECV_KEEP, peer, COLL_ALL_SEGMENTS, 0);
    }
    if (size > 1 && (everybody || rank == root))
        coll__plan_reduce(made, COLL_ALL_SEGMENTS, rank, -1, 1);
    *plan = made;
    return COLL_OK;
}
