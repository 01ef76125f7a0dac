#include "reduce/copy.h"

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) /* that is, every x86-64 */
#include <emmintrin.h>
#endif

enum { LINE = 64 };

void coll__stream(void *to, const void *from, size_t bytes)
{
#if defined(__SSE2__)
    unsigned char *out = to;
    const unsigned char *in = from;
    /* Only whole lines: one that is written in part goes to memory in part, which is slow. */
    const size_t until_line = (size_t)(-(uintptr_t)out % LINE);
    const size_t head = until_line < bytes ? until_line : bytes;

    memcpy(out, in, head);
    out += head, in += head, bytes -= head;
    for (; bytes >= LINE; out += LINE, in += LINE, bytes -= LINE) {
        const __m128i_u *words = (const __m128i_u *)in;
        __m128i *line = (__m128i *)out;
        const __m128i a = _mm_loadu_si128(words), b = _mm_loadu_si128(words + 1);
        const __m128i c = _mm_loadu_si128(words + 2), d = _mm_loadu_si128(words + 3);
        _mm_stream_si128(line, a);
        _mm_stream_si128(line + 1, b);
        _mm_stream_si128(line + 2, c);
        _mm_stream_si128(line + 3, d);
    }
    memcpy(out, in, bytes);
#else
    memcpy(to, from, bytes);
#endif
}

void coll__copy(void *to, const void *from, size_t bytes)
{
#if defined(__SSE2__)
    enum { LEAST = 2048 };
    if (bytes >= LEAST) {
        unsigned char *out = to;
        const unsigned char *in = from;
        const size_t head = (size_t)(-(uintptr_t)out % LINE);
        memcpy(out, in, head);
        out += head, in += head, bytes -= head;
        for (; bytes >= LINE; out += LINE, in += LINE, bytes -= LINE) {
            const __m128i_u *words = (const __m128i_u *)in;
            __m128i *line = (__m128i *)out;
            const __m128i a = _mm_loadu_si128(words), b = _mm_loadu_si128(words + 1);
            const __m128i c = _mm_loadu_si128(words + 2), d = _mm_loadu_si128(words + 3);
            _mm_store_si128(line, a);
            _mm_store_si128(line + 1, b);
            _mm_store_si128(line + 2, c);
            _mm_store_si128(line + 3, d);
        }
        to = out, from = in;
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
