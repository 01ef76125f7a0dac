/* Operations in words, for those who read errors. */
#include <stdio.h>

#include "engine/engine.h"

struct coll__who coll__who(const struct coll__view *view, uint32_t rank)
{
    struct coll__who who;
    snprintf(who.text, sizeof who.text, view->fixed ? "%s" : "'%s' (rank %u)",
             view->members[rank].name, rank);
    return who;
}

const char *coll__advice(const struct coll__view *view, const char *advice)
{
    return view->fixed ? "" : advice;
}

void coll__call_describe(const struct coll__descriptor *call, char *text, size_t length)
{
    const char *kind = coll_kind_name(call->kind);
    if (call->kind == COLL_BARRIER || call->kind == COLL_SYNC || call->kind >= COLL_KIND_COUNT) {
        static const char *const syncs[] = {"sync()", "sync(state)", "split()"};
        if (call->kind == COLL_SYNC && call->op < sizeof syncs / sizeof *syncs)
            snprintf(text, length, "%s", syncs[call->op]);
        else
            snprintf(text, length, "%s()", kind);
        return;
    }
    char op[24] = "", root[24] = "", counts[24] = "", algorithm[40] = "", part[32] = "";
    char codec[128] = "", name[120];
    if (coll__reduces(call->kind))
        snprintf(op, sizeof op, "op=%s, ", coll_redop_name(call->op));
    if (coll__kind_is_rooted(call->kind))
        snprintf(root, sizeof root, ", root=%u", call->root);
    if (call->digest && call->kind == COLL_ALL_REDUCE)
        snprintf(part, sizeof part, ", resume: part %u", call->digest);
    else if (call->digest)
        snprintf(counts, sizeof counts, ", counts=#%08x", call->digest);
    if (call->algorithm)
        snprintf(algorithm, sizeof algorithm, ", algorithm=%s",
                 coll_algorithm_name(call->algorithm - 1u));
    if (call->codec) {
        coll__codec_name(call->codec, name, sizeof name);
        snprintf(codec, sizeof codec, ", codec=%s", name);
    }
    snprintf(text, length, "%s(dtype=%s, %scount=%llu%s%s%s%s%s)", kind,
             coll_dtype_name(call->dtype), op, (unsigned long long)call->count, counts, root,
             algorithm, codec, part);
}

void coll__plan_describe(const struct coll__descriptor *call, char *text, size_t length)
{
    char levels[32] = "";
    if (call->levels)
        snprintf(levels, sizeof levels, " over levels #%04x", call->levels);
    snprintf(text, length, "%s%s", call->plan ? coll_algorithm_name(call->plan - 1u) : "no plan",
             levels);
}

void coll__name_describe(const struct coll_operation *operation, char *text, size_t length)
{
    static const char *const ways[] = {"", "to ", "from "};
    const struct coll__view *view = operation->view;
    const struct coll__tag *order = operation->order;
    const uint32_t rank = order->role == COLL__TOGETHER ? view->size
                                                        : coll__rank_of(view, order->peer);
    char tag[24] = "", peer[96] = "", of[32] = "";
    if (operation->tag != COLL_UNTAGGED)
        snprintf(tag, sizeof tag, " (tag %u)", operation->tag);
    if (rank < view->size)
        snprintf(peer, sizeof peer, view->fixed ? " %s%s" : " %s'%s'", ways[order->role],
                 view->members[rank].name);
    if (!view->fixed) /* else there is no other */
        snprintf(of, sizeof of, " of view %llu", (unsigned long long)view->number);
    snprintf(text, length, "operation %llu%s%s%s", (unsigned long long)operation->number, peer, tag,
             of);
}

int32_t coll__missing_describe(const struct coll_operation *operation, char *text, size_t length)
{
    const struct coll__view *view = operation->view;
    int32_t culprit = -1;
    size_t at = 0;
    if (operation->group->seal.sealed) {
        snprintf(text, length,
                 "a member is gone or has given up, and the coordinator has not yet "
                 "decided what becomes of the operation; check that it runs");
        return -1;
    }
    const bool pair = coll__is_pair(operation->call.kind);
    if (pair && !operation->started) {
        snprintf(text, length, "nobody has sent anything that no other receive has taken");
        return -1;
    }
    text[0] = '\0';
    for (uint32_t rank = 0; rank < view->size && at < length; rank++) {
        if (rank == view->rank || operation->seen[rank] || (pair && rank != operation->partner))
            continue;
        if (culprit < 0)
            culprit = (int32_t)rank;
        at += (size_t)snprintf(text + at, length - at, "%s%s ", at ? "; " : "",
                               coll__who(view, rank).text);
        if (at < length && operation->absent[rank] > 0)
            at += (size_t)snprintf(text + at, length - at,
                                   "has not called it (its last operation is %llu)",
                                   (unsigned long long)operation->absent[rank] - 1);
        else if (at < length)
            at += (size_t)snprintf(text + at, length - at, "has not been heard about it");
    }
    if (culprit >= 0)
        return culprit;
    for (uint32_t i = 0; operation->run && i < operation->plan->info.steps; i++) {
        const struct coll_step *step = &operation->plan->steps[i];
        if (coll__step_receives(step) && operation->run[i].arrived < operation->run[i].bytes) {
            snprintf(text, length, "all ranks have called it, %llu bytes are still to come from %s",
                     (unsigned long long)operation->pending_bytes,
                     coll__who(view, step->peer).text);
            return (int32_t)step->peer;
        }
    }
    if (operation->agree.phase == COLL__AWAITING) {
        snprintf(text, length, "it has succeeded, its result is still to come from %s",
                 coll__who(view, operation->supplier).text);
        return (int32_t)operation->supplier;
    }
    snprintf(text, length, "all ranks have called it, not all have said that they are done");
    return -1;
}
