/* What reduce/ shares inside: one table of kernels per instruction set. */
#ifndef COLL_REDUCE_KERNELS_H
#define COLL_REDUCE_KERNELS_H

#include "reduce/reduce.h"

struct coll__kernels {
    coll__reduce_fn reduce[COLL_DTYPE_COUNT][COLL_REDOP_COUNT];
    coll__divide_fn divide[COLL_DTYPE_COUNT];
    coll__scale_fn scale[COLL_DTYPE_COUNT];
};

extern const struct coll__kernels coll__kernels_scalar;
#if defined(__x86_64__)
extern const struct coll__kernels coll__kernels_avx2; /* needs AVX2 and F16C */
#endif

#endif
