/* Reductions of more than two inputs, and into more than one place. */
#ifndef COLL_REDUCE_MANY_H
#define COLL_REDUCE_MANY_H

#include <stdbool.h>

#include "reduce/reduce.h"

struct coll__reduction {
    coll__reduce_fn reduce;
    coll__divide_fn divide; /* of the result; NULL: none */
    uint32_t divisor;
    size_t element; /* bytes */
};

/* A place of the result: by ordinary stores, or past the cache. */
struct coll__sink {
    void *at;
    bool stream;
};

/* ((inputs[0] op inputs[1]) op inputs[2]) ..., the bits of that many calls of `reduce`, divided if so
 * asked; n > 0. A sink may be exactly one of the inputs, and there is no other overlap. What is
 * streamed is not ordered before anything until coll__stream_fence. The caller holds a coll__fpenv. */
void coll__reduce_many(const struct coll__reduction *reduction, const struct coll__sink *sinks,
                       size_t sink_count, const void *const *inputs, size_t n, size_t count);

#endif
