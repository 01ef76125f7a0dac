/* How two processes of a host get each other's segment. Each listens at a local socket whose name
 * follows from its id; that a connection comes about is what "the same host" means. The key check is
 * the hello of wire/hello.h, in messages of one packet each; the last two carry the segment and the
 * eventfd that wakes its owner:
 *
 *      dialer   HELLO ──►   ◄── WELCOME   PROOF, segment ──►   ◄── segment
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "transport/shm/shm.h"
#include "wire/sha256.h"

enum { STRANGERS = 128 };
static const uint64_t HELLO_NS = 3000000000;

/* Where the peer's lane for the other side is. */
struct offer {
    uint32_t lane, zero;
    uint64_t generation;
};

/* A name without a file: it goes with its owner. */
static socklen_t name_of(const uint8_t peer[16], struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    char *at = address->sun_path + 1;
    size_t room = sizeof address->sun_path - 1;
    int length = snprintf(at, room, "collectives/%d/", SHM_LAYOUT);
    for (int i = 0; i < 16; i++)
        length += snprintf(at + length, room - (size_t)length, "%02x", peer[i]);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

coll_status coll__shm_connect(struct coll__host *host, const uint8_t peer[16], int *out)
{
    (void)host;
    struct sockaddr_un address;
    socklen_t length = name_of(peer, &address);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return coll__error(COLL_SYSTEM_ERROR, "no socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, length) == 0) {
        *out = fd;
        return COLL_OK;
    }
    int error = errno;
    close(fd);
    *out = -1;
    return error == EAGAIN ? COLL_OK : COLL_UNSUPPORTED; /* EAGAIN: it has many to accept */
}

/* ---- sockets -------------------------------------------------------------------------------- */

static void dispose(struct coll__watch *watch)
{
    free(watch);
}

static void remove_stranger(struct shm_connection *connection)
{
    struct shm *shm = coll__shm_of(connection->host);
    for (struct shm_connection **at = &shm->strangers; *at; at = &(*at)->next) {
        if (*at == connection) {
            *at = connection->next;
            shm->stranger_count--;
            return;
        }
    }
}

void coll__shm_drop(struct shm_connection *connection, const char *why)
{
    struct shm_link *link = connection->link;
    if (connection->state == SHM_DOWN)
        return;
    bool was_up = connection->state == SHM_UP;
    connection->state = SHM_DOWN;
    remove_stranger(connection);
    coll__watch_bury(&connection->host->reactor, &connection->watch);
    if (!link)
        return;
    link->connection = NULL;
    snprintf(link->why, sizeof link->why, "%s", why);
    if (was_up)
        coll__shm_detach(link, why);
}

static bool say(struct shm_connection *connection, const void *bytes, size_t length)
{
    return send(connection->watch.fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT) ==
           (ssize_t)length;
}

/* Send our segment behind `prefix`. */
static bool offer(struct shm_connection *connection, struct shm_link *link, const uint8_t *prefix,
                  size_t length)
{
    struct shm *shm = coll__shm_of(connection->host);
    if (!link->lane)
        link->lane = coll__shm_lane_take(shm);
    if (!link->lane)
        return false;
    struct offer body = {.lane = coll__shm_lane_index(shm, link->lane),
                         .generation = atomic_load(&link->lane->generation)};
    struct iovec parts[2] = {{(void *)(uintptr_t)prefix, length}, {&body, sizeof body}};
    int fds[2] = {shm->segment_fd, connection->host->reactor.wake.fd};
    union {
        char bytes[CMSG_SPACE(sizeof fds)];
        struct cmsghdr align;
    } control = {0};
    struct msghdr message = {.msg_iov = parts,
                             .msg_iovlen = 2,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(rights), fds, sizeof fds);
    return sendmsg(connection->watch.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) ==
           (ssize_t)(length + sizeof body);
}

/* Map what was handed over, if it is what it has to be. */
static const struct shm_segment *map(int fd)
{
    struct stat about;
    int seals = fcntl(fd, F_GET_SEALS);
    int needed = F_SEAL_SHRINK | F_SEAL_GROW;
    if (seals < 0 || (seals & needed) != needed || fstat(fd, &about) != 0 ||
        about.st_size != (off_t)sizeof(struct shm_segment))
        return NULL;
    void *at = mmap(NULL, sizeof(struct shm_segment), PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return NULL;
    madvise(at, sizeof(struct shm_segment), MADV_DONTFORK);
    const struct shm_segment *segment = at;
    if (segment->header.layout == SHM_LAYOUT && segment->header.lanes == SHM_LANES &&
        segment->header.units == SHM_UNITS)
        return segment;
    munmap(at, sizeof(struct shm_segment));
    return NULL;
}

static void take_offer(struct shm_connection *connection, struct shm_link *link,
                       const struct offer *body, const int fds[2])
{
    const struct shm_segment *theirs = body->lane < SHM_LANES ? map(fds[0]) : NULL;
    close(fds[0]);
    if (!theirs) {
        close(fds[1]);
        connection->host->counters.refused_hello++;
        coll__shm_drop(connection, "what it handed over is no segment");
        return;
    }
    coll__shm_attach(link, connection, theirs, fds[1], body->lane, body->generation);
}

/* ---- dialer ----------------------------------------------------------------------------------- */

static void take_welcome(struct shm_connection *connection, const uint8_t *bytes, uint32_t length)
{
    struct coll__welcome welcome;
    uint8_t proof[32], message[COLL__PROOF_BYTES];
    memcpy(connection->welcome, bytes, length);
    if (coll__welcome_decode(connection->welcome, length, &welcome) != COLL_OK) {
        coll__shm_drop(connection, "what listens there is no peer of this library");
        return;
    }
    if (welcome.verdict != COLL__WELCOME_OK) {
        connection->link->base.refused += welcome.verdict == COLL__WELCOME_UNKNOWN;
        coll__shm_drop(connection, welcome.verdict == COLL__WELCOME_UNKNOWN
                                       ? "it does not know the view yet"
                                       : "it speaks another version");
        return;
    }
    coll__hello_prove(connection->key, 'a', connection->hello, connection->hello_length,
                      connection->welcome, COLL__WELCOME_BYTES - 32, proof);
    if (!coll__equal_constant_time(proof, welcome.proof, 32)) {
        connection->host->counters.refused_hello++;
        coll__shm_drop(connection, "it does not know the view's key");
        return;
    }
    coll__hello_prove(connection->key, 'd', connection->hello, connection->hello_length,
                      connection->welcome, length, proof);
    coll__proof_encode(proof, message);
    connection->state = SHM_AWAIT_SEGMENT;
    if (!offer(connection, connection->link, message, COLL__PROOF_BYTES))
        coll__shm_drop(connection, "no shared memory for it");
}

/* ---- acceptor --------------------------------------------------------------------------------- */

static void take_hello(struct shm_connection *connection, const uint8_t *bytes, uint32_t length)
{
    struct coll__host *host = connection->host;
    struct coll__hello hello;
    memcpy(connection->hello, bytes, length);
    connection->hello_length = length;
    if (coll__hello_decode(connection->hello, length, &hello) != COLL_OK) {
        host->counters.refused_hello++;
        coll__shm_drop(connection, "");
        return;
    }
    struct coll__welcome welcome = {
        .verdict = COLL__WELCOME_OK,
        .version_low = COLL__WIRE_VERSION,
        .version_high = COLL__WIRE_VERSION,
    };
    const uint8_t *key = coll__view_key(host, hello.group, hello.term, hello.view, hello.from);
    const struct coll__link *link = coll__link_find(host, hello.from);
    if (hello.version_low > COLL__WIRE_VERSION || hello.version_high < COLL__WIRE_VERSION) {
        host->counters.refused_version++;
        welcome.verdict = COLL__WELCOME_VERSION;
    } else if (memcmp(hello.to, host->peer_id, sizeof hello.to) != 0 || !key || !link ||
               link->transport != &coll__shm_transport) {
        host->counters.refused_view++;
        welcome.verdict = COLL__WELCOME_UNKNOWN;
    } else if (getrandom(welcome.nonce, sizeof welcome.nonce, 0) != sizeof welcome.nonce) {
        coll__shm_drop(connection, "");
        return;
    } else {
        memcpy(connection->key, key, sizeof connection->key);
        memcpy(connection->from, hello.from, sizeof connection->from);
        coll__welcome_encode(&welcome, connection->welcome);
        coll__hello_prove(connection->key, 'a', connection->hello, length, connection->welcome,
                          COLL__WELCOME_BYTES - 32, welcome.proof);
    }
    coll__welcome_encode(&welcome, connection->welcome);
    connection->welcome_length = COLL__WELCOME_BYTES;
    connection->state = SHM_AWAIT_PROOF;
    if (!say(connection, connection->welcome, COLL__WELCOME_BYTES) ||
        welcome.verdict != COLL__WELCOME_OK)
        coll__shm_drop(connection, "");
}

static void take_proof(struct shm_connection *connection, const uint8_t *bytes, const int fds[2])
{
    struct coll__host *host = connection->host;
    uint8_t expected[32], given[32];
    coll__hello_prove(connection->key, 'd', connection->hello, connection->hello_length,
                      connection->welcome, connection->welcome_length, expected);
    struct coll__link *found = coll__link_find(host, connection->from);
    if (coll__proof_decode(bytes, COLL__PROOF_BYTES, given) != COLL_OK ||
        !coll__equal_constant_time(expected, given, 32) || !found ||
        found->transport != &coll__shm_transport || ((struct shm_link *)found)->connection ||
        !coll__shm_reset((struct shm_link *)found)) {
        host->counters.refused_hello++;
        close(fds[0]);
        close(fds[1]);
        coll__shm_drop(connection, "");
        return;
    }
    struct shm_link *link = (struct shm_link *)found;
    struct offer body;
    memcpy(&body, bytes + COLL__PROOF_BYTES, sizeof body);
    remove_stranger(connection);
    connection->link = link;
    link->connection = connection;
    if (!offer(connection, link, NULL, 0)) {
        close(fds[0]);
        close(fds[1]);
        coll__shm_drop(connection, "no shared memory for it");
        return;
    }
    take_offer(connection, link, &body, fds);
}

/* ---- both -------------------------------------------------------------------------------------- */

/* How many descriptors came with a message; the first two are kept. */
static size_t take_rights(struct msghdr *message, int fds[2])
{
    size_t total = 0;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
        if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (at->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++, total++) {
            int fd;
            memcpy(&fd, CMSG_DATA(at) + i * sizeof fd, sizeof fd);
            if (total < 2)
                fds[total] = fd;
            else
                close(fd);
        }
    }
    return total;
}

static void ready(struct coll__watch *watch, uint32_t events)
{
    (void)events;
    struct shm_connection *connection = (struct shm_connection *)watch;
    uint8_t bytes[COLL__HELLO_MAX];
    union {
        char bytes[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t got = recvmsg(watch->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    int fds[2] = {-1, -1};
    size_t rights = got >= 0 ? take_rights(&message, fds) : 0; /* also behind no bytes at all */
    if (got <= 0 && rights == 0) {
        coll__shm_drop(connection, "it closed its local socket");
        return;
    }
    enum shm_state state = connection->state;
    size_t rest = state == SHM_AWAIT_PROOF ? COLL__PROOF_BYTES : 0;
    bool wants_fds = state == SHM_AWAIT_PROOF || state == SHM_AWAIT_SEGMENT;
    uint32_t shortest = state == SHM_AWAIT_HELLO ? COLL__HELLO_BYTES : COLL__WELCOME_BYTES;
    bool whole = wants_fds || (got >= 12 && coll__hello_length(bytes, shortest) == (uint32_t)got);
    if (rights != (wants_fds ? 2 : 0) || !whole ||
        (wants_fds && (size_t)got != rest + sizeof(struct offer)) || state == SHM_UP) {
        for (int i = 0; i < 2; i++)
            if (fds[i] >= 0)
                close(fds[i]);
        connection->host->counters.refused_hello++;
        coll__shm_drop(connection, "it said what made no sense");
        return;
    }
    if (state == SHM_AWAIT_HELLO) {
        take_hello(connection, bytes, (uint32_t)got);
    } else if (state == SHM_AWAIT_WELCOME) {
        take_welcome(connection, bytes, (uint32_t)got);
    } else if (state == SHM_AWAIT_PROOF) {
        take_proof(connection, bytes, fds);
    } else {
        struct offer body;
        memcpy(&body, bytes, sizeof body);
        take_offer(connection, connection->link, &body, fds);
    }
}

static struct shm_connection *connection_new(struct coll__host *host, int fd, enum shm_state state)
{
    struct shm_connection *connection = calloc(1, sizeof *connection);
    if (connection) {
        connection->host = host;
        connection->state = state;
        connection->deadline = coll__now() + HELLO_NS;
        connection->watch = (struct coll__watch){.fd = fd, .ready = ready, .dispose = dispose};
        if (coll__watch_add(&host->reactor, &connection->watch, COLL__READABLE) == COLL_OK)
            return connection;
    }
    close(fd);
    free(connection);
    return NULL;
}

void coll__shm_dial(struct shm_link *link, int fd)
{
    struct coll__host *host = link->base.host;
    struct coll__hello hello = {.version_low = COLL__WIRE_VERSION,
                                .version_high = COLL__WIRE_VERSION};
    const uint8_t *key;
    struct shm_connection *connection = connection_new(host, fd, SHM_AWAIT_WELCOME);
    if (!connection)
        return;
    connection->link = link;
    link->connection = connection;
    if (!coll__view_for_link(&link->base, &hello.group, &hello.term, &hello.view, &key) ||
        getrandom(hello.nonce, sizeof hello.nonce, 0) != sizeof hello.nonce) {
        coll__shm_drop(connection, "no view has this peer any more");
        return;
    }
    memcpy(connection->key, key, sizeof connection->key);
    memcpy(hello.from, host->peer_id, sizeof hello.from);
    memcpy(hello.to, link->base.peer, sizeof hello.to);
    coll__hello_encode(&hello, connection->hello);
    connection->hello_length = COLL__HELLO_BYTES;
    if (!say(connection, connection->hello, COLL__HELLO_BYTES))
        coll__shm_drop(connection, "it closed its local socket at once");
}

static void accept_ready(struct coll__watch *watch, uint32_t events)
{
    (void)events;
    struct shm *shm = (struct shm *)((char *)watch - offsetof(struct shm, listener));
    for (int i = 0; i < 16; i++) {
        int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        if (shm->stranger_count >= STRANGERS) {
            struct shm_connection *oldest = shm->strangers;
            while (oldest->next)
                oldest = oldest->next;
            shm->host->counters.refused_silent++;
            coll__shm_drop(oldest, "");
        }
        struct shm_connection *connection = connection_new(shm->host, fd, SHM_AWAIT_HELLO);
        if (!connection)
            return;
        connection->next = shm->strangers;
        shm->strangers = connection;
        shm->stranger_count++;
    }
}

coll_status coll__shm_listen(struct shm *shm)
{
    struct sockaddr_un address;
    socklen_t length = name_of(shm->host->peer_id, &address);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) != 0 || listen(fd, 128) != 0) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return coll__error(COLL_SYSTEM_ERROR, "cannot listen at a local socket: %s",
                           strerror(error));
    }
    shm->listener = (struct coll__watch){.fd = fd, .ready = accept_ready};
    return coll__watch_add(&shm->host->reactor, &shm->listener, COLL__READABLE);
}

void coll__shm_tick_strangers(struct shm *shm, uint64_t now)
{
    for (struct shm_connection *at = shm->strangers; at;) {
        struct shm_connection *next = at->next;
        if (now > at->deadline) {
            shm->host->counters.refused_silent++;
            coll__shm_drop(at, "");
        }
        at = next;
    }
}
