/* The one epoll: sockets, the wake-up eventfd, and a coarse clock. Linux only; a kqueue twin
 * would be a second file behind this header. */
#ifndef COLL_ENGINE_REACTOR_H
#define COLL_ENGINE_REACTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "collectives.h"

/* Embedded in whatever owns a descriptor. `ready` runs under the engine's lock. */
struct coll__watch {
    int fd;
    uint32_t events;
    void (*ready)(struct coll__watch *watch, uint32_t events);
    struct coll__watch *next_free;   /* graveyard */
    void (*dispose)(struct coll__watch *watch);
};

struct coll__reactor {
    int epoll_fd;
    struct coll__watch wake;
    struct coll__watch *graveyard;   /* freed once no event batch can name them */
};

enum { COLL__READABLE = 1, COLL__WRITABLE = 4 };

coll_status coll__reactor_init(struct coll__reactor *reactor);
void coll__reactor_close(struct coll__reactor *reactor);
coll_status coll__watch_add(struct coll__reactor *reactor, struct coll__watch *watch,
                            uint32_t events);
void coll__watch_change(struct coll__reactor *reactor, struct coll__watch *watch, uint32_t events);
/* Stop watching, close the descriptor, and call `dispose` when no event can refer to it. */
void coll__watch_bury(struct coll__reactor *reactor, struct coll__watch *watch);
/* Make an eventfd readable. */
void coll__signal(int event_fd);
void coll__reactor_wake(struct coll__reactor *reactor);
/* Wait for events without holding any lock: returns how many came. */
int coll__reactor_wait(struct coll__reactor *reactor, void *events, int capacity,
                       uint64_t timeout_ns);
/* Run the handlers of what coll__reactor_wait returned, under the lock. */
void coll__reactor_dispatch(struct coll__reactor *reactor, void *events, int count);

uint64_t coll__now(void);            /* CLOCK_MONOTONIC, nanoseconds */

#endif
