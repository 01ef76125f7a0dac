/* Chain broadcast.
 *
 * The ranks form a chain along the ring, from the root to the rank on its left. Each rank hands
 * on what it receives; the last one has nobody to hand it to.
 *
 *      size 5, root 3:      3  ──►  4  ──►  0  ──►  1  ──►  2
 *
 * The whole buffer is one segment. A rank forwards slice j as soon as slice j is in, so all links
 * work at the same time and a large buffer takes hardly longer than over one link; a small one
 * pays size-1 latencies.
 *
 * The root sends from its input and receives nothing: its result is its input, and if its output
 * is another buffer the engine copies it there, as it does for a group of one.
 */
#include "plan.h"

coll_status coll__plan_chain(uint32_t rank, uint32_t size, uint32_t root, struct coll_plan **plan)
{
    if (rank >= size || root >= size) {
        return COLL_INVALID_ARGUMENT;
    }
    struct coll_plan *made = NULL;
    coll_status status = coll__plan_new(rank, size, 1, 2, &made);
    if (status != COLL_OK) {
        return status;
    }
    uint32_t right = rank == size - 1 ? 0 : rank + 1;
    int32_t received = -1;

    if (rank != root) {
        received = coll__plan_add(made, (struct coll_step){
                                            .kind = COLL_STEP_RECV,
                                            .peer = rank == 0 ? size - 1 : rank - 1,
                                            .after = -1,
                                        });
    }
    if (right != root) {
        coll__plan_add(made, (struct coll_step){
                                 .kind = COLL_STEP_SEND,
                                 .peer = right,
                                 .source = rank == root ? COLL_FROM_INPUT : COLL_FROM_OUTPUT,
                                 .after = received,
                             });
    }
    *plan = made;
    return COLL_OK;
}
