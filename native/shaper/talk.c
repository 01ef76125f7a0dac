/* Lines in, lines out. An owner who does not read its replies is not heard until it does. */
#include "talk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static bool listen_to(struct shaper *shaper, struct shaper_talk *talk, int how)
{
    bool behind = talk->out_size > 0;
    struct epoll_event commands = {.events = behind ? 0 : EPOLLIN, .data.ptr = &talk->commands};
    struct epoll_event replies = {.events = behind ? EPOLLOUT : 0, .data.ptr = &talk->replies};
    return epoll_ctl(shaper->epoll, how, STDIN_FILENO, &commands) == 0 &&
           epoll_ctl(shaper->epoll, how, STDOUT_FILENO, &replies) == 0;
}

bool shaper_talk_open(struct shaper *shaper, struct shaper_talk *talk)
{
    talk->commands = SHAPER_COMMANDS;
    talk->replies = SHAPER_REPLIES;
    return fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK) == 0 &&
           fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) | O_NONBLOCK) == 0 &&
           listen_to(shaper, talk, EPOLL_CTL_ADD);
}

/* Carry out the complete lines of `in`, as long as there is room for the replies. */
static void carry_out(struct shaper *shaper, struct shaper_talk *talk)
{
    char *end;
    while (talk->out_size + SHAPER_LINE <= sizeof talk->out &&
           (end = memchr(talk->in, '\n', talk->in_size))) {
        size_t length = (size_t)(end - talk->in);
        char *answer = talk->out + talk->out_size;
        *end = '\0';
        if (talk->overlong || memchr(talk->in, '\0', length))
            strcpy(answer, talk->overlong ? "error the line is too long\n"
                                          : "error the line has a zero byte\n");
        else
            shaper_command(shaper, talk->in, answer);
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

bool shaper_talk_hear(struct shaper *shaper, struct shaper_talk *talk)
{
    ssize_t got = read(STDIN_FILENO, talk->in + talk->in_size, sizeof talk->in - talk->in_size);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    if (got == 0)
        return false;
    talk->in_size += (size_t)got;
    return shaper_talk_answer(shaper, talk);
}

bool shaper_talk_answer(struct shaper *shaper, struct shaper_talk *talk)
{
    do {
        carry_out(shaper, talk);
        ssize_t wrote = write(STDOUT_FILENO, talk->out, talk->out_size);
        if (wrote < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        if (wrote > 0) {
            talk->out_size -= (size_t)wrote;
            memmove(talk->out, talk->out + wrote, talk->out_size);
        }
    } while (talk->out_size == 0 && memchr(talk->in, '\n', talk->in_size));
    return listen_to(shaper, talk, EPOLL_CTL_MOD);
}
