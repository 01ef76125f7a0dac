/* Where the parts of an operation lie in the caller's buffers: the plan says which segment, and the
 * call what its ranks' blocks are. Blocks are those of the view that the caller knew; where an
 * operation goes on without members of it, their blocks are passed over in what is sent, and left out
 * of what is received. */
#include <string.h>

#include "engine/engine.h"
#include "plan/plan.h"
#include "wire/crc32c.h"

/* Elements of a rank's block. */
static uint64_t block_of(const uint64_t *counts, uint64_t count, uint32_t rank)
{
    return counts ? counts[rank] : count;
}

/* Of all blocks; false: more than could be. */
static bool total(const uint64_t *counts, uint64_t count, uint32_t size, uint64_t *sum)
{
    *sum = 0;
    for (uint32_t rank = 0; rank < size; rank++) {
        uint64_t block = block_of(counts, count, rank);
        if (block > UINT64_MAX / 64 - *sum)
            return false;
        *sum += block;
    }
    return true;
}

bool coll__has_blocks(uint32_t kind)
{
    return kind == COLL_REDUCE_SCATTER || kind == COLL_ALL_GATHER || kind == COLL_GATHER ||
           kind == COLL_SCATTER || kind == COLL_ALL_TO_ALL;
}

bool coll__packs(uint32_t kind)
{
    return kind == COLL_ALL_GATHER || kind == COLL_GATHER || kind == COLL_ALL_TO_ALL;
}

bool coll__reduces(uint32_t kind)
{
    return kind == COLL_ALL_REDUCE || kind == COLL_REDUCE || kind == COLL_REDUCE_SCATTER;
}

bool coll__extents(const struct coll_call *call, uint32_t rank, uint32_t size,
                   struct coll__extents *extents)
{
    *extents = (struct coll__extents){0};
    if (call->kind == COLL_BARRIER || call->kind == COLL_SYNC)
        return true;
    if (!coll__has_blocks(call->kind)) {
        const bool none = call->kind == COLL_SEND ||
                          (call->kind == COLL_REDUCE && rank != call->root);
        extents->whole = call->count;
        extents->input = call->kind == COLL_RECV ? 0 : call->count;
        extents->output = none ? 0 : call->count;
        return call->count <= UINT64_MAX / 64;
    }
    uint64_t whole, own = block_of(call->counts, call->count, rank), before;
    if (!total(call->counts, call->count, size, &whole) ||
        !total(call->counts, call->count, rank, &before))
        return false;
    extents->whole = whole;
    extents->own = before;
    switch (call->kind) {
    case COLL_REDUCE_SCATTER:
        extents->input = whole;
        extents->output = own;
        break;
    case COLL_ALL_GATHER:
        extents->input = own;
        extents->output = whole;
        break;
    case COLL_GATHER:
        extents->input = own;
        extents->output = rank == call->root ? whole : 0;
        break;
    case COLL_SCATTER:
        extents->input = rank == call->root ? whole : 0;
        extents->output = own;
        break;
    default:
        extents->input = whole;
        if (!total(call->counts ? call->counts_from : NULL, call->count, size, &extents->output))
            return false;
        if (extents->output > whole)
            extents->whole = extents->output;
    }
    return true;
}

static uint64_t *prefix_sums(uint64_t *at, const uint64_t *counts, uint32_t size)
{
    at[0] = 0;
    for (uint32_t rank = 0; rank < size; rank++)
        at[rank + 1] = at[rank] + counts[rank];
    return at;
}

coll_status coll__layout_make(struct coll_operation *operation, const struct coll_call *call)
{
    struct coll__layout *layout = &operation->layout;
    const struct coll__view *view = operation->view;
    layout->count = call->count;
    if (!coll__has_blocks(call->kind))
        return COLL_OK;
    uint32_t size = call->peers ? call->peer_count : view->size;
    size_t sums = (size + (size_t)1) * sizeof(uint64_t);
    layout->block = coll__take(operation->engine,
                               2 * sums + size * sizeof operation->layout.peers[0]);
    if (!layout->block)
        return COLL_NO_MEMORY;
    uint64_t *at = layout->block;
    if (call->counts)
        layout->to = layout->from = prefix_sums(at, call->counts, size);
    if (call->counts && call->kind == COLL_ALL_TO_ALL)
        layout->from = prefix_sums(at + size + 1, call->counts_from, size);
    layout->size = size;
    layout->peers = (uint8_t (*)[16])(at + 2 * (size + (size_t)1));
    for (uint32_t rank = 0; rank < size; rank++)
        memcpy(layout->peers[rank], call->peers ? call->peers + 16 * rank : view->members[rank].id,
               sizeof layout->peers[rank]);
    return COLL_OK;
}

bool coll__layout_fits(const struct coll_operation *operation)
{
    const struct coll__layout *layout = &operation->layout;
    const struct coll__view *view = operation->view;
    const bool resize = operation->asked.flags & COLL_RESIZE;
    uint32_t at = 0;
    for (uint32_t rank = 0; rank < view->size; rank++, at++) {
        while (resize && at < layout->size &&
               memcmp(layout->peers[at], view->members[rank].id, 16) != 0)
            at++;
        if (at == layout->size || memcmp(layout->peers[at], view->members[rank].id, 16) != 0)
            return false;
    }
    return resize || at == layout->size;
}

/* The rank that a member of the view had when the operation was called. */
static uint32_t called(const struct coll_operation *operation, uint32_t rank)
{
    const struct coll__layout *layout = &operation->layout;
    const uint8_t *id = operation->view->members[rank].id;
    uint32_t found = rank; /* members go, and never come: it cannot have been lower */
    while (found < layout->size - 1 && memcmp(layout->peers[found], id, 16) != 0)
        found++;
    return found;
}

/* The block of a rank of the view: [begin, end) in a buffer with all blocks. */
static void block_range(const struct coll__layout *layout, const uint64_t *sums, uint32_t rank,
                        uint64_t *begin, uint64_t *end)
{
    *begin = sums ? sums[rank] : layout->count * rank;
    *end = sums ? sums[rank + 1] : layout->count * (rank + (uint64_t)1);
}

/* The same in a buffer without the blocks of those who are gone. */
static void packed_range(const struct coll_operation *operation, uint32_t rank, uint64_t *begin,
                         uint64_t *end)
{
    const struct coll__layout *layout = &operation->layout;
    uint64_t from, to;
    block_range(layout, layout->from, called(operation, rank), begin, end);
    if (layout->size == operation->view->size)
        return;
    uint64_t length = *end - *begin;
    *begin = 0;
    for (uint32_t before = 0; before < rank; before++) {
        block_range(layout, layout->from, called(operation, before), &from, &to);
        *begin += to - from;
    }
    *end = *begin + length;
}

uint64_t coll__layout_block(const struct coll_operation *operation, uint32_t rank, bool to)
{
    const struct coll__layout *layout = &operation->layout;
    uint64_t begin, end;
    block_range(layout, to ? layout->to : layout->from, called(operation, rank), &begin, &end);
    return end - begin;
}

/* A list for the blocks of all keeps the arrays of those who are there: each block stays in its own. */
static void pass_over(struct coll_operation *operation)
{
    struct coll__form *form = &operation->output_form;
    uint32_t kept = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < form->count; i++) {
        struct coll__part *part = &form->parts[i];
        const uint8_t *peer = operation->layout.peers[part->index];
        if (coll__rank_of(operation->view, peer) == operation->view->size)
            continue;
        part->end = bytes + (part->end - part->begin);
        part->begin = bytes;
        bytes = part->end;
        form->parts[kept++] = *part;
    }
    form->count = kept;
}

void coll__layout_enter(struct coll_operation *operation)
{
    if (operation->output_form.apart)
        pass_over(operation);
    const struct coll__layout *layout = &operation->layout;
    const uint64_t first = coll__layout_block(operation, 0, true);
    bool even = true;
    uint64_t to = 0, from = 0;
    uint32_t digest = 0;
    for (uint32_t rank = 0; rank < operation->view->size; rank++) {
        const uint64_t block = coll__layout_block(operation, rank, true);
        digest = coll__crc32c(digest, &block, sizeof block);
        even = even && block == first;
        to += block;
        from += coll__layout_block(operation, rank, false);
    }
    operation->bytes = (from > to ? from : to) * operation->element;
    if (operation->call.kind == COLL_ALL_TO_ALL) {
        if (layout->to)
            operation->call.count = to;
        return;
    }
    /* Whether the ranks said so or not. */
    operation->call.count = even ? first : to;
    operation->call.digest = even ? 0 : digest;
}

uint64_t coll__layout_own(const struct coll_operation *operation, uint64_t *offset)
{
    uint64_t begin, end;
    block_range(&operation->layout, operation->layout.from,
                called(operation, operation->view->rank), &begin, &end);
    *offset = begin * operation->element;
    return (end - begin) * operation->element;
}

/* Narrow a block to one of its parts; returns where that begins in the block. */
static uint64_t part_of_block(uint32_t parts, uint32_t part, uint64_t *begin, uint64_t *end)
{
    const uint64_t block = *begin;
    uint64_t first, last;
    coll_segment_range(*end - block, parts, part, &first, &last);
    *begin = block + first;
    *end = block + last;
    return first;
}

/* Segments of what is encoded begin with a unit. */
static void segment_range(const struct coll_operation *operation, uint64_t count, uint32_t segments,
                          uint32_t segment, uint64_t *begin, uint64_t *end)
{
    const uint64_t unit = operation->coding ? operation->coding->codec.unit : 1;
    coll_segment_range((count + unit - 1) / unit, segments, segment, begin, end);
    *begin = *begin * unit < count ? *begin * unit : count;
    *end = *end * unit < count ? *end * unit : count;
}

void coll__layout_segment(const struct coll_operation *operation, uint32_t segments,
                          uint32_t segment, struct coll__run *run)
{
    const struct coll__view *view = operation->view;
    const struct coll__layout *layout = &operation->layout;
    const uint32_t size = view->size;
    uint64_t begin = 0, end = layout->count, input = 0, output = 0;
    bool scratch = false;
    switch ((enum coll_kind)operation->call.kind) {
    case COLL_REDUCE_SCATTER:
        block_range(layout, layout->to, called(operation, (segment + size - 1) % size), &begin,
                    &end);
        input = begin;
        scratch = segment != (view->rank + 1) % size;
        break;
    case COLL_SCATTER:
        block_range(layout, layout->to, called(operation, segment), &begin, &end);
        input = begin;
        break;
    case COLL_ALL_GATHER:
    case COLL_GATHER:
        packed_range(operation, segment / (segments / size), &begin, &end);
        input = part_of_block(segments / size, segment % (segments / size), &begin, &end);
        output = begin;
        break;
    case COLL_ALL_TO_ALL:
        if (segment / size == view->rank) {
            block_range(layout, layout->to, called(operation, segment % size), &begin, &end);
            input = begin;
        }
        if (segment % size == view->rank) {
            packed_range(operation, segment / size, &begin, &end);
            output = begin;
        }
        break;
    case COLL_ALL_REDUCE:
    case COLL_REDUCE:
    case COLL_BROADCAST:
    case COLL_BARRIER:
    case COLL_SYNC:
    case COLL_SEND:
    case COLL_RECV:
    case COLL_KIND_COUNT:
        if (segment != COLL_ALL_SEGMENTS)
            segment_range(operation, end, segments, segment, &begin, &end);
        input = begin;
        output = begin;
        scratch = operation->call.kind == COLL_REDUCE && view->rank != operation->call.root;
        break;
    }
    run->input = operation->offset + input * operation->element;
    run->output = operation->offset + output * operation->element;
    run->bytes = (end - begin) * operation->element;
    run->scratch = scratch;
}
