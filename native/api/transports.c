/* The transports of this build, the preferred one first: the one place that names them. */
#include "transport/shm/shm.h"
#include "transport/tcp/tcp.h"

const struct coll__transport *const coll__transports[] = {&coll__shm_transport,
                                                          &coll__tcp_transport, NULL};
