/* Our own segment. Its size never changes: it is sealed, so that no reader can be made to fault, and
 * memory is given to a part of it before the part is used. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "transport/shm/shm.h"

static const uint64_t MAGIC = 0x6D68732D6C6C6F63; /* "coll-shm" */

static coll_status provide(struct shm *shm, size_t offset, size_t bytes)
{
    size_t begin = offset & ~(size_t)4095, end = (offset + bytes + 4095) & ~(size_t)4095;
    int failed;
    do
        failed = fallocate(shm->segment_fd, 0, (off_t)begin, (off_t)(end - begin));
    while (failed != 0 && errno == EINTR);
    if (failed != 0)
        return coll__error(COLL_NO_MEMORY,
                           "no shared memory for %zu bytes (%s); raise the memory limit, or choose"
                           " the transport tcp",
                           end - begin, strerror(errno));
    return COLL_OK;
}

coll_status coll__shm_segment_make(struct shm *shm)
{
    shm->segment_fd = memfd_create("collectives", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (shm->segment_fd < 0)
        return coll__error(COLL_SYSTEM_ERROR, "cannot make shared memory: %s", strerror(errno));
    if (ftruncate(shm->segment_fd, sizeof(struct shm_segment)) != 0 ||
        fcntl(shm->segment_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return coll__error(COLL_SYSTEM_ERROR, "cannot size shared memory: %s", strerror(errno));
    void *at = mmap(NULL, sizeof(struct shm_segment), PROT_READ | PROT_WRITE, MAP_SHARED,
                    shm->segment_fd, 0);
    if (at == MAP_FAILED)
        return coll__error(COLL_SYSTEM_ERROR, "cannot map shared memory: %s", strerror(errno));
    /* A forked child has no business here. */
    madvise(at, sizeof(struct shm_segment), MADV_DONTFORK);
    shm->segment = at;
    COLL_TRY(provide(shm, 0, sizeof(struct shm_header)));
    shm->segment->header.magic = MAGIC;
    shm->segment->header.layout = SHM_LAYOUT;
    shm->segment->header.lanes = SHM_LANES;
    shm->segment->header.units = SHM_UNITS;
    return COLL_OK;
}

void coll__shm_segment_free(struct shm *shm)
{
    if (shm->segment)
        munmap(shm->segment, sizeof *shm->segment);
    if (shm->segment_fd >= 0)
        close(shm->segment_fd);
    shm->segment = NULL;
    shm->segment_fd = -1;
}

struct shm_lane *coll__shm_lane_take(struct shm *shm)
{
    uint32_t i = 0;
    while (i < SHM_LANES && shm->lane_used[i])
        i++;
    if (i == SHM_LANES) {
        coll__error(COLL_UNSUPPORTED, "more than %d peers on this host", SHM_LANES);
        return NULL;
    }
    struct shm_lane *lane = &shm->segment->lanes[i];
    if ((shm->link_count == 0 && provide(shm, offsetof(struct shm_segment, units),
                                         sizeof shm->segment->units) != COLL_OK) ||
        provide(shm, (size_t)((uint8_t *)lane - (uint8_t *)shm->segment), sizeof *lane) != COLL_OK)
        return NULL;
    shm->link_count++;
    shm->lane_used[i] = true;
    atomic_store(&lane->published, 0);
    atomic_store(&lane->starved, 0);
    atomic_store(&lane->taken, 0);
    atomic_store(&lane->consumed, 0);
    atomic_store(&lane->streams, 0);
    for (uint32_t unit = 0; unit < SHM_UNITS; unit++)
        atomic_store_explicit(&lane->done[unit], 0, memory_order_relaxed);
    atomic_fetch_add(&lane->generation, 1);
    return lane;
}

void coll__shm_lane_give(struct shm *shm, struct shm_lane *lane)
{
    /* Before anything in it, or in a unit that it named, is written again. */
    atomic_fetch_add(&lane->generation, 1);
    atomic_thread_fence(memory_order_seq_cst);
    shm->lane_used[coll__shm_lane_index(shm, lane)] = false;
    shm->link_count--;
}

uint32_t coll__shm_lane_index(const struct shm *shm, const struct shm_lane *lane)
{
    return (uint32_t)(lane - shm->segment->lanes);
}

uint32_t coll__shm_units_take(struct shm *shm, uint64_t bytes)
{
    uint32_t span = (uint32_t)((bytes + SHM_UNIT_BYTES - 1) / SHM_UNIT_BYTES);
    /* The first that fit: they were used last, and are still in the cache. */
    for (uint32_t unit = 0; unit + span <= SHM_UNITS;) {
        uint32_t free_units = 0;
        while (free_units < span && shm->units[unit + free_units].span == 0)
            free_units++;
        if (free_units == span) {
            shm->units[unit] = (struct shm_unit){
                .span = (uint16_t)span,
                .owners = 1,
                .taken = ++shm->taken,
                .streamed = shm->stream != (shm->taken % SHM_TRY == 0),
            };
            for (uint32_t i = 1; i < span; i++)
                shm->units[unit + i].span = 1; /* taken; it has no owners of its own */
            return unit;
        }
        unit += free_units + shm->units[unit + free_units].span;
    }
    return SHM_UNITS;
}

static bool is_same(const struct shm_fan *a, const struct shm_fan *b)
{
    return a->fan == b->fan && a->operation == b->operation && a->term == b->term &&
           a->view == b->view && a->group == b->group && a->tag == b->tag &&
           a->offset == b->offset && a->length == b->length;
}

uint32_t coll__shm_fan_find(const struct shm *shm, const struct shm_fan *wanted)
{
    for (uint32_t i = 0; wanted->fan && i < SHM_FANS; i++) {
        const struct shm_fan *fan = &shm->fans[i];
        if (is_same(fan, wanted) && shm->units[fan->unit].owners > 0 &&
            shm->units[fan->unit].taken == fan->taken)
            return fan->unit;
    }
    return SHM_UNITS;
}

void coll__shm_fan_keep(struct shm *shm, const struct shm_fan *fan, uint32_t unit)
{
    if (!fan->fan)
        return;
    struct shm_fan *kept = &shm->fans[shm->next_fan++ % SHM_FANS];
    *kept = *fan;
    kept->unit = unit;
    kept->taken = shm->units[unit].taken;
}

void coll__shm_units_share(struct shm *shm, uint32_t unit)
{
    shm->units[unit].owners++;
}

void coll__shm_units_give(struct shm *shm, uint32_t unit)
{
    if (--shm->units[unit].owners > 0)
        return;
    uint32_t span = shm->units[unit].span;
    memset(&shm->units[unit], 0, span * sizeof *shm->units);
}

uint32_t coll__shm_unit_of(const struct shm *shm, const uint8_t *payload)
{
    const uint8_t *first = shm->segment ? shm->segment->units[0] : NULL;
    if (!first || payload < first || payload >= first + sizeof shm->segment->units)
        return SHM_UNITS;
    return (uint32_t)((size_t)(payload - first) / SHM_UNIT_BYTES);
}
