/* Agreement on success: see agree.h. Pure; no clock, no link, no allocation. */
#include "engine/agree.h"

void coll__agree_init(struct coll__agree *agree, uint32_t rank, uint32_t size)
{
    *agree = (struct coll__agree){.phase = COLL__NOT_ISSUED, .rank = rank, .size = size};
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

void coll__agree_issue(struct coll__agree *agree, bool tokens)
{
    agree->phase = COLL__RUNNING;
    if (!tokens)
        agree->rounds = 0;
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
