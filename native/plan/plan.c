/* Plans: making, reading and freeing them, and how a buffer is cut into segments.
 *
 * What an algorithm does is in its own file (ring.c, direct.c, chain.c); here is what they share. A plan
 * depends on its arguments alone, so every rank makes its own and no rank sends a plan to another.
 */
#include "plan.h"

#include <stdlib.h>

/* Far above any run that could exist, far below where a step count overflows. It keeps a nonsense
 * size from turning into gigabytes of steps. */
#define MAX_SIZE (UINT32_C(1) << 20)

coll_status coll__plan_new(uint32_t rank, uint32_t size, uint32_t segments, uint32_t capacity,
                           struct coll_plan **plan)
{
    /* `after` is an int32_t, so a plan with more steps could not name them. That the bytes do not
     * overflow either is calloc's own check. */
    if (capacity > INT32_MAX) {
        return COLL_INVALID_ARGUMENT;
    }
    struct coll_plan *made = calloc(1, sizeof(*made));
    if (made == NULL) {
        return COLL_NO_MEMORY;
    }
    if (capacity > 0) {
        made->steps = calloc(capacity, sizeof(*made->steps));
        if (made->steps == NULL) {
            free(made);
            return COLL_NO_MEMORY;
        }
    }
    made->info = (struct coll_plan_info){.rank = rank, .size = size, .segments = segments};
    *plan = made;
    return COLL_OK;
}

int32_t coll__plan_add(struct coll_plan *plan, struct coll_step step)
{
    uint32_t index = plan->info.steps++;
    plan->steps[index] = step;
    return (int32_t)index;
}

/* In one pass over the steps, by what their segments have of each kind. */
static coll_status relate(struct coll_plan *plan)
{
    const uint32_t steps = plan->info.steps, segments = plan->info.segments;
    struct of_segment {
        int32_t recv, recv_reduce, reduce;
    } *of = malloc((segments + (size_t)1) * sizeof *of);

    plan->relations = calloc(steps + (size_t)1, sizeof *plan->relations);
    if (of == NULL || plan->relations == NULL) {
        free(of);
        return COLL_NO_MEMORY;
    }
    for (uint32_t i = 0; i <= segments; i++) {
        of[i] = (struct of_segment){-1, -1, -1};
    }
#define OF(STEP) (&of[(STEP)->segment < segments ? (STEP)->segment : segments])
    for (uint32_t i = 0; i < steps; i++) {
        const struct coll_step *step = &plan->steps[i];
        if (step->kind == COLL_STEP_RECV) {
            OF(step)->recv = (int32_t)i;
        } else if (step->kind == COLL_STEP_RECV_REDUCE) {
            OF(step)->recv_reduce = (int32_t)i;
        } else if (step->kind == COLL_STEP_REDUCE) {
            OF(step)->reduce = (int32_t)i;
        }
        plan->relations[i] = (struct coll__relation){-1, -1, -1, -1, 1};
    }
    for (uint32_t i = 0; i < steps; i++) {
        const struct coll_step *step = &plan->steps[i];
        struct coll__relation *relation = &plan->relations[i];
        const int32_t recv = OF(step)->recv;
        /* In a ring a rank adds to a segment before it receives the finished one. */
        relation->first_write = step->kind != COLL_STEP_RECV || OF(step)->recv_reduce < 0;
        relation->reduce = step->kind == COLL_STEP_RECV_KEEP ? OF(step)->reduce : -1;
        if (step->kind == COLL_STEP_SEND && step->after < 0 && recv >= 0 &&
            plan->steps[recv].peer == step->peer) {
            relation->answer = recv;
        }
        if (step->after >= 0) {
            relation->next_dependent = plan->relations[step->after].first_dependent;
            plan->relations[step->after].first_dependent = (int32_t)i;
        }
    }
#undef OF
    free(of);
    return COLL_OK;
}

static coll_status make_all_reduce(uint32_t algorithm, uint32_t rank, uint32_t size,
                                   struct coll_plan **plan)
{
    switch ((enum coll_algorithm)algorithm) {
    case COLL_RING:
        return coll__plan_ring(rank, size, plan);
    case COLL_DIRECT:
        return coll__plan_direct(rank, size, plan);
    case COLL_WHOLE:
        return coll__plan_whole(rank, size, plan);
    case COLL_ALGORITHM_COUNT:
        break;
    }
    return COLL_INVALID_ARGUMENT;
}

static coll_status make(uint32_t kind, uint32_t algorithm, uint32_t rank, uint32_t size,
                        uint32_t root, struct coll_plan **plan)
{
    if (size == 0 || size > MAX_SIZE || rank >= size) {
        return COLL_INVALID_ARGUMENT;
    }
    switch ((enum coll_kind)kind) {
    case COLL_ALL_REDUCE:
        return make_all_reduce(algorithm, rank, size, plan);
    case COLL_BROADCAST:
        if (root >= size) {
            return COLL_INVALID_ARGUMENT;
        }
        return coll__plan_chain(rank, size, root, plan);
    case COLL_BARRIER:
        /* No bytes to move: the completion tokens that end every operation are the barrier. */
        return coll__plan_new(rank, size, 1, 0, plan);
    case COLL_SYNC:
    case COLL_KIND_COUNT:
        break;
    }
    return COLL_INVALID_ARGUMENT;
}

coll_status coll_plan_make(uint32_t kind, uint32_t algorithm, uint32_t rank, uint32_t size,
                           uint32_t root, struct coll_plan **plan)
{
    struct coll_plan *made = NULL;
    coll_status status = plan == NULL ? COLL_INVALID_ARGUMENT
                                      : make(kind, algorithm, rank, size, root, &made);
    if (status == COLL_OK) {
        status = relate(made);
    }
    if (status != COLL_OK) {
        coll_plan_free(made);
        return status;
    }
    *plan = made;
    return COLL_OK;
}

void coll_plan_free(struct coll_plan *plan)
{
    if (plan != NULL) {
        free(plan->relations);
        free(plan->steps);
        free(plan);
    }
}

void coll_plan_get_info(const struct coll_plan *plan, struct coll_plan_info *info)
{
    *info = plan->info;
}

const struct coll_step *coll_plan_steps(const struct coll_plan *plan)
{
    return plan->steps;
}

void coll_segment_range(uint64_t count, uint32_t segments, uint32_t i, uint64_t *begin,
                        uint64_t *end)
{
    /* Past the last segment (and for a buffer cut into none) the range is empty. */
    if (i >= segments) {
        *begin = count;
        *end = count;
        return;
    }
    uint64_t length = count / segments;
    uint64_t longer = count % segments;
    *begin = i * length + (i < longer ? i : longer);
    *end = *begin + length + (i < longer ? 1 : 0);
}
