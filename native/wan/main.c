/* The loop: one epoll for commands, devices and the clock. It ends when its owner does, and with
 * it the devices. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "driven/talk.h"
#include "driven/words.h"
#include "wan.h"

#define EVENTS 64

struct program {
    struct wan wan;
    struct driven_talk talk;
    enum wan_source commands, replies, clock, owner; /* what epoll points at */
    int timer;
    int64_t armed; /* what the timer is set to, ns; 0: nothing */
};

int64_t wan_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

static bool start(struct program *program)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* Ctrl-C is the owner's, which ends this in its time */
    program->commands = WAN_COMMANDS;
    program->replies = WAN_REPLIES;
    program->clock = WAN_CLOCK;
    program->owner = WAN_OWNER;
    int epoll = program->wan.epoll = epoll_create1(EPOLL_CLOEXEC);
    program->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &program->clock};
    if (epoll < 0 || program->timer < 0 ||
        epoll_ctl(epoll, EPOLL_CTL_ADD, program->timer, &event) != 0)
        return false;
    program->talk.epoll = epoll;
    program->talk.commands = &program->commands;
    program->talk.replies = &program->replies;
    program->talk.carry_out = wan_command;
    program->talk.program = &program->wan;
    driven_talk_watch_owner(&program->talk, &program->owner);
    return driven_talk_open(&program->talk);
}

/* Set the clock to the first packet's time. */
static void arm(struct program *program)
{
    const struct driven_timer *first = driven_timers_first(&program->wan.timers);
    int64_t due = first ? first->due : 0;
    if (due == program->armed)
        return;
    struct itimerspec when = {.it_value = {due / 1000000000, due % 1000000000}};
    timerfd_settime(program->timer, TFD_TIMER_ABSTIME, &when, NULL);
    program->armed = due;
}

/* Returns false when the owner is gone. */
static bool handle(struct program *program, const struct epoll_event *event)
{
    enum wan_source *source = event->data.ptr;
    uint64_t times;
    switch (*source) {
    case WAN_COMMANDS:
        return driven_talk_hear(&program->talk);
    case WAN_REPLIES:
        return !(event->events & (EPOLLERR | EPOLLHUP)) && driven_talk_answer(&program->talk);
    case WAN_OWNER:
        return false;
    case WAN_CLOCK:
        program->armed = read(program->timer, &times, sizeof times) > 0 ? 0 : program->armed;
        return true;
    case WAN_DEVICE:
        wan_host_read(&program->wan, (struct wan_host *)(void *)source);
        return true;
    }
    return true;
}

static void run(struct program *program)
{
    struct epoll_event events[EVENTS];
    for (;;) {
        arm(program);
        int count = epoll_wait(program->wan.epoll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            return;
        for (int i = 0; i < count; i++)
            if (!handle(program, &events[i]))
                return;
        wan_deliver(&program->wan);
    }
}

int main(int count, char **words)
{
    static struct program program; /* too large for a stack, and zero */
    bool understood = count == 1 || (count == 3 && strcmp(words[1], "--seed") == 0 &&
                                     driven_words_number(words[2], UINT64_MAX, &program.wan.seed));
    if (!understood) {
        fprintf(stderr, "usage: wan [--seed NUMBER]; commands come on standard input\n");
        return 2;
    }
    if (!start(&program)) {
        fprintf(stderr, "wan: standard input and output must be pipes or sockets: %s\n",
                strerror(errno));
        return 1;
    }
    run(&program);
    return 0;
}
