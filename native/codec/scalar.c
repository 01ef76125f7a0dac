/* The kernels with what every CPU of the architecture has: the reference for all others. */
#define COLL__TARGET
#define COLL__TABLE coll__codec_kernels_scalar
#include "codec/kernels_template.h"
