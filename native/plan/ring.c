/* Ring: all-reduce, and its second half, all-gather.
 *
 * The buffer is cut into `size` segments. Rank r hears only its left neighbour and speaks only to
 * its right one. In round t it sends segment r-t and receives segment r-t-1 (all mod size):
 *
 *      rank 0  ──►  rank 1  ──►  rank 2  ──►  (back to 0)
 *
 *      size 3      rank 0 sends   rank 1 sends   rank 2 sends
 *      round 0     0: a           1: b           2: c            reduce-scatter
 *      round 1     2: ca          0: ab          1: bc
 *      round 2     1: bca         2: cab         0: abc          all-gather
 *      round 3     0: abc         1: bca         2: cab
 *
 * For the first size-1 rounds what comes in is a partial sum, and the rank adds its own input to
 * it: output = op(received, input). So segment s is ((x_s + x_s+1) + x_s+2) + ..., on one rank,
 * s-1, which is then the only producer of its final bytes. In the other size-1 rounds the finished
 * segments are passed once around as they are, which is why all ranks end with the same bits.
 *
 * Each link carries 2(n-1)/n of the buffer: the least any all-reduce can, so this is the plan for
 * large buffers where bandwidth, not latency, is the cost.
 *
 * Nothing is overwritten too early, also when input and output are one buffer: the final bytes of
 * a slice can reach a rank only after its right neighbour has added that rank's own to them.
 * tests/test_plans.py proves it.
 */
#include "plan.h"

/* (a - b) mod size, for a < size and any b. */
static uint32_t minus(uint32_t a, uint32_t b, uint32_t size)
{
    return (uint32_t)(((uint64_t)a + size - b % size) % size);
}

/* Round t: on goes the block that came in the round before; the own one is the first. */
static coll_status all_gather(uint32_t rank, uint32_t size, struct coll_plan **plan)
{
    struct coll_plan *made = NULL;
    coll_status status = coll__plan_new(rank, size, size, 2 * (size - 1), &made);
    if (status != COLL_OK) {
        return status;
    }
    int32_t received = -1;
    for (uint32_t t = 0; t + 1 < size; t++) {
        coll__plan_send(made, (rank + 1) % size, minus(rank, t, size), t, received);
        received = coll__plan_receive(made, COLL_STEP_RECV, minus(rank, 1, size),
                                      minus(rank, t + 1, size), t);
    }
    *plan = made;
    return COLL_OK;
}

coll_status coll__plan_ring(uint32_t kind, uint32_t rank, uint32_t size, struct coll_plan **plan)
{
    if (size == 0 || rank >= size || size > INT32_MAX / 4 ||
        (kind != COLL_ALL_REDUCE && kind != COLL_ALL_GATHER)) {
        return COLL_INVALID_ARGUMENT;
    }
    if (kind == COLL_ALL_GATHER) {
        return all_gather(rank, size, plan);
    }
    uint32_t rounds = 2 * (size - 1);
    struct coll_plan *made = NULL;
    coll_status status = coll__plan_new(rank, size, size, 2 * rounds, &made);
    if (status != COLL_OK) {
        return status;
    }
    uint32_t left = minus(rank, 1, size);
    uint32_t right = (rank + 1) % size;

    /* Last round first: a slice that is nearly done gets the link before a fresh one enters. It
     * is the one still in the cache, and the two phases interleave slice by slice. So a send
     * comes after a step that follows it in the array: the receive of the round before. */
    for (uint32_t t = rounds; t-- > 0;) {
        int reduces = t < size - 1;
        coll__plan_add(made, (struct coll_step){
                                 .kind = reduces ? COLL_STEP_RECV_REDUCE : COLL_STEP_RECV,
                                 .peer = left,
                                 .segment = minus(rank, t + 1, size),
                                 .message = t,
                                 .final = t == size - 2,
                                 .after = -1,
                             });
        coll__plan_add(made, (struct coll_step){
                                 .kind = COLL_STEP_SEND,
                                 .peer = right,
                                 .segment = minus(rank, t, size),
                                 .message = t,
                                 .source = t == 0 ? COLL_FROM_INPUT : COLL_FROM_OUTPUT,
                                 .after = t == 0 ? -1 : (int32_t)made->info.steps + 1,
                             });
    }
    *plan = made;
    return COLL_OK;
}
