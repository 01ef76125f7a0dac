/* Recursive doubling: all-reduce of what is so small that only the number of hops counts.
 *
 * In round k ranks that differ in bit k exchange everything they have, and both reduce it. After
 * log2(size) rounds all have everything:
 *
 *      round 0      0 ◄─► 1    2 ◄─► 3    4 ◄─► 5    6 ◄─► 7
 *      round 1      0 ◄─► 2    1 ◄─► 3    4 ◄─► 6    5 ◄─► 7
 *      round 2      0 ◄─► 4    1 ◄─► 5    2 ◄─► 6    3 ◄─► 7
 *
 * Of a size that is no power of two, the surplus folds into its neighbours first: of the first ranks
 * each odd one gives what it has to the even one below it, and gets the result from there at the end.
 * So all that are left are numbered without gaps, in the order of their ranks.
 *
 * Two partners compute the same: the operand of the lower rank comes first. So it is a tree of pairs of
 * neighbours, ((x_0 + x_1) + (x_2 + x_3)) + ..., and all ranks have the same bits.
 *
 * What is sent is overwritten by the next reduction, so sends must be copied when they start.
 */
#include "plan/plan.h"

/* One exchange of partial results, or a half of it; returns the reduction. */
static int32_t take(struct coll_plan *plan, uint32_t peer, int32_t last, bool final)
{
    const uint32_t first = peer < plan->info.rank ? peer : plan->info.rank;
    coll__plan_receive(plan, COLL_STEP_RECV_KEEP, peer, 0, 0);
    return coll__plan_reduce(plan, 0, first, last, final);
}

coll_status coll__plan_doubling(uint32_t rank, uint32_t size, struct coll_plan **plan)
{
    struct coll_plan *made = NULL;
    uint32_t power = 1, rounds = 0;
    while (power <= size / 2) {
        power *= 2;
        rounds++;
    }
    coll_status status = coll__plan_new(rank, size, 1, 3 * rounds + 3, &made);
    if (status != COLL_OK)
        return status;
    const uint32_t folded = size - power; /* of the first 2 * folded ranks, the odd ones */
    const bool pairs = rank < 2 * folded;
    int32_t last = -1;
    *plan = made;
    if (pairs && rank % 2 == 1) {
        coll__plan_send(made, rank - 1, 0, 0, -1);
        coll__plan_receive(made, COLL_STEP_RECV, rank - 1, 0, 0);
        return COLL_OK;
    }
    if (pairs)
        last = take(made, rank + 1, last, false);
    const uint32_t number = pairs ? rank / 2 : rank - folded;
    for (uint32_t bit = 1; bit < power; bit *= 2) {
        const uint32_t other = number ^ bit;
        const uint32_t peer = other < folded ? 2 * other : other + folded;
        coll__plan_send(made, peer, 0, 0, last);
        last = take(made, peer, last, 2 * bit == power);
    }
    if (pairs)
        coll__plan_send(made, rank + 1, 0, 0, last);
    return COLL_OK;
}
