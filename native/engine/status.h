/* How a function says what went wrong: a status, and a message for people. */
#ifndef COLL_ENGINE_STATUS_H
#define COLL_ENGINE_STATUS_H

#include "collectives.h"

/* Set this thread's coll_last_error() and return `status`. */
coll_status coll__error(coll_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#define COLL_TRY(expression)                \
    do {                                    \
        coll_status coll__try = expression; \
        if (coll__try != COLL_OK)           \
            return coll__try;               \
    } while (0)

#endif
