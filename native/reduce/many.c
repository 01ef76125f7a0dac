/* Everything is done a piece at a time, so that what is between two passes stays in L1:
 *
 *      in0[piece], in1[piece]  ──►  partial
 *      partial,    in2[piece]  ──►  partial
 *      partial,    in3[piece]  ──►  kept[piece]  ──►  streamed[piece]
 *
 * The outputs are written when all inputs of the piece have been read (or are read by the same
 * kernel), so an output may be any of the inputs.
 */
#include "reduce/many.h"

#include <stdint.h>
#include <string.h>

#include "reduce/copy.h"

enum { LINE = 64, PIECE = 1024 };

/* The inputs' bytes from `offset` on, combined into `result`. */
static void combine(coll__reduce_fn reduce, void *result, void *partial, const void *const *inputs,
                    size_t n, size_t offset, size_t count)
{
    const void *left = (const char *)inputs[0] + offset;

    for (size_t i = 1; i < n; i++) {
        void *output = i == n - 1 ? result : partial;
        reduce(output, left, (const char *)inputs[i] + offset, count);
        left = output;
    }
}

static void copy(void *streamed, void *kept, const void *from, size_t bytes)
{
    if (streamed != NULL && streamed != from) {
        coll__copy_stream(streamed, from, bytes);
    }
    if (kept != NULL && kept != from) {
        memcpy(kept, from, bytes);
    }
}

void coll__reduce_many(coll__reduce_fn reduce, size_t size, void *streamed, void *kept,
                       const void *const *inputs, size_t n, size_t count)
{
    _Alignas(LINE) char partial[PIECE];
    const size_t bytes = count * size;
    /* The first piece ends where a line of `streamed` does, if the elements allow it. */
    const size_t until_line = (size_t)(-(uintptr_t)streamed % LINE);
    size_t piece = streamed != NULL && until_line % size == 0 ? PIECE - LINE + until_line : PIECE;

    if (n == 1) {
        copy(streamed, kept, inputs[0], bytes);
        return;
    }
    if (n == 2 && streamed == NULL) { /* one pass: nothing is between */
        reduce(kept, inputs[0], inputs[1], count);
        return;
    }
    for (size_t offset = 0; offset < bytes; offset += piece, piece = PIECE) {
        if (piece > bytes - offset) {
            piece = bytes - offset;
        }
        void *const result = kept != NULL ? (char *)kept + offset : partial;
        combine(reduce, result, partial, inputs, n, offset, piece / size);
        if (streamed != NULL) {
            coll__stream((char *)streamed + offset, result, piece);
        }
    }
    if (streamed != NULL) {
        coll__stream_fence();
    }
}
