/* The interface between the engine and its transports. The engine owns it.
 *
 * A transport moves slices over links and knows nothing of operations. It *pulls* from the engine
 * when it has room (coll__pull), asks where an arriving payload belongs (coll__place), hands over
 * what has arrived whole and verified (coll__deliver), each sequenced frame exactly once, in any
 * order. Everything here runs under the engine's lock.
 */
#ifndef COLL_ENGINE_TRANSPORT_H
#define COLL_ENGINE_TRANSPORT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "collectives.h"
#include "engine/reactor.h"
#include "engine/status.h"
#include "wire/frame.h"

struct coll__link;
struct coll__run;

enum { COLL__TRANSPORT_SLOTS = 4 };
enum { COLL__SLICE_MAX = 256 << 10 }; /* what the engine cuts by itself: stays in the L2 cache */

/* The part of an engine that its transports use. */
struct coll__host {
    struct coll__reactor reactor;
    struct coll_engine_options options;
    struct coll_counters counters;
    uint8_t peer_id[16];
    struct coll__link *links;
    void *state[COLL__TRANSPORT_SLOTS]; /* each transport's own, by its slot */
    atomic_uint wanting; /* threads that wait for the engine's lock; read without it */
};

/* Whether another thread wants to issue or to look: then a transport stops after a frame, though
 * more has come. */
static inline bool coll__is_wanted(const struct coll__host *host)
{
    return atomic_load_explicit(&host->wanting, memory_order_relaxed) > 0;
}

/* A frame on its way out. Made by the engine, owned by the transport from pull until released. */
struct coll__slice {
    struct coll__slice *next; /* in whichever queue it is */
    struct coll_operation *operation; /* whose telemetry it counts in; NULL: control frame */
    const uint8_t *payload; /* NULL: none, or nobody needs it any more (VOID) */
    uint8_t *staged; /* the same bytes in a stage of `stager`, or NULL */
    const struct coll__transport *stager;
    uint8_t *owned; /* what goes with the slice; NULL: payload is borrowed
                                         * from the operation's buffers */
    struct coll__slice *borrow_next, **borrow_link; /* in operation->borrowed, if borrowed */
    struct coll__frame frame;
    const struct coll__form *form; /* payload is a place in an array of this form, for
                                    * coll__slice_copy; NULL: it is in one piece */
    uint32_t step; /* of the plan, which it is a part of */
    uint8_t coded; /* the payload is encoded when it is copied; always with a form */
    uint8_t ready; /* it is encoded already. Both: `range` counts in elements' bytes, as does
                    * frame.offset; frame.length in encoded ones */
    const struct coll__run *paced; /* of the step whose arrivals it may be only so far ahead of */
    uint64_t range; /* while it waits in a flow: how much it stands for, cut when it is pulled */
    struct coll__serve *serve; /* whose answer it is a part of, else NULL */
    uint32_t fan; /* what has the same one in an operation and view has the same payload at the
                   * same offset; 0: nobody else has it */
    uint8_t summed; /* frame.payload_crc is there, unless checksums are off */
};

/* Where an arriving payload goes. */
struct coll__placement {
    struct coll_operation *operation; /* NULL: not for an operation that is issued here */
    struct coll_fetch *fetch; /* whose answer it is a part of, else NULL */
    uint8_t *direct; /* receive right there; NULL: keep it and hand it over */
};

/* A peer's data plane as one transport sees it. The transport extends this struct. */
struct coll__link {
    struct coll_engine *engine; /* for the engine; the transport uses host */
    struct coll__host *host;
    const struct coll__transport *transport;
    struct coll__link *next; /* in host->links */
    uint8_t peer[16];
    char name[64];
    uint32_t references; /* views that use it */
    bool keeps; /* it lasts beyond them */
    bool up; /* can carry frames now */
    uint32_t refused; /* how often since then the peer did not know the view it was dialled with */
    uint32_t goodbyes; /* of these, those that the peer said it leaves */
    bool goodbye; /* all of them, and it is not kept */
    uint32_t lost_reported; /* 0: no; else 1 + how certain it was */
    uint64_t lost_at; /* when that was */
    uint64_t lost_since; /* when there was evidence first; 0: none since it was up */
    struct coll__watch *process; /* the peer's, on this host; NULL: not watched (any more) */
    bool process_died;
    /* outgoing, in order of urgency */
    struct coll__slice *control_head, **control_tail;
    struct coll__flow *small_flows, *bulk_flows; /* rings; NULL when empty */
    struct coll_fetch *fetches; /* what was asked of the peer */
    struct coll__serve *answers; /* to what it asked, in order */
    uint32_t turns; /* of chunks and large operations */
    /* eager window */
    uint64_t eager_sent, eager_consumed_by_peer; /* towards the peer */
    uint64_t eager_received, eager_consumed; /* from the peer */
    uint64_t eager_announced; /* the eager_consumed that the peer was last told */
};

enum coll__polled {
    COLL__POLLED_NEVER, /* there are no links over which something could come like that */
    COLL__POLLED_NOTHING,
    COLL__POLLED_SOME
};

struct coll__transport {
    uint32_t slot; /* in host->state */
    bool local; /* moves bytes within the host */
    uint32_t slice_bytes; /* what it likes best; 0: as the engine chooses */
    bool copies; /* a slice that was pulled is done with at once */
    /* Listen, as the host's options say. */
    coll_status (*start)(struct coll__host *host);
    /* Close what start opened; all links are closed already. Also after a failed start. */
    void (*stop)(struct coll__host *host);
    /* Every 20 ms. `paused`: this process was stopped for a while; no silence counts. */
    void (*tick)(struct coll__host *host, uint64_t now, bool paused);
    /* In a forked child, where locks may be held for ever: close descriptors, and no more. */
    void (*fork_child)(struct coll__host *host);
    /* The i-th address at which others may reach this host; COLL_INVALID_ARGUMENT past the last. */
    coll_status (*address)(struct coll__host *host, uint32_t i, char *buffer, size_t length);
    /* A new link that tries to reach `peer` until it is closed. COLL_UNSUPPORTED: this transport does
     * not reach it, another may. */
    coll_status (*open)(struct coll__host *host, const struct coll_peer *peer,
                        struct coll__link **link);
    void (*close)(struct coll__link *link);
    /* The link may be reached with a new view's key, or at new addresses. */
    coll_status (*update)(struct coll__link *link, const struct coll_peer *peer);
    /* The engine has something to send on the link. */
    void (*kick)(struct coll__link *link);
    /* Stop touching the buffers of an operation, a fetch or an answer: copy what is half sent,
     * drop what is half received. */
    void (*revoke)(struct coll__link *link, const void *owner);
    /* How far it has pulled; and whether the peer has all of a group up to there, and needs none of it
     * here any more. */
    uint64_t (*position)(const struct coll__link *link);
    bool (*passed)(const struct coll__link *link, uint64_t position, uint32_t group);
    /* Why the link is not up: what was tried, for people. */
    void (*explain)(const struct coll__link *link, char *text, size_t length);
    /* Fault injection: coll_inject. */
    coll_status (*inject)(struct coll__link *link, uint32_t fault, uint64_t after_slices);

    /* Only where bytes come without a system call; else NULL. */

    /* Take what has come. */
    enum coll__polled (*poll)(struct coll__host *host);
    /* The driver is going to sleep until the epoll wakes it. False: something has come meanwhile. */
    bool (*doze)(struct coll__host *host);
    void (*rouse)(struct coll__host *host);
    /* The payload that is being delivered stays until it is released; 0: it cannot be kept. */
    uint64_t (*hold)(struct coll__link *link, const uint8_t *payload);
    void (*release)(struct coll__link *link, uint64_t hold);
    /* Whether what was delivered or held is there still: false, once the peer has let us go. */
    bool (*intact)(const struct coll__link *link);
    /* Memory that the readers of every link see; slices may have their payload there. It has one
     * owner, and one more with each restage; NULL: there is none free. *stream: it is better
     * written past the cache. */
    uint8_t *(*stage)(struct coll__host *host, uint64_t bytes, bool *stream);
    void (*restage)(struct coll__host *host, const uint8_t *staged);
    void (*unstage)(struct coll__host *host, const uint8_t *staged);
};

/* All there are, NULL at the end. Defined by the API, which puts the parts together. */
extern const struct coll__transport *const coll__transports[];

/* ---- what a transport calls ------------------------------------------------------------- */

/* The next slice to send on the link, NULL if there is none that may go now. `bulk`: whether it may
 * be one of a large operation. */
struct coll__slice *coll__pull(struct coll__link *link, bool bulk);
/* The transport is done with the slice. */
void coll__slice_release(struct coll__host *host, struct coll__slice *slice);
/* The payload that the slice must now carry itself, because its operation's buffers are going
 * away: copies it. On lack of memory the payload is dropped (the frame becomes VOID). */
void coll__slice_detach(struct coll__host *host, struct coll__slice *slice);
/* Its first `length` bytes, for transports that copy. `stream`: past the cache, if it can be. */
void coll__slice_copy(const struct coll__slice *slice, uint64_t length, uint8_t *to, bool stream);
/* Before a payload is received. Not called for duplicates. */
void coll__place(struct coll__link *link, const struct coll__frame *frame,
                 struct coll__placement *placement);
/* What was placed will not be finished there: it comes again, and is placed again. */
void coll__unplace(struct coll__placement *placement);
/* A sequenced frame has arrived, whole and verified. `payload` is placement->direct or the
 * transport's own buffer. Anything but COLL_OK: the peer talks nonsense, drop the connection. */
coll_status coll__deliver(struct coll__link *link, const struct coll__frame *frame,
                          const uint8_t *payload, const struct coll__placement *placement);
/* The piggybacked `consumed` counter of any frame. */
void coll__peer_consumed(struct coll__link *link, uint64_t consumed);
/* The link can carry frames (again), or can not. */
void coll__link_up(struct coll__link *link);
void coll__link_down(struct coll__link *link);
/* Evidence that the peer is dead; reported once, and again when it gets better. */
void coll__link_lost(struct coll__link *link, const char *text, enum coll_certain certain);
/* The key of a view that links group `group` to `peer`, NULL if this engine has no such view. */
const uint8_t *coll__view_key(struct coll__host *host, uint32_t group, uint64_t term,
                              uint64_t number, const uint8_t peer[16]);
/* Any view whose key this link may be dialled with; false: none. */
bool coll__view_for_link(const struct coll__link *link, uint32_t *group, uint64_t *term,
                         uint64_t *number, const uint8_t **key);
struct coll__link *coll__link_find(struct coll__host *host, const uint8_t peer[16]);
void coll__link_init(struct coll__link *link, struct coll__host *host,
                     const struct coll__transport *transport, const struct coll_peer *peer);
/* Account a slice that left, or a payload that came: telemetry of its operation and link. */
void coll__count_sent(struct coll__link *link, struct coll__slice *slice, uint64_t bytes,
                      bool again);

#endif
