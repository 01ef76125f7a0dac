/* The one epoll. See reactor.h. */
#include "engine/reactor.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

uint64_t coll__now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void drain_wake(struct coll__watch *watch, uint32_t events)
{
    (void)events;
    uint64_t count;
    ssize_t ignored = read(watch->fd, &count, sizeof count);
    (void)ignored;
}

coll_status coll__reactor_init(struct coll__reactor *reactor)
{
    *reactor = (struct coll__reactor){.epoll_fd = -1, .wake = {.fd = -1, .ready = drain_wake}};
    reactor->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    reactor->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (reactor->epoll_fd < 0 || reactor->wake.fd < 0 ||
        coll__watch_add(reactor, &reactor->wake, COLL__READABLE) != COLL_OK) {
        coll__reactor_close(reactor);
        return COLL_SYSTEM_ERROR;
    }
    return COLL_OK;
}

static void empty_graveyard(struct coll__reactor *reactor)
{
    while (reactor->graveyard) {
        struct coll__watch *watch = reactor->graveyard;
        reactor->graveyard = watch->next_free;
        watch->dispose(watch);
    }
}

void coll__reactor_close(struct coll__reactor *reactor)
{
    empty_graveyard(reactor);
    if (reactor->wake.fd >= 0)
        close(reactor->wake.fd);
    if (reactor->epoll_fd >= 0)
        close(reactor->epoll_fd);
    reactor->epoll_fd = reactor->wake.fd = -1;
}

coll_status coll__watch_add(struct coll__reactor *reactor, struct coll__watch *watch,
                            uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    watch->events = events;
    if (epoll_ctl(reactor->epoll_fd, EPOLL_CTL_ADD, watch->fd, &event) < 0)
        return COLL_SYSTEM_ERROR;
    return COLL_OK;
}

void coll__watch_change(struct coll__reactor *reactor, struct coll__watch *watch, uint32_t events)
{
    if (watch->events == events || watch->fd < 0)
        return;
    struct epoll_event event = {.events = events, .data.ptr = watch};
    watch->events = events;
    epoll_ctl(reactor->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
}

void coll__watch_bury(struct coll__reactor *reactor, struct coll__watch *watch)
{
    epoll_ctl(reactor->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    close(watch->fd);
    watch->fd = -1;
    watch->next_free = reactor->graveyard;
    reactor->graveyard = watch;
}

void coll__signal(int event_fd)
{
    /* Only a full counter could fail, and then the reader has its signal already. */
    uint64_t one = 1;
    ssize_t ignored = write(event_fd, &one, sizeof one);
    (void)ignored;
}

void coll__reactor_wake(struct coll__reactor *reactor)
{
    coll__signal(reactor->wake.fd);
}

int coll__reactor_wait(struct coll__reactor *reactor, void *events, int capacity,
                       uint64_t timeout_ns)
{
    /* Rounded up: waking a little late is better than spinning through the last millisecond. */
    uint64_t milliseconds = (timeout_ns + 999999) / 1000000;
    int count = epoll_wait(reactor->epoll_fd, events, capacity,
                           milliseconds > 60000 ? 60000 : (int)milliseconds);
    return count < 0 ? (errno == EINTR ? -1 : 0) : count;
}

void coll__reactor_dispatch(struct coll__reactor *reactor, void *events, int count)
{
    struct epoll_event *ready = events;
    for (int i = 0; i < count; i++) {
        struct coll__watch *watch = ready[i].data.ptr;
        if (watch->fd >= 0)
            watch->ready(watch, ready[i].events);
    }
    /* Only now: an event later in the batch may have named a watch that an earlier one buried.
     * (A second thread's batch cannot: only the driver waits and dispatches.) */
    empty_graveyard(reactor);
}
