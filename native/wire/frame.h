/* Frames: everything that travels on an authenticated data connection.
 *
 * A frame is a fixed header of COLL__FRAME_BYTES and `length` bytes of payload. The header has a
 * CRC of its own, so that `length` is never trusted before it is checked; the payload's CRC is in
 * the header. All integers are little-endian. docs/wire-protocol.md has the table.
 */
#ifndef COLL_WIRE_FRAME_H
#define COLL_WIRE_FRAME_H

#include <stdbool.h>

#include "collectives.h"

enum {
    COLL__FRAME_BYTES = 128,
    COLL__PAYLOAD_MAX = 1 << 20, /* what any peer must accept, and nobody may exceed */
    COLL__WIRE_VERSION = 1
};

enum coll__frame_type {
    COLL__FRAME_DATA = 1,    /* a slice of an operation's payload */
    COLL__FRAME_OPEN = 2,    /* "I have issued this operation": credit, and the answer to QUERY */
    COLL__FRAME_QUERY = 3,   /* "what is this operation at your place?" */
    COLL__FRAME_TOKEN = 4,   /* completion token of round `message` */
    COLL__FRAME_SUPPLY = 5, /* the result of an operation that stands: payload is the whole of it,
                              * `offset` the number of the view that reduced it */
    COLL__FRAME_GOODBYE = 6, /* the sender leaves */
    COLL__FRAME_VOID = 7,    /* stands for a re-sent slice whose payload nobody needs any more;
                              * `offset` is what it took of the eager window */
    COLL__FRAME_ALIVE = 8,   /* heartbeat and acknowledgement; carries no sequence number */
    COLL__FRAME_WATERMARK = 9, /* nothing but the watermark */
    /* A round, passed on for a peer whose own program is deaf; see wire/round.h. */
    COLL__FRAME_SEAL = 10, /* seal and report: payload is the epoch */
    COLL__FRAME_REPORT = 11, /* the answer */
    COLL__FRAME_VERDICT = 12,
    COLL__FRAME_TAKEN = 13, /* the answer to a verdict: payload is its epoch and the sender */
    COLL__FRAME_FETCH = 14, /* request `operation` of the sender, for at most `count` bytes */
    COLL__FRAME_CHUNK = 15, /* a part of the answer, at `offset` of `count`; absent: none */
    COLL__FRAME_BREAK =
        16, /* a fixed view is broken: `message` is the status, `call.root` the rank to
                             * blame or COLL__NO_RANK, the payload the text */
    COLL__FRAME_TYPE_END
};

enum coll__frame_flags {
    COLL__FLAG_EAGER = 1,    /* DATA sent without credit: counts against the receiver's window */
    COLL__FLAG_ACK_NOW = 2,  /* acknowledge without delay */
    COLL__FLAG_ABSENT = 4,   /* OPEN: not issued here; `offset` is the last number that was */
    COLL__FLAG_DONE = 8, /* OPEN: it has succeeded here */
    COLL__FLAG_NO_CRC = 16, /* the payload carries no checksum */
    COLL__FLAG_SUPPLY = 32, /* QUERY: send the result, it stands */
    COLL__FLAG_LAST = 64 /* ALIVE: nothing more comes on this connection, close it when you can */
};

/* What a rank calls. It travels whole in every frame of an operation, so whoever sees two that
 * differ can name both. Of a resumed all_reduce `count` is that of the whole, and `digest` the part,
 * from 1. */
struct coll__descriptor {
    uint8_t kind, dtype, op;
    uint32_t root;
    uint64_t
        count;  /* elements; of uneven blocks: of all. all_to_all: of what goes to the receiver */
    uint32_t digest; /* CRC-32C of the counts of uneven blocks; 0: there are none */
    uint8_t algorithm; /* 1 + enum coll_algorithm, as asked for; 0: left to the view */
    uint16_t codec; /* coll__codec_code; 0: none */
    /* What the view makes of it, so that no two ranks run plans that do not fit together: */
    uint8_t plan;    /* 1 + the algorithm that carries it out */
    uint16_t levels; /* digest of the levels, if the plan follows them; 0: it does not */
};

struct coll__frame {
    uint8_t type;
    uint16_t flags;
    uint32_t length;       /* payload bytes */
    uint32_t payload_crc;
    uint64_t sequence;     /* of the link, from 1; 0: unsequenced */
    uint64_t acknowledged; /* every sequence number up to this one has arrived */
    uint64_t consumed;     /* eager payload bytes taken out of the receiver's window so far */
    uint32_t group, tag;
    uint64_t term, view;
    uint64_t operation;
    uint64_t watermark;    /* every operation of the tag up to this one is settled */
    uint32_t attempt; /* how often the sender has begun the operation; the view fences it */
    uint32_t message;      /* DATA: of the plan; TOKEN: the round */
    uint64_t offset;       /* DATA: bytes from the start of the segment */
    uint32_t place;        /* of all frames on its connection, from 1; 0: not counted */
    struct coll__descriptor call;
};

void coll__frame_encode(const struct coll__frame *frame, uint8_t out[COLL__FRAME_BYTES]);
/* COLL_MISMATCH for another version, COLL_INVALID_ARGUMENT for anything malformed. Allocates
 * nothing; `frame` is written only on success. */
coll_status coll__frame_decode(const uint8_t in[COLL__FRAME_BYTES], struct coll__frame *frame);

/* The same call; and to be carried out by the same plan, too. */
bool coll__descriptor_same_call(const struct coll__descriptor *a, const struct coll__descriptor *b);
bool coll__descriptor_equal(const struct coll__descriptor *a, const struct coll__descriptor *b);

#endif
