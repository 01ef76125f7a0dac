/* Plans as data. A plan builder is a pure function of (rank, size, root): it opens no socket and
 * allocates nothing but the plan. The public view of a plan is in collectives.h. */
#ifndef COLL_PLAN_PLAN_H
#define COLL_PLAN_PLAN_H

#include "collectives.h"

/* What steps have to do with each other; -1: none. */
struct coll__relation {
    int32_t first_dependent, next_dependent; /* steps with `after` == this one */
    int32_t reduce; /* RECV_KEEP: the segment's REDUCE */
    int32_t answer; /* SEND of input: the RECV of what the same peer makes of it */
    int first_write; /* no earlier step writes the segment */
};

struct coll_plan {
    struct coll_plan_info info;
    struct coll__relation *relations; /* of each step; made when the plan is whole */
    struct coll_step *steps;       /* info.steps of them, in the order the engine starts them */
};

static inline int coll__step_receives(const struct coll_step *step)
{
    return step->kind != COLL_STEP_SEND && step->kind != COLL_STEP_REDUCE;
}

/* An empty plan with room for `capacity` steps; the builder appends with coll__plan_add. */
coll_status coll__plan_new(uint32_t rank, uint32_t size, uint32_t segments, uint32_t capacity,
                           struct coll_plan **plan);
/* Append a step and return its index (for later `after`s). The capacity must not be exceeded. */
int32_t coll__plan_add(struct coll_plan *plan, struct coll_step step);

/* One builder per file. */
coll_status coll__plan_ring(uint32_t rank, uint32_t size, struct coll_plan **plan);
coll_status coll__plan_direct(uint32_t rank, uint32_t size, struct coll_plan **plan);
coll_status coll__plan_whole(uint32_t rank, uint32_t size, struct coll_plan **plan);
coll_status coll__plan_chain(uint32_t rank, uint32_t size, uint32_t root, struct coll_plan **plan);

#endif
