/* The loop: one epoll for commands, listeners, connections and the clock.
 *
 * It ends at once when its owner does: standard input closes, or the parent process is no more
 * (children of the owner may hold the pipe). */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "driven/talk.h"
#include "driven/words.h"
#include "shaper.h"

#define EVENTS 64
#define OWNER_OF(type, member, pointer) \
    ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

struct program {
    struct shaper shaper;
    struct driven_talk talk;
    /* What epoll points at. */
    enum shaper_source commands_source, replies_source, clock_source, owner_source;
    int clock;
    int64_t armed; /* what the clock is set to, ns; 0: nothing */
};

static bool watch(struct program *program, int fd, enum shaper_source *source)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
    return epoll_ctl(program->shaper.epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool start(struct program *program)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* Ctrl-C is the owner's, which ends this in its time */
    program->commands_source = SHAPER_COMMANDS;
    program->replies_source = SHAPER_REPLIES;
    program->clock_source = SHAPER_CLOCK;
    program->owner_source = SHAPER_OWNER;
    program->shaper.epoll = epoll_create1(EPOLL_CLOEXEC);
    program->clock = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (program->shaper.epoll < 0 || program->clock < 0 ||
        !watch(program, program->clock, &program->clock_source))
        return false;
    program->talk = (struct driven_talk){
        .epoll = program->shaper.epoll,
        .commands = &program->commands_source,
        .replies = &program->replies_source,
        .carry_out = shaper_command,
        .program = &program->shaper,
    };
    driven_talk_watch_owner(&program->talk, &program->owner_source);
    return driven_talk_open(&program->talk);
}

/* Set the clock to the first timer. Returns whether one is due already. */
static bool arm(struct program *program)
{
    const struct driven_timer *first = driven_timers_first(&program->shaper.timers);
    int64_t due = first ? first->due : 0;
    if (first && due <= shaper_now(&program->shaper))
        return true;
    if (due != program->armed) {
        struct itimerspec when = {.it_value = {due / 1000000000, due % 1000000000}};
        timerfd_settime(program->clock, TFD_TIMER_ABSTIME, &when, NULL);
        program->armed = due;
    }
    return false;
}

/* One due timer; those that it sets anew wait for the events in between. */
static void ring(struct shaper *shaper, struct driven_timer *timer)
{
    driven_timers_clear(&shaper->timers, timer);
    switch ((enum shaper_timer_kind)timer->kind) {
    case SHAPER_TIMER_FLOW:
        shaper_flow_pump(shaper, OWNER_OF(struct shaper_flow, timer, timer));
        break;
    case SHAPER_TIMER_ROUTE:
        shaper_connection_accept(shaper, OWNER_OF(struct shaper_route, timer, timer));
        break;
    }
}

static void ring_due(struct shaper *shaper)
{
    int64_t until = shaper_now(shaper);
    size_t most = shaper->timers.count;
    for (size_t i = 0; i < most; i++) {
        struct driven_timer *first = driven_timers_first(&shaper->timers);
        if (!first || first->due > until)
            return;
        ring(shaper, first);
    }
}

/* Returns false when the owner is gone. */
static bool handle(struct program *program, const struct epoll_event *event)
{
    enum shaper_source *source = event->data.ptr;
    uint64_t times;
    switch (*source) {
    case SHAPER_COMMANDS:
        return driven_talk_hear(&program->talk);
    case SHAPER_REPLIES:
        return !(event->events & (EPOLLERR | EPOLLHUP)) && driven_talk_answer(&program->talk);
    case SHAPER_OWNER:
        return false;
    case SHAPER_CLOCK:
        program->armed = read(program->clock, &times, sizeof times) > 0 ? 0 : program->armed;
        return true;
    case SHAPER_LISTENER:
        shaper_connection_accept(&program->shaper, OWNER_OF(struct shaper_route, source, source));
        return true;
    case SHAPER_END:
        shaper_connection_event(&program->shaper, OWNER_OF(struct shaper_end, source, source),
                                event->events);
        return true;
    }
    return true;
}

static void run(struct program *program)
{
    struct shaper *shaper = &program->shaper;
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(shaper->epoll, events, EVENTS, arm(program) ? 0 : -1);
        if (count < 0 && errno != EINTR)
            return;
        for (int i = 0; i < count; i++)
            if (!handle(program, &events[i]))
                return;
        ring_due(shaper);
        shaper_connection_reap(shaper);
        shaper_route_reap(shaper);
    }
}

int main(int count, char **words)
{
    static struct program program; /* too large for a stack, and zero */
    uint64_t seed = 0;
    bool understood = count == 1 || (count == 3 && strcmp(words[1], "--seed") == 0 &&
                                     driven_words_number(words[2], UINT64_MAX, &seed));
    if (!understood) {
        fprintf(stderr, "usage: shaper [--seed NUMBER]; commands come on standard input\n");
        return 2;
    }
    program.shaper.seed = seed;
    if (!start(&program)) {
        fprintf(stderr, "shaper: standard input and output must be pipes or sockets: %s\n",
                strerror(errno));
        return 1;
    }
    run(&program);
    return 0;
}
