/* Views: immutable lists of members, and the links that they need. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/process.h"
#include "wire/crc32c.h"

static const uint64_t LOST_AGAIN_NS = 1000000000;

uint32_t coll__rank_of(const struct coll__view *view, const uint8_t peer[16])
{
    uint32_t rank = 0;
    while (rank < view->size && memcmp(view->members[rank].id, peer, 16) != 0)
        rank++;
    return rank;
}

coll_status coll__view_new(struct coll_group *group, const struct coll_view *given,
                           struct coll__view **made)
{
    struct coll__view *view = calloc(1, sizeof *view + given->size * sizeof(struct coll__member));
    if (!view)
        return COLL_NO_MEMORY;
    view->references = 1;
    view->group = group;
    view->term = given->term;
    view->number = given->number;
    view->first_operation = given->first_operation;
    view->rank = given->rank;
    view->size = given->size;
    view->fixed = given->fixed;
    memcpy(view->key, given->key, sizeof view->key);
    for (uint32_t rank = 0; rank < given->size; rank++) {
        struct coll__member *member = &view->members[rank];
        memcpy(member->id, given->peers[rank].id, sizeof member->id);
        snprintf(member->name, sizeof member->name, "%s", given->peers[rank].name);
    }
    *made = view;
    return COLL_OK;
}

void coll__view_release(struct coll__view *view)
{
    if (--view->references > 0)
        return;
    while (view->plans) {
        struct coll__planned *planned = view->plans;
        view->plans = planned->next;
        coll_plan_free(planned->plan);
        free(planned);
    }
    free(view->topology);
    free(view);
}

coll_status coll__view_plan(struct coll__view *view, uint32_t kind, uint32_t algorithm,
                            uint32_t root, const struct coll_plan **plan)
{
    struct coll__planned **at = &view->plans;
    while (*at && ((*at)->kind != kind || (*at)->algorithm != algorithm || (*at)->root != root))
        at = &(*at)->next;
    struct coll__planned *planned = *at;
    if (planned) {
        *at = planned->next;
    } else {
        planned = calloc(1, sizeof *planned);
        if (!planned)
            return COLL_NO_MEMORY;
        coll_status status = coll_plan_make(kind, algorithm, view->rank, view->size, root,
                                            view->topology, &planned->plan);
        if (status != COLL_OK) {
            free(planned);
            return status;
        }
        planned->kind = kind;
        planned->algorithm = algorithm;
        planned->root = root;
    }
    planned->next = view->plans;
    view->plans = planned;
    *plan = planned->plan;
    return COLL_OK;
}

/* Whoever leaves one group may stay in others: the link is over when all that use it are. */
static void count_goodbyes(struct coll__link *link)
{
    link->goodbye = !link->keeps && link->goodbyes > 0 && link->goodbyes == link->references;
}

void coll__member_attach(struct coll__member *member, struct coll__link *link)
{
    member->link = link;
    link->references++;
    count_goodbyes(link);
}

void coll__member_leaves(struct coll__member *member)
{
    if (!member->goodbye)
        member->link->goodbyes++;
    member->goodbye = true;
    count_goodbyes(member->link);
}

static void close_link(struct coll__link *link)
{
    struct coll__link **at = &link->engine->host.links;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    for (struct coll_group *group = link->engine->groups; group; group = group->next)
        coll__drop_later(group, link);
    coll__process_unwatch(link);
    coll__link_drop(link);
    link->transport->close(link);
}

/* Members of fixed views close their groups when they like, and may meet again in another: what a link
 * knows of its peer must not be forgotten by one side only. It lasts as long as both engines do. */
static bool is_kept(const struct coll__link *link)
{
    return link->references > 0 ||
           (link->keeps && !link->process_died && link->lost_reported <= 1 + COLL_CERTAIN_SILENCE);
}

static void detach(struct coll__member *member)
{
    struct coll__link *link = member->link;
    member->link = NULL;
    if (!link)
        return;
    link->goodbyes -= member->goodbye;
    link->references--;
    count_goodbyes(link);
    if (!is_kept(link))
        close_link(link);
}

void coll__links_tick(struct coll_engine *engine)
{
    struct coll__link *next;
    for (struct coll__link *at = engine->host.links; at; at = next) {
        next = at->next;
        if (!is_kept(at))
            close_link(at);
    }
}

void coll__links_close(struct coll_engine *engine)
{
    while (engine->host.links)
        close_link(engine->host.links);
}

void coll__view_retire(struct coll__view *view)
{
    for (uint32_t rank = 0; rank < view->size; rank++)
        detach(&view->members[rank]);
    coll__view_release(view);
}

static uint16_t digest_levels(const struct coll_topology *topology, uint32_t size)
{
    uint32_t sum = 0;
    if (topology) {
        sum = coll__crc32c(topology->levels, topology->places,
                           (size_t)topology->levels * size * sizeof *topology->places);
        sum = coll__crc32c(sum, topology->settings,
                           topology->setting_count * sizeof *topology->settings);
    }
    const uint16_t folded = (uint16_t)(sum >> 16 ^ sum);
    return folded == 0 ? 1 : folded;
}

void coll__view_place(struct coll__view *view)
{
    view->levels = digest_levels(view->topology, view->size);
    view->local = NULL;
    for (uint32_t rank = 0; rank < view->size; rank++) {
        const struct coll__link *link = view->members[rank].link;
        if (link && (!link->transport->local || (view->local && view->local != link->transport))) {
            view->local = NULL;
            return;
        }
        view->local = link ? link->transport : view->local;
    }
}

void coll__view_report_if_ready(struct coll_group *group)
{
    struct coll__view *view = group->prepared;
    if (!view || view->ready_reported)
        return;
    for (uint32_t rank = 0; rank < view->size; rank++)
        if (rank != view->rank && !view->members[rank].link->up)
            return;
    view->ready_reported = true;
    coll__emit(group, COLL_EVENT_VIEW_READY, view->number, NULL, NULL);
}

/* ---- links, as transports see them -------------------------------------------------------- */

struct coll__link *coll__link_find(struct coll__host *host, const uint8_t peer[16])
{
    struct coll__link *link = host->links;
    while (link && memcmp(link->peer, peer, 16) != 0)
        link = link->next;
    return link;
}

void coll__link_init(struct coll__link *link, struct coll__host *host,
                     const struct coll__transport *transport, const struct coll_peer *peer)
{
    link->engine = coll__engine_of(host);
    link->host = host;
    link->transport = transport;
    memcpy(link->peer, peer->id, sizeof link->peer);
    snprintf(link->name, sizeof link->name, "%s", peer->name);
    link->control_tail = &link->control_head;
}

void coll__link_up(struct coll__link *link)
{
    link->up = true;
    link->refused = 0;
    link->lost_reported = 0;
    link->lost_since = 0;
    for (struct coll_group *group = link->engine->groups; group; group = group->next)
        coll__view_report_if_ready(group);
}

void coll__link_down(struct coll__link *link)
{
    link->up = false;
}

void coll__link_lost(struct coll__link *link, const char *text, enum coll_certain certain)
{
    /* Again, when it gets better or a second has passed: whoever collects it may be new. */
    uint64_t now = coll__now();
    coll__fixed_lost(link, text);
    if (link->lost_reported > certain && now - link->lost_at < LOST_AGAIN_NS)
        return;
    link->lost_reported = certain + 1;
    coll__fetch_lost(link, text);
    link->lost_at = now;
    for (struct coll_group *group = link->engine->groups; group; group = group->next) {
        const struct coll__view *view = group->committed;
        if (!view || coll__rank_of(view, link->peer) == view->size) {
            /* That a newcomer cannot be reached may pass; that it was seen to die does not, and
             * nobody else takes the place of a member of a fixed view. */
            view = group->prepared;
            if (!view || !(certain == COLL_CERTAIN_PROCESS || view->fixed) ||
                coll__rank_of(view, link->peer) == view->size)
                continue;
        } else if (view->fixed) {
            continue;
        }
        coll__emit_lost(group, view->number, link->peer, certain, text);
    }
}

/* The committed or the prepared view that goes by this name, NULL: neither. */
static struct coll__view *named(struct coll_engine *engine, uint32_t group_id, uint64_t term,
                                uint64_t number)
{
    struct coll_group *group = coll__group_find(engine, group_id);
    struct coll__view *candidates[2] = {group ? group->committed : NULL,
                                        group ? group->prepared : NULL};
    for (int i = 0; i < 2; i++)
        if (candidates[i] && candidates[i]->number == number && candidates[i]->term == term)
            return candidates[i];
    return NULL;
}

const uint8_t *coll__view_key(struct coll__host *host, uint32_t group_id, uint64_t term,
                              uint64_t number, const uint8_t peer[16])
{
    struct coll__view *view = named(coll__engine_of(host), group_id, term, number);
    return view && coll__rank_of(view, peer) < view->size ? view->key : NULL;
}

bool coll__view_for_link(const struct coll__link *link, uint32_t *group_id, uint64_t *term,
                         uint64_t *number, const uint8_t **key)
{
    /* A committed view is known to both; a prepared one perhaps not yet to the other, who may have
     * closed the group of a committed one. So there are turns. */
    uint32_t turn = link->references > 0 ? link->refused % link->references : 0;
    for (int prepared = 0; prepared < 2; prepared++) {
        for (struct coll_group *group = link->engine->groups; group; group = group->next) {
            struct coll__view *view = prepared ? group->prepared : group->committed;
            if (!view || coll__rank_of(view, link->peer) == view->size || turn-- > 0)
                continue;
            *group_id = group->id;
            *term = view->term;
            *number = view->number;
            *key = view->key;
            return true;
        }
    }
    return false;
}

void coll__count_sent(struct coll__link *link, struct coll__slice *slice, uint64_t bytes,
                      bool again)
{
    struct coll_operation *operation = slice->operation;
    if (!operation)
        return;
    uint32_t rank = coll__rank_of(operation->view, link->peer);
    if (rank == operation->view->size)
        return;
    operation->uses[rank].sent_bytes += bytes;
    operation->uses[rank].resent += again;
}
