/* What the engine asks of the transport, and how a peer's death is seen: its local socket closes and
 * nobody listens any more, or its segment's heart stops beating. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "transport/shm/shm.h"

static const uint64_t DIAL_AGAIN_NS = 20000000;
static const uint64_t GRACE_NS = 300000000; /* as long as a connection that broke gets elsewhere */

static bool dials_first(const struct shm_link *link)
{
    return memcmp(link->base.host->peer_id, link->base.peer, 16) < 0;
}

static coll_status start(struct coll__host *host)
{
    if (host->options.transport == COLL_TRANSPORT_TCP)
        return COLL_OK;
    struct shm *shm = calloc(1, sizeof *shm);
    if (!shm)
        return COLL_NO_MEMORY;
    shm->host = host;
    shm->segment_fd = shm->listener.fd = -1;
    coll_status status = coll__shm_segment_make(shm);
    if (status == COLL_OK)
        status = coll__shm_listen(shm);
    if (status == COLL_OK) {
        host->state[SHM_SLOT] = shm;
        return COLL_OK;
    }
    /* Where there is none, everybody is as on another host. */
    if (shm->listener.fd >= 0)
        close(shm->listener.fd);
    coll__shm_segment_free(shm);
    free(shm);
    return host->options.transport == COLL_TRANSPORT_SHM ? status : COLL_OK;
}

static void stop(struct coll__host *host)
{
    struct shm *shm = coll__shm_of(host);
    if (!shm)
        return;
    while (shm->strangers)
        coll__shm_drop(shm->strangers, "");
    close(shm->listener.fd);
    coll__shm_segment_free(shm);
    free(shm);
    host->state[SHM_SLOT] = NULL;
}

static struct shm_link *next_of(struct coll__link *at)
{
    while (at && at->transport != &coll__shm_transport)
        at = at->next;
    return (struct shm_link *)at;
}

static void fork_child(struct coll__host *host)
{
    const struct shm *shm = coll__shm_of(host);
    if (!shm)
        return;
    close(shm->listener.fd);
    close(shm->segment_fd);
    for (const struct shm_connection *at = shm->strangers; at; at = at->next)
        close(at->watch.fd);
    for (struct shm_link *at = next_of(host->links); at; at = next_of(at->base.next)) {
        if (at->connection)
            close(at->connection->watch.fd);
        if (at->wake_fd >= 0)
            close(at->wake_fd);
    }
}

static coll_status address(struct coll__host *host, uint32_t i, char *buffer, size_t length)
{
    (void)host, (void)i, (void)buffer, (void)length;
    return COLL_INVALID_ARGUMENT; /* its address is its id */
}

static coll_status link_open(struct coll__host *host, const struct coll_peer *peer,
                             struct coll__link **out)
{
    if (!coll__shm_of(host))
        return COLL_UNSUPPORTED;
    int fd = -1;
    coll_status status = coll__shm_connect(host, peer->id, &fd);
    if (status != COLL_OK &&
        (status != COLL_UNSUPPORTED || host->options.transport != COLL_TRANSPORT_SHM))
        return status;
    struct shm_link *link = calloc(1, sizeof *link);
    if (!link) {
        if (fd >= 0)
            close(fd);
        return COLL_NO_MEMORY;
    }
    coll__link_init(&link->base, host, &coll__shm_transport, peer);
    link->wake_fd = -1;
    link->last_heard = coll__now();
    if (fd >= 0 && dials_first(link))
        coll__shm_dial(link, fd);
    else if (fd >= 0)
        close(fd); /* it was only to see whether somebody is there */
    *out = &link->base;
    return COLL_OK;
}

void coll__shm_free(struct shm_link *link)
{
    free(link);
}

static void forget(struct shm_link *link)
{
    struct shm *shm = coll__shm_of(link->base.host);
    if (link->lane)
        coll__shm_lane_give(shm, link->lane); /* before its units are anybody's */
    for (uint32_t i = 0; i < link->outstanding_count; i++)
        coll__shm_units_give(shm, link->outstanding[i].unit);
    if (link->theirs)
        munmap((void *)(uintptr_t)link->theirs, sizeof *link->theirs);
    if (link->wake_fd >= 0)
        close(link->wake_fd);
    link->lane = NULL;
    link->theirs = NULL;
    link->from = NULL;
    link->wake_fd = -1;
    link->outstanding_count = 0;
    link->outstanding_bytes = link->written = link->read = link->seen_taken = 0;
    link->let_go = false;
}

/* The peer had closed its end, since it had no view with us: it knows nothing of what was before. */
bool coll__shm_reset(struct shm_link *link)
{
    if (link->held > 0 || link->broken)
        return false;
    if (link->theirs)
        forget(link);
    return true;
}

static void link_close(struct coll__link *base)
{
    struct shm_link *link = (struct shm_link *)base;
    if (link->connection) {
        link->connection->link = NULL;
        coll__shm_drop(link->connection, "");
    }
    if (link->pending)
        coll__slice_release(base->host, link->pending);
    forget(link);
    link->closed = true;
    if (coll__shm_of(base->host)->receiving != link)
        coll__shm_free(link);
}

static coll_status link_update(struct coll__link *base, const struct coll_peer *peer)
{
    (void)base, (void)peer;
    return COLL_OK;
}

static void link_kick(struct coll__link *base)
{
    coll__shm_pump((struct shm_link *)base);
}

static void link_revoke(struct coll__link *base, const void *owner)
{
    (void)base, (void)owner; /* a slice is copied at once, and what is delivered is used at once */
}

static uint64_t link_position(const struct coll__link *base)
{
    const struct shm_link *link = (const struct shm_link *)base;
    return link->written + (link->pending != NULL); /* which will be longer */
}

static bool link_passed(const struct coll__link *base, uint64_t position, uint32_t group)
{
    struct shm_link *link = (struct shm_link *)(uintptr_t)base;
    if (!link->theirs || !base->up)
        return true; /* what it has not taken it never will */
    coll__shm_settle(link);
    bool used = false; /* where it lies in our segment */
    for (uint32_t i = 0; i < link->outstanding_count; i++)
        used |= link->outstanding[i].group == group && link->outstanding[i].written < position;
    return !used && atomic_load_explicit(&link->from->taken, memory_order_acquire) >= position;
}

static void link_explain(const struct coll__link *base, char *text, size_t length)
{
    const struct shm_link *link = (const struct shm_link *)base;
    snprintf(text, length, "%s", link->why[0] ? link->why : "no shared memory was handed over yet");
}

static coll_status link_inject(struct coll__link *base, uint32_t fault, uint64_t after_slices)
{
    (void)base, (void)fault, (void)after_slices;
    return coll__error(COLL_UNSUPPORTED,
                       "shared memory has no connections to damage; use the transport tcp");
}

/* ---- life and death --------------------------------------------------------------------------- */

void coll__shm_attach(struct shm_link *link, struct shm_connection *connection,
                      const struct shm_segment *theirs, int wake_fd, uint32_t lane,
                      uint64_t generation)
{
    connection->state = SHM_UP;
    link->theirs = theirs;
    link->wake_fd = wake_fd;
    link->from = &theirs->lanes[lane];
    link->generation = generation;
    link->last_heard = coll__now();
    link->was_up = true;
    coll__link_up(&link->base);
    coll__shm_pump(link);
}

void coll__shm_detach(struct shm_link *link, const char *why)
{
    snprintf(link->why, sizeof link->why, "%s", why);
    if (!link->base.up)
        return;
    link->down_since = coll__now();
    link->refusals = 0;
    coll__link_down(&link->base);
}

static void report_death(struct shm_link *link, uint64_t now)
{
    const struct coll_engine_options *options = &link->base.host->options;
    char text[200];
    if (!link->was_up || options->no_detection)
        return;
    if (link->base.up) {
        if (now <= link->last_heard + options->detection_ns)
            return;
        snprintf(text, sizeof text, "nothing was heard of it for %.1f s",
                 (double)(now - link->last_heard) / 1e9);
        coll__link_lost(&link->base, text, COLL_CERTAIN_SILENCE);
        return;
    }
    uint64_t down = now - link->down_since;
    bool refused = link->refusals >= 3 && down >= GRACE_NS;
    if (!refused && !link->base.goodbye && down <= options->detection_ns)
        return;
    if (link->base.goodbye)
        snprintf(text, sizeof text, "it said goodbye and closed its connections");
    else
        snprintf(text, sizeof text, "its shared memory went %.1f s ago and %s (%s)",
                 (double)down / 1e9,
                 refused ? "nobody listens there any more" : "it did not come back", link->why);
    coll__link_lost(&link->base, text,
                    refused || link->base.goodbye ? COLL_CERTAIN_REFUSED : COLL_CERTAIN_SILENCE);
}

static void dial(struct shm_link *link, uint64_t now)
{
    if (link->base.up || link->connection || now < link->next_dial)
        return;
    link->next_dial = now + DIAL_AGAIN_NS;
    int fd = -1;
    if (coll__shm_connect(link->base.host, link->base.peer, &fd) == COLL_UNSUPPORTED) {
        link->refusals++;
        snprintf(link->why, sizeof link->why,
                 "it is not on this host, or does not use shared memory");
    }
    if (fd >= 0 && dials_first(link) && coll__shm_reset(link))
        coll__shm_dial(link, fd);
    else if (fd >= 0)
        close(fd);
}

static void tick(struct coll__host *host, uint64_t now, bool paused)
{
    struct shm *shm = coll__shm_of(host);
    if (!shm)
        return;
    atomic_fetch_add_explicit(&shm->segment->header.beat, 1, memory_order_relaxed);
    coll__shm_tick_strangers(shm, now);
    for (struct shm_link *at = next_of(host->links); at; at = next_of(at->base.next)) {
        uint64_t beat = at->theirs
                            ? atomic_load_explicit(&at->theirs->header.beat, memory_order_relaxed)
                            : 0;
        if (beat != at->last_beat || paused)
            at->last_heard = now;
        if (paused && at->down_since)
            at->down_since = now;
        at->last_beat = beat;
        dial(at, now);
        report_death(at, now);
        if (at->base.eager_consumed != at->base.eager_announced)
            coll__shm_pump(at);
    }
}

/* ---- without the epoll ------------------------------------------------------------------------ */

static enum coll__polled poll_links(struct coll__host *host)
{
    struct shm *shm = coll__shm_of(host);
    if (!shm || shm->link_count == 0)
        return COLL__POLLED_NEVER;
    /* One link at a time, since what comes may close others; the next time those behind it first. */
    struct shm_link *first = NULL, *after = NULL;
    for (struct shm_link *at = next_of(host->links); at && !after; at = next_of(at->base.next)) {
        if (!coll__shm_has_news(at))
            continue;
        if (!first)
            first = at;
        if (coll__shm_lane_index(shm, at->lane) > shm->turn)
            after = at;
    }
    struct shm_link *chosen = after ? after : first;
    if (!chosen)
        return COLL__POLLED_NOTHING;
    shm->turn = coll__shm_lane_index(shm, chosen->lane);
    coll__shm_receive(chosen);
    return COLL__POLLED_SOME;
}

static bool doze(struct coll__host *host)
{
    struct shm *shm = coll__shm_of(host);
    if (!shm || shm->link_count == 0)
        return true;
    uint32_t nap = atomic_load_explicit(&shm->segment->header.sleeping, memory_order_relaxed);
    atomic_store(&shm->segment->header.sleeping, nap % 2 ? nap + 2 : nap + 1);
    atomic_thread_fence(memory_order_seq_cst);
    for (struct shm_link *at = next_of(host->links); at; at = next_of(at->base.next))
        if (coll__shm_has_news(at))
            return false;
    return true;
}

static void rouse(struct coll__host *host)
{
    struct shm *shm = coll__shm_of(host);
    if (!shm)
        return;
    uint32_t nap = atomic_load_explicit(&shm->segment->header.sleeping, memory_order_relaxed);
    if (nap % 2)
        atomic_store_explicit(&shm->segment->header.sleeping, nap + 1, memory_order_relaxed);
}

static uint8_t *stage(struct coll__host *host, uint64_t bytes, bool *stream)
{
    struct shm *shm = coll__shm_of(host);
    uint32_t unit = bytes > SHM_INLINE_BYTES ? coll__shm_units_take(shm, bytes) : SHM_UNITS;
    if (unit == SHM_UNITS)
        return NULL;
    *stream = shm->units[unit].streamed;
    return shm->segment->units[unit];
}

static void restage(struct coll__host *host, const uint8_t *staged)
{
    struct shm *shm = coll__shm_of(host);
    coll__shm_units_share(shm, coll__shm_unit_of(shm, staged));
}

static void unstage(struct coll__host *host, const uint8_t *staged)
{
    struct shm *shm = coll__shm_of(host);
    coll__shm_units_give(shm, coll__shm_unit_of(shm, staged));
}

const struct coll__transport coll__shm_transport = {
    .slot = SHM_SLOT,
    .local = true,
    .copies = true,
    .slice_bytes = SHM_SLICE_BYTES,
    .start = start,
    .stop = stop,
    .tick = tick,
    .fork_child = fork_child,
    .address = address,
    .open = link_open,
    .close = link_close,
    .update = link_update,
    .kick = link_kick,
    .revoke = link_revoke,
    .position = link_position,
    .passed = link_passed,
    .explain = link_explain,
    .inject = link_inject,
    .poll = poll_links,
    .doze = doze,
    .rouse = rouse,
    .hold = coll__shm_hold,
    .release = coll__shm_release,
    .intact = coll__shm_intact,
    .stage = stage,
    .restage = restage,
    .unstage = unstage,
};
