/* The bytes on their way in one direction, and when each may be handed over.
 *
 * A ring of bytes that grows up to the queue limit, and beside it a ring of spans: so many bytes,
 * released then. Neither allocates once it has grown. */
#ifndef SHAPER_QUEUE_H
#define SHAPER_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct shaper_span {
    size_t bytes;
    int64_t begun;   /* release time of the first byte, ns */
    int64_t release; /* of all of them: the latest */
};

struct shaper_queue {
    uint8_t *bytes;
    size_t room, head, size;
    struct shaper_span *spans;
    size_t span_room, span_head, span_count;
};

void shaper_queue_free(struct shaper_queue *queue);

/* Where up to `want` bytes can be written: up to two pieces, and how many bytes they hold. The
 * ring grows for them, never beyond `limit` bytes. 0: it is full (or there is no memory). */
size_t shaper_queue_space(struct shaper_queue *queue, size_t limit, size_t want,
                          struct iovec pieces[2], int *count);
/* `bytes` were written there; they are released at `release`, which never goes back. */
void shaper_queue_commit(struct shaper_queue *queue, size_t bytes, int64_t release);

/* Bytes whose time has come, at most `limit`. */
size_t shaper_queue_ready(const struct shaper_queue *queue, int64_t now, size_t limit);
/* When the first bytes are released; only if there are any. */
int64_t shaper_queue_first(const struct shaper_queue *queue);
/* The first `bytes` of it, as up to two pieces. */
int shaper_queue_peek(const struct shaper_queue *queue, size_t bytes, struct iovec pieces[2]);
void shaper_queue_consume(struct shaper_queue *queue, size_t bytes);

#endif
