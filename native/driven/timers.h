/* Timers in a binary heap: the earliest is on top. */
#ifndef DRIVEN_TIMERS_H
#define DRIVEN_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Part of what it belongs to, which its kind tells to who set it. */
struct driven_timer {
    int kind;
    int64_t due;  /* ns */
    size_t place; /* in the heap, from 1; 0: not set */
};

struct driven_timers {
    struct driven_timer **heap;
    size_t count, room;
};

/* Room for one more timer; false: no memory. Whoever makes a timer calls it, so that setting one
 * cannot fail. */
bool driven_timers_register(struct driven_timers *timers);
void driven_timers_unregister(struct driven_timers *timers, struct driven_timer *timer);
void driven_timers_set(struct driven_timers *timers, struct driven_timer *timer, int64_t due);
void driven_timers_clear(struct driven_timers *timers, struct driven_timer *timer);
/* The earliest; NULL: none is set. */
struct driven_timer *driven_timers_first(const struct driven_timers *timers);

#endif
