/* Rounds, as a member sees them: seal, report, take the verdict.
 *
 *      coordinator     SEAL ──►  everything of the view that is not settled stands still
 *                      ◄── REPORT
 *                      VERDICT ──►  the next view, and what becomes of each operation
 *
 * All of it runs here, so a program that holds its interpreter's lock takes part: its neighbours
 * pass on what the coordinator says, and what its engine answers. What is reported is in report.c,
 * what a verdict does in judge.c.
 */
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
    coll__emit(group, COLL_EVENT_ROUND, group->seal.view, NULL, NULL);
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

/* ---- sealing ----------------------------------------------------------------- */

static void still(struct coll_group *group)
{
    for (uint32_t i = 0; i < COLL__OP_BUCKETS; i++) {
        struct coll_operation *operation = group->operations[i];
        while (operation) {
            struct coll_operation *next = operation->next;
            if (operation->issued) {
                coll__operation_quiesce(operation);
                coll__drop_early(operation); /* the verdict may close the links they came by */
            } else { /* only heard of; what was heard is void */
                coll__operation_finish(operation, COLL_CANCELLED, -1, NULL);
            }
            operation = next;
        }
    }
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
        coll__report_make(group);
        coll__round_reached(group, group->seal.view, COLL_PHASE_SEALED);
    }
    return group->report != NULL;
}

void coll__round_seal(struct coll_group *group, const struct coll__epoch *epoch)
{
    if (seal(group, epoch))
        post(group, COLL_ROUND_REPORT, group->report, group->report_length);
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
    uint8_t taken[COLL__EPOCH_BYTES + 16], peer[16];
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
        memcpy(peer, link->peer, sizeof peer);
        if (coll__round_judge(group, payload, frame->length) != COLL_OK)
            return;
        if (group->seal.view != before) /* the membership layer has not heard of it */
            post(group, COLL_ROUND_VERDICT, payload, frame->length);
        memcpy(taken, payload, COLL__EPOCH_BYTES);
        memcpy(taken + COLL__EPOCH_BYTES, group->engine->host.peer_id, 16);
        link = coll__link_find(&group->engine->host, peer); /* it may be out by the verdict */
        if (link)
            reply(group, link, COLL__FRAME_TAKEN, taken, sizeof taken);
        return;
    default:
        return;
    }
}
