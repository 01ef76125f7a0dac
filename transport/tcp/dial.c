/* Connecting. The peer with the lower id dials; the other waits a moment and then tries too, since
 * only one direction may be open. All of a peer's addresses are tried, a new one every quarter of
 * a second, and the first that ends in a proven connection wins. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "transport/tcp/tcp.h"

static const uint64_t STAGGER_NS = 250000000;
static const uint64_t BACKOFF_NS = 20000000;
static const uint64_t BACKOFF_MAX_NS = 250000000;
enum { DIALS_AT_ONCE = 8 };

bool coll__tcp_dials_first(const struct tcp_link *link)
{
    return memcmp(link->base.host->peer_id, link->base.peer, 16) < 0;
}

static void remove_dial(struct tcp_connection *connection)
{
    struct tcp_link *link = connection->link;
    coll__tcp_remove(&link->dials, connection);
    link->dial_count--;
    connection->failed = true;
    coll__watch_bury(&connection->host->reactor, &connection->watch);
}

void coll__tcp_drop_dials(struct tcp_link *link)
{
    while (link->dials)
        remove_dial(link->dials);
}

/* The attempt came to nothing: the next address, or the same ones again a little later. */
static void count_failure(struct tcp_link *link, uint32_t address, int error, const char *why)
{
    char text[80];
    coll__tcp_format(&link->addresses[address], text, sizeof text);
    snprintf(link->why, sizeof link->why, "%s: %s", text, why);
    link->failures++;
    link->barred |= (uint32_t)1 << address;
    bool good = link->good_known && address == link->good_address;
    if (error == ECONNREFUSED && (good || !link->good_known))
        link->refusals++;
    uint64_t now = coll__now();
    if (!good && link->address_count > 0 && link->failures % link->address_count != 0) {
        link->next_dial = now;
        return;
    }
    uint64_t wait = BACKOFF_NS << (link->round < 4 ? link->round : 4);
    link->round++;
    link->next_dial = now + (wait < BACKOFF_MAX_NS ? wait : BACKOFF_MAX_NS);
}

void coll__tcp_dial_failed(struct tcp_connection *connection, int error, const char *why)
{
    struct tcp_link *link = connection->link;
    uint32_t address = connection->address;
    remove_dial(connection);
    count_failure(link, address, error, why);
}

static int connect_to(struct tcp_link *link, const union tcp_address *address)
{
    struct coll__host *host = link->base.host;
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    coll__tcp_socket_options(host, fd);
    union tcp_address source;
    int failed = 0;
    if (host->options.interface &&
        coll__tcp_source(host->options.interface, address->any.sa_family, &source))
        failed = bind(fd, &source.any, coll__tcp_length(&source));
    if (!failed)
        failed = connect(fd, &address->any, coll__tcp_length(address));
    if (failed && errno != EINPROGRESS) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static bool has_slot(const struct tcp_connection *at, uint16_t slot)
{
    for (; at; at = at->next)
        if (at->dialed && at->slot == slot)
            return true;
    return false;
}

static uint16_t free_slot(const struct tcp_link *link)
{
    uint16_t slot = 0;
    while (has_slot(link->open, slot) || has_slot(link->dials, slot))
        slot++;
    return slot;
}

/* Each address may be a path of its own, so the connections of large operations share them out. An
 * address at which nothing came of it is left out until one of them is lost. */
static uint32_t least_used(const struct tcp_link *link)
{
    uint32_t uses[COLL__ADDRESSES] = {0}, best = link->good_address % link->address_count;
    for (const struct tcp_connection *at = link->open->next; at; at = at->next)
        uses[at->address] += at->dialed;
    for (const struct tcp_connection *at = link->dials; at; at = at->next)
        uses[at->address]++;
    for (uint32_t i = 0; i < link->address_count; i++)
        if (!(link->barred >> i & 1) && (uses[i] < uses[best] || link->barred >> best & 1))
            best = i;
    return best;
}

/* Where the peer was seen before comes first and every other time; between, the list. */
static uint32_t next_in_turn(struct tcp_link *link)
{
    link->good_turn = link->good_known && !link->good_turn;
    uint32_t index = link->good_turn ? link->good_address : link->next_address++;
    return index % link->address_count;
}

static void dial_one(struct tcp_link *link, uint64_t now)
{
    uint32_t index = link->base.up ? least_used(link) : next_in_turn(link);
    link->next_dial = now + (link->base.up ? 0 : STAGGER_NS);
    int fd = connect_to(link, &link->addresses[index]);
    if (fd < 0) {
        count_failure(link, index, errno, strerror(errno));
        return;
    }
    struct tcp_connection *connection = coll__tcp_connection_new(link->base.host, fd,
                                                                 TCP_CONNECTING);
    if (!connection) {
        close(fd);
        link->next_dial = now + BACKOFF_MAX_NS;
        return;
    }
    connection->dialed = true;
    connection->link = link;
    connection->address = index;
    connection->slot = free_slot(link);
    connection->next = link->dials;
    link->dials = connection;
    link->dial_count++;
}

/* One side alone opens the other connections, or there would be twice as many: the one who dials
 * first, unless only the other one can dial. */
bool coll__tcp_opens_more(const struct tcp_link *link)
{
    bool dialed = false, accepted = false;
    for (const struct tcp_connection *at = link->open; at; at = at->next) {
        dialed |= at->dialed;
        accepted |= !at->dialed;
    }
    return dialed && (!accepted || coll__tcp_dials_first(link));
}

void coll__tcp_dial(struct tcp_link *link, uint64_t now)
{
    for (struct tcp_connection *at = link->dials; at;) {
        struct tcp_connection *next = at->next;
        if (now >= at->deadline)
            coll__tcp_dial_failed(
                at, 0,
                at->state == TCP_CONNECTING ? "no answer" : "connected, but it did not say hello");
        at = next;
    }
    if (link->base.goodbye || link->address_count == 0)
        return;
    if (link->base.up) {
        while (coll__tcp_opens_more(link) && link->open_count + link->dial_count < link->wanted &&
               now >= link->next_dial)
            dial_one(link, now);
        return;
    }
    uint32_t started = 0;
    while (now >= link->next_dial && link->dial_count < DIALS_AT_ONCE &&
           started++ < link->address_count)
        dial_one(link, now);
}
