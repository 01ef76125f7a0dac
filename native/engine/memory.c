/* Memory that is used again: blocks, in sizes of powers of two, and the one large shadow that is kept.
 * Once a small operation has run, the next one like it allocates nothing; and faulting in a fresh
 * buffer per call would dominate large ones. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "reduce/copy.h"
#include "wire/crc32c.h"

enum { KEPT_BLOCKS = 64, KEPT_BYTES = 4 << 20 }; /* of each size; what comes first */
enum { LEAST_BLOCK = 256 };

struct block { /* what the owner of a block does not see */
    _Alignas(max_align_t) struct block *next;
    size_t size; /* its index in engine->blocks */
};

static void *take(struct coll_engine *engine, size_t bytes)
{
    size_t size = 0;
    while (size < COLL__BLOCK_SIZES && (size_t)LEAST_BLOCK << size < bytes)
        size++;
    struct block *block = size < COLL__BLOCK_SIZES ? engine->blocks[size].first : NULL;
    if (block) {
        engine->blocks[size].first = block->next;
        engine->blocks[size].count--;
        return block + 1;
    }
    size_t room = size < COLL__BLOCK_SIZES ? (size_t)LEAST_BLOCK << size : bytes;
    block = malloc(sizeof *block + room);
    if (!block)
        return NULL;
    block->size = size;
    return block + 1;
}

void *coll__take(struct coll_engine *engine, size_t bytes)
{
    return take(engine, bytes);
}

void *coll__take_zeroed(struct coll_engine *engine, size_t bytes)
{
    void *taken = take(engine, bytes);
    if (taken)
        memset(taken, 0, bytes);
    return taken;
}

static bool is_worth_keeping(const struct coll__blocks *blocks, size_t size)
{
#if defined(__SANITIZE_ADDRESS__)
    return (void)blocks, (void)size, false; /* it is to see who uses what was given back */
#else
    return size < COLL__BLOCK_SIZES && blocks->count < KEPT_BLOCKS &&
           (size_t)blocks->count * LEAST_BLOCK << size < KEPT_BYTES;
#endif
}

void coll__give(struct coll_engine *engine, void *taken)
{
    if (!taken)
        return;
    struct block *block = (struct block *)taken - 1;
    struct coll__blocks *blocks = &engine->blocks[block->size];
    if (!is_worth_keeping(blocks, block->size)) {
        free(block);
        return;
    }
    block->next = blocks->first;
    blocks->first = block;
    blocks->count++;
}

struct coll__slice *coll__slice_new(struct coll_engine *engine)
{
    return coll__take_zeroed(engine, sizeof(struct coll__slice));
}

void coll__slice_borrow(struct coll__slice *slice, struct coll__slice **list)
{
    slice->borrow_next = *list;
    if (*list)
        (*list)->borrow_link = &slice->borrow_next;
    slice->borrow_link = list;
    *list = slice;
}

void coll__slice_return(struct coll__slice *slice)
{
    if (!slice->borrow_link)
        return;
    *slice->borrow_link = slice->borrow_next;
    if (slice->borrow_next)
        slice->borrow_next->borrow_link = slice->borrow_link;
    slice->borrow_link = NULL;
}

void coll__slice_unstage(struct coll__slice *slice)
{
    if (slice->staged)
        slice->stager->unstage(&slice->operation->engine->host, slice->staged);
    slice->staged = NULL;
}

void coll__slice_release(struct coll__host *host, struct coll__slice *slice)
{
    struct coll_engine *engine = coll__engine_of(host);
    coll__slice_return(slice);
    coll__slice_unstage(slice);
    coll__give(engine, slice->owned);
    if (slice->operation)
        coll__operation_unref(slice->operation);
    if (slice->serve) {
        slice->serve->slices--;
        coll__serve_returned(engine, slice->serve);
    }
    coll__give(engine, slice);
}

static const uint8_t *base_of(const struct coll__slice *slice)
{
    const struct coll_operation *operation = slice->operation;
    return slice->form == &operation->input_form ? operation->input : operation->output;
}

void coll__slice_copy(const struct coll__slice *slice, uint64_t length, uint8_t *to, bool stream)
{
    if (slice->coded)
        coll__coding_encode(slice, to); /* whole */
    else if (slice->form)
        coll__form_gather(slice->form, base_of(slice), (uint64_t)(slice->payload - base_of(slice)),
                          length, to, stream);
    else if (stream)
        coll__copy_stream(to, slice->payload, length);
    else
        coll__copy(to, slice->payload, length);
}

uint32_t coll__slice_copy_summed(const struct coll__slice *slice, uint8_t *to)
{
    const uint32_t length = slice->frame.length;
    if (slice->coded ||
        (slice->form &&
         !coll__form_is_coarse(slice->form, (uint64_t)(slice->payload - base_of(slice)), length))) {
        coll__slice_copy(slice, length, to, false);
        return coll__crc32c(0, to, length);
    }
    uint32_t crc = 0;
    for (uint64_t done = 0, part; done < length; done += part) {
        part = length - done;
        const uint8_t *from = slice->payload + done;
        if (slice->form)
            from = coll__form_piece(slice->form, (uint8_t *)base_of(slice),
                                    (uint64_t)(from - base_of(slice)), &part);
        crc = coll__crc32c_copy(crc, to + done, from, part);
    }
    return crc;
}

void coll__slice_detach(struct coll__host *host, struct coll__slice *slice)
{
    if (!slice->borrow_link)
        return;
    coll__slice_return(slice);
    slice->owned = coll__take(coll__engine_of(host), slice->frame.length);
    if (slice->owned)
        coll__slice_copy(slice, slice->frame.length, slice->owned, false);
    else
        coll__slice_void(slice);
    slice->form = NULL;
    slice->coded = 0;
    slice->payload = slice->owned;
}

void coll__slice_void(struct coll__slice *slice)
{
    coll__slice_unstage(slice);
    /* If the receiver never had the payload, its window is given back all the same. */
    slice->frame.offset = slice->frame.flags & COLL__FLAG_EAGER ? slice->frame.length : 0;
    slice->frame.type = COLL__FRAME_VOID;
    slice->frame.length = 0;
    slice->payload = NULL;
}

coll_status coll__shadow_take(struct coll_engine *engine, size_t bytes, uint8_t **shadow)
{
    if (engine->shadow && engine->shadow_bytes >= bytes) {
        *shadow = engine->shadow;
        engine->shadow = NULL;
        return COLL_OK;
    }
    uint8_t *fresh = malloc(bytes);
    if (!fresh)
        return coll__error(COLL_NO_MEMORY,
                           "no memory for %zu bytes in which to keep the input of an in-place "
                           "operation; pass COLL_NOT_ATOMIC or a separate output",
                           bytes);
    *shadow = fresh;
    return COLL_OK;
}

void coll__shadow_give(struct coll_engine *engine, uint8_t *shadow, size_t bytes)
{
    if (engine->shadow && engine->shadow_bytes >= bytes) {
        free(shadow);
        return;
    }
    free(engine->shadow);
    engine->shadow = shadow;
    engine->shadow_bytes = bytes;
}

void coll__pools_free(struct coll_engine *engine)
{
    for (uint32_t size = 0; size < COLL__BLOCK_SIZES; size++) {
        while (engine->blocks[size].first) {
            struct block *block = engine->blocks[size].first;
            engine->blocks[size].first = block->next;
            free(block);
        }
        engine->blocks[size].count = 0;
    }
    free(engine->shadow);
    engine->shadow = NULL;
}
