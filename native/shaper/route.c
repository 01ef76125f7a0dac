/* Routes: a listener, a target, and what its two directions are told. */
#include "shaper.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 1024
#define QUEUE_BYTES (4u << 20)

static int open_socket(const struct sockaddr_storage *address)
{
    int one = 1, fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (address->ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, (const void *)address, shaper_address_length(address)) == 0)
        return fd;
    int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

/* Listen on the guarded port. */
static const char *open_listener(struct shaper *shaper, struct shaper_route *route)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &route->source};
    int fd = open_socket(&route->address);
    if (fd < 0)
        return strerror(errno);
    if (listen(fd, BACKLOG) != 0 || epoll_ctl(shaper->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        const char *reason = strerror(errno);
        close(fd);
        return reason;
    }
    route->listener = fd;
    return NULL;
}

static void close_listener(struct shaper_route *route)
{
    if (route->listener >= 0)
        close(route->listener);
    route->listener = -1;
}

static void discard(struct shaper *shaper, struct shaper_route *route)
{
    close_listener(route);
    if (route->guard >= 0)
        close(route->guard);
    driven_timers_unregister(&shaper->timers, &route->timer);
    route->next = shaper->removed;
    shaper->removed = route;
}

void shaper_route_reap(struct shaper *shaper)
{
    while (shaper->removed) {
        struct shaper_route *route = shaper->removed;
        shaper->removed = route->next;
        free(route);
    }
}

static bool routes_space(struct shaper *shaper)
{
    if (shaper->route_count < shaper->route_room)
        return true;
    uint64_t room = shaper->route_room ? 2 * shaper->route_room : 64;
    void *grown = realloc(shaper->routes, room * sizeof *shaper->routes);
    if (!grown)
        return false;
    shaper->routes = grown;
    shaper->route_room = room;
    return true;
}

const char *shaper_route_add(struct shaper *shaper, const struct sockaddr_storage *target,
                             const struct sockaddr_storage *listen, struct shaper_route **added)
{
    struct shaper_route *route = calloc(1, sizeof *route);
    if (!route || !routes_space(shaper) || !driven_timers_register(&shaper->timers)) {
        free(route);
        return "no memory";
    }
    route->source = SHAPER_LISTENER;
    route->timer.kind = SHAPER_TIMER_ROUTE;
    route->listener = -1;
    route->target = *target;
    route->address = *listen;
    for (int i = 0; i < SHAPER_DIRECTIONS; i++)
        route->direction[i].queue = QUEUE_BYTES;
    /* Bound and never listening: refusing means closing the listener, and without the guard the
     * port would be free for others meanwhile. */
    route->guard = open_socket(listen);
    socklen_t length = sizeof route->address;
    const char *error = route->guard < 0 ? strerror(errno) : NULL;
    if (!error && getsockname(route->guard, (void *)&route->address, &length) != 0)
        error = strerror(errno);
    if (!error)
        error = open_listener(shaper, route);
    if (error) {
        discard(shaper, route);
        return error;
    }
    route->id = shaper->route_count++;
    shaper->routes[route->id] = route;
    *added = route;
    return NULL;
}

void shaper_route_remove(struct shaper *shaper, struct shaper_route *route)
{
    while (route->connections)
        shaper_connection_close(shaper, route->connections, true);
    shaper->routes[route->id] = NULL;
    discard(shaper, route);
}

/* Let the kernel drop what comes to the listener: whoever dials hears nothing at all. */
static int set_filter(int fd, bool ignore)
{
    struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {.len = 1, .filter = &drop};
    int nothing = 0;
    if (ignore)
        return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
    return setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &nothing, sizeof nothing);
}

const char *shaper_route_set_door(struct shaper *shaper, struct shaper_route *route,
                                  enum shaper_door door)
{
    if (route->door == door)
        return NULL;
    if (door == SHAPER_DOOR_REFUSE)
        close_listener(route);
    else if (route->listener < 0) {
        const char *error = open_listener(shaper, route);
        if (error)
            return error;
        route->door = SHAPER_DOOR_OPEN;
    }
    if ((door == SHAPER_DOOR_IGNORE || route->door == SHAPER_DOOR_IGNORE) && route->listener >= 0 &&
        set_filter(route->listener, door == SHAPER_DOOR_IGNORE) != 0)
        return strerror(errno);
    route->door = door;
    return NULL;
}

bool shaper_route_waits(const struct shaper_route *route)
{
    for (int i = 0; i < SHAPER_DIRECTIONS; i++)
        if (route->direction[i].hold || route->direction[i].drop)
            return true;
    return false;
}

void shaper_route_apply(struct shaper *shaper, struct shaper_route *route)
{
    for (struct shaper_connection *at = route->connections, *next; at; at = next) {
        next = at->next;
        for (int i = 0; i < SHAPER_DIRECTIONS; i++)
            shaper_flow_release(&at->flow[i]);
        shaper_connection_pump(shaper, at);
    }
    shaper_connection_accept(shaper, route);
}

const char *shaper_route_heal(struct shaper *shaper, struct shaper_route *route)
{
    for (int i = 0; i < SHAPER_DIRECTIONS; i++) {
        route->direction[i].hold = route->direction[i].drop = false;
        route->direction[i].damage = (struct shaper_damage){0};
    }
    const char *error = shaper_route_set_door(shaper, route, SHAPER_DOOR_OPEN);
    shaper_route_apply(shaper, route);
    return error;
}
