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
 * The bidirectional ring is two of them. Links are as fast in both directions at a time, and a ring
 * uses one; so each segment is halved, and the second halves go round the other way: segment 2s is
 * segment s of the ring above, and segment 2s+1 that of a ring in which rank r is called -r, so that it
 * is ((x_s + x_s-1) + x_s-2) + ..., on rank s+1.
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

/* One of the rings that a plan is made of: the second one is the first one in a mirror. */
struct way {
    uint32_t size, ways, way;
    uint32_t rank;        /* of this one, in the mirror if it is the second */
    uint32_t left, right; /* ranks */
};

static struct way take_way(uint32_t rank, uint32_t size, uint32_t ways, uint32_t way)
{
    const uint32_t down = minus(rank, 1, size), up = (rank + 1) % size;
    return (struct way){.size = size,
                        .ways = ways,
                        .way = way,
                        .rank = way == 0 ? rank : minus(0, rank, size),
                        .left = way == 0 ? down : up,
                        .right = way == 0 ? up : down};
}

/* The plan's number of segment rank - t of this ring. */
static uint32_t segment_of(const struct way *way, uint32_t t)
{
    const uint32_t number = minus(way->rank, t, way->size);
    return way->ways * (way->way == 0 ? number : minus(0, number, way->size)) + way->way;
}

/* Round t: on goes the block that came in the round before; the own one is the first. */
static void add_all_gather(struct coll_plan *plan, const struct way *ways, uint32_t count)
{
    int32_t received[2] = {-1, -1};
    for (uint32_t t = 0; t + 1 < plan->info.size; t++) {
        for (uint32_t w = 0; w < count; w++) {
            const struct way *way = &ways[w];
            const uint32_t message = count * t + w;
            coll__plan_send(plan, way->right, segment_of(way, t), message, received[w]);
            received[w] = coll__plan_receive(plan, COLL_STEP_RECV, way->left,
                                             segment_of(way, t + 1), message);
        }
    }
}

/* Last round first: a slice that is nearly done gets the link before a fresh one enters. It is the one
 * still in the cache, and the two phases interleave slice by slice. So a send comes after a step that
 * follows it in the array: the receive of the round before. */
static void add_all_reduce(struct coll_plan *plan, const struct way *ways, uint32_t count)
{
    const uint32_t size = plan->info.size;
    for (uint32_t t = 2 * (size - 1); t-- > 0;) {
        for (uint32_t w = count; w-- > 0;) {
            const struct way *way = &ways[w];
            const uint32_t message = count * t + w;
            const int32_t receive = coll__plan_receive(
                plan, t < size - 1 ? COLL_STEP_RECV_REDUCE : COLL_STEP_RECV, way->left,
                segment_of(way, t + 1), message);
            plan->steps[receive].final = t == size - 2;
            coll__plan_send(plan, way->right, segment_of(way, t), message,
                            t == 0 ? -1 : receive + 2 * (int32_t)count);
        }
    }
}

coll_status coll__plan_ring(uint32_t kind, uint32_t rank, uint32_t size, bool both,
                            struct coll_plan **plan)
{
    const uint32_t count = both ? 2 : 1;
    if (size > INT32_MAX / 8) {
        return COLL_INVALID_ARGUMENT;
    }
    struct coll_plan *made = NULL;
    coll_status status = coll__plan_new(rank, size, count * size, count * 4 * (size - 1), &made);
    if (status != COLL_OK) {
        return status;
    }
    const struct way ways[2] = {take_way(rank, size, count, 0), take_way(rank, size, count, 1)};
    if (kind == COLL_ALL_GATHER) {
        add_all_gather(made, ways, count);
    } else {
        add_all_reduce(made, ways, count);
    }
    *plan = made;
    return COLL_OK;
}
