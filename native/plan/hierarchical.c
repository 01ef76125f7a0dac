/* Hierarchical: what is slow between groups of ranks carries each byte once in each direction.
 *
 * Ranks lie in groups, those in larger ones, and so on (struct coll_topology); above the last level
 * all are one group. Each segment has a tree. Its root is one rank, and each group that this rank is
 * not in has a rank of its own that stands for it: its owner. At level k the owners of the groups of
 * level k-1 that lie in one of level k take part, one of whom is the owner there (at level 0, ranks
 * themselves).
 *
 *      two hosts      {0 1 2}   {3 4}            a segment with root 1, and owner 3 on the other host
 *      level 0        0 ─► 1 ◄─ 2     4 ─► 3     each owner reduces what its host has
 *      level 1               1 ◄──── 3           the root reduces what the hosts have
 *      level 1               1 ────► 3           and back the finished segment goes
 *      level 0        0 ◄─ 1 ─► 2     3 ─► 4
 *
 * Roots and owners take turns from segment to segment, so that all work alike. Reductions of all kinds
 * do the first half. A reduce_scatter ends there: its segments are blocks, and the root of each is the
 * rank that is to have it. An all_reduce then goes the way back, where a broadcast and an all_gather
 * begin, whose roots are given; a reduce goes from the segment's root straight to that of the call.
 *
 * Either all send to the owner, and the owner to all (direct); or it goes from one to the next, by rank,
 * and the owner is the last one of this chain and the first one back, so that over all segments it is a
 * ring: links that share something (an uplink, a port) have one sender each. Which of the two it is at a
 * level, the view may say; else it is a ring among many above level 0. The order of additions is the
 * same: at each level by rank, cyclically, beginning behind the owner, who adds what it has last. Without
 * levels that is the order of the ring.
 *
 * Nothing is overwritten too early in place: finished bytes reach a rank only after its own have been
 * taken by the owner that it sent them to.
 */
#include <stdlib.h>

#include "plan/plan.h"

enum {
    FEW = 4,           /* ranks, above level 0: so many send to one, if the view does not say */
    SEGMENTS = 64,     /* to make all work exactly alike there may be so many */
    MOST = 1 << 14     /* ranks: the time to make a plan grows with the square */
};

struct tree {
    uint32_t size, rank;
    uint32_t levels;    /* with the one of all ranks */
    uint32_t *group;    /* [level * size + rank]: numbered from 0 at each level */
    uint32_t *members;  /* [level * size + i]: ranks, by group and then by rank */
    uint32_t *begin;    /* [level * (size + 1) + group]: in members */
    uint32_t *owner;    /* [level * size + group]: of the segment at hand */
    uint32_t *turns;    /* [level * size + group]: how often one has been chosen to be it */
    const struct coll_topology *topology; /* NULL: no levels */
    uint32_t *taking;   /* the ranks that take part at the level at hand, in order */
};

struct place {
    uint32_t place, rank;
};

static int by_place(const void *a, const void *b)
{
    const struct place *one = a, *other = b;
    if (one->place != other->place)
        return one->place > other->place ? 1 : -1;
    return (one->rank > other->rank) - (one->rank < other->rank);
}

static void make_level(struct tree *tree, uint32_t level, const uint32_t *places,
                       struct place *sorted)
{
    const uint32_t size = tree->size;
    uint32_t *group = tree->group + (size_t)level * size;
    uint32_t *members = tree->members + (size_t)level * size;
    uint32_t *begin = tree->begin + level * ((size_t)size + 1);
    for (uint32_t rank = 0; rank < size; rank++)
        sorted[rank] = (struct place){places == NULL ? 0 : places[rank], rank};
    qsort(sorted, size, sizeof *sorted, by_place);
    uint32_t groups = 0;
    for (uint32_t i = 0; i < size; i++) {
        if (i == 0 || sorted[i].place != sorted[i - 1].place)
            begin[groups++] = i;
        members[i] = sorted[i].rank;
        group[sorted[i].rank] = groups - 1;
    }
    for (; groups <= size; groups++)
        begin[groups] = size;
}

static coll_status tree_make(struct tree *tree, uint32_t rank, uint32_t size,
                             const struct coll_topology *topology)
{
    *tree = (struct tree){
        .size = size,
        .rank = rank,
        .levels = (topology == NULL ? 0 : topology->levels) + 1,
        .topology = topology,
    };
    const size_t all = (size_t)tree->levels * size;
    struct place *sorted = calloc(size, sizeof *sorted);
    uint32_t *block = calloc(5 * all + tree->levels + size, sizeof *block);
    if (sorted == NULL || block == NULL) {
        free(sorted);
        free(block);
        return COLL_NO_MEMORY;
    }
    tree->group = block;
    tree->members = tree->group + all;
    tree->owner = tree->members + all;
    tree->turns = tree->owner + all;
    tree->begin = tree->turns + all;
    tree->taking = tree->begin + all + tree->levels;
    for (uint32_t level = 0; level < tree->levels; level++) {
        const bool top = level + 1 == tree->levels;
        make_level(tree, level, top ? NULL : topology->places + (size_t)level * size, sorted);
    }
    free(sorted);
    return COLL_OK;
}

static void tree_free(struct tree *tree)
{
    free(tree->group);
}

static uint32_t group_of(const struct tree *tree, uint32_t level, uint32_t rank)
{
    return tree->group[(size_t)level * tree->size + rank];
}

static const uint32_t *members_of(const struct tree *tree, uint32_t level, uint32_t group,
                                  uint32_t *count)
{
    const uint32_t *begin = tree->begin + level * ((size_t)tree->size + 1) + group;
    *count = begin[1] - begin[0];
    return tree->members + (size_t)level * tree->size + begin[0];
}

static uint32_t owner_of(const struct tree *tree, uint32_t level, uint32_t rank)
{
    return tree->owner[(size_t)level * tree->size + group_of(tree, level, rank)];
}

/* Who owns the next segment in each group: who owns it in the group around, or the next one in turn. */
static void choose_owners(struct tree *tree, uint32_t root)
{
    uint32_t count;
    tree->owner[(size_t)(tree->levels - 1) * tree->size] = root;
    for (uint32_t level = tree->levels - 1; level-- > 0;) {
        const size_t at = (size_t)level * tree->size;
        for (uint32_t group = 0; group < tree->size; group++) {
            const uint32_t *members = members_of(tree, level, group, &count);
            if (count == 0)
                break;
            const uint32_t above = owner_of(tree, level + 1, members[0]);
            tree->owner[at + group] = group_of(tree, level, above) == group
                                          ? above
                                          : members[tree->turns[at + group]++ % count];
        }
    }
}

/* Where this rank stands among those who take part at a level: it is taking[mine] of `count`. */
struct circle {
    uint32_t count, mine, owner; /* indexes of tree->taking */
    uint32_t left, right;        /* ranks: the neighbours of this one */
    bool chain;
};

static struct circle meet(struct tree *tree, uint32_t level)
{
    struct circle circle = {0};
    uint32_t members;
    const uint32_t *member = members_of(tree, level, group_of(tree, level, tree->rank), &members);
    for (uint32_t i = 0; i < members; i++) {
        if (level > 0 && owner_of(tree, level - 1, member[i]) != member[i])
            continue;
        if (member[i] == tree->rank)
            circle.mine = circle.count;
        if (member[i] == owner_of(tree, level, member[i]))
            circle.owner = circle.count;
        tree->taking[circle.count++] = member[i];
    }
    circle.left = tree->taking[(circle.mine + circle.count - 1) % circle.count];
    circle.right = tree->taking[(circle.mine + 1) % circle.count];
    const struct coll_topology *topology = tree->topology;
    const uint32_t plan = topology != NULL && level < topology->setting_count
                              ? topology->settings[level].plan
                              : 0;
    circle.chain = plan == 0 ? level > 0 && circle.count > FEW : plan == 1 + COLL_RING;
    return circle;
}

/* This rank's part in the reduction of one segment at one level; returns its last step. */
static int32_t climb(const struct tree *tree, struct coll_plan *plan, const struct circle *circle,
                     uint32_t segment, int32_t last)
{
    const uint32_t message = 2 * segment;
    const bool owns = circle->mine == circle->owner;
    const uint32_t first = (circle->owner + 1) % circle->count;
    if (circle->chain && circle->mine != first) {
        coll__plan_receive(plan, COLL_STEP_RECV_KEEP, circle->left, segment, message);
        last = coll__plan_reduce(plan, segment, circle->left, last, 0);
    }
    if (!circle->chain && owns) {
        for (uint32_t k = 1; k < circle->count; k++)
            coll__plan_receive(plan, COLL_STEP_RECV_KEEP,
                               tree->taking[(circle->mine + k) % circle->count], segment, message);
        last = coll__plan_reduce(plan, segment, tree->taking[first], last, 0);
    }
    if (!owns)
        coll__plan_send(plan, circle->chain ? circle->right : tree->taking[circle->owner], segment,
                        message, last);
    return last;
}

/* The same on the way back; returns the step after which this rank has the segment. */
static int32_t descend(const struct tree *tree, struct coll_plan *plan, const struct circle *circle,
                       uint32_t segment, int32_t got)
{
    const uint32_t message = 2 * segment + 1, owner = tree->taking[circle->owner];
    const bool owns = circle->mine == circle->owner;
    if (!owns)
        got = coll__plan_receive(plan, COLL_STEP_RECV, circle->chain ? circle->left : owner,
                                 segment, message);
    if (circle->chain && circle->right != owner)
        coll__plan_send(plan, circle->right, segment, message, got);
    for (uint32_t k = 1; !circle->chain && owns && k < circle->count; k++)
        coll__plan_send(plan, tree->taking[(circle->mine + k) % circle->count], segment, message,
                        got);
    return got;
}

/* This rank's steps for one segment. */
static void add_segment(struct tree *tree, struct coll_plan *plan, uint32_t kind, uint32_t segment,
                        uint32_t root, uint32_t called)
{
    const bool scatters = kind == COLL_REDUCE_SCATTER;
    const bool reduces = kind == COLL_ALL_REDUCE || kind == COLL_REDUCE || scatters;
    uint32_t top = 0; /* the highest level at which it takes part */
    int32_t last = -1;
    choose_owners(tree, root);
    while (top + 1 < tree->levels && owner_of(tree, top, tree->rank) == tree->rank)
        top++;
    for (uint32_t level = 0; reduces && level <= top; level++) {
        const struct circle circle = meet(tree, level);
        if (circle.count > 1)
            last = climb(tree, plan, &circle, segment, last);
    }
    if (reduces && tree->rank == root)
        plan->steps[last].final = 1;
    if (kind == COLL_REDUCE) {
        if (root == called)
            return;
        if (tree->rank == root)
            coll__plan_send(plan, called, segment, 2 * segment + 1, last);
        if (tree->rank == called)
            coll__plan_receive(plan, COLL_STEP_RECV, root, segment, 2 * segment + 1);
        return;
    }
    for (uint32_t level = top + 1; !scatters && level-- > 0;) {
        const struct circle circle = meet(tree, level);
        if (circle.count > 1)
            last = descend(tree, plan, &circle, segment, last);
    }
}

static uint32_t divisor(uint32_t a, uint32_t b)
{
    return b == 0 ? a : divisor(b, a % b);
}

/* A multiple of the size that each group's members can share equally, unless that is too many. */
static uint32_t choose_segments(const struct tree *tree)
{
    uint32_t times = 1, count;
    for (uint32_t level = 0; level < tree->levels; level++) {
        for (uint32_t group = 0; group < tree->size; group++) {
            members_of(tree, level, group, &count);
            if (count == 0)
                break;
            count /= divisor(count, tree->size);
            times *= count / divisor(count, times);
            if (times > SEGMENTS / tree->size)
                return tree->size;
        }
    }
    return times * tree->size;
}

/* Segments from `first` on come first: no two ranks begin by speaking to the same one. */
static coll_status rotate(struct coll_plan *plan, uint32_t first)
{
    const uint32_t count = plan->info.steps;
    uint32_t pivot = 0;
    while (pivot < count && plan->steps[pivot].segment < first)
        pivot++;
    struct coll_step *steps = calloc(count + (size_t)1, sizeof *steps);
    if (steps == NULL)
        return COLL_NO_MEMORY;
    for (uint32_t i = 0; i < count; i++) {
        struct coll_step step = plan->steps[(i + pivot) % count];
        if (step.after >= 0)
            step.after = (int32_t)(((uint32_t)step.after + count - pivot) % count);
        steps[i] = step;
    }
    free(plan->steps);
    plan->steps = steps;
    return COLL_OK;
}

coll_status coll__plan_hierarchical(uint32_t kind, uint32_t rank, uint32_t size, uint32_t root,
                                    const struct coll_topology *topology, struct coll_plan **plan)
{
    struct tree tree;
    struct coll_plan *made = NULL;
    if (size > MOST)
        return COLL_INVALID_ARGUMENT;
    coll_status status = tree_make(&tree, rank, size, topology);
    if (status != COLL_OK)
        return status;
    const bool gathers = kind == COLL_ALL_GATHER, scatters = kind == COLL_REDUCE_SCATTER;
    const uint32_t segments = kind == COLL_BROADCAST ? 1
                              : gathers || scatters  ? size
                                                     : choose_segments(&tree);
    status = coll__plan_new(rank, size, segments, 0, &made);
    for (uint32_t s = 0; status == COLL_OK && size > 1 && s < segments; s++) {
        const uint32_t owner = kind == COLL_BROADCAST ? root : gathers ? s : (s + size - 1) % size;
        /* At each level so many may come and go, and few do. */
        status = coll__plan_reserve(made, 2 * size + 4 * tree.levels);
        if (status == COLL_OK)
            add_segment(&tree, made, kind, s, owner, root);
    }
    if (status == COLL_OK)
        status = rotate(made, (rank + 1) % size % segments);
    tree_free(&tree);
    if (status == COLL_OK)
        *plan = made;
    else
        coll_plan_free(made);
    return status;
}
