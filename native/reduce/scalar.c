/* The kernels with what every CPU of the architecture has: the reference for all others. */
#define COLL__TARGET
#define COLL__TABLE coll__kernels_scalar
#include "reduce/kernels_template.h"
