/* Byte planes: the bytes of floats, sorted by what they mean, so that a coder of bytes finds in them
 * what there is to find.
 *
 *      f32         s e e e e e e e | e m m m m m m m | m m m m m m m m | m m m m m m m m
 *      rotated     e e e e e e e e | m m m m m m m m | m m m m m m m m | m m m m m m m s
 *      plane             0                 1                 2                 3
 *
 * The exponents of weights are few; their signs and mantissas are as good as random. Rotating the sign
 * to the other end leaves the exponents a plane of their own.
 *
 * Compilers make shuffles of these loops, also for baseline x86-64: 2 to 20 GB/s, beside coders that do
 * less than one. So there are no kernels by instruction set. */
#include "collectives.h"

#include <string.h>

#define SHIFT(type, plane) (8 * (sizeof(type) - 1 - (plane)))
#define DEFINE_PLANES(type)                                                              \
    static void split_##type(uint8_t *restrict planes, const uint8_t *restrict elements, \
                             size_t count)                                               \
    {                                                                                    \
        for (size_t i = 0; i < count; i++) {                                             \
            type v;                                                                      \
            memcpy(&v, elements + i * sizeof v, sizeof v);                               \
            v = (type)(v << 1 | v >> (8 * sizeof v - 1));                                \
            for (size_t p = 0; p < sizeof v; p++) {                                      \
                planes[p * count + i] = (uint8_t)(v >> SHIFT(type, p));                  \
            }                                                                            \
        }                                                                                \
    }                                                                                    \
    static void merge_##type(uint8_t *restrict elements, const uint8_t *restrict planes, \
                             size_t count)                                               \
    {                                                                                    \
        for (size_t i = 0; i < count; i++) {                                             \
            type v = 0;                                                                  \
            for (size_t p = 0; p < sizeof v; p++) {                                      \
                v = (type)(v | (type)((type)planes[p * count + i] << SHIFT(type, p)));   \
            }                                                                            \
            v = (type)(v >> 1 | v << (8 * sizeof v - 1));                                \
            memcpy(elements + i * sizeof v, &v, sizeof v);                               \
        }                                                                                \
    }

DEFINE_PLANES(uint16_t)
DEFINE_PLANES(uint32_t)
DEFINE_PLANES(uint64_t)

typedef void (*planes_fn)(uint8_t *restrict to, const uint8_t *restrict from, size_t count);

/* `by_width` has the functions for 2, 4 and 8 bytes. */
static coll_status apply(const planes_fn by_width[3], void *to, const void *from, uint64_t count,
                         uint32_t width)
{
    const planes_fn function = width == 2   ? by_width[0]
                               : width == 4 ? by_width[1]
                               : width == 8 ? by_width[2]
                                            : NULL;

    if (function == NULL || count > SIZE_MAX / width) {
        return COLL_INVALID_ARGUMENT;
    }
    if (count == 0) {
        return COLL_OK;
    }
    if (to == NULL || from == NULL) {
        return COLL_INVALID_ARGUMENT;
    }
    function(to, from, (size_t)count);
    return COLL_OK;
}

coll_status coll_planes_split(void *planes, const void *elements, uint64_t count, uint32_t width)
{
    static const planes_fn split[3] = {split_uint16_t, split_uint32_t, split_uint64_t};

    return apply(split, planes, elements, count, width);
}

coll_status coll_planes_merge(void *elements, const void *planes, uint64_t count, uint32_t width)
{
    static const planes_fn merge[3] = {merge_uint16_t, merge_uint32_t, merge_uint64_t};

    return apply(merge, elements, planes, count, width);
}
