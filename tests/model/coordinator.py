"""What the coordinator does: notice who is gone, open rounds, decide them, crash and restart.

Its journal holds the term, the view, who departed from it, the last verdict and the error with
which the group is broken: a restart loses the open round alone, and what it had heard.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from model import core
from model.peers import Step, number_of, outstanding
from model.rules import Decision, Rules, Told
from model.state import (
    ALIVE,
    LEFT,
    Configuration,
    Coordinator,
    Disagreement,
    Faults,
    State,
    Verdict,
    epoch_of,
    members_of,
    survivors_of,
)


def _with(state: State, coordinator: Coordinator, faults: Faults | None = None) -> State:
    """With the Seals of the round, where it has just been opened."""
    seals = state.messages.seals
    epoch = epoch_of(coordinator)
    if epoch is not None and epoch not in seals:
        seals = tuple(sorted((*seals, epoch)))
    return state._replace(
        coordinator=coordinator,
        messages=state.messages._replace(seals=seals),
        faults=state.faults if faults is None else faults,
    )


def _opened(coordinator: Coordinator) -> Coordinator:
    if coordinator.open:
        return coordinator
    return coordinator._replace(open=1, round=coordinator.round + 1)


def notice(state: State) -> Iterator[Step]:
    coordinator = state.coordinator
    for p in members_of(coordinator.members & ~coordinator.gone):
        if state.peers[p].dead:
            without = coordinator._replace(gone=coordinator.gone | 1 << p)
            yield f"the coordinator notices the death of peer {p}", _with(state, _opened(without))


def evict(state: State) -> Iterator[Step]:
    """For no reason."""
    faults = state.faults.less("evictions")
    if faults is None:
        return
    coordinator = state.coordinator
    for p in survivors_of(state):
        without = coordinator._replace(gone=coordinator.gone | 1 << p)
        yield f"peer {p} is evicted, but lives", _with(state, _opened(without), faults)


def let_go(state: State) -> Iterator[Step]:
    """Who leaves goes, but not before a round that is open, unless nobody else is in it."""
    coordinator = state.coordinator
    staying = members_of(coordinator.members & ~coordinator.gone)
    leaving = [p for p in staying if state.peers[p].leaving and state.peers[p].life == ALIVE]
    if coordinator.open and len(leaving) < len(staying):
        return
    for p in leaving:
        without = coordinator._replace(gone=coordinator.gone | 1 << p)
        after = _with(state, _opened(without))
        peers = list(after.peers)
        peers[p] = peers[p]._replace(life=LEFT)
        yield f"peer {p} has left", after._replace(peers=tuple(peers))


def open_round(rules: Rules, state: State) -> Iterator[Step]:
    """What it does not open a round for at once, it does when it hears of it (again)."""
    coordinator = state.coordinator
    if coordinator.open:
        return
    reason = None
    for p in survivors_of(state):
        peer = state.peers[p]
        if peer.seal[:2] != coordinator.view:
            continue
        if any(op.veto and outstanding(op) for op in peer.ops):
            reason = f"peer {p} has a veto"
        if peer.seal[3] and not rules.resumes_quietly and not rules.asks_once:
            reason = f"peer {p} is sealed without a verdict"
    if coordinator.gone:
        reason = "members have gone"
    if reason is not None:
        yield f"a round is opened, since {reason}", _with(state, _opened(coordinator))


def open_idly(state: State) -> Iterator[Step]:
    """A late veto of what was judged already, a suspicion that comes to nothing."""
    faults = state.faults.less("rounds")
    if faults is not None and not state.coordinator.open:
        yield "a round is opened for no reason", _with(state, _opened(state.coordinator), faults)


def restart(rules: Rules, state: State) -> Iterator[Step]:
    """That a peer is sealed it may learn later, since an old Seal may arrive even then."""
    faults = state.faults.less("restarts")
    if faults is not None:
        coordinator = state.coordinator
        after = coordinator._replace(term=coordinator.term + 1, round=0, open=0)
        seals = (state.peers[p].seal for p in survivors_of(state))
        if rules.asks_once and any(seal[3] and seal[:2] == after.view for seal in seals):
            after = _opened(after)
        yield "the coordinator crashes and restarts", _with(state, after, faults)


def decide(
    config: Configuration, rules: Rules, orders: tuple[tuple[int, ...], ...], state: State
) -> Iterator[Step]:
    coordinator = state.coordinator
    current = epoch_of(coordinator)
    staying = members_of(coordinator.members & ~coordinator.gone)
    if current is None or not staying:
        return
    choices = [[(p, told) for epoch, q, told in state.messages.reports if p == q] for p in staying]
    for reports in itertools.product(*choices):
        decisions = {
            rules.decide(
                reports,
                tuple(p for p in order if coordinator.members >> p & 1),
                bool(coordinator.gone),
                len(staying) < config.min_size,
                coordinator.broken,
            )
            for order in orders
        }
        for decision in sorted(decisions):
            _check_stands(config, state, reports, decision[0])
            yield _decided(state, reports, decision)


def _check_stands(
    config: Configuration,
    state: State,
    reports: tuple[tuple[int, Told], ...],
    stands: tuple[tuple[int, int], ...],
) -> None:
    """What stands because all survivors are complete was issued by all members.

    Where something comes to everybody it could not be complete otherwise.
    """
    complete = [{e[0] for e in told[1] if e[1] == core.COMPLETE} for _, told in reports]
    for number, _ in stands:
        if not config.ops[number - 1].may_idle or not all(number in found for found in complete):
            continue
        for p in members_of(state.coordinator.members):
            if config.ops[number - 1].takes_part(p) and state.peers[p].issued < number:
                raise Disagreement(f"operation {number} stands, which peer {p} never issued")


def _decided(state: State, reports: tuple[tuple[int, Told], ...], decision: Decision) -> Step:
    coordinator = state.coordinator
    stands, error = decision
    fallen = {
        entry[0]
        for _, told in reports
        for entry in told[1]
        if entry[1] != core.SETTLED and entry[0] not in dict(stands)
    }
    left = [p for p in members_of(coordinator.members) if state.peers[p].leaving]
    for p in {p for p, _ in reports} | set(left):
        peer = state.peers[p]
        for k in range(peer.issued if peer.life == ALIVE or peer.leaving else 0):
            settled = peer.ops[k].agree[0] == core.SETTLED and not peer.ops[k].error
            if settled and number_of(peer, k) in fallen:
                raise Disagreement(
                    f"the verdict discards operation {k + 1}, of which peer {p} told success"
                )
    staying = coordinator.members & ~coordinator.gone
    view = (coordinator.term, coordinator.view[1] + 1)
    verdict = Verdict(epoch_of(coordinator) or core.NO_EPOCH, stands, error, view, staying)
    void = tuple(
        coordinator.view[1] if k + 1 in fallen else before
        for k, before in enumerate(coordinator.void)
    )
    after = coordinator._replace(
        view=view,
        members=staying,
        open=0,
        gone=0,
        broken=coordinator.broken or error,
        void=void,
    )
    messages = state.messages._replace(verdicts=tuple(sorted({*state.messages.verdicts, verdict})))
    names = ", ".join(
        f"{number} stands" + (f" by peer {supplier}" if supplier >= 0 else "")
        for number, supplier in stands
    )
    rest = f"error {error}" if error else "repeat"
    text = f"the verdict of round {verdict.epoch}: {names or 'nothing stands'}, the rest: {rest}"
    return text, state._replace(coordinator=after, messages=messages)
