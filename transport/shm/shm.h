/* Shared-memory transport: between processes of one host that can reach each other's local socket.
 *
 * Each process writes into one segment of its own, which all others map read-only:
 *
 *      ┌────────┬─────────────────────────────────────┬──────────────────────────────────┐
 *      │ header │ lane 0 │ lane 1 │ ...  one per peer │ units: payload, read by anybody  │
 *      └────────┴─────────────────────────────────────┴──────────────────────────────────┘
 *
 * A lane has a ring of frames for its peer, and what we have taken out of the peer's ring towards us:
 * who reads acknowledges in his own segment. Small payloads follow their frame in the ring, others
 * lie in units, and a payload that several peers get lies there once. There is no lock that a dead
 * process could hold. Nothing is overwritten that was not acknowledged, unless the peer was let go:
 * then the lane's generation changes first, so that who was stopped in between knows that what he
 * has read may be torn.
 *
 *   segment.c    our segment: units, and who still reads them
 *   handover.c   how two processes find each other and exchange segments
 *   lane.c       frames out and in
 *   link.c       what the engine asks; life and death of a peer
 */
#ifndef COLL_TRANSPORT_SHM_SHM_H
#define COLL_TRANSPORT_SHM_SHM_H

#include <stdatomic.h>

#include "engine/reactor.h"
#include "engine/transport.h"
#include "wire/frame.h"
#include "wire/hello.h"

enum {
    SHM_LAYOUT = 1,               /* in the socket's name: other layouts do not meet */
    SHM_LINE = 64,
    SHM_LANES = 128,              /* peers on this host */
    SHM_RING_BYTES = 128 << 10,
    SHM_INLINE_BYTES = 8 << 10,   /* up to here a payload follows its frame */
    SHM_UNIT_BYTES = 32 << 10,
    SHM_UNITS = 256,
    SHM_SLICE_BYTES = 128 << 10,  /* what stays in the cache from the writer to the reader */
    SHM_WINDOW_BYTES = 1 << 20, /* unread by one peer, from here on no more bulk */
    SHM_FANS = 16,                /* payloads for several peers that are remembered */
    SHM_TRY = 32,                 /* one payload of so many is written in the other way */
    SHM_SAMPLE_BYTES = 4096,
    SHM_OUTSTANDING = 64,         /* payloads in units that one peer may have unread */
    SHM_HELD = 24 /* units of a peer that we keep at most: half of the window, so that
                                   * an operation that waits for another rank holds up no other */
};

struct shm_header {
    _Alignas(SHM_LINE) uint64_t magic;
    uint32_t layout, lanes, units;
    _Alignas(SHM_LINE) atomic_uint sleeping; /* write to the eventfd if you have something */
    _Alignas(SHM_LINE) atomic_ullong beat; /* grows while the engine runs */
};

struct shm_lane {
    /* as the writer */
    _Alignas(SHM_LINE) atomic_ullong generation; /* odd: in use */
    _Alignas(SHM_LINE) atomic_ullong published; /* bytes written into the ring, ever */
    atomic_uint starved; /* waits for an acknowledgement */
    /* as the reader of the peer's lane for us */
    _Alignas(SHM_LINE) atomic_ullong taken; /* bytes read from its ring, ever */
    atomic_ullong consumed; /* of the eager window */
    atomic_uint streams; /* 1: units are read faster if they were written past the cache */
    _Alignas(SHM_LINE) atomic_uint done[SHM_UNITS]; /* by first unit: the last payload's number */
    _Alignas(SHM_LINE) uint8_t ring[SHM_RING_BYTES];
};

/* One frame in a ring; the payload follows if it has no units. */
struct shm_entry {
    uint32_t bytes; /* with what follows; a multiple of SHM_LINE */
    uint16_t unit, units; /* where the payload is; units 0: here */
    uint32_t number; /* of the payload */
    uint16_t skip; /* nothing but the ring's end */
    uint16_t streamed; /* the units were written past the cache */
    struct coll__frame frame;
};

struct shm_segment {
    struct shm_header header;
    struct shm_lane lanes[SHM_LANES];
    _Alignas(4096) uint8_t units[SHM_UNITS][SHM_UNIT_BYTES];
};

/* Our units: who still needs them. */
struct shm_unit {
    uint16_t span; /* of a payload's first unit: how many it has; else 0 */
    uint16_t owners; /* readers that have not acknowledged, and stages */
    uint32_t taken; /* which payload of all it is */
    bool streamed;
};

/* A payload that more than one peer is sent: whose it is, and in which units. */
struct shm_fan {
    uint64_t operation, term, view, offset;
    uint32_t group, tag, fan, length;
    uint32_t unit, taken;
};

enum shm_state {
    SHM_DOWN, /* no socket */
    SHM_AWAIT_WELCOME, /* dialer */
    SHM_AWAIT_HELLO, /* acceptor, still a stranger */
    SHM_AWAIT_PROOF, /* acceptor */
    SHM_AWAIT_SEGMENT, /* dialer */
    SHM_UP
};

/* A local socket, until the handover is done and as long as both live. */
struct shm_connection {
    struct coll__watch watch; /* first */
    struct coll__host *host;
    struct shm_link *link; /* NULL while the other side is a stranger */
    struct shm_connection *next; /* in shm->strangers */
    enum shm_state state;
    uint64_t deadline;
    uint8_t hello[COLL__HELLO_MAX], welcome[COLL__HELLO_MAX];
    uint32_t hello_length, welcome_length;
    uint8_t key[32], from[16];
};

struct shm_outstanding {
    uint64_t written; /* of the ring, before its entry */
    uint32_t group;
    uint16_t unit;
    uint32_t number;
    uint32_t bytes;
};

struct shm_link {
    struct coll__link base; /* first */
    struct shm_connection *connection;
    const struct shm_segment *theirs; /* NULL: not handed over */
    int wake_fd; /* the peer's eventfd */
    struct shm_lane *lane; /* ours for it */
    const struct shm_lane *from; /* its lane for us */
    uint64_t generation; /* of `from` */
    uint64_t down_since, next_dial;
    uint32_t refusals;
    uint32_t woken; /* the nap out of which we woke it */
    bool was_up, closed;
    bool let_go; /* by the peer: nothing of its lane is good any more */
    bool broken; /* it writes nonsense: never again */
    char why[128];
    /* out */
    uint64_t written; /* bytes of the ring */
    struct coll__slice *pending; /* pulled, and did not fit; it has its own copy */
    struct shm_outstanding outstanding[SHM_OUTSTANDING];
    uint32_t outstanding_count;
    uint64_t outstanding_bytes;
    bool starved; /* something waits for room */
    /* in */
    uint64_t read;
    uint64_t seen_taken; /* what the peer had taken when we last looked */
    uint64_t last_beat, last_heard;
    const struct shm_entry *current; /* that is being delivered */
    bool current_held;
    uint32_t cost[2]; /* of reading a unit, in ns for SHM_UNIT_BYTES: cached, streamed */
    uint32_t held; /* units of the peer */
};

struct shm {
    struct coll__host *host;
    struct coll__watch listener;
    struct shm_segment *segment;
    int segment_fd;
    struct shm_unit units[SHM_UNITS];
    bool lane_used[SHM_LANES];
    uint32_t numbers; /* of payloads, ever */
    uint32_t taken; /* units for payloads, ever */
    struct shm_fan fans[SHM_FANS]; /* the last ones */
    uint32_t next_fan;
    bool stream; /* readers prefer that units are written past the cache */
    struct shm_connection *strangers;
    uint32_t stranger_count;
    uint32_t link_count, turn;
    const struct shm_link *receiving; /* NULL: none; it is not freed meanwhile */
};

extern const struct coll__transport coll__shm_transport;

enum { SHM_SLOT = 1 };

static inline struct shm *coll__shm_of(const struct coll__host *host)
{
    return host->state[SHM_SLOT];
}

/* segment.c */
coll_status coll__shm_segment_make(struct shm *shm);
void coll__shm_segment_free(struct shm *shm);
/* A lane of our own for a peer, NULL: no room. */
struct shm_lane *coll__shm_lane_take(struct shm *shm);
void coll__shm_lane_give(struct shm *shm, struct shm_lane *lane);
uint32_t coll__shm_lane_index(const struct shm *shm, const struct shm_lane *lane);
/* Adjacent units for `bytes`, with one owner; SHM_UNITS: there are none. They say whether to write
 * past the cache. */
uint32_t coll__shm_units_take(struct shm *shm, uint64_t bytes);
/* The units that hold such a payload still, SHM_UNITS: there are none; and what they hold now. */
uint32_t coll__shm_fan_find(const struct shm *shm, const struct shm_fan *wanted);
void coll__shm_fan_keep(struct shm *shm, const struct shm_fan *fan, uint32_t unit);
void coll__shm_units_share(struct shm *shm, uint32_t unit);
void coll__shm_units_give(struct shm *shm, uint32_t unit);
/* The first unit of what lies at `payload`, SHM_UNITS: it is not in the segment. */
uint32_t coll__shm_unit_of(const struct shm *shm, const uint8_t *payload);

/* handover.c */
coll_status coll__shm_listen(struct shm *shm);
/* COLL_UNSUPPORTED: nobody listens, or the peer is on another host. */
coll_status coll__shm_connect(struct coll__host *host, const uint8_t peer[16], int *fd);
/* Begin the handover on a connected socket. */
void coll__shm_dial(struct shm_link *link, int fd);
void coll__shm_drop(struct shm_connection *connection, const char *why);
void coll__shm_tick_strangers(struct shm *shm, uint64_t now);

/* lane.c */
void coll__shm_pump(struct shm_link *link);
/* Take what there is, within a budget. The link may be gone afterwards. */
void coll__shm_receive(struct shm_link *link);
/* Whether there is something to take, or room that we wait for. */
bool coll__shm_has_news(const struct shm_link *link);
void coll__shm_settle(struct shm_link *link);
uint64_t coll__shm_hold(struct coll__link *link, const uint8_t *payload);
void coll__shm_release(struct coll__link *link, uint64_t hold);
bool coll__shm_intact(const struct coll__link *link);
/* The peer has our word that there is something: wake it if it sleeps. */
void coll__shm_wake(const struct shm_link *link);

/* link.c */
void coll__shm_attach(struct shm_link *link, struct shm_connection *connection,
                      const struct shm_segment *theirs, int wake_fd, uint32_t lane,
                      uint64_t generation);
void coll__shm_detach(struct shm_link *link, const char *why);
/* Forget the segments of a link that was up before, so that others can be exchanged. False: the
 * engine still reads the old one. */
bool coll__shm_reset(struct shm_link *link);
void coll__shm_free(struct shm_link *link);

#endif
