/* The heap of timers. Each one knows its place, so that it can be moved or taken out. */
#include "timers.h"

#include <stdlib.h>

static void put(struct driven_timers *timers, size_t place, struct driven_timer *timer)
{
    timers->heap[place - 1] = timer;
    timer->place = place;
}

static struct driven_timer *at(const struct driven_timers *timers, size_t place)
{
    return timers->heap[place - 1];
}

static void rise(struct driven_timers *timers, struct driven_timer *timer)
{
    size_t place = timer->place;
    for (; place > 1 && at(timers, place / 2)->due > timer->due; place /= 2)
        put(timers, place, at(timers, place / 2));
    put(timers, place, timer);
}

static void sink(struct driven_timers *timers, struct driven_timer *timer)
{
    size_t place = timer->place;
    for (;;) {
        size_t child = 2 * place;
        if (child < timers->count && at(timers, child + 1)->due < at(timers, child)->due)
            child++;
        if (child > timers->count || at(timers, child)->due >= timer->due)
            break;
        put(timers, place, at(timers, child));
        place = child;
    }
    put(timers, place, timer);
}

bool driven_timers_register(struct driven_timers *timers)
{
    /* `room` counts the timers that exist; the heap's size is the next power of two. */
    size_t room = timers->room;
    if ((room & (room + 1)) == 0) {
        void *grown = realloc(timers->heap, (2 * room + 1) * sizeof *timers->heap);
        if (!grown)
            return false;
        timers->heap = grown;
    }
    timers->room++;
    return true;
}

void driven_timers_unregister(struct driven_timers *timers, struct driven_timer *timer)
{
    driven_timers_clear(timers, timer);
    timers->room--;
}

void driven_timers_set(struct driven_timers *timers, struct driven_timer *timer, int64_t due)
{
    timer->due = due;
    if (timer->place == 0)
        put(timers, ++timers->count, timer);
    rise(timers, timer);
    sink(timers, timer);
}

void driven_timers_clear(struct driven_timers *timers, struct driven_timer *timer)
{
    if (timer->place == 0)
        return;
    struct driven_timer *last = at(timers, timers->count--);
    if (last != timer) {
        put(timers, timer->place, last);
        rise(timers, last);
        sink(timers, last);
    }
    timer->place = 0;
}

struct driven_timer *driven_timers_first(const struct driven_timers *timers)
{
    return timers->count ? timers->heap[0] : NULL;
}
