/* What an operation looks like from outside. Operations that end with an error are remembered as
 * they were when they ended, since whoever wants to know asks after the error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

enum {
    KEPT = 64, /* per group; the first of a view are those that tell most */
    NAMED = 3  /* of those outstanding */
};

struct coll__ended {
    struct coll__ended *next;
    uint64_t term, view;
    struct coll_operation_state state;
    struct coll_operation_peer peers[];
};

static void describe(const struct coll_operation *operation, struct coll_operation_state *state,
                     struct coll_operation_peer *peers, uint32_t capacity)
{
    const struct coll__view *view = operation->view;
    const struct coll__descriptor *call = &operation->call;
    bool issued = operation->issued;
    for (uint32_t rank = 0; rank < view->size; rank++) {
        if (!issued && operation->seen[rank])
            call = &operation->calls[rank];
        if (rank >= capacity)
            continue;
        const struct coll__link_use *use = &operation->uses[rank];
        struct coll_operation_peer *peer = &peers[rank];
        *peer = (struct coll_operation_peer){
            .seen = rank == view->rank ? issued : operation->seen[rank],
            .said_absent = operation->absent[rank] > 0,
            .last_operation = operation->absent[rank] > 0 ? operation->absent[rank] - 1 : 0,
            .sent_bytes = use->sent_bytes,
            .received_bytes = use->received_bytes,
        };
        memcpy(peer->name, view->members[rank].name, sizeof peer->name);
    }
    *state = (struct coll_operation_state){
        .number = operation->number,
        .view = view->number,
        .tag = operation->tag,
        .kind = call->kind,
        .dtype = call->dtype,
        .op = call->op,
        .root = call->root,
        .count = call->count,
        .progress = (uint32_t)operation->agree.phase,
        .status = operation->finished ? (uint32_t)operation->status : COLL_IN_PROGRESS,
        .attempt = (uint32_t)operation->info.retries + 1,
        .rank = view->rank,
        .size = view->size,
        .pending_bytes = operation->pending_bytes,
    };
    if (operation->info.entered_ns != 0)
        state->age_ns = (operation->finished ? operation->info.done_ns : coll__now()) -
                        operation->info.entered_ns;
}

void coll__inspect_free(struct coll_group *group)
{
    while (group->ended) {
        struct coll__ended *ended = group->ended;
        group->ended = ended->next;
        free(ended);
    }
}

void coll__inspect_keep(const struct coll_operation *operation)
{
    if (coll__waits_its_turn(operation))
        return;
    const struct coll__view *view = operation->view;
    struct coll_group *group = operation->group;
    if (group->ended && (group->ended->term != view->term || group->ended->view != view->number))
        coll__inspect_free(group);
    struct coll__ended **at = &group->ended;
    uint32_t count = 0;
    while (*at && count++ < KEPT)
        at = &(*at)->next;
    if (count >= KEPT)
        return;
    struct coll__ended *ended = calloc(1, sizeof *ended + view->size * sizeof *ended->peers);
    if (!ended)
        return; /* a dump will lack it */
    ended->term = view->term;
    ended->view = view->number;
    describe(operation, &ended->state, ended->peers, view->size);
    *at = ended;
}

bool coll__inspect(const struct coll_group *group, uint32_t i, struct coll_operation_state *state,
                   struct coll_operation_peer *peers, uint32_t capacity)
{
    for (uint32_t bucket = 0; bucket < COLL__OP_BUCKETS; bucket++) {
        for (const struct coll_operation *at = group->operations[bucket]; at; at = at->next) {
            if (!coll__waits_its_turn(at) && i-- == 0) {
                describe(at, state, peers, capacity);
                return true;
            }
        }
    }
    for (const struct coll__ended *at = group->ended; at; at = at->next) {
        if (i-- == 0) {
            *state = at->state;
            uint32_t known = at->state.size < capacity ? at->state.size : capacity;
            for (uint32_t rank = 0; rank < known; rank++)
                peers[rank] = at->peers[rank];
            return true;
        }
    }
    return false;
}

static bool is_decided(const struct coll_operation *operation)
{
    return operation->veto.status != COLL_OK || operation->agree.phase == COLL__AWAITING ||
           operation->group->seal.sealed;
}

uint32_t coll__inspect_outstanding(const struct coll_group *group, bool decided, char *text,
                                   size_t length)
{
    char call[128], name[160];
    uint32_t count = 0;
    size_t at = 0;
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        for (const struct coll_operation *one = tag->tag == COLL_STATE_TAG ? NULL : tag->oldest;
             one; one = one->newer) {
            if (one->let_go || coll__waits_its_turn(one) || is_decided(one) != decided)
                continue;
            if (++count > NAMED || !text || at >= length)
                continue;
            coll__call_describe(&one->call, call, sizeof call);
            coll__name_describe(one, name, sizeof name);
            at += (size_t)snprintf(text + at, length - at, "%s%s, %s", count > 1 ? "; " : "", call,
                                   name);
        }
    }
    if (count > NAMED && text && at < length)
        snprintf(text + at, length - at, "; and %u more", count - NAMED);
    return count;
}
