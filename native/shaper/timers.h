/* Timers in a binary heap: the earliest is on top. */
#ifndef SHAPER_TIMERS_H
#define SHAPER_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum shaper_timer_kind { SHAPER_TIMER_FLOW, SHAPER_TIMER_ROUTE };

/* Part of what it belongs to, which its kind tells. */
struct shaper_timer {
    enum shaper_timer_kind kind;
    int64_t due;  /* ns */
    size_t place; /* in the heap, from 1; 0: not set */
};

struct shaper_timers {
    struct shaper_timer **heap;
    size_t count, room;
};

/* Room for one more timer; false: no memory. Whoever makes a timer calls it, so that setting one
 * cannot fail. */
bool shaper_timers_register(struct shaper_timers *timers);
void shaper_timers_unregister(struct shaper_timers *timers, struct shaper_timer *timer);
void shaper_timers_set(struct shaper_timers *timers, struct shaper_timer *timer, int64_t due);
void shaper_timers_clear(struct shaper_timers *timers, struct shaper_timer *timer);
/* The earliest; NULL: none is set. */
struct shaper_timer *shaper_timers_first(const struct shaper_timers *timers);

#endif
