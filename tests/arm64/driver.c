/* Runs kernels of libcollectives on what it reads from standard input, and writes what they write: so
 * that those of another architecture, under an emulator, can be compared with those of this one.
 *
 * A request is `struct request`, then `in` bytes of input, then `out` bytes that the output holds at
 * first; an answer is a status (4 bytes), then the output. */
#include <stdio.h>
#include <stdlib.h>

#include "collectives.h"
#include "engine/status.h"

enum { ENCODE, DECODE, DECODE_ADD, REDUCE, DIVIDE, SCALE, CRC32C, SPLIT, MERGE };

struct request {
    uint32_t function, dtype, op, divisor;
    struct coll_codec codec;
    uint64_t first, count, rotation, rounding, in, out;
    double factor;
};

/* The library's own has a buffer per thread, and the rest of the engine behind it. */
coll_status coll__error(coll_status status, const char *format, ...)
{
    (void)format;
    return status;
}

/* `out` is the other operand, too, of what has two. */
static coll_status answer(const struct request *r, const uint8_t *in, uint8_t *out)
{
    const uint32_t isa = COLL_ISA_AUTO;

    switch (r->function) {
    case ENCODE:
        return coll_encode_local(out, in, r->first, r->count, r->dtype, &r->codec, r->rotation,
                                 r->rounding, isa);
    case DECODE:
        return coll_decode_local(out, in, r->first, r->count, r->dtype, &r->codec, r->rotation,
                                 isa);
    case DECODE_ADD:
        return coll_decode_add_local(out, in, r->first, r->count, r->dtype, &r->codec, r->rotation,
                                     isa);
    case REDUCE:
        return coll_reduce_local(out, in, out, r->count, r->dtype, r->op, isa);
    case DIVIDE:
        return coll_divide_local(out, r->count, r->dtype, r->divisor, isa);
    case SCALE:
        return coll_scale_local(out, r->count, r->dtype, r->factor, isa);
    case CRC32C:
        *(uint32_t *)(void *)out = coll_crc32c(r->divisor, in, r->in, isa);
        return COLL_OK;
    case SPLIT:
        return coll_planes_split(out, in, r->count, r->divisor);
    case MERGE:
        return coll_planes_merge(out, in, r->count, r->divisor);
    }
    return COLL_INVALID_ARGUMENT;
}

int main(void)
{
    struct request request;

    while (fread(&request, sizeof request, 1, stdin) == 1) {
        uint8_t *in = malloc(request.in + 1), *out = malloc(request.out + 8);
        if (in == NULL || out == NULL || fread(in, 1, request.in, stdin) != request.in ||
            fread(out, 1, request.out, stdin) != request.out) {
            return 1;
        }
        const coll_status status = answer(&request, in, out);
        fwrite(&status, sizeof status, 1, stdout);
        fwrite(out, 1, request.out, stdout);
        free(in);
        free(out);
    }
    return ferror(stdout) || fclose(stdout) ? 1 : 0;
}
