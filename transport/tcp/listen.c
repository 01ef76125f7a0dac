/* Listening and accepting. Whoever connects is a stranger until the hello has proved otherwise:
 * he gets little memory, little time, and there are only so many of him. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "transport/tcp/tcp.h"

static const uint64_t HELLO_NS = 3000000000;
enum { ANY_PORT_TRIES = 16 };

void coll__tcp_remove(struct tcp_connection **list, struct tcp_connection *connection)
{
    while (*list && *list != connection)
        list = &(*list)->next;
    if (*list)
        *list = connection->next;
}

void coll__tcp_connection_dispose(struct coll__watch *watch)
{
    struct tcp_connection *connection = (struct tcp_connection *)watch;
    free(connection->buffer);
    free(connection->staging);
    free(connection->corrupted);
    free(connection);
}

struct tcp_connection *coll__tcp_connection_new(struct coll__host *host, int fd,
                                                enum tcp_state state)
{
    struct tcp_connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        return NULL;
    connection->host = host;
    connection->state = state;
    connection->deadline = coll__now() + HELLO_NS;
    connection->watch = (struct coll__watch){
        .fd = fd, .ready = coll__tcp_ready, .dispose = coll__tcp_connection_dispose};
    uint32_t events = state == TCP_CONNECTING ? COLL__WRITABLE : COLL__READABLE;
    connection->buffer = malloc(COLL__READ_BYTES);
    if (!connection->buffer ||
        coll__watch_add(&host->reactor, &connection->watch, events) != COLL_OK) {
        free(connection->buffer);
        free(connection);
        return NULL;
    }
    return connection;
}

static void drop_stranger(struct tcp *tcp, struct tcp_connection *connection)
{
    coll__tcp_remove(&tcp->strangers, connection);
    tcp->stranger_count--;
    coll__watch_bury(&tcp->host->reactor, &connection->watch);
}

static void accept_ready(struct coll__watch *watch, uint32_t events)
{
    (void)events;
    struct tcp_listener *listener = (struct tcp_listener *)watch;
    struct tcp *tcp = listener->tcp;
    for (int i = 0; i < 16; i++) {
        int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                /* It would be reported again at once, and nothing changes until then. */
                listener->muted = true;
                coll__watch_change(&tcp->host->reactor, watch, 0);
            }
            return;
        }
        if (tcp->stranger_count >= COLL__PENDING) {
            struct tcp_connection *oldest = tcp->strangers;
            while (oldest->next)
                oldest = oldest->next;
            tcp->host->counters.refused_silent++;
            drop_stranger(tcp, oldest);
        }
        coll__tcp_socket_options(tcp->host, fd);
        struct tcp_connection *connection = coll__tcp_connection_new(tcp->host, fd,
                                                                     TCP_AWAIT_HELLO);
        if (!connection) {
            close(fd);
            return;
        }
        connection->next = tcp->strangers;
        tcp->strangers = connection;
        tcp->stranger_count++;
    }
}

static int listen_at(const union tcp_address *wanted, uint16_t port, union tcp_address *got)
{
    union tcp_address address = *wanted;
    coll__tcp_set_port(&address, port);
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address.any.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY,
                   IN6_IS_ADDR_UNSPECIFIED(&address.v6.sin6_addr) ? &off : &on, sizeof on);
    socklen_t length = sizeof *got;
    if (bind(fd, &address.any, coll__tcp_length(&address)) < 0 || listen(fd, 128) < 0 ||
        getsockname(fd, &got->any, &length) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* Listen on all addresses at one port, so that one firewall rule will do. port 0: any. */
static bool listen_on(struct tcp *tcp, const union tcp_address *list, uint32_t count, uint16_t port,
                      const union tcp_address **refused)
{
    for (uint32_t i = 0; i < count && i < COLL__LISTENERS; i++) {
        struct tcp_listener *listener = &tcp->listeners[i];
        if (i > 0)
            port = coll__tcp_port(&tcp->listeners[0].address);
        int fd = listen_at(&list[i], port, &listener->address);
        if (fd < 0 && errno == EAFNOSUPPORT && list[i].any.sa_family == AF_INET6 &&
            IN6_IS_ADDR_UNSPECIFIED(&list[i].v6.sin6_addr)) {
            const union tcp_address v4 = {.v4 = {.sin_family = AF_INET}};
            fd = listen_at(&v4, port, &listener->address);
        }
        if (fd < 0) {
            int error = errno;
            while (tcp->listener_count > 0)
                close(tcp->listeners[--tcp->listener_count].watch.fd);
            *refused = &list[i];
            errno = error;
            return false;
        }
        listener->tcp = tcp;
        listener->watch = (struct coll__watch){.fd = fd, .ready = accept_ready};
        tcp->listener_count++;
    }
    return true;
}

static coll_status add_listeners(struct tcp *tcp, const union tcp_address *list, uint32_t count)
{
    const struct coll_engine_options *options = &tcp->host->options;
    const union tcp_address *refused = NULL;
    bool listening = false;
    /* A port that the kernel chose for the first address may be taken on the next one. */
    uint32_t low = options->port_low, high = low == 0 ? ANY_PORT_TRIES : options->port_high;
    for (uint32_t port = low; port <= high && !listening; port++) {
        listening = listen_on(tcp, list, count, low == 0 ? 0 : (uint16_t)port, &refused);
        if (!listening && errno != EADDRINUSE && errno != EACCES)
            break;
    }
    if (!listening) {
        int error = errno;
        char host[80];
        coll__tcp_format(refused, host, sizeof host);
        return coll__error(COLL_SYSTEM_ERROR,
                           "cannot listen on %s (ports %u to %u): %s; choose another bind address "
                           "or port_range",
                           host, low, options->port_high, strerror(error));
    }
    for (uint32_t i = 0; i < tcp->listener_count; i++) {
        COLL_TRY(coll__watch_add(&tcp->host->reactor, &tcp->listeners[i].watch, COLL__READABLE));
        coll__tcp_expand(&tcp->listeners[i].address, tcp->advertised, &tcp->advertised_count);
    }
    return COLL_OK;
}

coll_status coll__tcp_start(struct coll__host *host)
{
    struct tcp *tcp = calloc(1, sizeof *tcp);
    if (!tcp)
        return COLL_NO_MEMORY;
    tcp->host = host;
    host->state[TCP_SLOT] = tcp;
    union tcp_address list[COLL__ADDRESSES];
    uint32_t count;
    COLL_TRY(coll__tcp_check_congestion(host));
    COLL_TRY(coll__tcp_bind_list(host->options.bind, host->options.interface, list, &count));
    return add_listeners(tcp, list, count);
}

void coll__tcp_stop(struct coll__host *host)
{
    struct tcp *tcp = coll__tcp_of(host);
    if (!tcp)
        return;
    while (tcp->strangers)
        drop_stranger(tcp, tcp->strangers);
    for (uint32_t i = 0; i < tcp->listener_count; i++)
        close(tcp->listeners[i].watch.fd);
    free(tcp);
    host->state[TCP_SLOT] = NULL;
}

coll_status coll__tcp_address(struct coll__host *host, uint32_t i, char *buffer, size_t length)
{
    const struct tcp *tcp = coll__tcp_of(host);
    if (i >= tcp->advertised_count)
        return COLL_INVALID_ARGUMENT;
    coll__tcp_format(&tcp->advertised[i], buffer, length);
    return COLL_OK;
}

void coll__tcp_tick(struct coll__host *host, uint64_t now, bool paused)
{
    struct tcp *tcp = coll__tcp_of(host);
    for (uint32_t i = 0; i < tcp->listener_count; i++) {
        if (tcp->listeners[i].muted) {
            tcp->listeners[i].muted = false;
            coll__watch_change(&host->reactor, &tcp->listeners[i].watch, COLL__READABLE);
        }
    }
    struct tcp_connection *connection = tcp->strangers;
    while (connection) {
        struct tcp_connection *next = connection->next;
        if (now >= connection->deadline) {
            host->counters.refused_silent++;
            drop_stranger(tcp, connection);
        }
        connection = next;
    }
    struct coll__link *link = host->links;
    while (link) {
        struct coll__link *next = link->next;
        if (link->transport == &coll__tcp_transport)
            coll__tcp_link_tick((struct tcp_link *)link, now, paused);
        link = next;
    }
}

static void close_all(struct tcp_connection *connection)
{
    for (; connection; connection = connection->next)
        if (connection->watch.fd >= 0)
            close(connection->watch.fd);
}

void coll__tcp_fork_child(struct coll__host *host)
{
    /* Runs in the child, where only this thread exists: closes, frees nothing, takes no lock. */
    struct tcp *tcp = coll__tcp_of(host);
    if (!tcp)
        return;
    for (uint32_t i = 0; i < tcp->listener_count; i++)
        close(tcp->listeners[i].watch.fd);
    close_all(tcp->strangers);
    for (struct coll__link *link = host->links; link; link = link->next) {
        close_all(((struct tcp_link *)link)->open);
        close_all(((struct tcp_link *)link)->dials);
    }
}

void coll__tcp_ready(struct coll__watch *watch, uint32_t events)
{
    struct tcp_connection *connection = (struct tcp_connection *)watch;
    switch (connection->state) {
    case TCP_CONNECTING: {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(watch->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error != 0)
            coll__tcp_dial_failed(connection, error, strerror(error));
        else
            coll__tcp_say_hello(connection);
        return;
    }
    case TCP_AWAIT_HELLO:
    case TCP_AWAIT_WELCOME:
    case TCP_AWAIT_PROOF:
        coll__tcp_handshake(connection);
        return;
    case TCP_OPEN:
        if (events & COLL__WRITABLE) {
            connection->blocked = false;
            coll__tcp_send(connection);
        }
        if (!connection->failed && (events & ~(uint32_t)COLL__WRITABLE))
            coll__tcp_receive(connection);
        return;
    }
}
