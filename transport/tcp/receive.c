/* From a socket to the engine. Headers and small payloads come through a small buffer; the rest
 * of a large payload is received where it belongs, or into a staging buffer that stays in the
 * cache until it is reduced. The CRC is taken piece by piece, while the piece is still hot. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "transport/tcp/tcp.h"
#include "wire/crc32c.h"

enum { BUDGET = 1 << 20 }; /* bytes of one connection before the others get a turn */

static void nonsense(struct tcp_connection *connection, const char *why)
{
    if (connection->failed)
        return;
    connection->host->counters.corrupt_frames++;
    coll__tcp_fail(connection, why);
}

/* Whether the same frame is coming on another connection, too. The peer sends a frame again once
 * the connection that carried it has broken at its end, and we may not have noticed yet. */
static bool is_twin(const struct tcp_connection *at, const struct tcp_connection *connection)
{
    return at != connection && at->in_payload && at->frame.sequence == connection->frame.sequence;
}

static bool has_twin(const struct tcp_connection *connection)
{
    for (const struct tcp_connection *at = connection->link->open; at; at = at->next)
        if (is_twin(at, connection))
            return true;
    return false;
}

/* The payload is whole. */
static void finish(struct tcp_connection *connection, const uint8_t *payload)
{
    struct tcp_link *link = connection->link;
    const struct coll__frame *frame = &connection->frame;
    struct coll__placement placement = connection->placement;
    connection->in_payload = false;
    connection->placement = (struct coll__placement){0};
    connection->host->counters.received_bytes += COLL__FRAME_BYTES + frame->length;
    if (!coll__tcp_is_new(link, frame->sequence)) {
        /* Not looked at: its bytes may have been overwritten at the sender. */
        connection->host->counters.duplicate_slices++;
        link->acknowledge_now = true;
        return;
    }
    if (!connection->discard && frame->length > 0 && !(frame->flags & COLL__FLAG_NO_CRC) &&
        connection->crc != frame->payload_crc) {
        coll__unplace(&placement);
        nonsense(connection, "a payload arrived corrupt");
        return;
    }
    /* What twins still hold must not be written over it, into what may be the caller's again. */
    for (struct tcp_connection *at = link->open; at; at = at->next) {
        if (is_twin(at, connection)) {
            at->discard = true;
            coll__unplace(&at->placement);
        }
    }
    coll__tcp_mark(link, frame);
    if (coll__deliver(&link->base, frame, payload, &placement) != COLL_OK)
        nonsense(connection, "a frame made no sense");
}

/* Make room for a payload without a place. */
static bool stage(struct tcp_connection *connection, uint32_t length)
{
    if (connection->staging_bytes >= length)
        return true;
    uint32_t bytes = length <= COLL__SLICE_MAX ? COLL__SLICE_MAX : length;
    uint8_t *staging = malloc(bytes);
    if (!staging)
        return false;
    free(connection->staging);
    connection->staging = staging;
    connection->staging_bytes = bytes;
    return true;
}

/* The peer lets the connection go: so do we, as soon as it carries nothing of ours. */
static void hear_last(struct tcp_connection *connection)
{
    connection->heard_last = connection->retiring = true;
    if (connection->said_last)
        coll__tcp_fail(connection, "both sides are done with it");
    else
        connection->link->acknowledge_now = true;
}

/* A header is complete: everything that can be refused is refused here. */
static bool take_header(struct tcp_connection *connection)
{
    struct tcp_link *link = connection->link;
    struct coll__frame *frame = &connection->frame;
    if (coll__frame_decode(connection->buffer + connection->at, frame) != COLL_OK) {
        nonsense(connection, "a frame's header arrived corrupt");
        return false;
    }
    connection->at += COLL__FRAME_BYTES;
    connection->frames_in++;
    if (frame->place != 0 && frame->place != connection->frames_in) {
        /* Something between the peers has eaten whole frames: without this nobody would notice. */
        nonsense(connection, "frames were lost, or came twice, on a connection");
        return false;
    }
    coll__tcp_acknowledged(link, frame->acknowledged);
    coll__peer_consumed(&link->base, frame->consumed);
    bool alive = frame->type == COLL__FRAME_ALIVE;
    if (alive != (frame->sequence == 0) || (alive && frame->length > 0) ||
        frame->sequence > link->received + COLL__WINDOW) {
        nonsense(connection, "a frame's number made no sense");
        return false;
    }
    if (alive) {
        connection->host->counters.received_bytes += COLL__FRAME_BYTES;
        if (frame->flags & COLL__FLAG_LAST)
            hear_last(connection);
        return !connection->failed;
    }
    connection->in_payload = true;
    connection->discard = !coll__tcp_is_new(link, frame->sequence);
    connection->got = connection->crc = 0;
    if (!connection->discard && frame->length > 0 && !has_twin(connection))
        coll__place(&link->base, frame, &connection->placement);
    return true;
}

/* Use what the buffer holds of the payload. */
static void take_buffered(struct tcp_connection *connection)
{
    const struct coll__frame *frame = &connection->frame;
    uint32_t left = connection->have - connection->at;
    uint32_t part = frame->length - connection->got < left ? frame->length - connection->got : left;
    const uint8_t *from = connection->buffer + connection->at;
    uint8_t *direct = connection->placement.direct;
    connection->at += part;
    if (connection->got == 0 && part == frame->length && !direct) {
        /* Whole, and without a place: reduced right out of the buffer. */
        connection->crc = frame->flags & COLL__FLAG_NO_CRC ? 0 : coll__crc32c(0, from, part);
        finish(connection, from);
        return;
    }
    if (!direct && !connection->discard && !stage(connection, frame->length)) {
        coll__tcp_fail(connection, "out of memory");
        return;
    }
    if (!connection->discard) {
        uint8_t *to = (direct ? direct : connection->staging) + connection->got;
        if (frame->flags & COLL__FLAG_NO_CRC)
            memcpy(to, from, part);
        else
            connection->crc = coll__crc32c_copy(connection->crc, to, from, part);
    }
    connection->got += part;
    if (connection->got == frame->length)
        finish(connection, direct ? direct : connection->staging);
}

/* Interpret the buffer as far as it goes. */
static void parse(struct tcp_connection *connection)
{
    while (!connection->failed) {
        if (connection->in_payload)
            take_buffered(connection);
        else if (connection->have - connection->at < COLL__FRAME_BYTES || !take_header(connection))
            break;
        if (connection->in_payload && connection->at == connection->have &&
            connection->frame.length > 0)
            break;
    }
    if (connection->failed)
        return;
    uint32_t left = connection->have - connection->at;
    if (left > 0 && connection->at > 0)
        memmove(connection->buffer, connection->buffer + connection->at, left);
    connection->have = left;
    connection->at = 0;
}

/* One call. Returns the bytes, 0 when there are none now or the connection is gone. */
static uint32_t read_some(struct tcp_connection *connection, struct iovec *parts, size_t count)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    ssize_t got = recvmsg(connection->watch.fd, &message, MSG_DONTWAIT);
    if (got > 0) {
        connection->link->last_heard = connection->last_heard = coll__now();
        return (uint32_t)got;
    }
    if (got == 0)
        coll__tcp_fail(connection, "it closed the connection");
    else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        coll__tcp_fail(connection, strerror(errno));
    return 0;
}

/* The rest of a large payload, straight to where it goes, and the header that follows it: so that of
 * the next payload nothing comes through the buffer. */
static uint32_t read_payload(struct tcp_connection *connection)
{
    const struct coll__frame *frame = &connection->frame;
    uint8_t *direct = connection->placement.direct;
    uint32_t left = frame->length - connection->got;
    if (!direct && !stage(connection, frame->length)) {
        coll__tcp_fail(connection, "out of memory");
        return 0;
    }
    uint8_t *base = direct ? direct : connection->staging;
    struct iovec parts[2] = {{base + connection->got, left},
                             {connection->buffer, COLL__FRAME_BYTES}};
    uint32_t got = read_some(connection, parts, 2);
    if (got == 0)
        return 0;
    uint32_t part = got < left ? got : left;
    connection->have = got - part;
    if (!connection->discard && !(frame->flags & COLL__FLAG_NO_CRC))
        connection->crc = coll__crc32c(connection->crc, base + connection->got, part);
    connection->got += part;
    if (connection->got == frame->length)
        finish(connection, base);
    return got;
}

void coll__tcp_receive(struct tcp_connection *connection)
{
    struct tcp_link *link = connection->link;
    for (uint32_t taken = 0; taken < BUDGET && !connection->failed;) {
        uint32_t wanted, got;
        if (connection->in_payload) {
            wanted = connection->frame.length - connection->got + COLL__FRAME_BYTES;
            got = read_payload(connection);
        } else {
            wanted = COLL__READ_BYTES - connection->have;
            struct iovec room = {connection->buffer + connection->have, wanted};
            got = read_some(connection, &room, 1);
            connection->have += got;
        }
        if (connection->have > 0 && !connection->failed)
            parse(connection);
        /* A short read has emptied the socket; epoll tells when there is more. */
        if (got < wanted || coll__is_wanted(connection->host))
            break;
        taken += got;
    }
    if (connection->failed)
        return; /* what has come may have closed the link, too */
    if (link->acknowledge_now || link->base.control_head || link->base.small_flows ||
        link->base.bulk_flows || link->base.answers || link->to_resend)
        coll__tcp_pump(link);
}
