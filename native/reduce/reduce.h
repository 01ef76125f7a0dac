/* Reduction kernels: one per (op, dtype, instruction set), chosen once per operation. All
 * instruction sets give the same bits.
 *
 * A kernel's result has the element's type, so that type is what travels between two hops: f16 and
 * bf16 are widened to f32 for one operation and rounded back (nearest, ties to even) after it. A
 * sum of n ranks is rounded n-1 times. COLL_AVG adds first and divides the sum once: a sum that
 * overflows (f16 beyond 65504: infinity; integers: wraps) is not repaired by the division.
 * COLL_SCALED_SUM adds what has been multiplied, and rounded to the element's type, before.
 * element.h says what each operation does to one element. */
#ifndef COLL_REDUCE_REDUCE_H
#define COLL_REDUCE_REDUCE_H

#include "collectives.h"

/* output[i] = op(a[i], b[i]). `output` may be exactly `a` or `b`; no other overlap. The caller
 * holds a coll__fpenv. No alignment is required. */
typedef void (*coll__reduce_fn)(void *output, const void *a, const void *b, size_t count);
/* data[i] = data[i] / divisor in place; integers round toward zero. The divisor is not 0. */
typedef void (*coll__divide_fn)(void *data, size_t count, uint32_t divisor);

/* data[i] = data[i] * factor in place; of floats. */
typedef void (*coll__scale_fn)(void *data, size_t count, double factor);

/* NULL if the dtype, op or isa is unknown, the dtype has no such op, or the CPU lacks it. COLL_ISA_AUTO takes the best. */
coll__reduce_fn coll__reduce_select(uint32_t dtype, uint32_t op, uint32_t isa);
coll__divide_fn coll__divide_select(uint32_t dtype, uint32_t isa);
coll__scale_fn coll__scale_select(uint32_t dtype, uint32_t isa);

/* Round-to-nearest with denormals, whatever the caller's thread has set; restored by leave. */
struct coll__fpenv {
    uint64_t saved;
};
void coll__fpenv_enter(struct coll__fpenv *env);
void coll__fpenv_leave(const struct coll__fpenv *env);

#endif
