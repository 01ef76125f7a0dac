/* The hello on both sides (wire/hello.h). Messages are a few hundred bytes on a fresh connection,
 * so they are written at once: a socket that cannot take them is given up. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "transport/tcp/tcp.h"
#include "wire/sha256.h"

static const uint32_t FEATURES = 0; /* none yet; the seam for filters and codecs */

static bool write_whole(struct tcp_connection *connection, const uint8_t *data, uint32_t length)
{
    return send(connection->watch.fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)length;
}

static bool draw_nonce(uint8_t nonce[32])
{
    return getrandom(nonce, 32, 0) == 32;
}

/* Close a stranger, or a dial that led to nothing. */
static void refuse(struct tcp_connection *connection, const char *why)
{
    if (connection->dialed) {
        coll__tcp_dial_failed(connection, 0, why);
        return;
    }
    struct tcp *tcp = coll__tcp_of(connection->host);
    coll__tcp_remove(&tcp->strangers, connection);
    tcp->stranger_count--;
    connection->failed = true;
    coll__watch_bury(&connection->host->reactor, &connection->watch);
}

/* NULL: there is none, or another transport has it. */
static struct coll__link *find(struct coll__host *host, const uint8_t peer[16])
{
    struct coll__link *link = coll__link_find(host, peer);
    return link && link->transport == &coll__tcp_transport ? link : NULL;
}

/* ---- dialer ----------------------------------------------------------------------------- */

void coll__tcp_say_hello(struct tcp_connection *connection)
{
    struct tcp_link *link = connection->link;
    struct coll__hello hello = {
        .version_low = COLL__WIRE_VERSION,
        .version_high = COLL__WIRE_VERSION,
        .features = FEATURES,
        .slot = connection->slot,
        .flags = link->open ? 0 : COLL__HELLO_FRESH,
    };
    const uint8_t *key;
    if (!coll__view_for_link(&link->base, &hello.group, &hello.term, &hello.view, &key) ||
        !draw_nonce(hello.nonce)) {
        refuse(connection, "no view has this peer any more");
        return;
    }
    memcpy(connection->key, key, sizeof connection->key);
    memcpy(hello.from, connection->host->peer_id, sizeof hello.from);
    memcpy(hello.to, link->base.peer, sizeof hello.to);
    coll__hello_encode(&hello, connection->hello);
    connection->hello_length = COLL__HELLO_BYTES;
    if (!write_whole(connection, connection->hello, COLL__HELLO_BYTES)) {
        refuse(connection, "it closed the connection at once");
        return;
    }
    connection->state = TCP_AWAIT_WELCOME;
    coll__watch_change(&connection->host->reactor, &connection->watch, COLL__READABLE);
}

static void take_welcome(struct tcp_connection *connection, uint32_t length)
{
    struct coll__welcome welcome;
    uint8_t proof[32], message[COLL__PROOF_BYTES];
    memcpy(connection->welcome, connection->buffer, length);
    if (coll__welcome_decode(connection->welcome, length, &welcome) != COLL_OK) {
        refuse(connection, "what listens there is no peer of this library");
        return;
    }
    if (welcome.verdict == COLL__WELCOME_VERSION) {
        char why[120];
        snprintf(why, sizeof why,
                 "it speaks wire versions %u to %u, this peer %d; upgrade the older one",
                 welcome.version_low, welcome.version_high, COLL__WIRE_VERSION);
        connection->host->counters.refused_version++;
        refuse(connection, why);
        return;
    }
    if (welcome.verdict != COLL__WELCOME_OK) {
        connection->link->base.refused += welcome.verdict == COLL__WELCOME_UNKNOWN;
        refuse(connection, welcome.verdict == COLL__WELCOME_UNKNOWN
                               ? "it does not know the view yet"
                               : "another peer listens at that address");
        return;
    }
    coll__hello_prove(connection->key, 'a', connection->hello, connection->hello_length,
                      connection->welcome, COLL__WELCOME_BYTES - 32, proof);
    if (!coll__equal_constant_time(proof, welcome.proof, 32)) {
        connection->host->counters.refused_hello++;
        refuse(connection, "it does not know the view's key");
        return;
    }
    coll__hello_prove(connection->key, 'd', connection->hello, connection->hello_length,
                      connection->welcome, length, proof);
    coll__proof_encode(proof, message);
    if (!write_whole(connection, message, COLL__PROOF_BYTES)) {
        refuse(connection, "it closed the connection");
        return;
    }
    coll__tcp_attach(connection->link, connection);
}

/* ---- acceptor ------------------------------------------------------------------------------ */

static void answer(struct tcp_connection *connection, struct coll__welcome *welcome)
{
    coll__welcome_encode(welcome, connection->welcome);
    connection->welcome_length = COLL__WELCOME_BYTES;
    bool written = write_whole(connection, connection->welcome, COLL__WELCOME_BYTES);
    if (!written || welcome->verdict != COLL__WELCOME_OK)
        refuse(connection, "");
    else
        connection->state = TCP_AWAIT_PROOF;
}

static void take_hello(struct tcp_connection *connection, uint32_t length)
{
    struct coll__host *host = connection->host;
    struct coll__hello hello;
    memcpy(connection->hello, connection->buffer, length);
    connection->hello_length = length;
    if (coll__hello_decode(connection->hello, length, &hello) != COLL_OK) {
        host->counters.refused_hello++;
        refuse(connection, "");
        return;
    }
    struct coll__welcome welcome = {
        .verdict = COLL__WELCOME_OK,
        .version_low = COLL__WIRE_VERSION,
        .version_high = COLL__WIRE_VERSION,
        .features = hello.features & FEATURES,
    };
    const uint8_t *key = coll__view_key(host, hello.group, hello.term, hello.view, hello.from);
    if (hello.version_low > COLL__WIRE_VERSION || hello.version_high < COLL__WIRE_VERSION) {
        host->counters.refused_version++;
        welcome.verdict = COLL__WELCOME_VERSION;
    } else if (memcmp(hello.to, host->peer_id, sizeof hello.to) != 0) {
        host->counters.refused_view++;
        welcome.verdict = COLL__WELCOME_NOT_ME;
    } else if (!key || !find(host, hello.from)) {
        host->counters.refused_view++;
        welcome.verdict = COLL__WELCOME_UNKNOWN;
    } else if (!draw_nonce(welcome.nonce)) {
        refuse(connection, "");
        return;
    } else {
        memcpy(connection->key, key, sizeof connection->key);
        memcpy(connection->from, hello.from, sizeof connection->from);
        connection->slot = hello.slot;
        connection->fresh = hello.flags & COLL__HELLO_FRESH;
        connection->greeted = coll__now();
        coll__welcome_encode(&welcome, connection->welcome);
        coll__hello_prove(connection->key, 'a', connection->hello, length, connection->welcome,
                          COLL__WELCOME_BYTES - 32, welcome.proof);
    }
    answer(connection, &welcome);
}

static void take_proof(struct tcp_connection *connection)
{
    struct coll__host *host = connection->host;
    uint8_t expected[32], given[32];
    coll__hello_prove(connection->key, 'd', connection->hello, connection->hello_length,
                      connection->welcome, connection->welcome_length, expected);
    struct coll__link *link = find(host, connection->from);
    if (coll__proof_decode(connection->buffer, COLL__PROOF_BYTES, given) != COLL_OK ||
        !coll__equal_constant_time(expected, given, 32) || !link) {
        host->counters.refused_hello++;
        refuse(connection, "");
        return;
    }
    struct tcp *tcp = coll__tcp_of(host);
    coll__tcp_remove(&tcp->strangers, connection);
    tcp->stranger_count--;
    coll__tcp_attach((struct tcp_link *)link, connection);
}

/* ---- both --------------------------------------------------------------------------------- */

void coll__tcp_handshake(struct tcp_connection *connection)
{
    struct coll__host *host = connection->host;
    bool acceptor = !connection->dialed;
    /* Never read past the message: what follows are frames. */
    uint32_t wanted = 12;
    if (connection->state == TCP_AWAIT_PROOF)
        wanted = COLL__PROOF_BYTES;
    while (true) {
        if (connection->state != TCP_AWAIT_PROOF && connection->have >= 12) {
            wanted = coll__hello_length(connection->buffer,
                                        acceptor ? COLL__HELLO_BYTES : COLL__WELCOME_BYTES);
            if (wanted == 0) {
                host->counters.refused_hello++;
                refuse(connection, "what listens there is no peer of this library");
                return;
            }
        }
        if (connection->have == wanted && wanted > 12)
            break;
        ssize_t got = recv(connection->watch.fd, connection->buffer + connection->have,
                           wanted - connection->have, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            return;
        if (got <= 0) {
            if (acceptor && connection->have > 0)
                host->counters.refused_hello++;
            else if (acceptor)
                host->counters.refused_silent++;
            refuse(connection,
                   got == 0 ? "it closed the connection during the hello" : strerror(errno));
            return;
        }
        connection->have += (uint32_t)got;
    }
    connection->have = 0;
    if (connection->state == TCP_AWAIT_HELLO)
        take_hello(connection, wanted);
    else if (connection->state == TCP_AWAIT_WELCOME)
        take_welcome(connection, wanted);
    else
        take_proof(connection);
}
