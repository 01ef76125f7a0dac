/* Who makes progress when. Callers that wait drive the engine themselves; the progress thread
 * does it when no caller has for a while, for asynchronous operations, acknowledgements,
 * heartbeats and reconnections.
 */
#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <time.h>

#include "engine/engine.h"
#include "engine/process.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define coll__relax() _mm_pause()
#elif defined(__aarch64__)
#define coll__relax() __asm__ volatile("yield")
#else
#define coll__relax() ((void)0)
#endif

enum { BATCH = 32, LOOKS = 16 };
/* Before a driver sleeps. Waking another process costs tens of microseconds, so a shorter spin ends
 * with all ranks asleep between the hops of a small operation; it yields, since cores are shared. */
static const uint64_t SPIN_NS = 100000;
static const uint64_t TICK_NS = 20000000;
static const uint64_t PARK_NS = 2000000;       /* how long a caller's absence may go unnoticed */
static const uint64_t PAUSE_NS = 1000000000;   /* a tick this late: the process was stopped */

void coll__lock(struct coll_engine *engine)
{
    if (pthread_mutex_trylock(&engine->lock) == 0)
        return;
    atomic_fetch_add_explicit(&engine->host.wanting, 1, memory_order_relaxed);
    pthread_mutex_lock(&engine->lock);
    atomic_fetch_sub_explicit(&engine->host.wanting, 1, memory_order_relaxed);
}

void coll__unlock(struct coll_engine *engine)
{
    coll__fixed_end(engine);
    pthread_mutex_unlock(&engine->lock);
}

/* A driver that is always busy must still let other threads issue. A mutex alone is not fair
 * enough: the one who sleeps on it loses to the one who never stops. */
static void let_others_in(struct coll_engine *engine)
{
    if (atomic_load_explicit(&engine->host.wanting, memory_order_relaxed) == 0)
        return;
    pthread_mutex_unlock(&engine->lock);
    for (int i = 0; i < 100 && atomic_load_explicit(&engine->host.wanting, memory_order_relaxed);
         i++)
        sched_yield();
    pthread_mutex_lock(&engine->lock);
}

void coll__wake_callers(struct coll_engine *engine)
{
    /* They come back through the lock, without asking for it by coll__lock. */
    uint32_t more = engine->waiting_callers - engine->woken_callers;
    if (engine->waiting_callers == 0)
        return;
    engine->woken_callers += more;
    atomic_fetch_add_explicit(&engine->host.wanting, more, memory_order_relaxed);
    pthread_cond_broadcast(&engine->changed);
}

void coll__wake_driver(struct coll_engine *engine)
{
    if (engine->driver == COLL__CALLER || !engine->thread_parked)
        return;
    engine->kicked = true;
    pthread_cond_signal(&engine->thread_wake);
}

static void timed_wait(struct coll_engine *engine, pthread_cond_t *condition, uint64_t until)
{
    struct timespec at = {.tv_sec = (time_t)(until / 1000000000u),
                          .tv_nsec = (long)(until % 1000000000u)};
    pthread_cond_timedwait(condition, &engine->lock, &at);
}

/* `about` may lag behind what the handlers have noted since; nothing is judged by it. */
static void tick(struct coll_engine *engine, uint64_t about)
{
    if (about < engine->next_tick)
        return;
    uint64_t now = coll__now();
    /* A process that was stopped must not blame its own silence on others. */
    bool paused = engine->last_tick != 0 && now - engine->last_tick > PAUSE_NS;
    engine->last_tick = now;
    engine->next_tick = now + TICK_NS;
    for (uint32_t i = 0; coll__transports[i]; i++)
        coll__transports[i]->tick(&engine->host, now, paused);
    coll__process_tick(engine);
    coll__links_tick(engine);
    for (struct coll_group *group = engine->groups; group; group = group->next)
        coll__group_tick(group, now);
}

static enum coll__polled poll_transports(struct coll_engine *engine)
{
    enum coll__polled best = COLL__POLLED_NEVER;
    for (uint32_t i = 0; coll__transports[i]; i++) {
        enum coll__polled polled = coll__transports[i]->poll
                                       ? coll__transports[i]->poll(&engine->host)
                                       : COLL__POLLED_NEVER;
        best = polled > best ? polled : best;
    }
    return best;
}

/* Where something comes without a system call, look several times before the next one. */
static bool look(struct coll_engine *engine)
{
    enum coll__polled polled = poll_transports(engine);
    for (int i = 0; i < LOOKS && polled == COLL__POLLED_NOTHING; i++) {
        coll__relax();
        polled = poll_transports(engine);
    }
    return polled == COLL__POLLED_SOME;
}

/* Whether nothing has come that the epoll does not tell of, and whoever sends will wake it. */
static bool may_sleep(struct coll_engine *engine)
{
    for (uint32_t i = 0; coll__transports[i]; i++)
        if (coll__transports[i]->doze && !coll__transports[i]->doze(&engine->host))
            return false;
    return true;
}

static void rouse_transports(struct coll_engine *engine)
{
    for (uint32_t i = 0; coll__transports[i]; i++)
        if (coll__transports[i]->rouse)
            coll__transports[i]->rouse(&engine->host);
}

/* One turn of the driver: false if a signal interrupted it. */
static bool turn(struct coll_engine *engine, enum coll__driver me, uint64_t *spin_until,
                 uint64_t until)
{
    struct epoll_event events[BATCH];
    if (engine->turns)
        coll__take_turns(engine);
    bool looked = look(engine);
    int count = 0;
    /* What comes by itself must not keep the sockets waiting for ever. */
    if (!looked || ++engine->looks % LOOKS == 0)
        count = coll__reactor_wait(&engine->host.reactor, events, BATCH, 0);
    uint64_t now = coll__now();
    if (looked) {
        *spin_until = now + SPIN_NS;
    } else if (count == 0 && now < *spin_until) {
        sched_yield(); /* to a rank that shares the core, if there is one */
    } else if (count == 0) {
        uint64_t wake = engine->next_tick < until ? engine->next_tick : until;
        if (!may_sleep(engine))
            wake = now;
        coll__unlock(engine);
        count = coll__reactor_wait(&engine->host.reactor, events, BATCH,
                                   wake > now ? wake - now : 0);
        coll__lock(engine);
        /* The thread's seat may have been taken while it slept; the events stay pending. */
        if (engine->driver != me)
            return true;
        rouse_transports(engine);
    }
    engine->quiet = !looked && count <= 0;
    if (count > 0) {
        coll__reactor_dispatch(&engine->host.reactor, events, count);
        *spin_until = coll__now() + SPIN_NS; /* what came brings more, most often soon */
    }
    tick(engine, now);
    coll__fixed_end(engine);
    let_others_in(engine);
    return count >= 0;
}

void coll__drive_until(struct coll_engine *engine, bool (*done)(const void *), const void *argument,
                       uint64_t until)
{
    bool driving = false;
    uint64_t spin_until = coll__now() + SPIN_NS;
    engine->callers++;
    while (!engine->stopping && !done(argument) && coll__now() < until) {
        if (!driving && engine->driver == COLL__CALLER) {
            /* Another caller drives; it signals when something has finished, or when it goes. */
            uint64_t soon = coll__now() + 50000000;
            engine->waiting_callers++;
            timed_wait(engine, &engine->changed, soon < until ? soon : until);
            engine->waiting_callers--;
            if (engine->woken_callers > 0) {
                engine->woken_callers--;
                atomic_fetch_sub_explicit(&engine->host.wanting, 1, memory_order_relaxed);
            }
            continue;
        }
        if (!driving)
            rouse_transports(engine);
        driving = true;
        engine->driver = COLL__CALLER;
        engine->caller_activity++;
        if (!turn(engine, COLL__CALLER, &spin_until, until))
            break;
    }
    engine->callers--;
    if (driving)
        engine->driver = COLL__NOBODY;
    if (engine->stopping || driving)
        coll__wake_callers(engine);
    if (engine->stopping)
        pthread_cond_broadcast(&engine->changed);
    if (!driving || engine->stopping)
        return;
    /* The thread sleeps in the epoll, and now nobody else looks. */
    if (!engine->thread_parked && !may_sleep(engine))
        coll__reactor_wake(&engine->host.reactor);
    /* What is left to send should not wait until the thread looks up by itself. */
    for (struct coll__link *link = engine->host.links; link; link = link->next)
        if (link->control_head || link->small_flows || link->bulk_flows || link->answers)
            coll__wake_driver(engine);
}

static bool is_finished(const void *operation)
{
    return ((const struct coll_operation *)operation)->finished;
}

void coll__drive(struct coll_operation *operation, uint64_t until)
{
    coll__drive_until(operation->engine, is_finished, operation, until);
}

void *coll__progress_thread(void *argument)
{
    struct coll_engine *engine = argument;
    coll__lock(engine);
    uint64_t seen = engine->caller_activity;
    while (!engine->stopping) {
        bool callers_at_it = engine->driver == COLL__CALLER || engine->caller_activity != seen;
        seen = engine->caller_activity;
        if (callers_at_it && !engine->kicked) {
            engine->thread_parked = true;
            timed_wait(engine, &engine->thread_wake, coll__now() + PARK_NS);
            engine->thread_parked = false;
            continue;
        }
        engine->kicked = false;
        if (engine->driver == COLL__CALLER)
            continue;
        engine->driver = COLL__THREAD;
        uint64_t no_spinning = 0;
        turn(engine, COLL__THREAD, &no_spinning, UINT64_MAX);
        if (engine->driver == COLL__THREAD)
            engine->driver = COLL__NOBODY;
    }
    coll__unlock(engine);
    return NULL;
}
