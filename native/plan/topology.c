/* Topologies: who is near whom. Levels are groups in groups; see struct coll_topology. */
#include <stdlib.h>
#include <string.h>

#include "plan/plan.h"

struct placed {
    uint32_t inner, outer;
};

static int by_place(const void *a, const void *b)
{
    const struct placed *one = a, *other = b;
    return (one->inner > other->inner) - (one->inner < other->inner);
}

/* `coded`: a level within this one encodes, so that what it loses all have lost. */
static bool check_setting(const struct coll_level *setting, bool *coded)
{
    if ((setting->plan != 0 && setting->plan != 1 + COLL_DIRECT &&
         setting->plan != 1 + COLL_RING) ||
        setting->transport > COLL_TRANSPORT_TCP || setting->codec > COLL_LEVEL_CODEC_CALL ||
        (*coded && setting->codec == COLL_LEVEL_CODEC_NONE))
        return false;
    *coded |= setting->codec == COLL_LEVEL_CODEC_CALL;
    return true;
}

uint32_t coll__topology_level(const struct coll_topology *topology, uint32_t size, uint32_t a,
                              uint32_t b)
{
    uint32_t level = 0;
    while (topology && level < topology->levels &&
           topology->places[(size_t)level * size + a] != topology->places[(size_t)level * size + b])
        level++;
    return level;
}

uint32_t coll__topology_coded(const struct coll_topology *topology)
{
    const uint32_t outermost = topology ? topology->levels : 0;
    for (uint32_t level = 0; topology && level < topology->setting_count && level <= outermost;
         level++) {
        const uint32_t codec = topology->settings[level].codec;
        if (codec == COLL_LEVEL_CODEC_CALL)
            return level;
        if (codec == COLL_LEVEL_CODEC_NONE && level == outermost)
            return UINT32_MAX;
    }
    return outermost;
}

coll_status coll__topology_check(const struct coll_topology *topology, uint32_t size)
{
    if (topology->levels > COLL_LEVELS_MAX || topology->choice_count > COLL_CHOICES_MAX ||
        (topology->levels > 0 && topology->places == NULL) ||
        (topology->choice_count > 0 && topology->choices == NULL) ||
        topology->setting_count > COLL_LEVELS_MAX + 1 ||
        (topology->setting_count > 0 && topology->settings == NULL))
        return COLL_INVALID_ARGUMENT;
    coll_status status = COLL_OK;
    bool coded = false;
    for (uint32_t level = 0; level < topology->setting_count; level++)
        if (!check_setting(&topology->settings[level], &coded))
            return COLL_INVALID_ARGUMENT;
    if (topology->levels < 2)
        return COLL_OK;
    struct placed *placed = calloc(size, sizeof *placed);
    if (placed == NULL)
        return COLL_NO_MEMORY;
    for (uint32_t level = 0; level + 1 < topology->levels; level++) {
        const uint32_t *inner = topology->places + (size_t)level * size, *outer = inner + size;
        for (uint32_t rank = 0; rank < size; rank++)
            placed[rank] = (struct placed){inner[rank], outer[rank]};
        qsort(placed, size, sizeof *placed, by_place);
        for (uint32_t i = 1; i < size; i++)
            if (placed[i].inner == placed[i - 1].inner && placed[i].outer != placed[i - 1].outer)
                status = COLL_INVALID_ARGUMENT;
    }
    free(placed);
    return status;
}

struct coll_topology *coll__topology_copy(const struct coll_topology *topology, uint32_t size,
                                          const uint32_t *ranks, uint32_t count)
{
    /* One block, the widest alignment first. */
    const size_t choices = topology->choice_count * sizeof *topology->choices;
    const size_t settings = topology->setting_count * sizeof *topology->settings;
    const size_t places = (size_t)topology->levels * count * sizeof *topology->places;
    struct coll_topology *copy = malloc(sizeof *copy + choices + settings + places);
    if (copy == NULL)
        return NULL;
    struct coll_choice *choice = (struct coll_choice *)(copy + 1);
    struct coll_level *setting = (struct coll_level *)(choice + topology->choice_count);
    uint32_t *place = (uint32_t *)(setting + topology->setting_count);
    *copy = *topology;
    copy->choices = choice;
    copy->settings = setting;
    copy->places = place;
    if (choices > 0)
        memcpy(choice, topology->choices, choices);
    if (settings > 0)
        memcpy(setting, topology->settings, settings);
    for (uint32_t level = 0; level < topology->levels; level++)
        for (uint32_t i = 0; i < count; i++)
            *place++ = topology->places[(size_t)level * size + (ranks ? ranks[i] : i)];
    return copy;
}
