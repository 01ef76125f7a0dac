#include "reduce/copy.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) /* that is, every x86-64 */
#include <emmintrin.h>
#endif

enum { LINE = 64, RATHER = 2048 /* bytes from which on the C library's copy is not trusted */ };

#if defined(__SSE2__)
/* `stream` is a constant: the compiler makes two functions of this. Only whole lines are streamed: one
 * that is written in part goes to memory in part, which is slow. */
__attribute__((always_inline)) static inline void copy_lines(void *to, const void *from,
                                                             size_t bytes, bool stream)
{
    unsigned char *out = to;
    const unsigned char *in = from;
    const size_t until_line = (size_t)(-(uintptr_t)out % LINE);
    const size_t head = until_line < bytes ? until_line : bytes;

    memcpy(out, in, head);
    out += head, in += head, bytes -= head;
    for (; bytes >= LINE; out += LINE, in += LINE, bytes -= LINE) {
        const __m128i_u *words = (const __m128i_u *)in;
        __m128i *line = (__m128i *)out;
        const __m128i a = _mm_loadu_si128(words), b = _mm_loadu_si128(words + 1);
        const __m128i c = _mm_loadu_si128(words + 2), d = _mm_loadu_si128(words + 3);
        if (stream) {
            _mm_stream_si128(line, a);
            _mm_stream_si128(line + 1, b);
            _mm_stream_si128(line + 2, c);
            _mm_stream_si128(line + 3, d);
        } else {
            _mm_store_si128(line, a);
            _mm_store_si128(line + 1, b);
            _mm_store_si128(line + 2, c);
            _mm_store_si128(line + 3, d);
        }
    }
    memcpy(out, in, bytes);
}
#endif

void coll__stream(void *to, const void *from, size_t bytes)
{
#if defined(__SSE2__)
    copy_lines(to, from, bytes, true);
#else
    memcpy(to, from, bytes);
#endif
}

void coll__copy(void *to, const void *from, size_t bytes)
{
#if defined(__SSE2__)
    if (bytes >= RATHER) {
        copy_lines(to, from, bytes, false);
        return;
    }
#endif
    memcpy(to, from, bytes);
}

void coll__stream_fence(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

void coll__copy_stream(void *to, const void *from, size_t bytes)
{
    coll__stream(to, from, bytes);
    coll__stream_fence();
}
