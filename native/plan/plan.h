/* Plans as data. A plan builder is a pure function of (rank, size, root): it opens no socket and
 * allocates nothing but the plan. The public view of a plan is in collectives.h. */
#ifndef COLL_PLAN_PLAN_H
#define COLL_PLAN_PLAN_H

#include <stdbool.h>

#include "collectives.h"

/* What steps have to do with each other; -1: none. */
struct coll__relation {
    int32_t first_dependent, next_dependent; /* steps with `after` == this one */
    int32_t reduce; /* RECV_KEEP: the REDUCE that it is for */
    int32_t first_operand, next_operand; /* REDUCE: itself and its RECV_KEEPs, by rank */
    int32_t fan; /* SEND: the first one that sends the same to another peer */
    int32_t answer; /* SEND of input: the RECV of what the same peer makes of it */
    bool first_write; /* no earlier step writes the segment */
};

struct coll_plan {
    struct coll_plan_info info;
    struct coll__relation *relations; /* of each step; made when the plan is whole */
    struct coll_step *steps;       /* info.steps of them, in the order the engine starts them */
    uint32_t capacity;
};

bool coll__kind_is_rooted(uint32_t kind);

/* topology.c */
/* Whether the levels are within each other. COLL_NO_MEMORY, too. */
coll_status coll__topology_check(const struct coll_topology *topology, uint32_t size);
/* The innermost level at which two ranks are in one group; that of all, if there is none. */
uint32_t coll__topology_level(const struct coll_topology *topology, uint32_t size, uint32_t a,
                              uint32_t b);
/* From which level on a hierarchical operation with a codec is encoded; UINT32_MAX: nowhere. */
uint32_t coll__topology_coded(const struct coll_topology *topology);
/* A copy for some of the ranks: the i-th of `count` was ranks[i] of `size` (NULL: all were as they
 * are). A caller owns it: free(). NULL: no memory. */
struct coll_topology *coll__topology_copy(const struct coll_topology *topology, uint32_t size,
                                          const uint32_t *ranks, uint32_t count);

static inline bool coll__step_receives(const struct coll_step *step)
{
    return step->kind != COLL_STEP_SEND && step->kind != COLL_STEP_REDUCE;
}

/* An empty plan with room for `capacity` steps; the builder appends with coll__plan_add. */
coll_status coll__plan_new(uint32_t rank, uint32_t size, uint32_t segments, uint32_t capacity,
                           struct coll_plan **plan);
/* Make room for so many more. */
coll_status coll__plan_reserve(struct coll_plan *plan, uint32_t more);
/* Append a step and return its index (for later `after`s). The capacity must not be exceeded. */
int32_t coll__plan_add(struct coll_plan *plan, struct coll_step step);
/* The steps that most plans are made of; `after` of what waits for nothing is -1. */
static inline int32_t coll__plan_send(struct coll_plan *plan, uint32_t peer, uint32_t segment,
                                      uint32_t message, int32_t after)
{
    return coll__plan_add(plan, (struct coll_step){
                                    .kind = COLL_STEP_SEND,
                                    .peer = peer,
                                    .segment = segment,
                                    .message = message,
                                    .source = after < 0 ? COLL_FROM_INPUT : COLL_FROM_OUTPUT,
                                    .after = after,
                                });
}
static inline int32_t coll__plan_receive(struct coll_plan *plan, uint32_t kind, uint32_t peer,
                                         uint32_t segment, uint32_t message)
{
    return coll__plan_add(
        plan, (struct coll_step){
                  .kind = kind, .peer = peer, .segment = segment, .message = message, .after = -1});
}
/* Of what coll__plan_receive keeps, and what step `after` has made (-1: the input). */
static inline int32_t coll__plan_reduce(struct coll_plan *plan, uint32_t segment, uint32_t first,
                                        int32_t after, uint32_t final)
{
    return coll__plan_add(plan, (struct coll_step){
                                    .kind = COLL_STEP_REDUCE,
                                    .peer = first,
                                    .segment = segment,
                                    .source = after < 0 ? COLL_FROM_INPUT : COLL_FROM_OUTPUT,
                                    .final = final,
                                    .after = after,
                                });
}

/* One file per algorithm; each refuses what it cannot do. */
coll_status coll__plan_ring(uint32_t kind, uint32_t rank, uint32_t size, bool both,
                            struct coll_plan **plan);
coll_status coll__plan_direct(uint32_t kind, uint32_t rank, uint32_t size, uint32_t root,
                              struct coll_plan **plan);
coll_status coll__plan_whole(uint32_t kind, uint32_t rank, uint32_t size, uint32_t root,
                             struct coll_plan **plan);
coll_status coll__plan_chain(uint32_t rank, uint32_t size, uint32_t root, struct coll_plan **plan);
coll_status coll__plan_doubling(uint32_t rank, uint32_t size, struct coll_plan **plan);
coll_status coll__plan_hierarchical(uint32_t kind, uint32_t rank, uint32_t size, uint32_t root,
                                    const struct coll_topology *topology, struct coll_plan **plan);
coll_status coll__plan_star(uint32_t kind, uint32_t rank, uint32_t size, uint32_t root,
                            struct coll_plan **plan);
coll_status coll__plan_pair(uint32_t kind, uint32_t rank, uint32_t size, uint32_t peer,
                            struct coll_plan **plan);

#endif
