"""What a peer can do by itself: issue, finish, hear, ask, seal and take a verdict.

Every function gives (label, state after it) for each way in which it can happen.
"""

from __future__ import annotations

from collections.abc import Iterator

from collectives.membership.verdict import PEER_LOST
from model import core
from model.rules import OUT, VETOED, Rules, Told
from model.state import (
    ALIVE,
    LEFT,
    SUPPLY,
    TOKEN,
    Configuration,
    Disagreement,
    Op,
    Peer,
    State,
    Verdict,
    members_of,
    orders_of,
    outstanding,
    skip,
    survivors_of,
)

Step = tuple[str, State]


def with_peer(state: State, p: int, peer: Peer) -> State:
    return state._replace(peers=(*state.peers[:p], peer, *state.peers[p + 1 :]))


def with_op(peer: Peer, k: int, op: Op) -> Peer:
    return peer._replace(ops=(*peer.ops[:k], op, *peer.ops[k + 1 :]))


def of_number(peer: Peer, number: int) -> int | None:
    """Which of its operations has a number."""
    k = number + peer.base - 1
    return k if 0 <= k < len(peer.ops) else None


def number_of(peer: Peer, k: int) -> int:
    return k + 1 - peer.base


def progresses(rules: Rules, peer: Peer) -> bool:
    """Whether what is of its own view is heard there."""
    return rules.fence(peer.seal, *peer.seal[:2]) == core.NOW


def watermark_of(
    config: Configuration, rules: Rules, peer: Peer, order: tuple[int, ...] = ()
) -> int:
    """Of one order; the numbers of an order may have gaps here."""
    oldest = last = 0
    for k in range(peer.issued):
        if config.ops[k].pair != order:
            continue
        if outstanding(peer.ops[k]):
            oldest = oldest or number_of(peer, k)
        else:
            last = number_of(peer, k)
    return rules.watermark(oldest, number_of(peer, peer.issued), last)


# ---- progress ------------------------------------------------------------------------------


def issue(config: Configuration, rules: Rules, state: State, p: int) -> Iterator[Step]:
    peer = state.peers[p]
    k = peer.issued
    if k == len(peer.ops) or peer.leaving:
        return
    if peer.broken:
        op = peer.ops[k]._replace(error=peer.broken)
    else:
        op = _issued(config, rules, peer, k, p)
    after = skip(config, with_op(peer, k, op)._replace(issued=k + 1), p)
    if rules.rootless_raises and op.veto:
        op = peer.ops[k]._replace(error=PEER_LOST)
        after = with_op(after, k, op)._replace(broken=PEER_LOST)
    yield f"peer {p} issues operation {k + 1}", with_peer(state, p, after)


def _issued(config: Configuration, rules: Rules, peer: Peer, k: int, p: int) -> Op:
    kind, op = config.ops[k], peer.ops[k]
    root = kind.root_for(p)
    # Who finds that the root has gone does not raise by itself either: it vetoes.
    rootless = root >= 0 and not peer.members >> root & 1
    if kind.pair:
        agree = rules.issue_pair(op.agree, p == kind.pair[0])
        return _settle(config, k, op._replace(agree=agree, veto=op.veto or int(rootless)))
    return op._replace(agree=core.issue(op.agree, kind.retained), veto=op.veto or int(rootless))


def complete(config: Configuration, state: State, p: int) -> Iterator[Step]:
    """It may once those it needs have issued it in the view; whoever died may have sent all."""
    peer = state.peers[p]
    for k in range(peer.issued):
        op = peer.ops[k]
        if op.agree[0] != core.RUNNING or op.error:
            continue
        number = number_of(peer, k)
        needed = members_of(config.ops[k].needs(peer.members, p))
        made_of = [_contributed(state.peers[q], peer, number, op) for q in needed]
        if None in made_of:
            continue
        if any(other != k for other in made_of):
            raise Disagreement(f"peer {p} makes a result of operations {made_of}")
        after = _settle(config, k, op._replace(agree=core.complete(op.agree)))
        yield f"peer {p} completes operation {k + 1}", _send(config, state, p, k, after)


def _contributed(other: Peer, peer: Peer, number: int, op: Op) -> int | None:
    k = of_number(other, number)
    if k is None or other.seal[:2] != peer.seal[:2] or k >= other.issued:
        return None
    theirs = other.ops[k]
    there = theirs.agree[0] in (core.RUNNING, core.COMPLETE, core.SETTLED)
    return k if there and theirs.attempt == op.attempt else None


def _settle(config: Configuration, k: int, op: Op) -> Op:
    """If it is settled now: success is told."""
    if op.agree[0] != core.SETTLED:
        return op
    return op._replace(veto=0, supplier=-1, kept=int(config.ops[k].retained))


def _send(config: Configuration, state: State, p: int, k: int, op: Op) -> State:
    """Put the operation back, and send the tokens that are due."""
    peer = state.peers[p]
    members = config.ops[k].pair or members_of(peer.members)
    agree, tokens = core.send(op.agree, members.index(p), len(members))
    state = with_peer(state, p, with_op(peer, k, op._replace(agree=agree)))
    for round_, rank in tokens:
        frame = (TOKEN, *peer.seal[:2], number_of(peer, k), round_)
        state = _deliver(state, members[rank], frame)
    return state


def _deliver(state: State, p: int, frame: tuple[int, int, int, int, int]) -> State:
    peer = state.peers[p]
    if peer.life != ALIVE or frame in peer.inbox:
        return state
    return with_peer(state, p, peer._replace(inbox=tuple(sorted((*peer.inbox, frame)))))


def hear(config: Configuration, rules: Rules, state: State, p: int) -> Iterator[Step]:
    peer = state.peers[p]
    for frame in peer.inbox:
        kind, term, view, number, what = frame
        fence = rules.fence if kind == TOKEN else rules.supply_fence
        k = of_number(peer, number)
        if fence(peer.seal, term, view) != core.NOW or k is None or peer.ops[k].error:
            continue
        op = peer.ops[k]
        if kind == TOKEN:
            if op.agree[0] == core.SETTLED:
                continue
            rest = tuple(other for other in peer.inbox if other != frame)
            before = with_peer(state, p, peer._replace(inbox=rest))
            after = _settle(config, k, op._replace(agree=core.hear(op.agree, what)))
            text = f"peer {p} hears token {what} of operation {number}"
            yield text, _send(config, before, p, k, after)
        elif op.agree[0] == core.AWAITING:
            after = _settle(config, k, op._replace(agree=core.supplied(op.agree), attempt=what))
            text = f"peer {p} is supplied with operation {number} of attempt {what}"
            yield text, with_peer(state, p, with_op(peer, k, after))


def ask(config: Configuration, rules: Rules, state: State, p: int) -> Iterator[Step]:
    """A stalled operation asks another peer, who says success or nothing.

    One that has left may have answered before.
    """
    peer = state.peers[p]
    for k in range(peer.issued):
        op = peer.ops[k]
        if op.agree[0] not in (core.RUNNING, core.COMPLETE) or op.error:
            continue
        for q in members_of(peer.members & ~(1 << p)):
            other = state.peers[q]
            theirs = other.ops[k]
            if op.agree[0] == core.COMPLETE and (
                theirs.agree[0] == core.SETTLED and theirs.attempt == op.attempt
            ):
                after = _settle(config, k, op._replace(agree=core.told(op.agree)))
                text = f"peer {p} asks peer {q}, which has settled operation {k + 1}"
                yield text, with_peer(state, p, with_op(peer, k, after))
                break
            if rules.errors_are_told and theirs.error:
                after = op._replace(error=theirs.error)
                text = f"peer {p} asks peer {q}, which raised for operation {k + 1}"
                yield text, with_peer(state, p, with_op(peer, k, after))


def supply(state: State, p: int) -> Iterator[Step]:
    """Who awaits a result asks the supplier that the verdict named, once it is in the view, too."""
    peer = state.peers[p]
    for k in range(peer.issued):
        op = peer.ops[k]
        if op.agree[0] != core.AWAITING or op.supplier < 0 or op.error:
            continue
        number = number_of(peer, k)
        other = state.peers[op.supplier]
        theirs = of_number(other, number)
        if other.life != ALIVE or other.seal[:2] != peer.seal[:2] or theirs is None:
            continue
        if not other.ops[theirs].kept:
            continue
        frame = (SUPPLY, *peer.seal[:2], number, other.ops[theirs].attempt)
        if frame not in peer.inbox:
            text = f"peer {op.supplier} sends its result of operation {number} to peer {p}"
            yield text, _deliver(state, p, frame)


def veto(rules: Rules, state: State, p: int) -> Iterator[Step]:
    """A timeout, a cancel, a mismatch: one of the faults."""
    peer = state.peers[p]
    faults = state.faults.less("vetoes")
    if faults is None:
        return
    for k in range(peer.issued):
        op = peer.ops[k]
        if outstanding(op) and not op.veto:
            error = VETOED + k + 1 if rules.vetoes_answer else 0
            after = with_op(peer, k, op._replace(veto=1, error=error))
            text = f"peer {p} vetoes operation {k + 1}"
            yield text, with_peer(state, p, after)._replace(faults=faults)


# ---- rounds --------------------------------------------------------------------------------


def seal(config: Configuration, rules: Rules, state: State, p: int) -> Iterator[Step]:
    """It is sealed and reports at once."""
    peer, messages = state.peers[p], state.messages
    for epoch in messages.seals:
        closed = rules.close(peer.seal, epoch)
        if closed is None or closed == peer.seal:
            continue
        reports = (*messages.reports, (epoch, p, _report(config, rules, peer, p)))
        after = with_peer(state, p, peer._replace(seal=closed))
        after = after._replace(messages=messages._replace(reports=tuple(sorted(reports))))
        yield f"peer {p} is sealed in round {epoch}", after


def _report(config: Configuration, rules: Rules, peer: Peer, p: int) -> Told:
    settled = tuple(
        (order, watermark_of(config, rules, peer, order))
        for order in orders_of(config)
        if not order or p in order
    )
    entries = []
    vetoes = []
    for k in range(peer.issued):
        op, kind, number = peer.ops[k], config.ops[k], number_of(peer, k)
        if not kind.takes_part(p):
            continue
        phase = op.agree[0]
        above = not kind.retained and number > dict(settled)[kind.pair]
        if outstanding(op) or (phase == core.SETTLED and not op.error and (op.kept or above)):
            root, idle = kind.root_for(p), kind.is_idle(p)
            entry = number, phase, kind.retained, kind.repeatable, root, idle, kind.pair
            entries.append(entry)
        if op.veto:
            vetoes.append((number, kind.pair))
    return settled, tuple(entries), tuple(vetoes)


def take(config: Configuration, rules: Rules, state: State, p: int) -> Iterator[Step]:
    peer = state.peers[p]
    for verdict in state.messages.verdicts:
        if not verdict.members >> p & 1 or not rules.takes(peer.seal, verdict.epoch):
            continue
        size = len(members_of(verdict.members))
        died = verdict.members != peer.members
        concerned = rules.breaks_all or any(outstanding(op) for op in peer.ops)
        after = peer._replace(
            seal=core.seal_open(peer.seal, *verdict.view),
            members=verdict.members,
            broken=peer.broken or (verdict.error if concerned else 0),
            base=rules.base(peer.base, watermark_of(config, rules, peer), died),
        )
        stands = dict(verdict.stands)
        ops = []
        for k, op in enumerate(peer.ops):
            if op.error or op.agree[0] == core.SETTLED or not config.ops[k].takes_part(p):
                ops.append(op)
            elif k >= peer.issued:
                attempt = rules.attempt(verdict.view[1], op.attempt)
                ops.append(op._replace(agree=core.fresh(size), attempt=attempt))
            else:
                number = number_of(peer, k)
                supplier = stands.get(number, -1)
                judgement = rules.judgement(op.agree[0], number in stands, verdict.error)
                ops.append(_judged(config, op, k, judgement, supplier, verdict))
        after = after._replace(ops=tuple(ops))
        for k, (op, before) in enumerate(zip(ops, peer.ops, strict=True)):
            if op.agree[0] == core.ABSENT and before.agree[0] != core.ABSENT and not op.error:
                after = with_op(after, k, _issued(config, rules, after, k, p))
        yield f"peer {p} takes the verdict of round {verdict.epoch}", with_peer(state, p, after)


def _judged(
    config: Configuration, op: Op, k: int, judgement: int, supplier: int, verdict: Verdict
) -> Op:
    agree, consequence = core.judge(op.agree, judgement, len(members_of(verdict.members)))
    if consequence == core.SUCCEED:
        return _settle(config, k, op._replace(agree=agree))
    if consequence == core.AWAIT:
        supplier = op.supplier if supplier < 0 else supplier
        return op._replace(agree=agree, veto=0, supplier=supplier)
    error = verdict.error if consequence == core.RAISE else 0
    veto = 0 if error else op.veto
    return op._replace(
        agree=agree, attempt=verdict.view[1], error=error, veto=veto, supplier=-1, kept=0
    )


def leave(state: State, p: int) -> Iterator[Step]:
    """Who is told that it is out raises everything, and has no part in anything.

    A step for the mutants to which this matters: to have no part is nothing new.
    """
    peer = state.peers[p]
    ops = tuple(op if op.agree[0] == core.SETTLED else op._replace(error=OUT) for op in peer.ops)
    yield f"peer {p} is told that it is out", with_peer(state, p, peer._replace(life=LEFT, ops=ops))


def part(config: Configuration, rules: Rules, state: State, p: int) -> Iterator[Step]:
    """It leaves: its calls are over, and what it has sent has come.

    Who leaves, too, needs nothing; what it was told of is over.
    """
    peer = state.peers[p]
    faults = state.faults.less("leaves")
    if faults is None or peer.leaving or not progresses(rules, peer):
        return
    if any(outstanding(op) or op.kept for op in peer.ops):
        return
    members = members_of(peer.members)
    for q in members:
        for kind, term, view, number, round_ in state.peers[q].inbox:
            k = of_number(peer, number)
            circle = (k is not None and config.ops[k].pair) or members
            sender = circle[(circle.index(q) - (1 << round_)) % len(circle)]
            if kind == TOKEN and (term, view) == peer.seal[:2] and sender == p:
                return
    others = [state.peers[q] for q in members if q != p and not state.peers[q].leaving]
    told = tuple(
        watermark_of(config, rules, other) if other.seal[:2] == peer.seal[:2] else -1
        for other in others
    )
    if peer.broken or rules.may_leave(watermark_of(config, rules, peer), told):
        yield (
            f"peer {p} leaves",
            with_peer(state, p, peer._replace(leaving=1))._replace(faults=faults),
        )


def die(state: State, p: int) -> Iterator[Step]:
    faults = state.faults.less("deaths")
    # Of those who do not count, life or death makes no difference.
    if faults is not None and p in survivors_of(state):
        after = with_peer(state, p, state.peers[p]._replace(life=LEFT, dead=1))
        yield f"peer {p} dies", after._replace(faults=faults)
