/* The hello: how two peers find out that they belong to the same view and may talk.
 *
 *      dialer                                acceptor
 *        │  HELLO    who, to whom, view, nonce   │
 *        ├──────────────────────────────────────►│
 *        │  WELCOME  verdict, nonce, proof       │
 *        │◄──────────────────────────────────────┤
 *        │  PROOF    proof                       │
 *        ├──────────────────────────────────────►│   frames follow in both directions
 *
 * A proof is HMAC-SHA256 with the view's key over a role byte and all that was said before, so
 * neither side can be fooled by a replay or a reflection. Versions and feature bits are
 * negotiated here; a message may be longer than what is known of it, and the rest is ignored.
 */
#ifndef COLL_WIRE_HELLO_H
#define COLL_WIRE_HELLO_H

#include "collectives.h"

enum {
    COLL__HELLO_BYTES = 160,
    COLL__WELCOME_BYTES = 104,
    COLL__PROOF_BYTES = 40,
    COLL__HELLO_MAX = 512        /* longest message a later version may send */
};

enum coll__welcome_verdict {
    COLL__WELCOME_OK = 0,
    COLL__WELCOME_VERSION = 1,   /* no common version: low and high are the acceptor's */
    COLL__WELCOME_UNKNOWN = 2,   /* no such view here (yet): try again */
    COLL__WELCOME_NOT_ME = 3     /* the address belongs to another peer */
};

enum coll__hello_flags {
    COLL__HELLO_FRESH = 1        /* the dialer has no connection of this link any more */
};

struct coll__hello {
    uint16_t version_low, version_high;
    uint32_t features;
    uint32_t group;
    uint16_t slot;               /* which of the dialer's connections of this link */
    uint16_t flags;              /* enum coll__hello_flags */
    uint64_t term, view;
    uint8_t from[16], to[16];
    uint8_t nonce[32];
};

struct coll__welcome {
    uint16_t verdict;
    uint16_t version_low, version_high; /* the chosen one twice, or the acceptor's range */
    uint32_t features;           /* those both sides have */
    uint8_t nonce[32];
    uint8_t proof[32];
};

/* Decode the length that the first 12 bytes announce: the whole message's bytes, or 0 if these
 * bytes do not start a hello message. */
uint32_t coll__hello_length(const uint8_t in[12], uint32_t shortest);

void coll__hello_encode(const struct coll__hello *hello, uint8_t out[COLL__HELLO_BYTES]);
coll_status coll__hello_decode(const uint8_t *in, uint32_t length, struct coll__hello *hello);
void coll__welcome_encode(const struct coll__welcome *welcome, uint8_t out[COLL__WELCOME_BYTES]);
coll_status coll__welcome_decode(const uint8_t *in, uint32_t length, struct coll__welcome *welcome);
void coll__proof_encode(const uint8_t proof[32], uint8_t out[COLL__PROOF_BYTES]);
coll_status coll__proof_decode(const uint8_t *in, uint32_t length, uint8_t proof[32]);

/* The acceptor's proof (in the WELCOME) covers the HELLO and the WELCOME up to the proof; the
 * dialer's covers the HELLO and the whole WELCOME. Both messages as they travelled. */
void coll__hello_prove(const uint8_t key[32], char role, const uint8_t *hello,
                       uint32_t hello_length, const uint8_t *welcome, uint32_t welcome_length,
                       uint8_t proof[32]);

#endif
