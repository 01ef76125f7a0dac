/* Agreement on success, per operation and attempt: a pure state machine.
 *
 *      not issued ──► running ──► complete ──► settled
 *
 * Complete: this rank holds its result and owes nothing. Settled: it has proof that every rank is
 * complete. The proof is a dissemination: in round i a rank tells rank + 2^i, once it is complete
 * and has heard round i-1 from rank - 2^(i-1). After ceil(log2 n) rounds it has heard, directly or
 * not, from everybody.
 *
 * An operation whose completion already proves that all ranks take part with the same call (a
 * small reduction: the result depends on every input) needs no tokens.
 */
#ifndef COLL_ENGINE_AGREE_H
#define COLL_ENGINE_AGREE_H

#include <stdbool.h>
#include <stdint.h>

enum coll__phase { COLL__NOT_ISSUED = 0, COLL__RUNNING = 1, COLL__COMPLETE = 2, COLL__SETTLED = 3 };

struct coll__agree {
    enum coll__phase phase;
    uint32_t rank, size;
    uint32_t rounds;        /* 0 when no tokens are needed */
    uint32_t sent;          /* tokens of rounds 0..sent-1 have been sent */
    uint64_t heard;         /* bit i: the token of round i has come */
};

void coll__agree_init(struct coll__agree *agree, uint32_t rank, uint32_t size);
void coll__agree_issue(struct coll__agree *agree, bool tokens);
void coll__agree_complete(struct coll__agree *agree);
/* False: there is no such round. */
bool coll__agree_hear(struct coll__agree *agree, uint32_t round);
/* If a token is due, say which round and to whom, and count it as sent. */
bool coll__agree_next(struct coll__agree *agree, uint32_t *round, uint32_t *peer);

#endif
