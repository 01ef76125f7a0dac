/* What makes several unreliable connections one reliable link. Every frame but ALIVE has a
 * sequence number of the link; the sender keeps it until the peer has acknowledged it, and sends
 * it again on another connection if the one that carried it breaks; the receiver knows by the
 * number what it has had already.
 *
 * Payloads are kept by reference where the operation's buffers hold them. They may have been
 * overwritten by the time of a second sending, but only after the receiver had them (the plan
 * guarantees it), so the second copy is dropped as a duplicate before anyone looks at its bytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/tcp/tcp.h"

static const uint64_t ACK_DELAY_NS = 15000000;
static const uint64_t GRACE_NS = 300000000; /* a live peer whose link broke comes back by then */

/* An address that makes no sense is the peer's mistake, or a scope that this host lacks: it must
 * not keep us out of the view. */
static void set_addresses(struct tcp_link *link, const struct coll_peer *peer)
{
    uint32_t count = 0;
    union tcp_address good = link->addresses[link->good_address];
    for (uint32_t i = 0; i < peer->address_count && count < COLL__ADDRESSES; i++) {
        if (coll__tcp_parse(peer->addresses[i], &link->addresses[count]) == COLL_OK)
            count++;
        else if (!link->why[0])
            snprintf(link->why, sizeof link->why, "%s: no numeric HOST:PORT", peer->addresses[i]);
    }
    link->address_count = count;
    bool was_known = link->good_known;
    link->good_known = false;
    link->barred = 0;
    for (uint32_t i = 0; was_known && i < count && !link->good_known; i++) {
        if (memcmp(&good, &link->addresses[i], sizeof good) == 0) {
            link->good_known = true;
            link->good_address = i;
        }
    }
}

static coll_status link_open(struct coll__host *host, const struct coll_peer *peer,
                             struct coll__link **out)
{
    struct tcp_link *link = calloc(1, sizeof *link);
    if (!link)
        return COLL_NO_MEMORY;
    coll__link_init(&link->base, host, &coll__tcp_transport, peer);
    set_addresses(link, peer);
    link->next_sequence = 1;
    link->bulk_limit = COLL__BULK_LEAST;
    link->wanted = host->options.connections ? host->options.connections : 1;
    uint64_t now = coll__now();
    link->last_heard = link->last_sent = now;
    link->next_dial = coll__tcp_dials_first(link) ? now : now + 250000000;
    *out = &link->base;
    return COLL_OK;
}

static coll_status link_update(struct coll__link *base, const struct coll_peer *peer)
{
    set_addresses((struct tcp_link *)base, peer);
    return COLL_OK;
}

static void forget_transmission(struct tcp_connection *connection)
{
    if (connection->orphan)
        coll__slice_release(connection->host, connection->slice);
    connection->orphan = connection->sending = false;
    connection->slice = NULL;
    free(connection->corrupted);
    connection->corrupted = NULL;
}

static void link_close(struct coll__link *base)
{
    struct tcp_link *link = (struct tcp_link *)base;
    coll__tcp_drop_dials(link);
    while (link->open) {
        struct tcp_connection *connection = link->open;
        link->open = connection->next;
        forget_transmission(connection);
        connection->failed = true;
        base->host->counters.open_connections--;
        coll__watch_bury(&base->host->reactor, &connection->watch);
    }
    for (uint32_t i = 0; i < COLL__WINDOW; i++)
        if (link->window[i].slice)
            coll__slice_release(base->host, link->window[i].slice);
    free(link);
}

/* The dialer would not have come again if the connections it had were still good: what it has lost
 * is lost for us too, even if nothing told us (a gateway forgot it, the reset did not arrive). */
static void fail_replaced(struct tcp_link *link, const struct tcp_connection *connection)
{
    for (struct tcp_connection *at = link->open; at && !connection->failed;) {
        bool replaced = at != connection &&
                        ((connection->fresh && at->attached < connection->greeted) ||
                         (!at->dialed && at->slot == connection->slot));
        if (replaced)
            coll__tcp_fail(at, "the peer has opened it anew");
        at = replaced ? link->open : at->next;
    }
}

/* Which of the peer's addresses is at the host that an accepted connection came from. */
static void recognise(struct tcp_link *link, int fd)
{
    union tcp_address from;
    socklen_t length = sizeof from;
    if (getpeername(fd, &from.any, &length) != 0)
        return;
    for (uint32_t i = 0; i < link->address_count && !link->good_known; i++) {
        if (coll__tcp_same_host(&from, &link->addresses[i])) {
            link->good_known = true;
            link->good_address = i;
        }
    }
}

void coll__tcp_attach(struct tcp_link *link, struct tcp_connection *connection)
{
    struct coll__host *host = link->base.host;
    if (connection->dialed) {
        coll__tcp_remove(&link->dials, connection);
        link->dial_count--;
        link->good_known = true;
        link->good_address = connection->address;
    } else if (!link->good_known) {
        recognise(link, connection->watch.fd);
    }
    link->good_turn = false;
    connection->link = link;
    connection->state = TCP_OPEN;
    struct tcp_connection **last = &link->open;
    while (*last)
        last = &(*last)->next;
    connection->next = NULL;
    *last = connection;
    link->open_count++;
    host->counters.open_connections++;
    coll__watch_change(&host->reactor, &connection->watch, COLL__READABLE);
    coll__tcp_choose_congestion(host, connection->watch.fd);
    coll__tcp_learn_round_trip(link, connection);
    uint64_t now = coll__now();
    connection->attached = connection->last_heard = connection->last_sent = now;
    link->last_heard = now;
    link->failures = link->refusals = link->round = 0;
    link->next_dial = now;
    if (!link->base.up) {
        if (link->was_up)
            host->counters.reconnects++;
        link->was_up = true;
        link->down_since = 0;
        link->barred = 0;
        coll__tcp_drop_dials(link);
        coll__link_up(&link->base);
    }
    /* The other side may have missed our acknowledgements with the old connection. */
    link->acknowledge_now = link->received > 0;
    if (!connection->dialed)
        fail_replaced(link, connection);
    coll__tcp_dial(link, now);
    coll__tcp_pump(link);
}

void coll__tcp_fail(struct tcp_connection *connection, const char *why)
{
    struct tcp_link *link = connection->link;
    if (connection->failed)
        return;
    connection->failed = true;
    connection->host->counters.connections_lost += !connection->said_last ||
                                                   !connection->heard_last;
    connection->host->counters.open_connections--;
    snprintf(link->why, sizeof link->why, "%s", why);
    coll__tcp_remove(&link->open, connection);
    link->open_count--;
    link->barred = 0;
    if (connection->in_payload)
        coll__unplace(&connection->placement);
    forget_transmission(connection);
    for (uint64_t n = link->acknowledged + 1; n < link->next_sequence; n++) {
        struct tcp_entry *entry = &link->window[n % COLL__WINDOW];
        if (entry->slice && entry->by == connection) {
            entry->by = NULL;
            link->to_resend++;
        }
    }
    coll__watch_bury(&connection->host->reactor, &connection->watch);
    uint64_t now = coll__now();
    if (!link->open) {
        link->down_since = now;
        link->round_trip = 0;
        link->failures = link->refusals = link->round = 0;
        coll__link_down(&link->base);
    }
    /* The one who dials first does so at once; the other gives it a moment. */
    link->next_dial = coll__tcp_dials_first(link) ? now : now + GRACE_NS / 6;
    coll__tcp_dial(link, now);
    coll__tcp_pump(link);
}

/* ---- acknowledgements ----------------------------------------------------------------------- */

void coll__tcp_acknowledged(struct tcp_link *link, uint64_t upto)
{
    if (upto <= link->acknowledged || upto >= link->next_sequence)
        return;
    for (uint64_t n = link->acknowledged + 1; n <= upto; n++) {
        struct tcp_entry *entry = &link->window[n % COLL__WINDOW];
        struct coll__slice *slice = entry->slice;
        struct tcp_connection *by = entry->by;
        if (!slice)
            continue;
        link->bulk_bytes -= entry->bulk;
        link->acknowledged_bulk += entry->bulk;
        *entry = (struct tcp_entry){0};
        if (!by)
            link->to_resend--;
        if (slice->owned)
            link->retained_bytes -= slice->frame.length;
        if (by && by->sending && by->slice == slice)
            by->orphan = true; /* it is being sent again, half-way through */
        else
            coll__slice_release(link->base.host, slice);
    }
    link->acknowledged = upto;
}

bool coll__tcp_is_new(const struct tcp_link *link, uint64_t sequence)
{
    return sequence > link->received &&
           !(link->ahead[sequence % COLL__WINDOW / 64] >> (sequence % 64) & 1);
}

void coll__tcp_mark(struct tcp_link *link, const struct coll__frame *frame)
{
    uint64_t sequence = frame->sequence;
    link->ahead[sequence % COLL__WINDOW / 64] |= (uint64_t)1 << (sequence % 64);
    for (uint64_t next = link->received + 1;
         link->ahead[next % COLL__WINDOW / 64] >> (next % 64) & 1; next++) {
        link->ahead[next % COLL__WINDOW / 64] &= ~((uint64_t)1 << (next % 64));
        link->received = next;
    }
    link->unacknowledged++;
    link->unacknowledged_bytes += frame->length;
    link->received_bulk += frame->length;
    if (link->unacknowledged >= COLL__WINDOW / 16 ||
        link->unacknowledged_bytes >= COLL__BULK_LEAST / 8 || (frame->flags & COLL__FLAG_ACK_NOW))
        link->acknowledge_now = true;
}

/* ---- what the engine asks ------------------------------------------------------------------ */

static void link_revoke(struct coll__link *base, const void *owner)
{
    struct tcp_link *link = (struct tcp_link *)base;
    for (struct tcp_connection *at = link->open; at; at = at->next) {
        if (at->sending && at->slice && at->slice->borrow_link &&
            (at->slice->operation == owner || at->slice->serve == owner)) {
            coll__slice_detach(link->base.host, at->slice);
            if (at->slice->payload && !at->orphan)
                link->retained_bytes += at->slice->frame.length;
            /* Without memory for the copy the frame cannot be finished. */
            if (!at->slice->payload)
                coll__tcp_fail(at, "out of memory");
            else if (!at->corrupted)
                at->payload = at->slice->payload;
            link_revoke(base, owner);
            return;
        }
        if (at->in_payload && (at->placement.operation == owner || at->placement.fetch == owner)) {
            at->placement = (struct coll__placement){0};
            at->discard = true;
        }
    }
}

static uint64_t link_position(const struct coll__link *base)
{
    return ((const struct tcp_link *)base)->next_sequence - 1;
}

static bool link_passed(const struct coll__link *base, uint64_t position, uint32_t group)
{
    (void)group; /* nothing is left here once it has arrived */
    return ((const struct tcp_link *)base)->acknowledged >= position;
}

static void link_kick(struct coll__link *base)
{
    coll__tcp_pump((struct tcp_link *)base);
}

static void link_explain(const struct coll__link *base, char *text, size_t length)
{
    const struct tcp_link *link = (const struct tcp_link *)base;
    if (link->why[0])
        snprintf(text, length, "%s", link->why);
    else if (link->address_count == 0)
        snprintf(text, length, "it told no address, and has not dialled us");
    else {
        char address[80];
        coll__tcp_format(&link->addresses[0], address, sizeof address);
        snprintf(text, length, "%s: no answer yet", address);
    }
}

static void report_death(struct tcp_link *link, uint64_t now)
{
    const struct coll_engine_options *options = &link->base.host->options;
    char text[200];
    enum coll_certain certain = COLL_CERTAIN_SILENCE;
    if (!link->was_up || options->no_detection)
        return;
    if (link->base.up) {
        if (now <= link->last_heard + options->detection_ns)
            return;
        snprintf(text, sizeof text, "nothing was heard of it for %.1f s",
                 (double)(now - link->last_heard) / 1e9);
    } else {
        uint64_t down = now - link->down_since;
        /* Refused where it was seen; or, if that is not known, refused everywhere. */
        bool refused = link->refusals >= 3 && down >= GRACE_NS &&
                       (link->good_known || (link->refusals == link->failures &&
                                             link->refusals >= link->address_count));
        if (!refused && down <= options->detection_ns && !link->base.goodbye)
            return;
        if (refused || link->base.goodbye)
            certain = COLL_CERTAIN_REFUSED;
        if (link->base.goodbye)
            snprintf(text, sizeof text, "it said goodbye and closed its connections");
        else
            snprintf(text, sizeof text, "its connections broke %.1f s ago and %s (%s)",
                     (double)down / 1e9,
                     refused ? "its port refuses new ones" : "it cannot be reached any more",
                     link->why);
    }
    coll__link_lost(&link->base, text, certain);
}

/* Every connection carries heartbeats of its own: one that stays silent while the others are heard
 * has died without a word, and what it carried goes over them. How long that is is measured by what
 * was heard, not by the clock, so that a peer that stands still loses none. They beat together, for
 * which the peer wakes up once. */
static void tend_connections(struct tcp_link *link, uint64_t now)
{
    const struct coll_engine_options *options = &link->base.host->options;
    uint64_t patience = options->detection_ns / 2;
    if (patience < options->heartbeat_ns * 3)
        patience = options->heartbeat_ns * 3;
    bool due = false;
    for (struct tcp_connection *at = link->open; at;) {
        bool silent = !options->no_detection && link->last_heard > at->last_heard &&
                      link->last_heard - at->last_heard > patience;
        if (silent)
            coll__tcp_fail(at, "it fell silent, though the peer is heard on another one");
        else
            due |= !at->sending && now - at->last_sent >= options->heartbeat_ns;
        at = silent ? link->open : at->next;
    }
    if (!due)
        return;
    for (struct tcp_connection *at = link->open; at; at = at->next)
        at->beat |= !at->sending && now - at->last_sent >= options->heartbeat_ns / 2;
    link->acknowledge_now = true; /* has all of them looked at */
}

void coll__tcp_link_tick(struct tcp_link *link, uint64_t now, bool paused)
{
    if (paused) {
        link->last_heard = now;
        for (struct tcp_connection *at = link->open; at; at = at->next)
            at->last_heard = now;
        if (link->down_since)
            link->down_since = now;
    }
    coll__tcp_dial(link, now);
    tend_connections(link, now);
    report_death(link, now);
    coll__tcp_adapt(link, now);
    bool due = link->unacknowledged > 0 || link->base.eager_consumed != link->base.eager_announced;
    if (now - link->last_sent >= link->base.host->options.heartbeat_ns ||
        (due && now - link->last_sent >= ACK_DELAY_NS))
        link->acknowledge_now = true;
    if (link->acknowledge_now)
        coll__tcp_pump(link);
}

static coll_status link_inject(struct coll__link *base, uint32_t fault, uint64_t after_slices)
{
    struct tcp_link *link = (struct tcp_link *)base;
    if (fault != COLL_FAULT_CUT_CONNECTION && fault != COLL_FAULT_FLIP_BIT)
        return coll__error(COLL_INVALID_ARGUMENT, "%u is no fault", fault);
    link->fault = fault;
    link->fault_after = after_slices;
    return COLL_OK;
}

const struct coll__transport coll__tcp_transport = {
    .slot = TCP_SLOT,
    .start = coll__tcp_start,
    .stop = coll__tcp_stop,
    .tick = coll__tcp_tick,
    .fork_child = coll__tcp_fork_child,
    .address = coll__tcp_address,
    .open = link_open,
    .close = link_close,
    .update = link_update,
    .kick = link_kick,
    .revoke = link_revoke,
    .position = link_position,
    .passed = link_passed,
    .explain = link_explain,
    .inject = link_inject,
};
