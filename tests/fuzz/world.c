/* Sockets in memory and a clock that the input moves: see world.h. */
#include "world.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "wire/frame.h"

/* Descriptors of the world are those from here on. */
enum { FIRST = 1 << 20, LOOK_NS = 20000 };

static _Thread_local bool inside;
static struct world_socket sockets[WORLD_SOCKETS];
static uint64_t now;
static uint8_t drawn;

void world_broken(const char *what, const char *file, int line)
{
    fprintf(stderr, "%s:%d: this does not hold: %s\n", file, line, what);
    abort();
}

/* ---- for the targets ----------------------------------------------------------------------- */

void world_begin(void)
{
    now = 1000000000;
    drawn = 0;
    inside = true;
}

void world_end(void)
{
    for (int i = 0; i < WORLD_SOCKETS; i++)
        if (sockets[i].waiting)
            close(FIRST + i);
    for (int i = 0; i < WORLD_SOCKETS; i++)
        WORLD_CHECK(!sockets[i].open);
    inside = false;
}

static struct world_socket *find(int fd)
{
    return inside && fd >= FIRST && fd < FIRST + WORLD_SOCKETS ? &sockets[fd - FIRST] : NULL;
}

static int open_one(void)
{
    for (int i = 0; i < WORLD_SOCKETS; i++) {
        if (!sockets[i].open) {
            sockets[i] = (struct world_socket){.open = true, .room = SIZE_MAX};
            return FIRST + i;
        }
    }
    errno = EMFILE;
    return -1;
}

static bool is_readable(const struct world_socket *at)
{
    bool readable = at->signalled || at->in_at < at->in_length || at->closed || at->reset;
    for (int i = 0; at->listening && i < WORLD_SOCKETS; i++)
        readable |= sockets[i].waiting;
    return readable;
}

static uint32_t ready(const struct world_socket *at)
{
    if (!at->open || !at->watch)
        return 0;
    return ((is_readable(at) ? EPOLLIN : 0u) | (at->room > 0 ? EPOLLOUT : 0u)) & at->events;
}

struct world_socket *world_connect(void)
{
    int fd = open_one();
    if (fd < 0)
        return NULL;
    struct world_socket *made = &sockets[fd - FIRST];
    made->accepted = made->waiting = true;
    made->handshake = 104;
    return made;
}

struct world_socket *world_socket_at(unsigned i)
{
    for (int at = 0; at < WORLD_SOCKETS; at++)
        if (sockets[at].open && (sockets[at].accepted || sockets[at].dialed) && i-- == 0)
            return &sockets[at];
    return NULL;
}

void world_feed(struct world_socket *to, const void *bytes, size_t length)
{
    uint8_t *grown = realloc(to->in, to->in_length + length + 1);
    WORLD_CHECK(grown != NULL);
    memcpy(grown + to->in_length, bytes, length);
    to->in = grown;
    to->in_length += length;
}

bool world_is_quiet(void)
{
    for (int i = 0; i < WORLD_SOCKETS; i++)
        if (ready(&sockets[i]))
            return false;
    return true;
}

void world_pass(uint64_t ns)
{
    now += ns;
}

/* ---- in the place of the system's ------------------------------------------------------------ */

#define REPLACE(type, name, ...)     \
    type __real_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__)

REPLACE(int, clock_gettime, clockid_t clock, struct timespec *at)
{
    if (!inside)
        return __real_clock_gettime(clock, at);
    now += LOOK_NS; /* who spins until then must not spin for ever */
    *at = (struct timespec){(time_t)(now / 1000000000), (long)(now % 1000000000)};
    return 0;
}

REPLACE(int, sched_yield, void)
{
    return inside ? 0 : __real_sched_yield(); /* to nobody: the whole world is in this thread */
}

REPLACE(int, pthread_create, pthread_t *thread, const pthread_attr_t *attributes,
        void *(*run)(void *), void *argument)
{
    return inside ? 0 : __real_pthread_create(thread, attributes, run, argument);
}

REPLACE(int, pthread_join, pthread_t thread, void **result)
{
    return inside ? 0 : __real_pthread_join(thread, result);
}

REPLACE(ssize_t, getrandom, void *to, size_t length, unsigned flags)
{
    if (!inside)
        return __real_getrandom(to, length, flags);
    memset(to, ++drawn, length);
    return (ssize_t)length;
}

REPLACE(int, socket, int domain, int type, int protocol)
{
    return inside ? open_one() : __real_socket(domain, type, protocol);
}

REPLACE(int, eventfd, unsigned count, int flags)
{
    return inside ? open_one() : __real_eventfd(count, flags);
}

REPLACE(int, epoll_create1, int flags)
{
    return inside ? open_one() : __real_epoll_create1(flags);
}

REPLACE(int, bind, int fd, const struct sockaddr *address, socklen_t length)
{
    return find(fd) ? 0 : __real_bind(fd, address, length);
}

REPLACE(int, listen, int fd, int backlog)
{
    if (!find(fd))
        return __real_listen(fd, backlog);
    find(fd)->listening = true;
    return 0;
}

REPLACE(int, getsockname, int fd, struct sockaddr *address, socklen_t *length)
{
    if (!find(fd))
        return __real_getsockname(fd, address, length);
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(1)};
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memcpy(address, &v4, sizeof v4);
    *length = sizeof v4;
    return 0;
}

REPLACE(int, getpeername, int fd, struct sockaddr *address, socklen_t *length)
{
    return find(fd) ? getsockname(fd, address, length) : __real_getpeername(fd, address, length);
}

REPLACE(int, setsockopt, int fd, int level, int name, const void *value, socklen_t length)
{
    return find(fd) ? 0 : __real_setsockopt(fd, level, name, value, length);
}

REPLACE(int, getsockopt, int fd, int level, int name, void *value, socklen_t *length)
{
    const struct world_socket *at = find(fd);
    if (!at)
        return __real_getsockopt(fd, level, name, value, length);
    memset(value, 0, *length);
    if (level == SOL_SOCKET && name == SO_ERROR && at->reset)
        memcpy(value, &(int){ECONNREFUSED}, sizeof(int));
    return 0;
}

REPLACE(int, connect, int fd, const struct sockaddr *address, socklen_t length)
{
    struct world_socket *at = find(fd);
    if (!at)
        return __real_connect(fd, address, length);
    at->dialed = true;
    at->handshake = 160 + 40;
    errno = EINPROGRESS;
    return -1;
}

REPLACE(int, accept4, int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    if (!find(fd))
        return __real_accept4(fd, address, length, flags);
    for (int i = 0; i < WORLD_SOCKETS; i++) {
        if (sockets[i].waiting) {
            sockets[i].waiting = false;
            return FIRST + i;
        }
    }
    errno = EAGAIN;
    return -1;
}

REPLACE(int, epoll_ctl, int epoll, int what, int fd, struct epoll_event *event)
{
    struct world_socket *at = find(fd);
    if (!at)
        return __real_epoll_ctl(epoll, what, fd, event);
    at->watch = event ? event->data.ptr : NULL;
    at->events = event ? event->events : 0;
    return 0;
}

REPLACE(int, epoll_wait, int epoll, struct epoll_event *events, int capacity, int milliseconds)
{
    if (!inside)
        return __real_epoll_wait(epoll, events, capacity, milliseconds);
    int count = 0;
    for (int i = 0; i < WORLD_SOCKETS && count < capacity; i++) {
        uint32_t found = ready(&sockets[i]);
        if (found)
            events[count++] = (struct epoll_event){found, {.ptr = sockets[i].watch}};
    }
    if (count == 0)
        now += (uint64_t)milliseconds * 1000000;
    return count;
}

static ssize_t hear(struct world_socket *at, void *to, size_t length)
{
    size_t left = at->in_length - at->in_at;
    size_t part = left < length ? left : length;
    if (at->piece && part > at->piece)
        part = at->piece;
    if (part == 0 && at->closed)
        return 0;
    if (part == 0) {
        errno = at->reset ? ECONNRESET : EAGAIN;
        return -1;
    }
    memcpy(to, at->in + at->in_at, part);
    at->in_at += part;
    return (ssize_t)part;
}

REPLACE(ssize_t, recv, int fd, void *to, size_t length, int flags)
{
    struct world_socket *at = find(fd);
    return at ? hear(at, to, length) : __real_recv(fd, to, length, flags);
}

REPLACE(ssize_t, recvmsg, int fd, struct msghdr *message, int flags)
{
    struct world_socket *at = find(fd);
    if (!at)
        return __real_recvmsg(fd, message, flags);
    ssize_t total = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        const struct iovec *part = &message->msg_iov[i];
        ssize_t got = hear(at, part->iov_base, part->iov_len);
        if (got < 0)
            return total > 0 ? total : -1;
        total += got;
        if ((size_t)got < part->iov_len)
            break;
    }
    return total;
}

/* What an engine sends are frames that others take. */
static void look(struct world_socket *at, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        size_t part = length;
        if (at->handshake > 0) {
            part = part < at->handshake ? part : at->handshake;
            at->handshake -= part;
        } else if (at->payload_left > 0) {
            part = part < at->payload_left ? part : at->payload_left;
            at->payload_left -= part;
        } else {
            part = part < sizeof at->header - at->header_got ? part
                                                             : sizeof at->header - at->header_got;
            memcpy(at->header + at->header_got, bytes, part);
            at->header_got += part;
            if (at->header_got == sizeof at->header) {
                struct coll__frame frame;
                WORLD_CHECK(coll__frame_decode(at->header, &frame) == COLL_OK);
                at->payload_left = frame.length;
                at->header_got = 0;
            }
        }
        bytes += part;
        length -= part;
    }
}

static ssize_t say(struct world_socket *at, const uint8_t *bytes, size_t length)
{
    size_t part = length < at->room ? length : at->room;
    if (at->closed || at->reset || (part == 0 && length > 0)) {
        errno = at->closed || at->reset ? EPIPE : EAGAIN;
        return -1;
    }
    if (at->room != SIZE_MAX)
        at->room -= part;
    size_t kept = WORLD_SAID - at->said_length < part ? WORLD_SAID - at->said_length : part;
    memcpy(at->said + at->said_length, bytes, kept);
    at->said_length += kept;
    look(at, bytes, part);
    return (ssize_t)part;
}

REPLACE(ssize_t, send, int fd, const void *bytes, size_t length, int flags)
{
    struct world_socket *at = find(fd);
    return at ? say(at, bytes, length) : __real_send(fd, bytes, length, flags);
}

REPLACE(ssize_t, sendmsg, int fd, const struct msghdr *message, int flags)
{
    struct world_socket *at = find(fd);
    if (!at)
        return __real_sendmsg(fd, message, flags);
    ssize_t total = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        const struct iovec *part = &message->msg_iov[i];
        ssize_t sent = say(at, part->iov_base, part->iov_len);
        if (sent < 0)
            return total > 0 ? total : -1;
        total += sent;
        if ((size_t)sent < part->iov_len)
            break;
    }
    return total;
}

REPLACE(ssize_t, read, int fd, void *to, size_t length)
{
    struct world_socket *at = find(fd);
    if (!at)
        return __real_read(fd, to, length);
    memset(to, 0, length);
    at->signalled = false;
    return (ssize_t)length;
}

REPLACE(ssize_t, write, int fd, const void *bytes, size_t length)
{
    struct world_socket *at = find(fd);
    if (!at)
        return __real_write(fd, bytes, length);
    at->signalled = true;
    return (ssize_t)length;
}

REPLACE(int, close, int fd)
{
    struct world_socket *at = find(fd);
    if (!at)
        return __real_close(fd);
    WORLD_CHECK(at->open);
    free(at->in);
    *at = (struct world_socket){0};
    return 0;
}
