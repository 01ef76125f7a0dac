/* What a link learns from its traffic: how much of large operations it lets be under way, and how
 * many connections it wants.
 *
 * One connection carries at most a send buffer in a round trip, and less after a loss: a long link
 * needs several. How many nobody knows beforehand, so one side tries: it doubles their number as
 * long as that raises what arrives, and takes back what it has added for nothing. Where the round
 * trip is short one connection fills the link, and more would only cost.
 */
#include "transport/tcp/tcp.h"

enum { BULK_MOST = 16 }; /* connections for large operations */
static const uint64_t MEASURE_NS = 20000000;
static const uint64_t LONG_NS = 1000000;       /* a round trip from which on a link is long */
static const uint64_t TRIAL_NS = 1000000000;   /* at least */
static const uint64_t AGAIN_NS = 20000000000;  /* after one that did not help */

void coll__tcp_learn_round_trip(struct tcp_link *link, const struct tcp_connection *connection)
{
    uint64_t round_trip = coll__tcp_round_trip(connection->watch.fd);
    if (round_trip > 0 && (link->round_trip == 0 || round_trip < link->round_trip))
        link->round_trip = round_trip;
    uint32_t fixed = link->base.host->options.connections;
    if (fixed > 0)
        link->wanted = fixed > 1 ? fixed + 1 : 1; /* one more for small operations */
    else if (link->round_trip < LONG_NS)
        link->wanted = 1;
    else if (link->wanted < 2)
        link->wanted = 2; /* one of them for small operations */
}

/* Kernels buffer megabytes on every connection. What a large operation has put there goes before a
 * small one that comes later, so no more of it is let in than keeps the link busy: what is under
 * way in a round trip, twice, so that it can grow, and what the acknowledgements take. */
static void limit_bulk(struct tcp_link *link, uint64_t since)
{
    uint64_t goodput = link->acknowledged_bulk * 1000000000 / since;
    link->goodput -= link->goodput / 8;
    if (goodput > link->goodput)
        link->goodput = goodput;
    uint64_t longest = 0;
    for (struct tcp_connection *at = link->open; at; at = at->next) {
        uint64_t round_trip = coll__tcp_round_trip(at->watch.fd);
        if (round_trip > longest)
            longest = round_trip;
    }
    link->bulk_limit = COLL__BULK_LEAST + 2 * (link->goodput / 1000 * (longest / 1000) / 1000);
}

/* Whoever opened the last ones lets them go; see choose() in send.c. */
static void retire(struct tcp_link *link)
{
    uint32_t place = 0;
    for (struct tcp_connection *at = link->open; at; at = at->next)
        at->retiring |= at->dialed && place++ >= link->wanted;
}

static void begin_trial(struct tcp_link *link, uint32_t bulk, uint64_t begin)
{
    link->wanted = bulk + 1;
    link->trial.begin = link->trial.last = begin;
    link->trial.busy = link->trial.bytes = 0;
}

/* So many bytes of large operations have arrived by now, here or there. What is lost and sent again
 * holds up the acknowledgement of all that follows it: that is no pause. */
static void try_connections(struct tcp_link *link, uint64_t now, uint64_t bytes)
{
    struct tcp_trial *trial = &link->trial;
    if (now < trial->begin)
        return;
    uint64_t gap = now - trial->last;
    trial->busy += gap < 4 * link->round_trip ? gap : 4 * link->round_trip;
    trial->last = now;
    trial->bytes += bytes;
    /* A new connection has found its pace after ten round trips, if others leave it room. */
    uint64_t span = 20 * link->round_trip > TRIAL_NS ? 20 * link->round_trip : TRIAL_NS;
    if (trial->busy < span)
        return;
    uint64_t rate = trial->bytes * 1000 / (trial->busy / 1000000);
    uint32_t bulk = link->wanted - 1;
    bool better = rate > trial->rate + trial->rate / 10;
    if (!better && !trial->doubted) {
        /* Once is no evidence: a loss at the wrong moment halves what a second carries. */
        begin_trial(link, bulk, now);
        trial->doubted = true;
        return;
    }
    trial->doubted = false;
    if (better && bulk < BULK_MOST) {
        trial->rate = rate;
        trial->before = bulk;
        begin_trial(link, bulk * 2, now + span);
        return;
    }
    trial->rate = 0; /* the next one is compared with what it finds itself */
    begin_trial(link, better ? bulk : trial->before, now + AGAIN_NS);
    retire(link);
}

void coll__tcp_adapt(struct tcp_link *link, uint64_t now)
{
    uint64_t bytes = link->acknowledged_bulk + link->received_bulk, since = now - link->measured;
    if (bytes > 0 && since < MEASURE_NS)
        return;
    if (link->acknowledged_bulk > 0)
        limit_bulk(link, since);
    if (bytes > 0 && link->wanted > 1 && link->base.host->options.connections == 0 &&
        coll__tcp_opens_more(link))
        try_connections(link, now, bytes);
    link->acknowledged_bulk = link->received_bulk = 0;
    link->measured = now;
}
