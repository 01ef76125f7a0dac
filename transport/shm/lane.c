/* Frames out and in.
 *
 * Out: an entry in our lane's ring, with its payload behind it or in units; who reads it is woken if
 * he sleeps. In: entries are taken in order and their payload is used where it lies. What the engine
 * holds on to is acknowledged later, by itself, so that it stops nothing but its own units. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reduce/copy.h"
#include "transport/shm/shm.h"

enum { BUDGET = 64 << 10, ENTRIES = 32 }; /* of one link before the others get a turn */

void coll__shm_wake(const struct shm_link *link)
{
    struct shm_link *mine = (struct shm_link *)(uintptr_t)link;
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t nap = atomic_load_explicit(&link->theirs->header.sleeping, memory_order_relaxed);
    if (nap % 2 == 0 || nap == link->woken)
        return;
    mine->woken = nap; /* once for each nap */
    coll__signal(link->wake_fd);
}

/* Somebody waits for what we have just acknowledged. */
static void acknowledge(const struct shm_link *link)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&link->from->starved, memory_order_relaxed))
        coll__shm_wake(link);
}

/* ---- out ------------------------------------------------------------------------------------ */

void coll__shm_settle(struct shm_link *link)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < link->outstanding_count; i++) {
        const struct shm_outstanding *at = &link->outstanding[i];
        if (atomic_load_explicit(&link->from->done[at->unit], memory_order_acquire) == at->number) {
            coll__shm_units_give(coll__shm_of(link->base.host), at->unit);
            link->outstanding_bytes -= at->bytes;
        } else {
            link->outstanding[kept++] = *at;
        }
    }
    link->outstanding_count = kept;
}

static uint32_t entry_bytes(uint32_t length)
{
    return (uint32_t)(sizeof(struct shm_entry) + length + SHM_LINE - 1) & ~(uint32_t)(SHM_LINE - 1);
}

/* Room for an entry of `bytes` in one piece, NULL: not yet. */
static struct shm_entry *place(struct shm_link *link, uint32_t bytes)
{
    uint64_t taken = atomic_load_explicit(&link->from->taken, memory_order_acquire);
    uint64_t room = SHM_RING_BYTES - (link->written - taken);
    uint32_t at = (uint32_t)(link->written % SHM_RING_BYTES), left = SHM_RING_BYTES - at;
    uint32_t skip = left < bytes ? left : 0;
    if (room > SHM_RING_BYTES || room < skip + bytes)
        return NULL;
    if (skip > 0) {
        struct shm_entry *gap = (struct shm_entry *)(link->lane->ring + at);
        gap->bytes = skip;
        gap->skip = 1;
        link->written += skip;
        at = 0;
    }
    return (struct shm_entry *)(link->lane->ring + at);
}

/* Where the payload of a slice is for the reader: units, with one owner more. */
static uint32_t provide(struct shm *shm, const struct coll__slice *slice)
{
    uint32_t unit = slice->staged ? coll__shm_unit_of(shm, slice->staged) : SHM_UNITS;
    if (unit < SHM_UNITS) {
        coll__shm_units_share(shm, unit);
        return unit;
    }
    const struct coll__frame *frame = &slice->frame;
    const struct shm_fan fan = {.fan = slice->fan,
                                .operation = frame->operation,
                                .term = frame->term,
                                .view = frame->view,
                                .group = frame->group,
                                .tag = frame->tag,
                                .offset = frame->offset,
                                .length = frame->length};
    unit = coll__shm_fan_find(shm, &fan);
    if (unit < SHM_UNITS) {
        coll__shm_units_share(shm, unit);
        return unit;
    }
    unit = coll__shm_units_take(shm, slice->frame.length);
    if (unit == SHM_UNITS)
        return SHM_UNITS;
    coll__slice_copy(slice, slice->frame.length, shm->segment->units[unit],
                     shm->units[unit].streamed);
    coll__shm_fan_keep(shm, &fan, unit);
    return unit;
}

static bool publish(struct shm_link *link, struct coll__slice *slice)
{
    struct shm *shm = coll__shm_of(link->base.host);
    struct coll__frame *frame = &slice->frame;
    bool here = frame->length <= SHM_INLINE_BYTES;
    uint32_t bytes = entry_bytes(here ? frame->length : 0);
    if (!here && link->outstanding_count == SHM_OUTSTANDING)
        return false;
    struct shm_entry *entry = place(link, bytes);
    uint32_t unit = SHM_UNITS;
    if (entry && !here)
        unit = provide(shm, slice);
    if (!entry || (!here && unit == SHM_UNITS))
        return false;
    frame->flags |= COLL__FLAG_NO_CRC;
    entry->bytes = bytes;
    entry->skip = 0;
    entry->units = here ? 0 : shm->units[unit].span;
    entry->unit = (uint16_t)unit;
    entry->streamed = here ? 0 : shm->units[unit].streamed;
    entry->number = ++shm->numbers;
    entry->frame = *frame;
    if (here && frame->length > 0)
        coll__slice_copy(slice, frame->length, (uint8_t *)(entry + 1), false);
    if (!here) {
        link->outstanding[link->outstanding_count++] = (struct shm_outstanding){
            .written = link->written,
            .group = frame->group,
            .unit = (uint16_t)unit,
            .number = entry->number,
            .bytes = frame->length};
        link->outstanding_bytes += frame->length;
    }
    link->written += bytes;
    atomic_store_explicit(&link->lane->published, link->written, memory_order_release);
    coll__shm_wake(link);
    return true;
}

void coll__shm_pump(struct shm_link *link)
{
    if (!link->base.up)
        return;
    coll__shm_settle(link);
    coll__shm_of(link->base.host)->stream = atomic_load_explicit(&link->from->streams,
                                                                 memory_order_relaxed);
    atomic_store_explicit(&link->lane->consumed, link->base.eager_consumed, memory_order_release);
    link->base.eager_announced = link->base.eager_consumed;
    coll__peer_consumed(&link->base,
                        atomic_load_explicit(&link->from->consumed, memory_order_acquire));
    struct coll__slice *slice;
    while ((slice = link->pending) ||
           (slice = coll__pull(&link->base, link->outstanding_bytes < SHM_WINDOW_BYTES))) {
        link->pending = slice;
        if (!publish(link, slice)) {
            coll__slice_detach(link->base.host,
                               slice); /* its buffer may change, or go, before there is room */
            break;
        }
        link->pending = NULL;
        uint64_t bytes = sizeof(struct shm_entry) + slice->frame.length;
        coll__count_sent(&link->base, slice, bytes, false);
        link->base.host->counters.sent_bytes += bytes;
        coll__slice_release(link->base.host, slice);
    }
    bool starved = link->pending || link->base.small_flows || link->base.bulk_flows ||
                   link->base.answers;
    atomic_store_explicit(&link->lane->starved, starved, memory_order_relaxed);
    link->starved = starved;
    acknowledge(link);
}

/* ---- in ---------------------------------------------------------------------------------------- */

static bool makes_sense(const struct shm_entry *entry, uint64_t available, uint32_t until_end)
{
    if (entry->bytes < SHM_LINE || entry->bytes % SHM_LINE != 0 || entry->bytes > available ||
        entry->bytes > until_end)
        return false;
    if (entry->skip)
        return true;
    const struct coll__frame *frame = &entry->frame;
    uint32_t here = entry->units == 0 ? frame->length : 0;
    if (frame->length > COLL__PAYLOAD_MAX || entry->bytes != entry_bytes(here) ||
        frame->type == 0 || frame->type >= COLL__FRAME_TYPE_END)
        return false;
    return entry->units == 0 || ((uint64_t)entry->units * SHM_UNIT_BYTES >= frame->length &&
                                 (uint32_t)entry->unit + entry->units <= SHM_UNITS);
}

/* Data are used where they lie, and the engine asks afterwards whether they were there all the time.
 * The rest is copied first. */
static coll_status deliver(struct shm_link *link, const struct shm_entry *entry,
                           const uint8_t *payload)
{
    struct coll__placement placement = {0};
    const struct coll__frame *frame = &entry->frame;
    link->current = entry;
    link->current_held = false;
    if (frame->length == 0 || frame->type == COLL__FRAME_DATA)
        return coll__deliver(&link->base, frame, frame->length > 0 ? payload : NULL, &placement);
    if (frame->type == COLL__FRAME_CHUNK)
        coll__place(&link->base, frame, &placement);
    uint8_t *copy = placement.direct ? NULL : malloc(frame->length);
    uint8_t *to = copy ? copy : placement.direct;
    if (!to)
        return COLL_NO_MEMORY;
    coll__copy(to, payload, frame->length);
    coll_status status = COLL_CLOSED;
    if (coll__shm_intact(&link->base))
        status = coll__deliver(&link->base, frame, to, &placement);
    else
        coll__unplace(&placement);
    free(copy);
    return status;
}

bool coll__shm_has_news(const struct shm_link *link)
{
    if (!link->theirs || link->let_go)
        return false;
    if (atomic_load_explicit(&link->from->published, memory_order_acquire) != link->read)
        return true;
    if (!link->starved || !link->base.up)
        return false;
    for (uint32_t i = 0; i < link->outstanding_count; i++)
        if (atomic_load_explicit(&link->from->done[link->outstanding[i].unit],
                                 memory_order_acquire) == link->outstanding[i].number)
            return true;
    return atomic_load_explicit(&link->from->taken, memory_order_acquire) != link->seen_taken ||
           atomic_load_explicit(&link->from->consumed, memory_order_acquire) !=
               link->base.eager_consumed_by_peer;
}

bool coll__shm_intact(const struct coll__link *base)
{
    const struct shm_link *link = (const struct shm_link *)base;
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&link->from->generation, memory_order_relaxed) == link->generation;
}

static void nonsense(struct shm_link *link, const char *why)
{
    link->base.host->counters.corrupt_frames++;
    link->let_go = link->broken = true;
    coll__shm_detach(link, why);
}

/* What one core has written is in its cache, and another core may read it from there at once, or more
 * slowly than from memory (it is on another part of the chip). That shows in the time that the
 * payload's first lines take, which are needed anyway; the faster way is asked for, and now and then
 * the other one is tried. */
static void judge(struct shm_link *link, const struct shm_entry *entry, const uint8_t *payload)
{
    uint64_t begin = coll__now(), read = 0;
    for (uint32_t at = 0; at < SHM_SAMPLE_BYTES; at += SHM_LINE)
        read += *(const volatile uint64_t *)(payload + at);
    (void)read;
    uint64_t sample = coll__now() - begin;
    uint32_t *cost = &link->cost[entry->streamed != 0];
    if (*cost == 0)
        *cost = (uint32_t)sample;
    if (sample > 4 * (uint64_t)*cost) /* the core was taken away */
        sample = 4 * (uint64_t)*cost;
    *cost = (uint32_t)((7 * (uint64_t)*cost + sample) / 8);
    if (link->cost[0] == 0 || link->cost[1] == 0)
        return;
    uint32_t streams = atomic_load_explicit(&link->lane->streams, memory_order_relaxed);
    if (link->cost[!streams] < link->cost[streams] - link->cost[streams] / 8)
        atomic_store_explicit(&link->lane->streams, !streams, memory_order_relaxed);
}

/* One entry. False: no more of this link now. */
static bool take(struct shm_link *link, uint64_t published)
{
    struct shm *shm = coll__shm_of(link->base.host);
    uint32_t at = (uint32_t)(link->read % SHM_RING_BYTES);
    const uint8_t *from = link->from->ring + at;
    struct shm_entry entry;
    memcpy(&entry, from, SHM_LINE);
    if (entry.bytes > SHM_LINE && !entry.skip && SHM_RING_BYTES - at >= sizeof entry)
        memcpy(&entry, from, sizeof entry);
    bool sensible = makes_sense(&entry, published - link->read, SHM_RING_BYTES - at);
    if (!coll__shm_intact(&link->base)) {
        link->let_go = true;
        coll__shm_detach(link, "it has let this peer go");
        return false;
    }
    if (!sensible) {
        nonsense(link, "what it wrote into shared memory made no sense");
        return false;
    }
    link->read += entry.bytes;
    if (entry.skip)
        return true;
    const uint8_t *payload = entry.units > 0 ? link->theirs->units[entry.unit]
                                             : from + sizeof entry;
    link->base.host->counters.received_bytes += sizeof entry + entry.frame.length;
    if (entry.units > 0)
        judge(link, &entry, payload);
    shm->receiving = link;
    coll_status status = deliver(link, &entry, payload);
    shm->receiving = NULL;
    link->current = NULL;
    if (link->closed)
        return false;
    if (entry.units > 0 && !link->current_held)
        atomic_store_explicit(&link->lane->done[entry.unit], entry.number, memory_order_release);
    if (status == COLL_OK)
        return true;
    link->let_go = true;
    if (coll__shm_intact(&link->base)) {
        link->base.host->counters.corrupt_frames++;
        coll__shm_detach(link, "a frame made no sense");
    } else {
        coll__shm_detach(link, "it has let this peer go");
    }
    return false;
}

void coll__shm_receive(struct shm_link *link)
{
    uint64_t published = atomic_load_explicit(&link->from->published, memory_order_acquire);
    uint64_t begin = link->read;
    for (uint32_t i = 0; link->read != published && i < ENTRIES && link->read - begin < BUDGET;
         i++) {
        bool more = take(link, published);
        if (link->closed) { /* by what came; nobody else frees it */
            coll__shm_free(link);
            return;
        }
        if (!more)
            return;
        if (coll__is_wanted(link->base.host))
            break;
    }
    atomic_store_explicit(&link->lane->taken, link->read, memory_order_release);
    link->seen_taken = atomic_load_explicit(&link->from->taken, memory_order_acquire);
    coll__shm_pump(link);
}

/* As many as leave half of all units to those who hold none, however many readers there are. */
static uint32_t hold_most(const struct shm *shm)
{
    uint32_t share = SHM_UNITS / 2 / shm->link_count;
    return share < SHM_HELD ? share : SHM_HELD;
}

uint64_t coll__shm_hold(struct coll__link *base, const uint8_t *payload)
{
    struct shm_link *link = (struct shm_link *)base;
    const struct shm_entry *current = link->current;
    /* What was kept until its time had come is delivered too, and is not in the segment. */
    if (!current || current->units == 0 || payload != link->theirs->units[current->unit] ||
        link->held + current->units > hold_most(coll__shm_of(base->host)))
        return 0;
    link->held += current->units;
    link->current_held = true;
    return (uint64_t)current->number << 32 | (uint64_t)current->units << 16 | (current->unit + 1u);
}

void coll__shm_release(struct coll__link *base, uint64_t hold)
{
    struct shm_link *link = (struct shm_link *)base;
    link->held -= (uint32_t)(hold >> 16) & 0xFFFF;
    atomic_store_explicit(&link->lane->done[((uint32_t)hold & 0xFFFF) - 1], (uint32_t)(hold >> 32),
                          memory_order_release);
    acknowledge(link);
}
