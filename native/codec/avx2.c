/* The kernels for AVX2. */
#if defined(__x86_64__)

#include <immintrin.h>

#define COLL__AVX2 1
#define COLL__TARGET __attribute__((target("avx2")))
#define COLL__TABLE coll__codec_kernels_avx2
#include "codec/kernels_template.h"

#else
typedef int coll__codec_avx2_is_x86_only; /* a translation unit must not be empty */
#endif
