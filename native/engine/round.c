/* Rounds, as a member sees them: seal, report, take the verdict.
 *
 *      coordinator     SEAL ──►  everything of the view that is not settled stands still
 *                      ◄── REPORT
 *                      VERDICT ──►  the next view, and what becomes of each operation
 *
 * All of it runs here, so a program that holds its interpreter's lock takes part: its neighbours
 * pass on what the coordinator says, and what its engine answers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/moment.h"
#include "wire/round.h"

enum { LETTERS_MAX = 4096 };

/* ---- letters to the coordinator ------------------------------------------------------------ */

static void post(struct coll_group *group, uint32_t kind, const uint8_t *bytes, uint32_t length)
{
    uint32_t count = 0;
    for (struct coll__letter *at = group->letters; at; at = at->next)
        count++;
    struct coll__letter *letter = count < LETTERS_MAX ? malloc(sizeof *letter + length) : NULL;
    if (!letter)
        return; /* the coordinator asks again */
    letter->next = NULL;
    letter->kind = kind;
    letter->length = length;
    memcpy(letter->bytes, bytes, length);
    if (!group->letters)
        group->letters_tail = &group->letters;
    *group->letters_tail = letter;
    group->letters_tail = &letter->next;
    coll__emit(group->engine, COLL_EVENT_ROUND, group->id, group->seal.view, NULL, NULL);
}

void coll__letters_free(struct coll_group *group)
{
    while (group->letters) {
        struct coll__letter *letter = group->letters;
        group->letters = letter->next;
        free(letter);
    }
    free(group->report);
    group->report = NULL;
}

/* ---- sealing and reporting ----------------------------------------------------------------- */

static void still(struct coll_group *group)
{
    for (uint32_t i = 0; i < COLL__OP_BUCKETS; i++) {
        struct coll_operation *operation = group->operations[i];
        while (operation) {
            struct coll_operation *next = operation->next;
            if (operation->issued)
                coll__operation_quiesce(operation);
            else /* only heard of; what was heard is void */
                coll__operation_finish(operation, COLL_CANCELLED, -1, NULL);
            operation = next;
        }
    }
}

static void write_entry(struct coll__writer *writer, uint32_t tag, uint64_t number,
                        uint32_t standing, uint32_t flags, uint32_t root)
{
    const uint8_t bytes[4] = {(uint8_t)standing, (uint8_t)flags, 0, 0};
    coll__write32(writer, tag);
    coll__write64(writer, number);
    coll__write(writer, bytes, sizeof bytes);
    coll__write32(writer, root);
}

/* Who has nothing to receive is complete at once, which says nothing of the others: a barrier that
 * the dead never reached does not stand. It does once somebody has the proof that all came. */
static uint32_t standing_of(const struct coll_operation *operation)
{
    bool empty = operation->bytes == 0 && operation->agree.phase == COLL__COMPLETE;
    return empty ? (uint32_t)COLL__RUNNING : operation->agree.phase;
}

static void write_operation(struct coll__writer *writer, const struct coll_operation *operation)
{
    uint32_t flags = operation->agree.retained ? COLL__ENTRY_RETAINED : 0;
    if (!(operation->asked.flags & (COLL_NOT_ATOMIC | COLL_NO_REPEAT)))
        flags |= COLL__ENTRY_REPEATABLE;
    bool rooted = operation->call.kind == COLL_BROADCAST;
    write_entry(writer, operation->tag, operation->number, standing_of(operation), flags,
                rooted && operation->call.root < operation->view->size ? operation->call.root
                                                                       : COLL__NO_RANK);
}

static void write_entries(struct coll__writer *writer, const struct coll_group *group)
{
    uint32_t count = 0;
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        for (const struct coll_operation *at = tag->oldest; at; at = at->newer)
            count += at->started || at->veto.status != COLL_OK;
        for (const struct coll__retained *at = tag->retained; at; at = at->next)
            count++;
        for (uint32_t i = 0; i < tag->ahead_count; i++)
            count += !coll__tag_retained(tag, tag->ahead[i]);
    }
    coll__write32(writer, count);
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        for (const struct coll_operation *at = tag->oldest; at; at = at->newer)
            if (at->started || at->veto.status != COLL_OK)
                write_operation(writer, at);
        for (uint32_t i = 0; i < tag->ahead_count; i++)
            if (!coll__tag_retained(tag, tag->ahead[i]))
                write_entry(writer, tag->tag, tag->ahead[i], COLL__SETTLED, COLL__ENTRY_REPEATABLE,
                            COLL__NO_RANK);
        for (const struct coll__retained *at = tag->retained; at; at = at->next)
            write_entry(writer, tag->tag, at->number, COLL__SETTLED,
                        COLL__ENTRY_RETAINED | COLL__ENTRY_REPEATABLE, COLL__NO_RANK);
    }
}

static void write_vetoes(struct coll__writer *writer, const struct coll_group *group)
{
    uint32_t count = 0;
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next)
        for (const struct coll_operation *at = tag->oldest; at; at = at->newer)
            count += at->veto.status != COLL_OK;
    coll__write32(writer, count);
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        for (const struct coll_operation *at = tag->oldest; at; at = at->newer) {
            if (at->veto.status == COLL_OK)
                continue;
            const char *text = at->veto.text ? at->veto.text : "";
            size_t length = strnlen(text, COLL__VETO_TEXT_MAX);
            coll__write32(writer, at->tag);
            coll__write64(writer, at->number);
            coll__write32(writer, at->veto.status);
            coll__write32(writer, (uint32_t)at->veto.culprit);
            coll__write32(writer, (uint32_t)length);
            coll__write(writer, text, length);
        }
    }
}

static void make_report(struct coll_group *group)
{
    struct coll__writer writer = {0};
    uint8_t epoch[COLL__EPOCH_BYTES];
    coll__epoch_encode(&group->seal.epoch, epoch);
    coll__write(&writer, epoch, sizeof epoch);
    coll__write(&writer, group->engine->host.peer_id, 16);
    uint32_t tags = 0;
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next)
        tags++;
    coll__write32(&writer, tags);
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        coll__write32(&writer, tag->tag);
        coll__write64(&writer, tag->settled);
    }
    write_entries(&writer, group);
    write_vetoes(&writer, group);
    free(group->report);
    group->report = NULL;
    group->report_length = 0;
    if (writer.failed || writer.length > COLL__PAYLOAD_MAX) {
        free(writer.bytes); /* it cannot report, so it will be evicted */
        return;
    }
    group->report = writer.bytes;
    group->report_length = (uint32_t)writer.length;
}

static bool seal(struct coll_group *group, const struct coll__epoch *epoch)
{
    bool before = group->seal.sealed;
    bool news = memcmp(&group->seal.epoch, epoch, sizeof *epoch) != 0;
    if (!group->committed || !coll__seal_close(&group->seal, epoch))
        return false;
    if (!before)
        still(group);
    if (news || !before) {
        make_report(group);
        coll__round_reached(group, group->seal.view, COLL_PHASE_SEALED);
    }
    return group->report != NULL;
}

void coll__round_seal(struct coll_group *group, const struct coll__epoch *epoch)
{
    if (seal(group, epoch))
        post(group, COLL_ROUND_REPORT, group->report, group->report_length);
}

/* ---- the verdict --------------------------------------------------------------------------- */

/* The view that the verdict issues: some of the members of the present one. */
static coll_status next_view(struct coll_group *group, const struct coll__verdict *verdict,
                             struct coll__view **made)
{
    struct coll__view *present = group->committed;
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
        if (rank == present->size) {
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
        (*made)->members[i].link = link;
        if (link)
            link->references++;
    }
    free(peers);
    return status;
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
    for (uint32_t i = 0; i < verdict->stands; i++) {
        coll__verdict_stand(verdict, i, stand);
        if (stand->tag == operation->tag && stand->number == operation->number)
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

/* In the order of issue, as the callers have begun them. */
static void start_all(struct coll_group *group)
{
    for (struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        for (struct coll_operation *at = tag->oldest; at;) {
            at->references++;
            if (!at->started && !at->let_go)
                coll__operation_start(at);
            struct coll_operation *next = at->newer;
            coll__operation_unref(at);
            at = next;
        }
    }
}

static coll_status judge(struct coll_group *group, const uint8_t *bytes, size_t length)
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
        start_all(group);
    }
    coll__take_later(group);
    return COLL_OK;
}

coll_status coll__round_judge(struct coll_group *group, const uint8_t *verdict, size_t length)
{
    return judge(group, verdict, length);
}

/* ---- passed on by others ------------------------------------------------------------------- */

static void reply(struct coll_group *group, struct coll__link *link, uint8_t type,
                  const uint8_t *bytes, uint32_t length)
{
    struct coll__frame frame = {
        .type = type,
        .group = group->id,
        .term = group->seal.term,
        .view = group->seal.view,
    };
    coll__send_control(link, &frame, bytes, length);
}

void coll__round_hear(struct coll_group *group, struct coll__link *link,
                      const struct coll__frame *frame, const uint8_t *payload)
{
    struct coll__epoch epoch;
    uint8_t taken[COLL__EPOCH_BYTES + 16];
    uint64_t before;
    if (frame->length < COLL__EPOCH_BYTES)
        return;
    switch (frame->type) {
    case COLL__FRAME_REPORT:
        post(group, COLL_ROUND_REPORT, payload, frame->length);
        return;
    case COLL__FRAME_TAKEN:
        post(group, COLL_ROUND_TAKEN, payload, frame->length);
        return;
    case COLL__FRAME_SEAL:
        coll__epoch_decode(payload, &epoch);
        if (seal(group, &epoch))
            reply(group, link, COLL__FRAME_REPORT, group->report, group->report_length);
        return;
    case COLL__FRAME_VERDICT:
        before = group->seal.view;
        if (judge(group, payload, frame->length) != COLL_OK)
            return;
        if (group->seal.view != before) /* the membership layer has not heard of it */
            post(group, COLL_ROUND_VERDICT, payload, frame->length);
        memcpy(taken, payload, COLL__EPOCH_BYTES);
        memcpy(taken + COLL__EPOCH_BYTES, group->engine->host.peer_id, 16);
        reply(group, link, COLL__FRAME_TAKEN, taken, sizeof taken);
        return;
    default:
        return;
    }
}
