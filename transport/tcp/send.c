/* From the engine to a socket: a connection that has room pulls the next slice. What is fast gets
 * more; nobody waits for the slowest. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "transport/tcp/tcp.h"
#include "wire/crc32c.h"

enum { RETAINED_MAX = 8 << 20 }; /* bytes of owned payloads that wait for acknowledgement */

static struct coll__slice *next_to_resend(struct tcp_link *link, struct tcp_connection *connection)
{
    for (uint64_t n = link->acknowledged + 1; n < link->next_sequence; n++) {
        struct tcp_entry *entry = &link->window[n % COLL__WINDOW];
        if (entry->slice && !entry->by) {
            entry->by = connection;
            link->to_resend--;
            return entry->slice;
        }
    }
    return NULL;
}

static bool carries(const struct tcp_connection *connection)
{
    const struct tcp_link *link = connection->link;
    for (uint64_t n = link->acknowledged + 1; n < link->next_sequence; n++)
        if (link->window[n % COLL__WINDOW].slice && link->window[n % COLL__WINDOW].by == connection)
            return true;
    return false;
}

/* The next frame of a link for this connection. False: there is none. Where there are several
 * connections the first is for what must not queue behind large operations in the kernels. */
static bool choose(struct tcp_connection *connection, bool *again)
{
    struct tcp_link *link = connection->link;
    *again = false;
    connection->slice = NULL;
    if (connection->retiring && (connection->said_last || link->open_count > 1)) {
        bool last = !connection->said_last && !carries(connection);
        connection->said_last |= last;
        return last || (connection->beat && !connection->said_last);
    }
    bool lane = connection == link->open && link->open_count > 1;
    if (link->to_resend > 0 && !lane) {
        connection->slice = next_to_resend(link, connection);
        *again = true;
    } else if (link->next_sequence - link->acknowledged <= COLL__WINDOW &&
               link->retained_bytes < RETAINED_MAX) {
        struct coll__slice *slice = coll__pull(&link->base,
                                               !lane && link->bulk_bytes < link->bulk_limit);
        connection->slice = slice;
        if (slice) {
            slice->frame.sequence = link->next_sequence++;
            uint32_t bulk = slice->owned ? 0 : slice->frame.length;
            link->window[slice->frame.sequence % COLL__WINDOW] = (struct tcp_entry){
                .slice = slice, .by = connection, .bulk = bulk};
            link->bulk_bytes += bulk;
            if (slice->owned)
                link->retained_bytes += slice->frame.length;
        }
    }
    return connection->slice || link->acknowledge_now || connection->beat;
}

/* Count down to an injected fault. True: it is due now. */
static bool fault_is_due(struct tcp_link *link, uint32_t fault)
{
    if (link->fault != fault)
        return false;
    if (link->fault_after > 0) {
        link->fault_after--;
        return false;
    }
    link->fault = 0;
    return true;
}

static void begin(struct tcp_connection *connection, bool again)
{
    struct tcp_link *link = connection->link;
    struct coll__slice *slice = connection->slice;
    struct coll__frame alive = {.type = COLL__FRAME_ALIVE,
                                .flags = connection->said_last ? COLL__FLAG_LAST : 0};
    struct coll__frame *frame = slice ? &slice->frame : &alive;
    if (slice && frame->length > 0) {
        if (frame->type == COLL__FRAME_DATA && connection->host->options.no_checksums)
            frame->flags |= COLL__FLAG_NO_CRC;
        else if (!slice->summed)
            frame->payload_crc = coll__crc32c(0, slice->payload, frame->length);
    }
    frame->acknowledged = link->received;
    frame->consumed = link->base.eager_consumed;
    link->base.eager_announced = link->base.eager_consumed;
    link->unacknowledged = link->unacknowledged_bytes = 0;
    link->acknowledge_now = connection->beat = false;
    frame->place = ++connection->frames_out;
    coll__frame_encode(frame, connection->header);
    connection->payload = slice ? slice->payload : NULL;
    connection->sent = 0;
    connection->total = COLL__FRAME_BYTES + frame->length;
    connection->sending = true;
    if (!slice)
        return;
    coll__count_sent(&link->base, slice, connection->total, again);
    connection->host->counters.resent_slices += again;
    if (frame->length > 0 && link->fault && fault_is_due(link, COLL_FAULT_FLIP_BIT)) {
        connection->corrupted = malloc(frame->length);
        if (connection->corrupted) {
            memcpy(connection->corrupted, slice->payload, frame->length);
            connection->corrupted[frame->length / 2] ^= 1;
            connection->payload = connection->corrupted;
        }
    }
}

static void end(struct tcp_connection *connection)
{
    struct tcp_link *link = connection->link;
    link->last_sent = connection->last_sent = coll__now();
    connection->host->counters.sent_bytes += connection->total;
    free(connection->corrupted);
    connection->corrupted = NULL;
    connection->sending = false;
    if (connection->orphan) {
        connection->orphan = false;
        coll__slice_release(connection->host, connection->slice);
    }
    connection->slice = NULL;
    if (connection->said_last && connection->heard_last)
        coll__tcp_fail(connection, "both sides are done with it");
}

/* Half a frame, then a reset: what a dying link looks like. */
static void cut(struct tcp_connection *connection)
{
    uint32_t half = connection->total / 2;
    uint32_t header = half < COLL__FRAME_BYTES ? half : COLL__FRAME_BYTES;
    send(connection->watch.fd, connection->header, header, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (half > header)
        send(connection->watch.fd, connection->payload, half - header, MSG_NOSIGNAL | MSG_DONTWAIT);
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(connection->watch.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    coll__tcp_fail(connection, "cut by fault injection");
}

/* True: the whole frame is with the kernel. */
static bool push(struct tcp_connection *connection)
{
    struct iovec parts[2];
    int count = 0;
    if (connection->sent < COLL__FRAME_BYTES)
        parts[count++] = (struct iovec){connection->header + connection->sent,
                                        COLL__FRAME_BYTES - connection->sent};
    uint32_t into = connection->sent > COLL__FRAME_BYTES ? connection->sent - COLL__FRAME_BYTES : 0;
    if (connection->total > COLL__FRAME_BYTES)
        parts[count++] = (struct iovec){(void *)(uintptr_t)(connection->payload + into),
                                        connection->total - COLL__FRAME_BYTES - into};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    ssize_t sent = sendmsg(connection->watch.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
            connection->blocked = true;
            coll__watch_change(&connection->host->reactor, &connection->watch,
                               COLL__READABLE | COLL__WRITABLE);
        } else {
            coll__tcp_fail(connection, strerror(errno));
        }
        return false;
    }
    connection->sent += (uint32_t)sent;
    return connection->sent == connection->total;
}

void coll__tcp_send(struct tcp_connection *connection)
{
    while (!connection->failed && !connection->blocked) {
        if (!connection->sending) {
            bool again;
            if (!choose(connection, &again))
                break;
            begin(connection, again);
            if (connection->link->fault && connection->slice &&
                (connection->slice->operation || connection->slice->serve) &&
                fault_is_due(connection->link, COLL_FAULT_CUT_CONNECTION)) {
                cut(connection);
                return;
            }
        }
        if (push(connection))
            end(connection);
    }
    if (!connection->failed && !connection->blocked)
        coll__watch_change(&connection->host->reactor, &connection->watch, COLL__READABLE);
}

void coll__tcp_pump(struct tcp_link *link)
{
    struct tcp_connection *connection = link->open;
    while (connection) {
        struct tcp_connection *next = connection->next;
        coll__tcp_send(connection);
        connection = next;
    }
}
