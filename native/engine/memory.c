/* Pools: slices, small buffers, and the one large shadow that is kept. Faulting in a fresh buffer
 * per call would dominate large operations, malloc and free the small ones. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

enum { KEPT_BUFFERS = 16 };

struct coll__slice *coll__slice_new(struct coll_engine *engine)
{
    struct coll__slice *slice = engine->free_slices;
    if (slice)
        engine->free_slices = slice->next;
    else if (!(slice = malloc(sizeof *slice)))
        return NULL;
    memset(slice, 0, sizeof *slice);
    return slice;
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
    if (slice->owned && slice->from_pool)
        coll__buffer_give(engine, slice->owned);
    else
        free(slice->owned);
    if (slice->operation)
        coll__operation_unref(slice->operation);
    if (slice->serve) {
        slice->serve->slices--;
        coll__serve_returned(engine, slice->serve);
    }
    slice->next = engine->free_slices;
    engine->free_slices = slice;
}

void coll__slice_detach(struct coll__slice *slice)
{
    if (!slice->borrow_link)
        return;
    coll__slice_return(slice);
    slice->owned = malloc(slice->frame.length);
    if (slice->owned)
        memcpy(slice->owned, slice->payload, slice->frame.length);
    else
        coll__slice_void(slice);
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

uint8_t *coll__buffer_take(struct coll_engine *engine)
{
    uint8_t *buffer = engine->free_buffers;
    if (!buffer)
        return malloc(COLL__SMALL_BYTES);
    memcpy(&engine->free_buffers, buffer, sizeof engine->free_buffers);
    engine->free_buffer_count--;
    return buffer;
}

void coll__buffer_give(struct coll_engine *engine, uint8_t *buffer)
{
    if (engine->free_buffer_count >= KEPT_BUFFERS) {
        free(buffer);
        return;
    }
    memcpy(buffer, &engine->free_buffers, sizeof engine->free_buffers);
    engine->free_buffers = buffer;
    engine->free_buffer_count++;
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
    while (engine->free_slices) {
        struct coll__slice *slice = engine->free_slices;
        engine->free_slices = slice->next;
        free(slice);
    }
    while (engine->free_buffers) {
        uint8_t *buffer = engine->free_buffers;
        memcpy(&engine->free_buffers, buffer, sizeof engine->free_buffers);
        free(buffer);
    }
    free(engine->shadow);
    engine->shadow = NULL;
}
