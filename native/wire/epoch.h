/* The name of a round. */
#ifndef COLL_WIRE_EPOCH_H
#define COLL_WIRE_EPOCH_H

#include <stdint.h>

/* A round: of one coordinator (its term), about one view. */
struct coll__epoch {
    uint64_t term;          /* of the coordinator that holds the round */
    uint64_t view_term, view;
    uint64_t round;         /* raised with every round of a term */
};

#endif
