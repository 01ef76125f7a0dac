/* Everything is done a piece at a time, so that what is between two passes stays in L1:
 *
 *      in0[piece], in1[piece]  ──►  partial
 *      partial,    in2[piece]  ──►  partial
 *      partial,    in3[piece]  ──►  a sink  ──►  the other sinks
 *
 * The outputs are written when all inputs of the piece have been read (or are read by the same
 * kernel), so an output may be any of the inputs.
 */
#include "reduce/many.h"

#include <stdint.h>
#include <string.h>

#include "reduce/copy.h"

enum { LINE = 64, PIECE = 1024, AHEAD = 4 * PIECE };

/* The inputs' bytes from `offset` on, combined into `result`. */
static void combine(const struct coll__reduction *reduction, void *result, void *partial,
                    const void *const *inputs, size_t n, size_t offset, size_t count)
{
    const void *left = (const char *)inputs[0] + offset;

    if (n == 1 && result != left) {
        memcpy(result, left, count * reduction->element);
    }
    for (size_t i = 1; i < n; i++) {
        void *output = i == n - 1 ? result : partial;
        reduction->reduce(output, left, (const char *)inputs[i] + offset, count);
        left = output;
    }
    if (reduction->divide != NULL) {
        reduction->divide(result, count, reduction->divisor);
    }
}

/* What a stream out of memory brings late, since the CPU's own prefetcher starts anew with each piece. */
static void prefetch(const void *const *inputs, size_t n, size_t offset, size_t bytes)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t line = 0; line < bytes; line += LINE) {
            __builtin_prefetch((const char *)inputs[i] + offset + line, 0, 3);
        }
    }
}

void coll__reduce_many(const struct coll__reduction *reduction, const struct coll__sink *sinks,
                       size_t sink_count, const void *const *inputs, size_t n, size_t count)
{
    _Alignas(LINE) char partial[PIECE];
    const struct coll__sink *kept = NULL, *streamed = NULL;
    const size_t bytes = count * reduction->element;

    for (size_t i = 0; i < sink_count; i++) {
        kept = sinks[i].stream || kept != NULL ? kept : &sinks[i];
        streamed = sinks[i].stream ? &sinks[i] : streamed;
    }
    if (n == 2 && sink_count == 1 && kept != NULL && reduction->divide == NULL) {
        reduction->reduce(kept->at, inputs[0], inputs[1], count); /* nothing is between */
        return;
    }
    /* The first piece ends where a line of what is streamed does, if the elements allow it. */
    const size_t until_line = streamed != NULL ? (size_t)(-(uintptr_t)streamed->at % LINE) : 0;
    size_t piece = until_line > 0 && until_line % reduction->element == 0
                       ? PIECE - LINE + until_line
                       : PIECE;
    for (size_t offset = 0; offset < bytes; offset += piece, piece = PIECE) {
        if (piece > bytes - offset) {
            piece = bytes - offset;
        }
        if (streamed != NULL) {
            prefetch(inputs, n, offset + AHEAD, piece);
        }
        void *const result = kept != NULL ? (char *)kept->at + offset : partial;
        combine(reduction, result, partial, inputs, n, offset, piece / reduction->element);
        for (size_t i = 0; i < sink_count; i++) {
            char *at = (char *)sinks[i].at + offset;
            if (sinks[i].stream) {
                coll__stream(at, result, piece);
            } else if (at != result) {
                memcpy(at, result, piece);
            }
        }
    }
}
