/* Agreement: pure state machines. No clock, no link, no allocation; the engine, the simulation of
 * the control plane and the exhaustive model all call this code.
 *
 * An operation, at one rank, in one view:
 *
 *      absent ──► running ──► complete ──► settled
 *                    │            │
 *                    └────────────┴──► sealed with the group, until the verdict judges it
 *
 * Complete: this rank holds its result and owes nothing. Settled: the caller has been told of
 * success. How a rank may settle by itself depends on the operation:
 *
 * - *Retained* (small, the same result everywhere, and a result that proves that everybody takes
 *   part): at once when complete. The result is kept until all have settled it, so that whoever
 *   did not get it before a death can be supplied with it.
 * - *By tokens*: with proof that all ranks are complete. The proof is a dissemination: in round i a
 *   rank tells rank + 2^i, once it is complete and has heard round i-1 from rank - 2^(i-1). After
 *   ceil(log2 n) rounds it has heard, directly or not, from everybody.
 *
 * - *A pair* (a send and its receive; rank 0 sends, rank 1 receives): the receiver at once when
 *   complete, the sender with the receiver's token. It stands iff the receiver has settled it.
 *
 * Only success is decided so. All else is decided by the coordinator in a *round*: the group is
 * sealed (nothing of the view is accepted any more), it reports where its operations stand, and
 * the verdict says which of them stand, fail, or are repeated in the next view. The view is the
 * attempt: frames of an older one are void, those of a newer one wait for its verdict.
 */
#ifndef COLL_ENGINE_AGREE_H
#define COLL_ENGINE_AGREE_H

#include <stdbool.h>
#include <stdint.h>

#include "collectives.h"
#include "wire/epoch.h"

/* What a rank reports of an operation; it is the operation's phase, too. */
enum coll__phase {
    COLL__ABSENT = 0,   /* not issued */
    COLL__RUNNING = 1,
    COLL__COMPLETE = 2,
    COLL__SETTLED = 3,  /* retained: this rank holds the result */
    COLL__AWAITING = 4  /* it stands by verdict, and the result has still to be supplied */
};

struct coll__agree {
    uint32_t phase;         /* enum coll__phase */
    uint32_t retained;
    uint32_t rank, size;
    uint32_t rounds;        /* of tokens; 0 when none are needed */
    uint32_t sent;          /* tokens of rounds 0..sent-1 have been sent */
    uint64_t heard;         /* bit i: the token of round i has come */
};

COLL_API void coll__agree_init(struct coll__agree *agree, uint32_t rank, uint32_t size);
COLL_API void coll__agree_issue(struct coll__agree *agree, bool retained);
/* Of two, instead: `sends` says which of them this is. */
COLL_API void coll__agree_issue_pair(struct coll__agree *agree, bool sends);
COLL_API void coll__agree_complete(struct coll__agree *agree);
/* False: there is no such round. */
COLL_API bool coll__agree_hear(struct coll__agree *agree, uint32_t round);
/* If a token is due, say which round and to whom, and count it as sent. */
COLL_API bool coll__agree_next(struct coll__agree *agree, uint32_t *round, uint32_t *peer);
/* Another rank was asked and says that it has settled the operation in this view. There is no
 * such word for anything but success. */
COLL_API void coll__agree_told(struct coll__agree *agree);

/* What a verdict says of an operation. */
enum coll__judgement {
    COLL__STANDS = 0,
    COLL__FAILS = 1,    /* it raises the verdict's error */
    COLL__REPEATS = 2   /* void in this view, issued again in the next */
};
/* What follows here. */
enum coll__consequence {
    COLL__SUCCEED = 0,  /* tell the caller, if that was not done before */
    COLL__AWAIT = 1,    /* keep the call waiting: the supplier of the verdict sends the result */
    COLL__RAISE = 2,
    COLL__REPEAT = 3
};
/* Judge the operation; its phase is that of the next view after this, with `rank` and `size`
 * there. */
COLL_API enum coll__consequence coll__agree_judge(struct coll__agree *agree,
                                                  enum coll__judgement judgement, uint32_t rank,
                                                  uint32_t size);
/* The result that was awaited has come. */
COLL_API void coll__agree_supplied(struct coll__agree *agree);

/* Everything up to here is settled: `oldest` is the first operation that is not, 0 if there is
 * none; `following` is the number of the next. */
COLL_API uint64_t coll__watermark(uint64_t oldest, uint64_t following);

/* ---- the group's seal -------------------------------------------------------------------- */

struct coll__seal {
    uint64_t term, view;    /* of the committed view */
    struct coll__epoch epoch; /* of the last round that sealed it; all 0: none */
    uint32_t sealed;
};

enum coll__fence {
    COLL__FENCE_NOW = 0,    /* of this view, and it is not sealed */
    COLL__FENCE_VOID = 1,   /* of an older view, or of this one after it was sealed */
    COLL__FENCE_LATER = 2   /* of a newer view than ours: it waits for the verdict */
};

COLL_API void coll__seal_init(struct coll__seal *seal, uint64_t term, uint64_t view);
/* What to do with a frame of a view. */
COLL_API enum coll__fence coll__seal_fence(const struct coll__seal *seal, uint64_t term,
                                           uint64_t view);
/* A round begins. True: sealed (again) in this epoch, report; false: the epoch is an old one or of
 * another view. Repeating the epoch is harmless. */
COLL_API bool coll__seal_close(struct coll__seal *seal, const struct coll__epoch *epoch);
/* Whether a verdict is that of the round which sealed us. */
COLL_API bool coll__seal_judges(const struct coll__seal *seal, const struct coll__epoch *epoch);
/* The verdict was taken: the view that it issued is the committed one. */
COLL_API void coll__seal_open(struct coll__seal *seal, uint64_t term, uint64_t view);

#endif
