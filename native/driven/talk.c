/* Lines in, lines out. An owner who does not read its replies is not heard until it does. */
#include "talk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool listen_to(struct driven_talk *talk, int how)
{
    bool behind = talk->out_size > 0;
    struct epoll_event commands = {.events = behind ? 0 : EPOLLIN, .data.ptr = talk->commands};
    struct epoll_event replies = {.events = behind ? EPOLLOUT : 0, .data.ptr = talk->replies};
    return epoll_ctl(talk->epoll, how, STDIN_FILENO, &commands) == 0 &&
           epoll_ctl(talk->epoll, how, STDOUT_FILENO, &replies) == 0;
}

bool driven_talk_open(struct driven_talk *talk)
{
    return fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK) == 0 &&
           fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) | O_NONBLOCK) == 0 &&
           listen_to(talk, EPOLL_CTL_ADD);
}

void driven_talk_watch_owner(const struct driven_talk *talk, void *source)
{
#ifdef SYS_pidfd_open
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
    int fd = (int)syscall(SYS_pidfd_open, getppid(), 0);
    if (fd >= 0)
        epoll_ctl(talk->epoll, EPOLL_CTL_ADD, fd, &event);
#endif
}

/* Carry out the complete lines of `in`, as long as there is room for the replies. */
static void carry_out(struct driven_talk *talk)
{
    char *end;
    while (talk->out_size + DRIVEN_LINE <= sizeof talk->out &&
           (end = memchr(talk->in, '\n', talk->in_size))) {
        size_t length = (size_t)(end - talk->in);
        char *answer = talk->out + talk->out_size;
        *end = '\0';
        if (talk->overlong || memchr(talk->in, '\0', length))
            strcpy(answer, talk->overlong ? "error the line is too long\n"
                                          : "error the line has a zero byte\n");
        else
            talk->carry_out(talk->program, talk->in, answer);
        talk->overlong = false;
        talk->out_size += strlen(answer);
        talk->in_size -= length + 1;
        memmove(talk->in, end + 1, talk->in_size);
    }
    if (talk->in_size == sizeof talk->in && !memchr(talk->in, '\n', talk->in_size)) {
        talk->overlong = true;
        talk->in_size = 0;
    }
}

bool driven_talk_hear(struct driven_talk *talk)
{
    ssize_t got = read(STDIN_FILENO, talk->in + talk->in_size, sizeof talk->in - talk->in_size);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    if (got == 0)
        return false;
    talk->in_size += (size_t)got;
    return driven_talk_answer(talk);
}

bool driven_talk_answer(struct driven_talk *talk)
{
    do {
        carry_out(talk);
        ssize_t wrote = write(STDOUT_FILENO, talk->out, talk->out_size);
        if (wrote < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        if (wrote > 0) {
            talk->out_size -= (size_t)wrote;
            memmove(talk->out, talk->out + wrote, talk->out_size);
        }
    } while (talk->out_size == 0 && memchr(talk->in, '\n', talk->in_size));
    return listen_to(talk, EPOLL_CTL_MOD);
}
