/* Reductions of more than two inputs, and into more than one place. */
#ifndef COLL_REDUCE_MANY_H
#define COLL_REDUCE_MANY_H

#include "reduce/reduce.h"

/* ((inputs[0] op inputs[1]) op inputs[2]) ..., the bits of that many calls of `reduce`, whose
 * elements have `size` bytes. n > 0; with one input this copies.
 *
 * The result goes to `kept` by ordinary stores and to `streamed` past the cache; one of the two may
 * be NULL. Each may be exactly one of the inputs, and there is no other overlap. What is streamed
 * is ordered before later stores of this thread. The caller holds a coll__fpenv. */
void coll__reduce_many(coll__reduce_fn reduce, size_t size, void *streamed, void *kept,
                       const void *const *inputs, size_t n, size_t count);

/* reduce(kept, a, b, count), and the same bytes to `streamed`. */
static inline void coll__reduce_twice(coll__reduce_fn reduce, size_t size, void *streamed,
                                      void *kept, const void *a, const void *b, size_t count)
{
    const void *const inputs[] = {a, b};

    coll__reduce_many(reduce, size, streamed, kept, inputs, 2, count);
}

#endif
