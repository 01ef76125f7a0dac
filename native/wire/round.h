/* What travels in a round: the report of a sealed group, and the coordinator's verdict.
 *
 *      epoch     u64 term, u64 view_term, u64 view, u64 round
 *
 *      report    epoch, peer[16],
 *                u32 n, n x {u32 tag, u32 role, peer[16], u64 settled}: the orders of operations,
 *                u32 n, n x {u32 order, u64 number, u8 standing, u8 flags, u16 0, u32 root},
 *                u32 n, n x {u32 order, u64 number, u32 status, u32 culprit, u32 length, text}
 *      verdict   epoch, u64 term, u64 number, key[32],
 *                u32 n, n x peer[16],
 *                u32 n, n x {u32 tag, u64 number, u32 supplier, u32 sender, u32 receiver},
 *                u32 status, culprit[16], u32 length, text
 *
 * All integers are little-endian. Reports go to the coordinator, who alone reads them; verdicts are
 * read here. Either may come through another peer.
 */
#ifndef COLL_WIRE_ROUND_H
#define COLL_WIRE_ROUND_H

#include <stdbool.h>

#include "collectives.h"
#include "wire/epoch.h"

enum {
    COLL__EPOCH_BYTES = 32,
    COLL__NO_RANK = UINT32_MAX,
    COLL__VETO_TEXT_MAX = 1024,
    COLL__ENTRY_RETAINED = 1,
    COLL__ENTRY_REPEATABLE = 2,
    /* Nothing is to come for it: it is complete at once, which says nothing of the others. */
    COLL__ENTRY_IDLE = 4
};

void coll__epoch_encode(const struct coll__epoch *epoch, uint8_t out[COLL__EPOCH_BYTES]);
void coll__epoch_decode(const uint8_t in[COLL__EPOCH_BYTES], struct coll__epoch *epoch);

/* Bytes that grow; `failed` once memory ran out. The owner frees `bytes`. */
struct coll__writer {
    uint8_t *bytes;
    size_t length, capacity;
    bool failed;
};

void coll__write(struct coll__writer *writer, const void *bytes, size_t length);
void coll__write32(struct coll__writer *writer, uint32_t value);
void coll__write64(struct coll__writer *writer, uint64_t value);

struct coll__verdict {
    struct coll__epoch epoch;
    uint64_t term, number;      /* of the view that it issues */
    const uint8_t *key;         /* 32 bytes; this and all pointers below: into the message */
    uint32_t members;
    const uint8_t *member;      /* 16 bytes each */
    uint32_t stands;
    const uint8_t *stand;       /* read with coll__verdict_stand */
    uint32_t status;            /* 0: no error */
    const uint8_t *culprit;     /* 16 bytes; all 0: nobody */
    const char *text;           /* text_length bytes of UTF-8 */
    uint32_t text_length;
};

struct coll__stand {
    uint32_t tag;
    uint64_t number;
    uint32_t supplier;          /* rank in the view that is issued; COLL__NO_RANK: none needed */
    uint32_t sender, receiver;  /* ranks there, of a send and its receive; else COLL__NO_RANK */
};

/* COLL_INVALID_ARGUMENT for anything malformed; allocates nothing. */
coll_status coll__verdict_decode(const uint8_t *in, size_t length, struct coll__verdict *verdict);
void coll__verdict_stand(const struct coll__verdict *verdict, uint32_t i,
                         struct coll__stand *stand);

#endif
