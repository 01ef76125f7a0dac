/* Names and sizes of the element types and reduction operations. */
#include "collectives.h"

size_t coll_dtype_size(uint32_t dtype)
{
    static const size_t sizes[COLL_DTYPE_COUNT] = {
        [COLL_F64] = 8, [COLL_F32] = 4, [COLL_F16] = 2,  [COLL_BF16] = 2, [COLL_I8] = 1,
        [COLL_I16] = 2, [COLL_I32] = 4, [COLL_I64] = 8,  [COLL_U8] = 1,   [COLL_U16] = 2,
        [COLL_U32] = 4, [COLL_U64] = 8, [COLL_BOOL] = 1,
    };
    return dtype < COLL_DTYPE_COUNT ? sizes[dtype] : 0;
}

const char *coll_dtype_name(uint32_t dtype)
{
    static const char *const names[COLL_DTYPE_COUNT] = {
        [COLL_F64] = "f64",   [COLL_F32] = "f32", [COLL_F16] = "f16", [COLL_BF16] = "bf16",
        [COLL_I8] = "i8",     [COLL_I16] = "i16", [COLL_I32] = "i32", [COLL_I64] = "i64",
        [COLL_U8] = "u8",     [COLL_U16] = "u16", [COLL_U32] = "u32", [COLL_U64] = "u64",
        [COLL_BOOL] = "bool",
    };
    return dtype < COLL_DTYPE_COUNT ? names[dtype] : "unknown dtype";
}

const char *coll_redop_name(uint32_t op)
{
    static const char *const names[COLL_REDOP_COUNT] = {
        [COLL_SUM] = "sum", [COLL_AVG] = "avg",   [COLL_PROD] = "prod",
        [COLL_MIN] = "min", [COLL_MAX] = "max",   [COLL_BAND] = "band",
        [COLL_BOR] = "bor", [COLL_BXOR] = "bxor", [COLL_SCALED_SUM] = "scaled_sum",
    };
    return op < COLL_REDOP_COUNT ? names[op] : "unknown op";
}
