/* TCP transport: a link is up to K connections to one peer and the numbering that makes them
 * reliable together. Everything here runs under the engine's lock.
 *
 *   address.c     where to listen, what to tell others, parsing
 *   listen.c      accepting, strangers, start and stop
 *   handshake.c   the hello, on both sides
 *   dial.c        connecting, many addresses, trying again, when refusal means death
 *   link.c        sequence numbers, acknowledgements, re-sending, duplicates
 *   adapt.c       how much is under way, and on how many connections
 *   receive.c     from a socket to the engine
 *   send.c        from the engine to a socket
 */
#ifndef COLL_TRANSPORT_TCP_TCP_H
#define COLL_TRANSPORT_TCP_TCP_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "engine/reactor.h"
#include "engine/transport.h"
#include "wire/frame.h"
#include "wire/hello.h"

enum {
    COLL__WINDOW = 1024,          /* frames that may be unacknowledged */
    COLL__BULK_LEAST = 2 << 20,   /* bytes of large operations that may always be */
    COLL__READ_BYTES = 8192,      /* headers and small payloads are read through a buffer */
    COLL__LISTENERS = 16,
    COLL__ADDRESSES = 32,
    COLL__PENDING = 128           /* accepted connections that have not said who they are */
};

enum tcp_state {
    TCP_CONNECTING,               /* dialer: connect() under way */
    TCP_AWAIT_HELLO,              /* acceptor */
    TCP_AWAIT_WELCOME,            /* dialer */
    TCP_AWAIT_PROOF,              /* acceptor */
    TCP_OPEN                      /* frames */
};

union tcp_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

struct tcp_connection {
    struct coll__watch watch;     /* first: the reactor gives it back */
    struct coll__host *host;
    struct tcp_link *link;        /* NULL while the other side is a stranger */
    struct tcp_connection *next;  /* in link->open, link->dials or tcp->strangers */
    enum tcp_state state;
    bool dialed, failed;
    uint64_t deadline;            /* of the handshake */
    uint32_t address;             /* dialer: index in link->addresses */
    uint16_t slot;
    bool fresh;                   /* acceptor: the dialer has lost all others */
    uint64_t greeted, attached;   /* when the hello came, and the proof */
    uint64_t last_sent, last_heard;
    bool beat;                    /* a heartbeat is due */
    bool retiring;                /* takes nothing new, and says so once it carries nothing */
    bool said_last, heard_last;   /* that nothing more comes on it */
    /* handshake */
    uint8_t hello[COLL__HELLO_MAX], welcome[COLL__HELLO_MAX];
    uint32_t hello_length, welcome_length;
    uint8_t key[32];
    uint8_t from[16];
    /* receiving */
    uint8_t *buffer;
    uint32_t have, at;            /* bytes in buffer, and how many of them are used up */
    bool in_payload, discard;
    struct coll__frame frame;
    struct coll__placement placement;
    uint8_t *staging;             /* payloads without a place of their own */
    uint32_t staging_bytes;
    uint32_t got, crc;            /* of the payload */
    uint32_t frames_in, frames_out;
    /* sending */
    bool sending, blocked, orphan; /* orphan: acknowledged while it was sent again */
    struct coll__slice *slice;    /* NULL: an ALIVE frame */
    const uint8_t *payload;
    uint8_t *corrupted;           /* fault injection's copy */
    uint8_t header[COLL__FRAME_BYTES];
    uint32_t sent, total;
};

struct tcp_entry {                /* of the window */
    struct coll__slice *slice;    /* NULL: acknowledged */
    struct tcp_connection *by;    /* NULL: has to be sent (again) */
    uint32_t bulk;                /* what it took of bulk_limit */
};

struct tcp_trial {                /* whether more connections carry more */
    uint64_t begin, last;         /* when what was changed has shown; when bytes came */
    uint64_t busy, bytes;         /* nanoseconds of traffic since `begin`, and what it was */
    uint64_t rate;                /* bytes a second of the one before; 0: this is the first */
    uint32_t before;              /* connections that it was with */
    bool doubted;                 /* it did not help, and is measured once more */
};

struct tcp_link {
    struct coll__link base;       /* first */
    union tcp_address addresses[COLL__ADDRESSES];
    uint32_t address_count;
    struct tcp_connection *open;  /* authenticated connections */
    uint32_t open_count;
    struct tcp_connection *dials;
    uint32_t dial_count;
    /* dialling */
    uint64_t next_dial;
    uint32_t next_address, failures, refusals, round;
    uint32_t good_address;        /* where the peer was seen; meaningful if good_known */
    bool good_known, good_turn;
    uint32_t barred;              /* addresses where the last attempt failed, a bit each */
    uint64_t down_since;          /* 0: never was up, or is up */
    bool was_up;
    char why[128];                /* the last failure, for people */
    /* sending */
    uint64_t next_sequence;       /* of the next new frame */
    uint64_t acknowledged;        /* by the peer */
    uint32_t to_resend;
    uint64_t retained_bytes;      /* of owned payloads in the window */
    uint64_t bulk_bytes;          /* of large operations' payloads in the window */
    uint64_t bulk_limit;          /* how many of these may be */
    uint64_t acknowledged_bulk, received_bulk; /* since `measured` */
    uint64_t measured, goodput;   /* when that was, and bytes a second until then */
    uint64_t round_trip;          /* the shortest that was seen; 0: none */
    uint32_t wanted;              /* connections */
    struct tcp_trial trial;
    struct tcp_entry window[COLL__WINDOW];
    uint64_t last_sent;
    /* receiving */
    uint64_t received;            /* everything up to this number has arrived */
    uint64_t ahead[COLL__WINDOW / 64]; /* bit n % WINDOW: n > received has arrived */
    uint32_t unacknowledged, unacknowledged_bytes;
    bool acknowledge_now;
    uint64_t last_heard;
    /* fault injection */
    uint32_t fault;
    uint64_t fault_after;
};

struct tcp {
    struct coll__host *host;
    struct tcp_listener {
        struct coll__watch watch;
        struct tcp *tcp;
        union tcp_address address;
        bool muted;               /* out of descriptors: not watched until the next tick */
    } listeners[COLL__LISTENERS];
    uint32_t listener_count;
    union tcp_address advertised[COLL__ADDRESSES];
    uint32_t advertised_count;
    struct tcp_connection *strangers;
    uint32_t stranger_count;
};

extern const struct coll__transport coll__tcp_transport;

enum { TCP_SLOT = 0 };

static inline struct tcp *coll__tcp_of(const struct coll__host *host)
{
    return host->state[TCP_SLOT];
}

/* address.c */
socklen_t coll__tcp_length(const union tcp_address *address);
uint16_t coll__tcp_port(const union tcp_address *address);
void coll__tcp_set_port(union tcp_address *address, uint16_t port);
/* The same host; ports do not matter. */
bool coll__tcp_same_host(const union tcp_address *a, const union tcp_address *b);
coll_status coll__tcp_parse(const char *text, union tcp_address *address);
void coll__tcp_format(const union tcp_address *address, char *text, size_t length);
/* The addresses to listen on (without ports), from bind and interface. */
coll_status coll__tcp_bind_list(const char *bind, const char *interface, union tcp_address *list,
                                uint32_t *count);
/* Those that others may reach a listener at: itself, or for a wildcard the host's. */
void coll__tcp_expand(const union tcp_address *listening, union tcp_address *list, uint32_t *count);
/* The interface's address of this family, for dialling from. False: it has none. */
bool coll__tcp_source(const char *interface, int family, union tcp_address *source);
void coll__tcp_socket_options(struct coll__host *host, int fd);
/* An error if the kernel does not have the congestion control that the options name. */
coll_status coll__tcp_check_congestion(const struct coll__host *host);
/* Once the round trip is known. */
void coll__tcp_choose_congestion(struct coll__host *host, int fd);
/* What the kernel takes it for, in nanoseconds; 0: it does not say. */
uint64_t coll__tcp_round_trip(int fd);

/* listen.c */
coll_status coll__tcp_start(struct coll__host *host);
void coll__tcp_stop(struct coll__host *host);
void coll__tcp_tick(struct coll__host *host, uint64_t now, bool paused);
void coll__tcp_fork_child(struct coll__host *host);
coll_status coll__tcp_address(struct coll__host *host, uint32_t i, char *buffer, size_t length);
struct tcp_connection *coll__tcp_connection_new(struct coll__host *host, int fd,
                                                enum tcp_state state);
void coll__tcp_connection_dispose(struct coll__watch *watch);
void coll__tcp_ready(struct coll__watch *watch, uint32_t events);
void coll__tcp_remove(struct tcp_connection **list, struct tcp_connection *connection);

/* handshake.c: read what there is and go on as far as it reaches. */
void coll__tcp_handshake(struct tcp_connection *connection);
void coll__tcp_say_hello(struct tcp_connection *connection);

/* dial.c */
void coll__tcp_dial(struct tcp_link *link, uint64_t now);
void coll__tcp_dial_failed(struct tcp_connection *connection, int error, const char *why);
void coll__tcp_drop_dials(struct tcp_link *link);
bool coll__tcp_dials_first(const struct tcp_link *link);
bool coll__tcp_opens_more(const struct tcp_link *link);

/* link.c */
void coll__tcp_attach(struct tcp_link *link, struct tcp_connection *connection);
/* The connection is no good any more: close it and repair what it carried. */
void coll__tcp_fail(struct tcp_connection *connection, const char *why);
void coll__tcp_acknowledged(struct tcp_link *link, uint64_t upto);
/* False: a duplicate. */
bool coll__tcp_is_new(const struct tcp_link *link, uint64_t sequence);
void coll__tcp_mark(struct tcp_link *link, const struct coll__frame *frame);
void coll__tcp_link_tick(struct tcp_link *link, uint64_t now, bool paused);

/* adapt.c */
void coll__tcp_learn_round_trip(struct tcp_link *link, const struct tcp_connection *connection);
void coll__tcp_adapt(struct tcp_link *link, uint64_t now);

/* receive.c, send.c */
void coll__tcp_receive(struct tcp_connection *connection);
void coll__tcp_send(struct tcp_connection *connection);
void coll__tcp_pump(struct tcp_link *link);

#endif
