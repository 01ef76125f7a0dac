/* One direction of a connection: read, wait, hand over.
 *
 * What is read gets its release time at once (delay, jitter) and waits in the queue; at its release
 * it passes the buckets, a quantum at a time. A full queue stops the reading, and so the sender. */
#include "shaper.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define TURNS 4 /* chunks that one flow moves before others have their turn */

int64_t shaper_now(struct shaper *shaper)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    shaper->now = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    return shaper->now;
}

/* When something that comes in now goes out. */
static int64_t stamp(struct shaper *shaper, struct shaper_flow *flow)
{
    const struct shaper_direction *direction = flow->direction;
    int64_t release = shaper_now(shaper) + direction->delay;
    if (direction->jitter > 0)
        release += (int64_t)driven_random_below(&flow->random, (uint64_t)direction->jitter + 1);
    if (release > flow->last_release)
        flow->last_release = release;
    return flow->last_release;
}

void shaper_flow_finish(struct shaper *shaper, struct shaper_flow *flow)
{
    flow->finished = true;
    flow->ending = SHAPER_ENDING_NONE;
    shaper_queue_free(&flow->queue);
    driven_timers_clear(&shaper->timers, &flow->timer);
}

void shaper_flow_end(struct shaper *shaper, struct shaper_flow *flow, enum shaper_ending ending)
{
    flow->exhausted = true;
    flow->ending = ending;
    flow->ending_at = stamp(shaper, flow);
}

void shaper_flow_release(struct shaper_flow *flow)
{
    flow->granted = 0;
}

/* ---- reading --------------------------------------------------------------------------- */

static bool damaging(const struct shaper_direction *direction)
{
    const struct shaper_damage *damage = &direction->damage;
    return damage->flip || damage->truncate || damage->duplicate;
}

static ssize_t swallow(struct shaper *shaper, struct shaper_flow *flow)
{
    ssize_t got = recv(flow->from->fd, shaper->scratch, SHAPER_CHUNK, 0);
    if (got > 0)
        flow->direction->dropped += (uint64_t)got;
    return got;
}

/* Read a chunk into the queue, by way of `scratch` where it is damaged. `*full`: no room. */
static ssize_t take(struct shaper *shaper, struct shaper_flow *flow, bool *full)
{
    struct shaper_direction *direction = flow->direction;
    bool damage = damaging(direction);
    struct msghdr message = {0};
    struct iovec pieces[2];
    int count;
    size_t space = shaper_queue_space(&flow->queue, direction->queue, SHAPER_CHUNK, pieces, &count);
    *full = space <= (damage ? SHAPER_DAMAGE_ROOM : 0);
    if (*full)
        return 0;
    message.msg_iov = pieces;
    message.msg_iovlen = (size_t)count;
    if (!damage) {
        ssize_t got = recvmsg(flow->from->fd, &message, 0);
        if (got > 0)
            shaper_queue_commit(&flow->queue, (size_t)got, stamp(shaper, flow));
        return got;
    }
    ssize_t got = recv(flow->from->fd, shaper->scratch, space - SHAPER_DAMAGE_ROOM, 0);
    if (got <= 0)
        return got;
    size_t left = shaper_damage_apply(&direction->damage, &direction->damaged, &flow->random,
                                      shaper->scratch, (size_t)got);
    size_t first = left < pieces[0].iov_len ? left : pieces[0].iov_len;
    memcpy(pieces[0].iov_base, shaper->scratch, first);
    if (left > first)
        memcpy(pieces[1].iov_base, shaper->scratch + first, left - first);
    if (left > 0)
        shaper_queue_commit(&flow->queue, left, stamp(shaper, flow));
    return got;
}

/* Read once; false: there is nothing to read now, or no room for it. */
static bool fill(struct shaper *shaper, struct shaper_flow *flow)
{
    struct shaper_end *from = flow->from;
    if (from->fd < 0 || !from->connected || !from->readable || flow->exhausted ||
        flow->direction->hold)
        return false;
    bool full = false;
    ssize_t got = flow->finished || flow->direction->drop ? swallow(shaper, flow)
                                                          : take(shaper, flow, &full);
    if (full)
        return false;
    if (got > 0 || (got < 0 && errno == EINTR))
        return true;
    if (got < 0 && errno == EAGAIN) {
        from->readable = false;
        return false;
    }
    /* A reset that a send has heard of reads as an orderly end. */
    from->dead = from->dead || got < 0;
    if (flow->connection->half_open)
        shaper_connection_close(shaper, flow->connection, false);
    else if (flow->finished)
        flow->exhausted = true;
    else
        shaper_flow_end(shaper, flow, from->dead ? SHAPER_ENDING_RESET : SHAPER_ENDING_FIN);
    return true;
}

/* ---- handing over ------------------------------------------------------------------------ */

static bool limited(const struct shaper_direction *direction)
{
    return direction->own.rate > 0 || direction->shared_count > 0;
}

/* Reserve the next quantum in all buckets: it passes when the last of them lets it. */
static void reserve(struct shaper *shaper, struct shaper_flow *flow, size_t ready)
{
    struct shaper_direction *direction = flow->direction;
    size_t quantum = shaper_bucket_quantum(&direction->own);
    for (uint32_t i = 0; i < direction->shared_count; i++) {
        size_t other = shaper_bucket_quantum(direction->shared[i]);
        quantum = other < quantum ? other : quantum;
    }
    flow->granted = ready < quantum ? ready : quantum;
    flow->granted_at = shaper_bucket_reserve(&direction->own, flow->granted, shaper->now);
    for (uint32_t i = 0; i < direction->shared_count; i++) {
        int64_t at = shaper_bucket_reserve(direction->shared[i], flow->granted, shaper->now);
        flow->granted_at = at > flow->granted_at ? at : flow->granted_at;
    }
}

static void deliver_ending(struct shaper *shaper, struct shaper_flow *flow)
{
    struct shaper_connection *connection = flow->connection;
    if (flow->ending == SHAPER_ENDING_RESET) {
        shaper_connection_close(shaper, connection, true);
        return;
    }
    shutdown(flow->to->fd, SHUT_WR);
    shaper_flow_finish(shaper, flow);
    if (connection->flow[SHAPER_UP].finished && connection->flow[SHAPER_DOWN].finished)
        shaper_connection_close(shaper, connection, false);
}

/* Send once; false: nothing is due, or the receiver takes no more. */
static bool drain(struct shaper *shaper, struct shaper_flow *flow)
{
    struct shaper_end *to = flow->to;
    struct shaper_direction *direction = flow->direction;
    if (direction->hold || flow->finished || !to->connected)
        return false;
    if (flow->queue.size == 0) {
        if (flow->ending && flow->ending_at <= shaper->now && !direction->drop)
            deliver_ending(shaper, flow);
        return false;
    }
    size_t ready = to->writable ? shaper_queue_ready(&flow->queue, shaper->now, SHAPER_CHUNK) : 0;
    if (ready == 0)
        return false;
    if (limited(direction)) {
        if (flow->granted == 0)
            reserve(shaper, flow, ready);
        if (flow->granted_at > shaper->now)
            return false;
        ready = flow->granted < ready ? flow->granted : ready;
    }
    struct iovec pieces[2];
    struct msghdr message = {.msg_iov = pieces};
    message.msg_iovlen = (size_t)shaper_queue_peek(&flow->queue, ready, pieces);
    ssize_t sent = sendmsg(to->fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR)
        return true;
    if (sent < 0 && errno == EAGAIN) {
        to->writable = false;
        return false;
    }
    if (sent < 0) {
        shaper_connection_lose(shaper, to);
        return false;
    }
    shaper_queue_consume(&flow->queue, (size_t)sent);
    direction->bytes += (uint64_t)sent;
    flow->granted -= flow->granted ? (size_t)sent : 0;
    return true;
}

/* When there is something to do again without an event of a socket; -1: not before one. */
static int64_t next_due(const struct shaper *shaper, const struct shaper_flow *flow)
{
    if (flow->direction->hold || flow->finished || !flow->to->connected)
        return -1;
    if (flow->queue.size == 0)
        return flow->ending && !flow->direction->drop ? flow->ending_at : -1;
    int64_t release = shaper_queue_first(&flow->queue);
    if (release > shaper->now)
        return release;
    return flow->to->writable && flow->granted ? flow->granted_at : -1;
}

void shaper_flow_pump(struct shaper *shaper, struct shaper_flow *flow)
{
    shaper_now(shaper);
    bool more = true;
    for (int turn = 0; more && turn < TURNS; turn++) {
        more = fill(shaper, flow);
        more = drain(shaper, flow) || more;
    }
    if (flow->from->fd < 0 && flow->to->fd < 0)
        return; /* closed meanwhile */
    int64_t due = more ? shaper->now : next_due(shaper, flow);
    if (due >= 0)
        driven_timers_set(&shaper->timers, &flow->timer, due);
    else
        driven_timers_clear(&shaper->timers, &flow->timer);
}
