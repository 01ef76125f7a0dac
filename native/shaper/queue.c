/* The rings of bytes and of spans. */
#include "queue.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM (1 << 16)
/* Bytes whose release times are so close share a span, and the later time: so many small messages
 * do not need as many spans, and nothing comes early. */
#define SPAN_NS 50000

void shaper_queue_free(struct shaper_queue *queue)
{
    free(queue->bytes);
    free(queue->spans);
    memset(queue, 0, sizeof *queue);
}

/* Copy the ring's bytes into a larger one. */
static void grow(struct shaper_queue *queue, size_t room)
{
    uint8_t *grown = malloc(room);
    if (!grown)
        return; /* then it stays as it is, and the sender waits */
    struct iovec pieces[2];
    size_t copied = 0;
    for (int i = 0, count = shaper_queue_peek(queue, queue->size, pieces); i < count; i++) {
        memcpy(grown + copied, pieces[i].iov_base, pieces[i].iov_len);
        copied += pieces[i].iov_len;
    }
    free(queue->bytes);
    queue->bytes = grown;
    queue->room = room;
    queue->head = 0;
}

/* Room for one more span. */
static bool span_space(struct shaper_queue *queue)
{
    if (queue->span_count < queue->span_room)
        return true;
    size_t room = queue->span_room ? 2 * queue->span_room : 16;
    struct shaper_span *grown = malloc(room * sizeof *grown);
    if (!grown)
        return false;
    for (size_t i = 0; i < queue->span_count; i++)
        grown[i] = queue->spans[(queue->span_head + i) & (queue->span_room - 1)];
    free(queue->spans);
    queue->spans = grown;
    queue->span_room = room;
    queue->span_head = 0;
    return true;
}

static struct shaper_span *span(const struct shaper_queue *queue, size_t index)
{
    return &queue->spans[(queue->span_head + index) & (queue->span_room - 1)];
}

size_t shaper_queue_space(struct shaper_queue *queue, size_t limit, size_t want,
                          struct iovec pieces[2], int *count)
{
    *count = 0;
    if (queue->size >= limit || !span_space(queue))
        return 0;
    if (want > limit - queue->size)
        want = limit - queue->size;
    if (queue->room - queue->size < want && queue->room < limit) {
        size_t room = queue->room ? 2 * queue->room : FIRST_ROOM;
        grow(queue, room < limit ? room : limit);
    }
    if (queue->size == 0)
        queue->head = 0; /* a queue that is mostly empty uses the same memory again */
    if (want > queue->room - queue->size)
        want = queue->room - queue->size;
    if (want == 0)
        return 0;
    size_t tail = queue->head + queue->size;
    tail -= tail >= queue->room ? queue->room : 0;
    size_t first = queue->room - tail < want ? queue->room - tail : want;
    pieces[(*count)++] = (struct iovec){queue->bytes + tail, first};
    if (first < want)
        pieces[(*count)++] = (struct iovec){queue->bytes, want - first};
    return want;
}

void shaper_queue_commit(struct shaper_queue *queue, size_t bytes, int64_t release)
{
    queue->size += bytes;
    struct shaper_span *last = queue->span_count ? span(queue, queue->span_count - 1) : NULL;
    if (last && release - last->begun <= SPAN_NS) {
        last->bytes += bytes;
        last->release = release;
        return;
    }
    *span(queue, queue->span_count++) = (struct shaper_span){bytes, release, release};
}

size_t shaper_queue_ready(const struct shaper_queue *queue, int64_t now, size_t limit)
{
    size_t ready = 0;
    for (size_t i = 0; i < queue->span_count && ready < limit; i++) {
        if (span(queue, i)->release > now)
            break;
        ready += span(queue, i)->bytes;
    }
    return ready < limit ? ready : limit;
}

int64_t shaper_queue_first(const struct shaper_queue *queue)
{
    return span(queue, 0)->release;
}

int shaper_queue_peek(const struct shaper_queue *queue, size_t bytes, struct iovec pieces[2])
{
    if (bytes == 0)
        return 0;
    size_t first = queue->room - queue->head < bytes ? queue->room - queue->head : bytes;
    pieces[0] = (struct iovec){queue->bytes + queue->head, first};
    pieces[1] = (struct iovec){queue->bytes, bytes - first};
    return first < bytes ? 2 : 1;
}

void shaper_queue_consume(struct shaper_queue *queue, size_t bytes)
{
    queue->size -= bytes;
    queue->head += bytes;
    queue->head -= queue->head >= queue->room ? queue->room : 0;
    while (bytes > 0) {
        struct shaper_span *first = span(queue, 0);
        size_t taken = first->bytes < bytes ? first->bytes : bytes;
        first->bytes -= taken;
        bytes -= taken;
        if (first->bytes == 0) {
            queue->span_head = (queue->span_head + 1) & (queue->span_room - 1);
            queue->span_count--;
        }
    }
}
