/* Plans: making, reading and freeing them, and how a buffer is cut into segments.
 *
 * What an algorithm does is in its own file (ring.c, star.c ...); here is what they share. A plan
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
    struct coll_plan *made = calloc(1, sizeof(*made));
    if (made == NULL) {
        return COLL_NO_MEMORY;
    }
    made->info = (struct coll_plan_info){.rank = rank, .size = size, .segments = segments};
    coll_status status = coll__plan_reserve(made, capacity);
    if (status != COLL_OK) {
        coll_plan_free(made);
        return status;
    }
    *plan = made;
    return COLL_OK;
}

coll_status coll__plan_reserve(struct coll_plan *plan, uint32_t more)
{
    uint64_t needed = (uint64_t)plan->info.steps + more;
    if (needed <= plan->capacity) {
        return COLL_OK;
    }
    needed = needed > UINT64_C(2) * plan->capacity ? needed : UINT64_C(2) * plan->capacity;
    /* `after` is an int32_t, so a plan with more steps could not name them. */
    if (needed > INT32_MAX || needed > SIZE_MAX / sizeof(*plan->steps)) {
        return COLL_INVALID_ARGUMENT;
    }
    struct coll_step *steps = realloc(plan->steps, (size_t)needed * sizeof(*steps));
    if (steps == NULL) {
        return COLL_NO_MEMORY;
    }
    plan->steps = steps;
    plan->capacity = (uint32_t)needed;
    return COLL_OK;
}

int32_t coll__plan_add(struct coll_plan *plan, struct coll_step step)
{
    uint32_t index = plan->info.steps++;
    plan->steps[index] = step;
    return (int32_t)index;
}

struct at_segment {
    uint32_t segment, step;
};

static int by_segment(const void *a, const void *b)
{
    const struct at_segment *one = a, *other = b;
    if (one->segment != other->segment) {
        return one->segment > other->segment ? 1 : -1;
    }
    return (one->step > other->step) - (one->step < other->step);
}

static uint32_t rank_of_operand(const struct coll_plan *plan, int32_t step)
{
    const struct coll_step *at = &plan->steps[step];
    return at->kind == COLL_STEP_REDUCE ? plan->info.rank : at->peer;
}

/* In the order of the ranks. */
static void add_operand(struct coll_plan *plan, int32_t reduce, int32_t operand)
{
    int32_t *at = &plan->relations[reduce].first_operand;
    while (*at >= 0 && rank_of_operand(plan, *at) < rank_of_operand(plan, operand)) {
        at = &plan->relations[*at].next_operand;
    }
    plan->relations[operand].next_operand = *at;
    *at = operand;
}

/* The first of several SENDs of the same. */
static int32_t fan_of(const struct coll_plan *plan, const struct at_segment *at, uint32_t count,
                      const struct coll_step *send)
{
    int32_t first = -1;
    uint32_t times = 0;
    for (uint32_t k = 0; k < count && times < 2; k++) {
        const struct coll_step *step = &plan->steps[at[k].step];
        if (step->kind == COLL_STEP_SEND && step->after == send->after) {
            first = times++ == 0 ? (int32_t)at[k].step : first;
        }
    }
    return times > 1 ? first : -1;
}

/* The steps of one segment, in their order. Those that act on all segments have their own relations. */
static void relate_segment(struct coll_plan *plan, const struct at_segment *at, uint32_t count)
{
    struct coll__relation *relations = plan->relations;
    int32_t recv = -1, reduce = -1;
    bool reduces = false;

    for (uint32_t k = count; k-- > 0;) {
        const int32_t i = (int32_t)at[k].step;
        const struct coll_step *step = &plan->steps[i];
        reduces |= step->kind == COLL_STEP_RECV_REDUCE || step->kind == COLL_STEP_REDUCE;
        recv = step->kind == COLL_STEP_RECV ? i : recv;
        if (step->kind == COLL_STEP_REDUCE) {
            reduce = i;
            add_operand(plan, reduce, i);
        } else if (step->kind == COLL_STEP_RECV_KEEP && reduce >= 0) {
            relations[i].reduce = reduce;
            add_operand(plan, reduce, i);
        }
    }
    for (uint32_t k = 0; k < count; k++) {
        const struct coll_step *step = &plan->steps[at[k].step];
        struct coll__relation *relation = &relations[at[k].step];
        /* A rank adds to a segment before it receives the finished one. */
        relation->first_write = step->kind == COLL_STEP_RECV ? !reduces
                                                             : step->source == COLL_FROM_INPUT;
        if (step->kind != COLL_STEP_SEND) {
            continue;
        }
        relation->fan = fan_of(plan, at, count, step);
        if (step->after < 0 && recv >= 0 && plan->steps[recv].peer == step->peer) {
            relation->answer = recv;
        }
    }
}

static coll_status relate(struct coll_plan *plan)
{
    const uint32_t steps = plan->info.steps;
    struct at_segment *at = calloc(steps + (size_t)1, sizeof *at);

    plan->relations = calloc(steps + (size_t)1, sizeof *plan->relations);
    if (at == NULL || plan->relations == NULL) {
        free(at);
        return COLL_NO_MEMORY;
    }
    for (uint32_t i = 0; i < steps; i++) {
        at[i] = (struct at_segment){plan->steps[i].segment, i};
        plan->relations[i] = (struct coll__relation){-1, -1, -1, -1, -1, -1, -1, true};
    }
    qsort(at, steps, sizeof *at, by_segment);
    for (uint32_t begin = 0, end; begin < steps; begin = end) {
        for (end = begin + 1; end < steps && at[end].segment == at[begin].segment;) {
            end++;
        }
        relate_segment(plan, at + begin, end - begin);
    }
    free(at);
    for (uint32_t i = 0; i < steps; i++) {
        const int32_t after = plan->steps[i].after;
        if (after >= 0) {
            plan->relations[i].next_dependent = plan->relations[after].first_dependent;
            plan->relations[after].first_dependent = (int32_t)i;
        }
    }
    return COLL_OK;
}

bool coll__kind_is_rooted(uint32_t kind)
{
    return kind == COLL_BROADCAST || kind == COLL_REDUCE || kind == COLL_GATHER ||
           kind == COLL_SCATTER;
}

int coll_plan_does(uint32_t kind, uint32_t algorithm)
{
    static const uint32_t kinds[COLL_ALGORITHM_COUNT] = {
        [COLL_RING] = 1u << COLL_ALL_REDUCE | 1u << COLL_ALL_GATHER,
        [COLL_DIRECT] = 1u << COLL_ALL_REDUCE | 1u << COLL_REDUCE | 1u << COLL_REDUCE_SCATTER |
                        1u << COLL_ALL_GATHER | 1u << COLL_ALL_TO_ALL,
        [COLL_WHOLE] = 1u << COLL_ALL_REDUCE | 1u << COLL_REDUCE,
        [COLL_CHAIN] = 1u << COLL_BROADCAST,
        [COLL_STAR] = 1u << COLL_BROADCAST | 1u << COLL_GATHER | 1u << COLL_SCATTER,
        [COLL_BIDIRECTIONAL_RING] = 1u << COLL_ALL_REDUCE | 1u << COLL_ALL_GATHER,
        [COLL_DOUBLING] = 1u << COLL_ALL_REDUCE,
        [COLL_HIERARCHICAL] = 1u << COLL_ALL_REDUCE | 1u << COLL_REDUCE |
                              1u << COLL_REDUCE_SCATTER | 1u << COLL_BROADCAST |
                              1u << COLL_ALL_GATHER,
    };
    return algorithm < COLL_ALGORITHM_COUNT && kind < COLL_KIND_COUNT &&
           (kinds[algorithm] >> kind & 1);
}

static coll_status make(uint32_t kind, uint32_t algorithm, uint32_t rank, uint32_t size,
                        uint32_t root, const struct coll_topology *topology,
                        struct coll_plan **plan)
{
    if (size == 0 || size > MAX_SIZE || rank >= size ||
        (coll__kind_is_rooted(kind) && root >= size)) {
        return COLL_INVALID_ARGUMENT;
    }
    coll_status checked = topology == NULL ? COLL_OK : coll__topology_check(topology, size);
    if (checked != COLL_OK) {
        return checked;
    }
    if (kind == COLL_BARRIER) {
        return coll__plan_new(rank, size, 1, 0, plan);
    }
    if (kind == COLL_SEND || kind == COLL_RECV) {
        return coll__plan_pair(kind, rank, size, root, plan);
    }
    if (!coll_plan_does(kind, algorithm)) {
        return COLL_INVALID_ARGUMENT;
    }
    switch ((enum coll_algorithm)algorithm) {
    case COLL_RING:
        return coll__plan_ring(kind, rank, size, false, plan);
    case COLL_BIDIRECTIONAL_RING:
        return coll__plan_ring(kind, rank, size, true, plan);
    case COLL_DIRECT:
        return coll__plan_direct(kind, rank, size, root, plan);
    case COLL_WHOLE:
        return coll__plan_whole(kind, rank, size, root, plan);
    case COLL_CHAIN:
        return coll__plan_chain(rank, size, root, plan);
    case COLL_STAR:
        return coll__plan_star(kind, rank, size, root, plan);
    case COLL_DOUBLING:
        return coll__plan_doubling(rank, size, plan);
    case COLL_HIERARCHICAL:
        return coll__plan_hierarchical(kind, rank, size, root, topology, plan);
    case COLL_ALGORITHM_COUNT:
        break;
    }
    return COLL_INVALID_ARGUMENT;
}

coll_status coll_plan_make(uint32_t kind, uint32_t algorithm, uint32_t rank, uint32_t size,
                           uint32_t root, const struct coll_topology *topology,
                           struct coll_plan **plan)
{
    struct coll_plan *made = NULL;
    coll_status status = plan == NULL ? COLL_INVALID_ARGUMENT
                                      : make(kind, algorithm, rank, size, root, topology, &made);
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
