/* What a verdict does here: it installs the next view, and each operation ends, awaits its result or
 * begins anew. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"
#include "wire/round.h"

static bool is_named_before(const struct coll__verdict *verdict, uint32_t i)
{
    for (uint32_t j = 0; j < i; j++)
        if (memcmp(verdict->member + (size_t)j * 16, verdict->member + (size_t)i * 16, 16) == 0)
            return true;
    return false;
}

/* The view that the verdict issues: some of the members of the present one, each once. */
static coll_status next_view(struct coll_group *group, const struct coll__verdict *verdict,
                             struct coll__view **made)
{
    struct coll__view *present = group->committed;
    if (verdict->members > present->size)
        return COLL_INVALID_ARGUMENT;
    struct coll_peer *peers = calloc(verdict->members, sizeof *peers);
    if (!peers)
        return COLL_NO_MEMORY;
    struct coll_view given = {
        .term = verdict->term,
        .number = verdict->number,
        .first_operation = present->first_operation,
        .rank = verdict->members,
        .size = verdict->members,
        .peers = peers,
    };
    memcpy(given.key, verdict->key, sizeof given.key);
    coll_status status = COLL_OK;
    for (uint32_t i = 0; i < verdict->members; i++) {
        const uint8_t *id = verdict->member + (size_t)i * 16;
        uint32_t rank = coll__rank_of(present, id);
        if (rank == present->size || is_named_before(verdict, i)) {
            status = COLL_INVALID_ARGUMENT;
            break;
        }
        memcpy(peers[i].id, id, 16);
        peers[i].name = present->members[rank].name;
        if (rank == present->rank)
            given.rank = i;
    }
    if (status == COLL_OK && given.rank == verdict->members)
        status = COLL_INVALID_ARGUMENT; /* it is not for us */
    if (status == COLL_OK)
        status = coll__view_new(group, &given, made);
    for (uint32_t i = 0; status == COLL_OK && i < given.size; i++) {
        struct coll__link *link = present->members[coll__rank_of(present, peers[i].id)].link;
        if (link)
            coll__member_attach(&(*made)->members[i], link);
    }
    free(peers);
    return status;
}

/* Those who stay are where they were. */
static coll_status inherit(const struct coll__view *present, struct coll__view *next)
{
    if (!present->topology)
        return COLL_OK;
    uint32_t *ranks = calloc(next->size, sizeof *ranks);
    if (!ranks)
        return COLL_NO_MEMORY;
    for (uint32_t rank = 0; rank < next->size; rank++)
        ranks[rank] = coll__rank_of(present, next->members[rank].id);
    next->topology = coll__topology_copy(present->topology, present->size, ranks, next->size);
    free(ranks);
    return next->topology ? COLL_OK : COLL_NO_MEMORY;
}

static void remember_gone(struct coll_group *group, const struct coll__view *next)
{
    const struct coll__view *present = group->committed;
    for (uint32_t rank = 0; rank < present->size; rank++) {
        const struct coll__member *member = &present->members[rank];
        if (coll__rank_of(next, member->id) < next->size)
            continue;
        struct coll__gone *gone = calloc(1, sizeof *gone);
        if (!gone)
            return; /* a message will lack a name */
        memcpy(gone->id, member->id, sizeof gone->id);
        memcpy(gone->name, member->name, sizeof gone->name);
        gone->next = group->gone;
        group->gone = gone;
    }
}

static bool find_stand(const struct coll__verdict *verdict, const struct coll_operation *operation,
                       struct coll__stand *stand)
{
    const struct coll__view *view = operation->group->committed;
    const struct coll__tag *order = operation->order;
    uint32_t sender = COLL__NO_RANK, receiver = COLL__NO_RANK;
    if (order->role != COLL__TOGETHER) {
        const uint32_t other = coll__rank_of(view, order->peer);
        sender = order->role == COLL__SENDING ? view->rank : other;
        receiver = order->role == COLL__SENDING ? other : view->rank;
    }
    for (uint32_t i = 0; i < verdict->stands; i++) {
        coll__verdict_stand(verdict, i, stand);
        if (stand->tag == operation->tag && stand->number == operation->number &&
            stand->sender == sender && stand->receiver == receiver)
            return true;
    }
    return false;
}

/* Rank in the view of the operation for a rank of the committed one that the error is about. */
static int32_t culprit_in(const struct coll__view *view, const struct coll__verdict *verdict)
{
    uint32_t rank = coll__rank_of(view, verdict->culprit);
    return rank < view->size ? (int32_t)rank : -1;
}

static void judge_operation(struct coll_operation *operation, const struct coll__verdict *verdict,
                            const char *error)
{
    struct coll_group *group = operation->group;
    const struct coll__view *view = group->committed;
    struct coll__stand stand = {0};
    enum coll__judgement judgement = COLL__STANDS;
    if (!find_stand(verdict, operation, &stand))
        judgement = verdict->status != COLL_OK ? COLL__FAILS : COLL__REPEATS;
    if (judgement == COLL__FAILS)
        coll__inspect_keep(operation); /* where it stood is forgotten next */
    uint64_t ran_in = operation->view->number;
    switch (coll__agree_judge(&operation->agree, judgement, view->rank, view->size)) {
    case COLL__SUCCEED:
        operation->info.view = ran_in;
        coll__operation_finish(operation, COLL_OK, -1, NULL);
        return;
    case COLL__RAISE:
        coll__operation_finish(operation, (coll_status)verdict->status,
                               culprit_in(operation->view, verdict), error);
        return;
    case COLL__AWAIT:
        coll__operation_reset(operation);
        if (coll__operation_enter(operation) != COLL_OK)
            break;
        operation->started = true;
        operation->supplier = stand.supplier < view->size ? stand.supplier : 0;
        coll__ask(operation, operation->supplier, COLL__FLAG_SUPPLY);
        return;
    case COLL__REPEAT:
        operation->info.retries += operation->started;
        coll__operation_reset(operation);
        if (coll__operation_enter(operation) != COLL_OK)
            break;
        return; /* it starts once all have been judged */
    }
    coll__operation_veto(operation, COLL_NO_MEMORY, -1, "out of memory for another attempt");
}

static void judge_all(struct coll_group *group, const struct coll__verdict *verdict,
                      const char *error)
{
    for (struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        for (struct coll_operation *at = tag->oldest; at;) {
            struct coll_operation *next = at->newer;
            judge_operation(at, verdict, error);
            at = next;
        }
    }
}

coll_status coll__round_judge(struct coll_group *group, const uint8_t *bytes, size_t length)
{
    struct coll__verdict verdict;
    COLL_TRY(coll__verdict_decode(bytes, length, &verdict));
    if (!group->committed)
        return COLL_INVALID_ARGUMENT;
    if (!coll__seal_judges(&group->seal, &verdict.epoch)) {
        bool taken = coll__seal_fence(&group->seal, verdict.term, verdict.number) !=
                     COLL__FENCE_LATER;
        return taken ? COLL_OK : COLL_INVALID_ARGUMENT;
    }
    struct coll__view *view;
    COLL_TRY(next_view(group, &verdict, &view));
    coll_status status = inherit(group->committed, view);
    if (status != COLL_OK) {
        coll__view_retire(view);
        return status;
    }
    char error[COLL__TEXT];
    snprintf(error, sizeof error, "%.*s", (int)verdict.text_length, verdict.text);
    coll__group_discard(group);
    remember_gone(group, view);
    coll__group_install(group, view);
    coll__tags_enter(group, 0);
    judge_all(group, &verdict, error);
    coll__round_reached(group, verdict.epoch.view, COLL_PHASE_JUDGED);
    if (verdict.status != COLL_OK) {
        group->broken = (coll_status)verdict.status;
        memcpy(group->broken_culprit, verdict.culprit, sizeof group->broken_culprit);
        snprintf(group->broken_text, sizeof group->broken_text, "%s", error);
    } else {
        group->turns = group->engine->turns = true;
        coll__take_turns(group->engine);
    }
    coll__take_later(group);
    return COLL_OK;
}
