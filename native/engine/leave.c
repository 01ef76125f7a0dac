/* Going: what a member owes the others before it may be gone, and the goodbye.
 *
 * Where a coordinator decides, the goodbye comes first: it tells that nobody need wait for this member,
 * and who stays has to settle what it has settled, since nobody could be supplied with a result by one
 * who is gone. In a fixed view the goodbye comes last, when all that this member has called is done and
 * the others have everything: then it says that nothing is missing.
 */
#include "engine/engine.h"

/* Whether slices of an operation that is over wait for the link. Those of one that is not over
 * would wait for members that may never call it; it ends with an error when we are gone. */
static bool owes(const struct coll_group *group, const struct coll__flow *ring)
{
    const struct coll__flow *flow = ring;
    while (flow && !(flow->operation->finished && flow->operation->group == group))
        flow = flow->next == ring ? NULL : flow->next;
    return flow;
}

/* Who will not take anything any more. */
static bool is_beyond(const struct coll__view *view, uint32_t rank)
{
    const struct coll__member *member = &view->members[rank];
    if (!view->fixed)
        return member->goodbye; /* who leaves too owes us nothing and waits for nothing from us */
    const struct coll_group *group = view->group;
    return member->link->lost_since != 0 || (member->goodbye && !member->link->up) ||
           (group->broken == COLL_PEER_LOST && coll__rank_of(view, group->broken_culprit) == rank);
}

static bool is_waiting(const struct coll_group *group, const struct coll__link *link)
{
    const struct coll__slice *slice = link->control_head;
    while (slice && slice->frame.group != group->id)
        slice = slice->next;
    return slice || owes(group, link->small_flows) || owes(group, link->bulk_flows);
}

/* What other groups send on the same link goes on: once what is ours is with the transport, the peer has
 * to come that far. In a fixed view nothing is added to it, elsewhere there may be. */
static bool has_all(struct coll__view *view, uint32_t rank)
{
    struct coll__member *member = &view->members[rank];
    const struct coll__link *link = member->link;
    if (!view->fixed)
        member->mark = 0;
    if (member->mark == 0 && is_waiting(view->group, link))
        return false;
    if (member->mark == 0)
        member->mark = link->transport->position(link) + 1;
    return link->transport->passed(link, member->mark - 1, view->group->id);
}

static bool all_have(struct coll__view *view)
{
    bool all = true;
    for (uint32_t rank = 0; rank < view->size; rank++)
        all &= !view->members[rank].link || is_beyond(view, rank) || has_all(view, rank);
    return all;
}

static void forget_marks(struct coll__view *view)
{
    for (uint32_t rank = 0; rank < view->size; rank++)
        view->members[rank].mark = 0;
}

static bool is_drained(const void *argument)
{
    struct coll__view *view = (struct coll__view *)(uintptr_t)argument;
    const struct coll_group *group = view->group;
    if (group->committed != view || (group->broken != COLL_OK && !view->fixed))
        return true; /* whom to wait for has changed */
    /* Whoever lacks a result can still be supplied with it while we are there; and that something
     * stands which proves itself to nobody else yet (a barrier) only our report would tell. */
    return (view->fixed || coll__tags_told(group)) && all_have(view);
}

/* Of a fixed view: what this member has called is over, and the others know it. */
static bool is_done(const void *argument)
{
    struct coll__view *view = (struct coll__view *)(uintptr_t)argument;
    const struct coll_group *group = view->group;
    const bool stays = group->committed == view && group->broken == COLL_OK;
    for (const struct coll__tag *tag = stays ? group->tags : NULL; tag; tag = tag->next) {
        if (tag->oldest || (tag->role == COLL__TOGETHER && tag->settled > tag->told)) {
            forget_marks(view);
            return false;
        }
    }
    return is_drained(view);
}

static void tell_watermarks(struct coll__view *view)
{
    for (struct coll__tag *tag = view->group->tags; tag; tag = tag->next)
        if (tag->role == COLL__TOGETHER && tag->settled > tag->told)
            coll__tell_watermark(tag, view);
}

static void say_goodbye(struct coll__view *view)
{
    forget_marks(view);
    /* First what the others wait for before they let go of results: nobody says it later. */
    tell_watermarks(view);
    const struct coll__frame frame = {
        .type = COLL__FRAME_GOODBYE,
        .flags = COLL__FLAG_ACK_NOW,
        .group = view->group->id,
        .term = view->term,
        .view = view->number,
    };
    for (uint32_t rank = 0; rank < view->size; rank++)
        if (view->members[rank].link)
            coll__send_control(view->members[rank].link, &frame, NULL, 0);
    view->goodbye_said = true;
}

coll_status coll__group_flush(struct coll_group *group, uint64_t timeout_ns)
{
    struct coll__view *view = group->committed;
    const uint64_t until = coll__now() + timeout_ns;
    if (!view || (group->broken != COLL_OK && !view->fixed))
        return COLL_OK;
    group->references++; /* it may be closed meanwhile */
    view->references++;
    bool done = !view->fixed || view->goodbye_said;
    if (!done) {
        tell_watermarks(view);
        forget_marks(view);
        coll__drive_until(group->engine, is_done, view, until);
        done = is_done(view);
    }
    if (done && !view->goodbye_said && group->committed == view && group->broken == COLL_OK)
        say_goodbye(view);
    if (done)
        coll__drive_until(group->engine, is_drained, view, until);
    const bool stayed = group->committed == view || !group->committed;
    const coll_status status = done && stayed && is_drained(view) ? COLL_OK : COLL_IN_PROGRESS;
    coll__view_release(view);
    coll__group_unref(group);
    return status;
}

void coll__group_take_leave(struct coll_group *group)
{
    static const uint64_t A_MOMENT_NS = 200000000;
    struct coll__view *view = group->committed;
    if (!view || !view->fixed)
        return;
    if (!view->goodbye_said)
        coll__fixed_close(group);
    forget_marks(view);
    view->references++;
    const uint64_t until = coll__now() + A_MOMENT_NS;
    do /* whatever signals come */
        coll__drive_until(group->engine, is_drained, view, until);
    while (!is_drained(view) && coll__now() < until);
    coll__view_release(view);
}
