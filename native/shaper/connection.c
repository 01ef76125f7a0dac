/* Connections through a route: accepted, dialled onward, and ended in one of several ways. */
#include "shaper.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define STARVED_NS 50000000 /* until the next try when there are no descriptors */
/* What a socket may hold unsent beside the queue, so that the queue limit means something. */
#define UNSENT_BYTES (1 << 17)

static void close_end(struct shaper_end *end, bool reset)
{
    if (end->fd < 0)
        return;
    if (reset) {
        struct linger now = {.l_onoff = 1, .l_linger = 0};
        setsockopt(end->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    close(end->fd);
    end->fd = -1;
}

static struct shaper_flow *flow_from(struct shaper_end *end)
{
    struct shaper_connection *connection = end->connection;
    return &connection->flow[end == &connection->end[SHAPER_TARGET] ? SHAPER_DOWN : SHAPER_UP];
}

static struct shaper_flow *flow_to(struct shaper_end *end)
{
    struct shaper_connection *connection = end->connection;
    return &connection->flow[end == &connection->end[SHAPER_TARGET] ? SHAPER_UP : SHAPER_DOWN];
}

static void wake(struct shaper *shaper, struct shaper_flow *flow)
{
    driven_timers_set(&shaper->timers, &flow->timer, shaper->now);
}

void shaper_connection_close(struct shaper *shaper, struct shaper_connection *connection,
                             bool reset)
{
    for (int i = 0; i < SHAPER_ENDS; i++)
        close_end(&connection->end[i], reset);
    for (int i = 0; i < SHAPER_DIRECTIONS; i++)
        shaper_flow_finish(shaper, &connection->flow[i]);
    connection->route->live--;
    *connection->link = connection->next;
    if (connection->next)
        connection->next->link = connection->link;
    connection->next = shaper->doomed;
    shaper->doomed = connection;
}

void shaper_connection_reap(struct shaper *shaper)
{
    while (shaper->doomed) {
        struct shaper_connection *connection = shaper->doomed;
        shaper->doomed = connection->next;
        for (int i = 0; i < SHAPER_DIRECTIONS; i++)
            driven_timers_unregister(&shaper->timers, &connection->flow[i].timer);
        free(connection);
    }
}

void shaper_connection_lose(struct shaper *shaper, struct shaper_end *end)
{
    struct shaper_flow *from = flow_from(end);
    end->dead = true;
    shaper_flow_finish(shaper, flow_to(end));
    if (from->to->dead) {
        shaper_connection_close(shaper, end->connection, true);
    } else if (from->exhausted) {
        from->finished = false; /* an orderly end was told before: this is told too */
        shaper_flow_end(shaper, from, SHAPER_ENDING_RESET);
        wake(shaper, from);
    } else {
        end->readable = true; /* what it sent before comes first, then the error */
        wake(shaper, from);
    }
}

void shaper_connection_reset_end(struct shaper *shaper, struct shaper_connection *connection,
                                 uint32_t index, bool silent)
{
    struct shaper_end *end = &connection->end[index];
    struct shaper_flow *from = flow_from(end);
    close_end(end, true);
    shaper_flow_finish(shaper, flow_to(end));
    connection->half_open = silent;
    if (silent) {
        from->exhausted = true;
        shaper_flow_finish(shaper, from);
    } else if (from->finished) {
        shaper_connection_close(shaper, connection, false);
        return;
    } else {
        shaper_flow_end(shaper, from, SHAPER_ENDING_FIN);
    }
    shaper_connection_pump(shaper, connection);
}

void shaper_connection_pump(struct shaper *shaper, struct shaper_connection *connection)
{
    for (int i = 0; i < SHAPER_DIRECTIONS; i++)
        shaper_flow_pump(shaper, &connection->flow[i]);
}

/* Whether a dial has come to its end, well or not. */
static bool dialled(struct shaper *shaper, struct shaper_end *end, uint32_t events)
{
    int error = 0;
    socklen_t length = sizeof error;
    if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        return false;
    getsockopt(end->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    end->connected = true;
    if (error != 0) {
        end->connection->route->dial_failures++;
        shaper_connection_lose(shaper, end);
    }
    return true;
}

void shaper_connection_event(struct shaper *shaper, struct shaper_end *end, uint32_t events)
{
    if (end->fd < 0 || (!end->connected && !dialled(shaper, end, events)))
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        end->readable = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        end->writable = true;
    if ((events & EPOLLERR) && flow_from(end)->exhausted && !end->dead)
        shaper_connection_lose(shaper, end); /* reset after its orderly end: no read tells */
    if (end->fd >= 0)
        shaper_connection_pump(shaper, end->connection);
}

/* ---- accepting ----------------------------------------------------------------------------- */

static bool watch(struct shaper *shaper, struct shaper_end *end)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = &end->source};
    return epoll_ctl(shaper->epoll, EPOLL_CTL_ADD, end->fd, &event) == 0;
}

static void prepare(int fd)
{
    int one = 1, unsent = UNSENT_BYTES;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    /* The receive buffer is left alone: one that is small beside loopback's segments of 64 KiB
     * makes the sender wait for timers. */
}

/* Begin to dial the target; -1: it failed at once, errno says why. */
static int dial(const struct shaper_route *route)
{
    int fd = socket(route->target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    prepare(fd);
    const struct sockaddr *target = (const void *)&route->target;
    if (connect(fd, target, shaper_address_length(&route->target)) == 0 || errno == EINPROGRESS)
        return fd;
    int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

static struct shaper_connection *make(struct shaper *shaper, struct shaper_route *route)
{
    struct shaper_connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        return NULL;
    connection->route = route;
    for (int i = 0; i < SHAPER_ENDS; i++)
        connection->end[i] = (struct shaper_end){
            .source = SHAPER_END, .connection = connection, .fd = -1};
    for (int i = 0; i < SHAPER_DIRECTIONS; i++) {
        struct shaper_flow *flow = &connection->flow[i];
        flow->timer.kind = SHAPER_TIMER_FLOW;
        flow->connection = connection;
        flow->direction = &route->direction[i];
        flow->from = &connection->end[i == SHAPER_UP ? SHAPER_DIALLER : SHAPER_TARGET];
        flow->to = &connection->end[i == SHAPER_UP ? SHAPER_TARGET : SHAPER_DIALLER];
        flow->random.state = shaper->seed ^ (++shaper->serial << 32);
        if (!driven_timers_register(&shaper->timers)) {
            shaper->timers.room -= (size_t)i;
            free(connection);
            return NULL;
        }
    }
    connection->link = &route->connections;
    connection->next = route->connections;
    if (connection->next)
        connection->next->link = &connection->next;
    route->connections = connection;
    route->live++;
    return connection;
}

/* Carry an accepted connection; false: descriptors or memory ran out. */
static bool carry(struct shaper *shaper, struct shaper_route *route, int accepted)
{
    struct shaper_end dialler = {.fd = accepted};
    int onward = dial(route);
    if (onward < 0) {
        bool starved = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
        route->dial_failures += !starved;
        close_end(&dialler, true);
        return !starved;
    }
    struct shaper_end target = {.fd = onward};
    struct shaper_connection *connection = make(shaper, route);
    if (!connection) {
        close_end(&dialler, true);
        close_end(&target, true);
        return false;
    }
    prepare(accepted);
    connection->end[SHAPER_DIALLER].fd = accepted;
    connection->end[SHAPER_DIALLER].connected = true;
    connection->end[SHAPER_TARGET].fd = onward;
    if (!watch(shaper, &connection->end[SHAPER_DIALLER]) ||
        !watch(shaper, &connection->end[SHAPER_TARGET])) {
        shaper_connection_close(shaper, connection, true);
        return false;
    }
    route->accepted++;
    return true;
}

void shaper_connection_accept(struct shaper *shaper, struct shaper_route *route)
{
    while (route->listener >= 0 && !shaper_route_waits(route)) {
        int fd = accept4(route->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0 && carry(shaper, route, fd))
            continue;
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0 && errno == EAGAIN)
            return;
        /* No descriptors: the listener stays ready, so wait a moment and do not spin. */
        route->starved++;
        driven_timers_set(&shaper->timers, &route->timer, shaper_now(shaper) + STARVED_NS);
        return;
    }
}
