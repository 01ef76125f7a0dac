/* Fetching: one peer asks another for bytes by name and gets them straight into its own buffer.
 *
 *     asker                                   source
 *     coll_fetch_start  ── FETCH, request ──► queue of coll_serve_next ──► the server's thread
 *       place           ◄── CHUNK, CHUNK ...  slices of the answer's memory ◄── coll_serve_answer
 *
 * A fetch belongs to a link, not to an operation or a view: it goes on while operations run and
 * views change, as long as the two share a view, committed or prepared. Chunks need no credit,
 * since the asker has provided the place; what is outstanding is bounded by the asker, and what the
 * source keeps of requests by COLL__SERVES_MAX per link. All of it is guarded by the engine's lock.
 */
#ifndef COLL_ENGINE_FETCH_H
#define COLL_ENGINE_FETCH_H

#include <stdbool.h>

#include "collectives.h"
#include "wire/frame.h"

struct coll__link;
struct coll__placement;
struct coll__slice;

enum {
    /* More than an asker may have outstanding: it knows that an answer is complete before the
     * source has the acknowledgement. */
    COLL__SERVES_MAX = 4 * COLL_FETCH_OUTSTANDING,
    COLL__FETCH_SHARE = 4 /* of so many slices one is a chunk's while large operations wait */
};

/* The asker's side. It stays in its link's list until the answer is whole, also if nobody wants it
 * any more: so both ends agree on what is outstanding. */
struct coll_fetch {
    struct coll_fetch *next;    /* in link->fetches */
    struct coll_engine *engine;
    struct coll__link *link;    /* NULL once it is over */
    uint64_t number;            /* of this engine, from 1 */
    uint8_t *place;             /* NULL: nobody wants it any more */
    uint64_t capacity, total, arrived;
    bool begun;                 /* a chunk has come, which told the total */
    bool released;              /* freed when it is over */
    coll_status status;
    char text[160];
};

enum coll__serve_state {
    COLL__SERVE_QUEUED,         /* a request that nobody has looked at */
    COLL__SERVE_TAKEN,          /* the server's thread makes up its answer */
    COLL__SERVE_ANSWERED,       /* slices of it travel */
    COLL__SERVE_DONE,           /* its memory is the server's again, who has yet to be told */
    COLL__SERVE_REVOKED         /* its memory is the server's again, but slices still travel */
};

/* The source's side of one request. */
struct coll__serve {
    struct coll__serve *next;   /* in engine->serving.all, by age */
    struct coll__serve *answer_next;    /* in link->answers, while there is more to cut */
    struct coll__link *link;    /* NULL: the asker is gone */
    enum coll__serve_state state;
    uint64_t ticket, number;
    uint32_t group;
    const uint8_t *data;
    uint64_t bytes, cut;        /* of the answer, and how much of it has become slices */
    uint32_t slices;            /* that exist */
    struct coll__slice *borrowed;       /* of them, those that point into data */
    struct coll_request request;
};

struct coll__serving {
    bool on;
    int fd;                     /* readable while something waits for coll_serve_next */
    uint64_t tickets, fetches;  /* given out so far */
    struct coll__serve *all;
};

/* What a transport and the schedule call. */

/* True for the frames that are handled here. */
static inline bool coll__is_fetch(const struct coll__frame *frame)
{
    return frame->type == COLL__FRAME_FETCH || frame->type == COLL__FRAME_CHUNK;
}

void coll__fetch_place(struct coll__link *link, const struct coll__frame *frame,
                       struct coll__placement *placement);
coll_status coll__fetch_deliver(struct coll__link *link, const struct coll__frame *frame,
                                const uint8_t *payload, const struct coll__placement *placement);
/* The next chunk that waits for the link, NULL if it is not a chunk's turn. */
struct coll__slice *coll__fetch_pull(struct coll__link *link);
/* A slice of an answer is gone. */
void coll__serve_returned(struct coll_engine *engine, struct coll__serve *serve);
/* The peer is lost: what was asked of it ends with an error. */
void coll__fetch_lost(struct coll__link *link, const char *text);
/* The link is being closed: nothing of it may point to it after this. */
void coll__fetch_link_closed(struct coll__link *link);

/* serve.c, for the API */
struct coll__serve *coll__serve_find(struct coll_engine *engine, uint64_t ticket);
void coll__serve_hear(struct coll__link *link, const struct coll__frame *frame,
                      const uint8_t *payload);
void coll__serve_begin(struct coll__serve *serve, const uint8_t *data, uint64_t bytes);
/* Say no, and forget it (or, if its memory is still in use, when that is over). */
void coll__serve_refuse(struct coll_engine *engine, struct coll__serve *serve);
/* Give the answer's memory back at once: what is not sent yet is not sent. */
void coll__serve_revoke(struct coll_engine *engine, struct coll__serve *serve);
void coll__serve_free(struct coll_engine *engine, struct coll__serve *serve);
void coll__serving_close(struct coll_engine *engine);
uint32_t coll__serve_count(const struct coll_engine *engine, const struct coll__link *link);

#endif
