/* Which kernels this CPU runs, and the floating-point environment they need. */
#include <stdatomic.h>

#include "reduce/copy.h"
#include "reduce/kernels.h"
#include "reduce/many.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

#if defined(__x86_64__)
static int have_avx2(void)
{
    /* cpuid traps in a virtual machine: ask once. 0 is unknown, 1 no, 2 yes; threads that race
     * here store the same. */
    static atomic_int known;
    int answer = atomic_load_explicit(&known, memory_order_relaxed);

    if (answer == 0) {
        unsigned eax, ebx, ecx, edx;
        const int f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
        /* This one also asks whether the operating system saves the wide registers. */
        answer = f16c && __builtin_cpu_supports("avx2") ? 2 : 1;
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == 2;
}
#endif

/* NULL if this CPU cannot run `isa`. */
static const struct coll__kernels *kernels_for(uint32_t isa)
{
    switch (isa) {
    case COLL_ISA_SCALAR:
        return &coll__kernels_scalar;
    case COLL_ISA_AUTO:
    case COLL_ISA_AVX2:
#if defined(__x86_64__)
        if (have_avx2()) {
            return &coll__kernels_avx2;
        }
#endif
        return isa == COLL_ISA_AUTO ? &coll__kernels_scalar : NULL;
    }
    return NULL;
}

coll__reduce_fn coll__reduce_select(uint32_t dtype, uint32_t op, uint32_t isa)
{
    const struct coll__kernels *kernels = kernels_for(isa);

    if (kernels == NULL || dtype >= COLL_DTYPE_COUNT || op >= COLL_REDOP_COUNT) {
        return NULL;
    }
    return kernels->reduce[dtype][op];
}

coll__divide_fn coll__divide_select(uint32_t dtype, uint32_t isa)
{
    const struct coll__kernels *kernels = kernels_for(isa);

    return kernels == NULL || dtype >= COLL_DTYPE_COUNT ? NULL : kernels->divide[dtype];
}

coll__scale_fn coll__scale_select(uint32_t dtype, uint32_t isa)
{
    const struct coll__kernels *kernels = kernels_for(isa);

    return kernels == NULL || dtype >= COLL_DTYPE_COUNT ? NULL : kernels->scale[dtype];
}

#if defined(__x86_64__)

void coll__fpenv_enter(struct coll__fpenv *env)
{
    env->saved = _mm_getcsr();
    _mm_setcsr(0x1F80); /* exceptions masked, to nearest, denormals are neither flushed nor zero */
}

void coll__fpenv_leave(const struct coll__fpenv *env)
{
    _mm_setcsr((unsigned)env->saved);
}

#elif defined(__aarch64__)

void coll__fpenv_enter(struct coll__fpenv *env)
{
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    env->saved = control;
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0) : "memory");
}

void coll__fpenv_leave(const struct coll__fpenv *env)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(env->saved) : "memory");
}

#else
#error "no way known to set the floating-point mode of this architecture"
#endif

int coll_isa_available(uint32_t isa)
{
    return kernels_for(isa) != NULL;
}

coll_status coll_reduce_many(void *streamed, void *kept, const void *const *inputs, uint32_t n,
                             uint64_t count, uint32_t dtype, uint32_t op, uint32_t isa)
{
    const coll__reduce_fn reduce = coll__reduce_select(dtype, op, isa);
    struct coll__fpenv env;

    if (dtype >= COLL_DTYPE_COUNT || op >= COLL_REDOP_COUNT || isa >= COLL_ISA_COUNT) {
        return COLL_INVALID_ARGUMENT;
    }
    if (reduce == NULL) {
        return COLL_UNSUPPORTED;
    }
    if (count == 0) {
        return COLL_OK;
    }
    if ((streamed == NULL && kept == NULL) || inputs == NULL || n == 0 ||
        count > SIZE_MAX / coll_dtype_size(dtype)) {
        return COLL_INVALID_ARGUMENT;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (inputs[i] == NULL) {
            return COLL_INVALID_ARGUMENT;
        }
    }
    coll__fpenv_enter(&env);
    const struct coll__reduction reduction = {.reduce = reduce, .element = coll_dtype_size(dtype)};
    const struct coll__sink both[] = {{kept, false}, {streamed, true}};
    const size_t first = kept == NULL, last = streamed == NULL ? 1 : 2;
    coll__reduce_many(&reduction, both + first, last - first, inputs, n, (size_t)count);
    coll__stream_fence();
    coll__fpenv_leave(&env);
    return COLL_OK;
}

coll_status coll_reduce_local(void *output, const void *a, const void *b, uint64_t count,
                              uint32_t dtype, uint32_t op, uint32_t isa)
{
    const void *const inputs[] = {a, b};

    return coll_reduce_many(NULL, output, inputs, 2, count, dtype, op, isa);
}

void coll_copy_stream(void *destination, const void *source, size_t length)
{
    if (length > 0) { /* else NULL is allowed */
        coll__copy_stream(destination, source, length);
    }
}

coll_status coll_divide_local(void *data, uint64_t count, uint32_t dtype, uint32_t divisor,
                              uint32_t isa)
{
    const coll__divide_fn divide = coll__divide_select(dtype, isa);
    struct coll__fpenv env;

    if (dtype >= COLL_DTYPE_COUNT || isa >= COLL_ISA_COUNT || divisor == 0) {
        return COLL_INVALID_ARGUMENT;
    }
    if (divide == NULL) {
        return COLL_UNSUPPORTED;
    }
    if (count == 0) {
        return COLL_OK;
    }
    if (data == NULL || count > SIZE_MAX / coll_dtype_size(dtype)) {
        return COLL_INVALID_ARGUMENT;
    }
    coll__fpenv_enter(&env);
    divide(data, (size_t)count, divisor);
    coll__fpenv_leave(&env);
    return COLL_OK;
}

coll_status coll_scale_local(void *data, uint64_t count, uint32_t dtype, double factor,
                             uint32_t isa)
{
    const coll__scale_fn scale = coll__scale_select(dtype, isa);
    struct coll__fpenv env;

    if (dtype >= COLL_DTYPE_COUNT || isa >= COLL_ISA_COUNT) {
        return COLL_INVALID_ARGUMENT;
    }
    if (scale == NULL) {
        return COLL_UNSUPPORTED;
    }
    if (count == 0) {
        return COLL_OK;
    }
    if (data == NULL || count > SIZE_MAX / coll_dtype_size(dtype)) {
        return COLL_INVALID_ARGUMENT;
    }
    coll__fpenv_enter(&env);
    scale(data, (size_t)count, factor);
    coll__fpenv_leave(&env);
    return COLL_OK;
}
