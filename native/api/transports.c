/* The transports of this build: the one place that names them. */
#include "transport/tcp/tcp.h"

const struct coll__transport *const coll__transports[] = {&coll__tcp_transport, NULL};
