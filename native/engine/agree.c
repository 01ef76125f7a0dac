/* Agreement on what becomes of an operation: see agree.h. */
#include "engine/agree.h"

#include <string.h>

void coll__agree_init(struct coll__agree *agree, uint32_t rank, uint32_t size)
{
    *agree = (struct coll__agree){.phase = COLL__ABSENT, .rank = rank, .size = size};
    /* Counted before the issue too: tokens of faster ranks may come first. */
    while (((uint64_t)1 << agree->rounds) < size)
        agree->rounds++;
}

static void settle_if_proved(struct coll__agree *agree)
{
    uint64_t all = ((uint64_t)1 << agree->rounds) - 1;
    if (agree->phase == COLL__COMPLETE && agree->sent == agree->rounds &&
        (agree->heard & all) == all)
        agree->phase = COLL__SETTLED;
}

void coll__agree_issue(struct coll__agree *agree, bool retained)
{
    agree->phase = COLL__RUNNING;
    agree->retained = retained;
    if (retained)
        agree->rounds = 0;
}

void coll__agree_issue_pair(struct coll__agree *agree, bool sends)
{
    /* The sender has no token to send, the receiver none to wait for. */
    coll__agree_init(agree, sends ? 0 : 1, 2);
    agree->phase = COLL__RUNNING;
    agree->sent = sends;
    agree->heard = !sends;
}

void coll__agree_complete(struct coll__agree *agree)
{
    agree->phase = COLL__COMPLETE;
    settle_if_proved(agree);
}

bool coll__agree_hear(struct coll__agree *agree, uint32_t round)
{
    if (round >= agree->rounds)
        return false;
    agree->heard |= (uint64_t)1 << round;
    settle_if_proved(agree);
    return true;
}

bool coll__agree_next(struct coll__agree *agree, uint32_t *round, uint32_t *peer)
{
    if (agree->phase != COLL__COMPLETE || agree->sent == agree->rounds)
        return false;
    if (agree->sent > 0 && !(agree->heard >> (agree->sent - 1) & 1))
        return false;
    *round = agree->sent;
    *peer = (uint32_t)((agree->rank + ((uint64_t)1 << agree->sent)) % agree->size);
    agree->sent++;
    settle_if_proved(agree);
    return true;
}

void coll__agree_told(struct coll__agree *agree)
{
    if (agree->phase == COLL__COMPLETE)
        agree->phase = COLL__SETTLED;
}

enum coll__consequence coll__agree_judge(struct coll__agree *agree, enum coll__judgement judgement,
                                         uint32_t rank, uint32_t size)
{
    if (judgement == COLL__STANDS) {
        agree->rank = rank;
        agree->size = size;
        /* By tokens it stands only if all survivors are complete. */
        bool here = agree->phase == COLL__COMPLETE || agree->phase == COLL__SETTLED;
        agree->phase = here ? COLL__SETTLED : COLL__AWAITING;
        return here ? COLL__SUCCEED : COLL__AWAIT;
    }
    coll__agree_init(agree, rank, size);
    return judgement == COLL__FAILS ? COLL__RAISE : COLL__REPEAT;
}

void coll__agree_supplied(struct coll__agree *agree)
{
    if (agree->phase == COLL__AWAITING)
        agree->phase = COLL__SETTLED;
}

uint64_t coll__watermark(uint64_t oldest, uint64_t following)
{
    return (oldest ? oldest : following) - 1;
}

/* ---- the group's seal -------------------------------------------------------------------- */

void coll__seal_init(struct coll__seal *seal, uint64_t term, uint64_t view)
{
    *seal = (struct coll__seal){.term = term, .view = view};
}

enum coll__fence coll__seal_fence(const struct coll__seal *seal, uint64_t term, uint64_t view)
{
    if (term == seal->term && view == seal->view)
        return seal->sealed ? COLL__FENCE_VOID : COLL__FENCE_NOW;
    bool newer = term > seal->term || (term == seal->term && view > seal->view);
    return newer ? COLL__FENCE_LATER : COLL__FENCE_VOID;
}

static bool same(const struct coll__epoch *a, const struct coll__epoch *b)
{
    return a->term == b->term && a->view_term == b->view_term && a->view == b->view &&
           a->round == b->round;
}

bool coll__seal_close(struct coll__seal *seal, const struct coll__epoch *epoch)
{
    if (epoch->view_term != seal->term || epoch->view != seal->view)
        return false;
    const struct coll__epoch *last = &seal->epoch;
    if (epoch->term < last->term || (epoch->term == last->term && epoch->round < last->round))
        return false;
    seal->epoch = *epoch;
    seal->sealed = 1;
    return true;
}

bool coll__seal_judges(const struct coll__seal *seal, const struct coll__epoch *epoch)
{
    return seal->sealed && same(&seal->epoch, epoch);
}

void coll__seal_open(struct coll__seal *seal, uint64_t term, uint64_t view)
{
    coll__seal_init(seal, term, view);
}
