/* Tags: how operations are numbered, how far they are settled, and which results are kept for members
 * that may still need them. They outlive views: a death resets no number. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

/* So much may be settled or retained before the others are told without waiting for the tick. */
enum { TELL_OPERATIONS = 64, TELL_BYTES = 512 << 10 };

struct coll__tag *coll__tag_find(struct coll_group *group, uint32_t tag, enum coll__role role,
                                 const uint8_t *peer)
{
    static const uint8_t nobody[16];
    if (!peer)
        peer = nobody;
    for (struct coll__tag *at = group->tags; at; at = at->next)
        if (at->tag == tag && at->role == role && memcmp(at->peer, peer, sizeof at->peer) == 0)
            return at;
    const struct coll__view *view = group->committed;
    const bool together = role == COLL__TOGETHER;
    struct coll__tag *made = calloc(1, sizeof *made);
    uint64_t *heard = together ? calloc(view->size, sizeof *heard) : NULL;
    if (!made || (together && !heard)) {
        free(made);
        free(heard);
        return NULL;
    }
    made->engine = group->engine;
    made->tag = tag;
    made->role = role;
    memcpy(made->peer, peer, sizeof made->peer);
    made->following = view->first_operation;
    made->settled = made->told = view->first_operation - 1;
    made->retained_tail = &made->retained;
    if (heard) {
        for (uint32_t rank = 0; rank < view->size; rank++)
            heard[rank] = made->settled;
        heard[view->rank] = UINT64_MAX;
        made->heard = heard;
        made->ranks = view->size;
    }
    made->next = group->tags;
    group->tags = made;
    return made;
}

void coll__tag_issue(struct coll__tag *tag, struct coll_operation *operation)
{
    operation->older = tag->newest;
    operation->newer = NULL;
    if (tag->newest)
        tag->newest->newer = operation;
    else
        tag->oldest = operation;
    tag->newest = operation;
    tag->following = operation->number + 1;
}

static void note_ahead(struct coll__tag *tag, uint64_t number)
{
    if (tag->ahead_count == tag->ahead_capacity) {
        uint32_t capacity = tag->ahead_capacity ? tag->ahead_capacity * 2 : 8;
        uint64_t *grown = realloc(tag->ahead, capacity * sizeof *grown);
        if (!grown)
            return; /* a round may then repeat what has succeeded here, and we are evicted by it */
        tag->ahead = grown;
        tag->ahead_capacity = capacity;
    }
    tag->ahead[tag->ahead_count++] = number;
}

void coll__tag_leave(struct coll__tag *tag, struct coll_operation *operation)
{
    if (operation->older)
        operation->older->newer = operation->newer;
    else
        tag->oldest = operation->newer;
    if (operation->newer)
        operation->newer->older = operation->older;
    else
        tag->newest = operation->older;
    tag->settled = coll__watermark(tag->oldest ? tag->oldest->number : 0, tag->following);
}

void coll__tag_settle(struct coll__tag *tag, struct coll_operation *operation)
{
    coll__tag_leave(tag, operation);
    if (operation->status == COLL_OK && operation->number > tag->settled)
        note_ahead(tag, operation->number);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < tag->ahead_count; i++)
        if (tag->ahead[i] > tag->settled)
            tag->ahead[kept++] = tag->ahead[i];
    tag->ahead_count = kept;
    struct coll__view *view = operation->group->committed;
    if (tag->role == COLL__TOGETHER && view &&
        (tag->settled - tag->told >= TELL_OPERATIONS ||
         (tag->retained_bytes > TELL_BYTES && tag->settled > tag->told)))
        coll__tell_watermark(tag, view);
}

/* ---- retained results -------------------------------------------------------------------- */

coll_status coll__tag_retain(struct coll__tag *tag, const struct coll_operation *operation)
{
    struct coll__retained *retained = coll__take(operation->engine,
                                                 sizeof *retained + operation->bytes);
    if (!retained)
        return COLL_NO_MEMORY;
    retained->next = NULL;
    retained->number = operation->number;
    retained->view = operation->info.view;
    retained->length = operation->bytes;
    coll__form_gather(&operation->output_form, operation->output, 0, operation->bytes,
                      retained->payload, false);
    /* Nearly always in order; a result that was supplied may be older than others. */
    struct coll__retained **at = &tag->retained;
    if (tag->retained_tail != &tag->retained) {
        const struct coll__retained *last =
            (const struct coll__retained *)((const char *)tag->retained_tail -
                                            offsetof(struct coll__retained, next));
        if (last->number < retained->number)
            at = tag->retained_tail;
    }
    while (*at && (*at)->number < retained->number)
        at = &(*at)->next;
    retained->next = *at;
    *at = retained;
    if (!retained->next)
        tag->retained_tail = &retained->next;
    tag->retained_bytes += retained->length;
    return COLL_OK;
}

const struct coll__retained *coll__tag_retained(const struct coll__tag *tag, uint64_t number)
{
    const struct coll__retained *at = tag->retained;
    while (at && at->number != number)
        at = at->next;
    return at;
}

static void release_upto(struct coll__tag *tag, uint64_t number)
{
    while (tag->retained && tag->retained->number <= number) {
        struct coll__retained *over = tag->retained;
        tag->retained = over->next;
        tag->retained_bytes -= over->length;
        coll__give(tag->engine, over);
    }
    if (!tag->retained)
        tag->retained_tail = &tag->retained;
}

void coll__tag_hear(struct coll__tag *tag, uint32_t rank, uint64_t watermark)
{
    if (rank >= tag->ranks || watermark <= tag->heard[rank])
        return;
    tag->heard[rank] = watermark;
    if (!tag->retained)
        return;
    uint64_t least = tag->settled;
    for (uint32_t i = 0; i < tag->ranks; i++)
        if (tag->heard[i] < least)
            least = tag->heard[i];
    release_upto(tag, least);
}

/* ---- all tags ---------------------------------------------------------------------------- */

static void tag_free(struct coll__tag *tag)
{
    release_upto(tag, UINT64_MAX);
    free(tag->ahead);
    free(tag->heard);
    free(tag);
}

/* Where all numbers begin anew, nothing has to be known of pairs. */
static void forget_pairs(struct coll_group *group)
{
    for (struct coll__tag **at = &group->tags; *at;) {
        struct coll__tag *tag = *at;
        if (tag->role == COLL__TOGETHER) {
            at = &tag->next;
            continue;
        }
        *at = tag->next;
        tag_free(tag);
    }
}

void coll__tags_enter(struct coll_group *group, uint64_t first)
{
    const struct coll__view *view = group->committed;
    if (first > 0)
        forget_pairs(group);
    for (struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        if (tag->role != COLL__TOGETHER)
            continue;
        uint64_t *heard = calloc(view->size, sizeof *heard);
        if (heard) {
            free(tag->heard);
            tag->heard = heard;
            tag->ranks = view->size;
        } else if (tag->ranks < view->size) {
            tag->ranks = 0; /* nothing is released any more */
        }
        for (uint32_t rank = 0; rank < tag->ranks; rank++)
            tag->heard[rank] = rank == view->rank ? UINT64_MAX : first > 0 ? first - 1 : 0;
        if (first > 0) {
            release_upto(tag, UINT64_MAX);
            tag->following = first;
            tag->settled = tag->told = first - 1;
            tag->ahead_count = 0;
        } else {
            tag->told = 0; /* whoever reset what it had heard is told again */
        }
        if (view->size == 1)
            release_upto(tag, UINT64_MAX);
    }
}

void coll__tags_tick(struct coll_group *group)
{
    if (!group->committed || group->seal.sealed)
        return;
    for (struct coll__tag *tag = group->tags; tag; tag = tag->next)
        if (tag->role == COLL__TOGETHER && tag->settled > tag->told)
            coll__tell_watermark(tag, group->committed);
}

bool coll__tags_told(const struct coll_group *group)
{
    const struct coll__view *view = group->committed;
    for (const struct coll__tag *tag = group->tags; tag; tag = tag->next) {
        if (tag->retained)
            return false;
        for (uint32_t rank = 0; tag->heard && rank < tag->ranks; rank++)
            if (!view->members[rank].goodbye && tag->heard[rank] < tag->settled)
                return false;
    }
    return true;
}

void coll__tags_free(struct coll_group *group)
{
    while (group->tags) {
        struct coll__tag *tag = group->tags;
        group->tags = tag->next;
        tag_free(tag);
    }
}
