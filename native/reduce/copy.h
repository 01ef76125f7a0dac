/* Copies past the cache: for what this core will not read again soon.
 *
 * An ordinary store to a line that is not in the cache reads the line first, so a copy to memory
 * moves three bytes per byte copied; a non-temporal store moves two, and evicts nothing. Where the
 * destination is in the cache, or will be read from it, ordinary stores are faster. */
#ifndef COLL_REDUCE_COPY_H
#define COLL_REDUCE_COPY_H

#include <stddef.h>

/* memcpy, for payloads. The C library's may choose `rep movsb`, which some CPUs (AMD Zen 3 and 4)
 * carry out a byte at a time when the destination's place in its page is up to 31 bytes behind the
 * source's; and that is where malloc's large blocks are, beside memory that starts with a page. */
void coll__copy(void *to, const void *from, size_t bytes);

/* memcpy by non-temporal stores, where the CPU has them. No overlap; no alignment is required, but
 * `to` is best at a multiple of 64. The copy is ordered before later stores of this thread, so a
 * flag may be set after it. */
void coll__copy_stream(void *to, const void *from, size_t bytes);

/* The same in pieces: not ordered before anything until coll__stream_fence. */
void coll__stream(void *to, const void *from, size_t bytes);
void coll__stream_fence(void);

#endif
