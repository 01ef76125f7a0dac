"""What holds of every state, and what a state may forget because it can matter no more.

A message is forgotten once the rules refuse it wherever it could go, so a mutant that accepts it
keeps it. A result that is retained is let go as early as its peer could know that it may.
"""

from __future__ import annotations

from model import core
from model.peers import number_of, of_number, progresses, watermark_of
from model.rules import Rules
from model.state import (
    ALIVE,
    GONE,
    LEFT,
    TOKEN,
    Configuration,
    Coordinator,
    Disagreement,
    Faults,
    Messages,
    Op,
    Peer,
    State,
    epoch_of,
    members_of,
    survivors_of,
)

NOTHING: core.Agree = (core.ABSENT, 0, 0, 0)
DONE = Op((core.SETTLED, 0, 0, 0), 0)
FAILED = Op(NOTHING, 0, error=1)


def outcome(op: Op) -> tuple[str, int] | None:
    """What the caller was told: an error, or success of an attempt; None: nothing yet."""
    if op.error:
        return ("error", op.error)
    return ("success", op.attempt) if op.agree[0] == core.SETTLED else None


def _sorted(found: set[tuple[str, int] | None]) -> str:
    return " and ".join(f"{one[0]} {one[1]}" for one in sorted(filter(None, found)))


def check(config: Configuration, state: State, survivors: list[int]) -> bool:
    """Whether all survivors have been told of everything.

    Raises:
        Disagreement: they were told different things, or success of what was discarded.
    """
    ended = True
    for k, void in enumerate(state.coordinator.void):
        found = {outcome(state.peers[p].ops[k]) for p in survivors if config.ops[k].takes_part(p)}
        if None in found:
            found.remove(None)
            ended = False
        if len(found) > 1:
            raise Disagreement(f"operation {k + 1} ended differently: {_sorted(found)}")
        for one in found:
            if one and one[0] == "success" and 0 < one[1] <= void:
                raise Disagreement(f"success of operation {k + 1} in attempt {one[1]}, discarded")
    return ended


def forget(config: Configuration, rules: Rules, state: State) -> State | None:
    """The state without what cannot matter; None: all survivors know all, nothing can change.

    Raises:
        Disagreement: it breaks a rule.
    """
    # What the dead had issued matters until a verdict leaves them out.
    issued = any(kind.may_idle for kind in config.ops)
    survivors = survivors_of(state)
    if check(config, state, survivors):
        return None
    peers = state.peers
    heeding = {p: peers[p].members for p in survivors if progresses(rules, peers[p])}
    tidied = []
    for p, peer in enumerate(peers):
        if p in survivors:
            tidied.append(_tidy(config, rules, peers, peer))
        elif peer.leaving and state.coordinator.members >> p & 1:
            tidied.append(_left(rules, peer))  # what it was told of counts in the verdict
        elif peer.life != GONE and any(members >> p & 1 for members in heeding.values()):
            left = peer.life == LEFT
            tidied.append(_left(rules, peer) if left else _tidy(config, rules, peers, peer))
        else:
            unnoticed = state.coordinator.members & ~state.coordinator.gone & 1 << p
            gone = _gone(peer, int(bool(peer.dead and unnoticed)))
            if issued and state.coordinator.members >> p & 1:
                gone = gone._replace(issued=peer.issued)
            tidied.append(gone)
    coordinator = state.coordinator
    done = _done(config, tidied, coordinator)
    if done:
        for p in survivors:
            tidied[p] = tidied[p]._replace(
                ops=tuple(done.get(k, op) for k, op in enumerate(tidied[p].ops))
            )
        void = tuple(0 if k in done else void for k, void in enumerate(coordinator.void))
        coordinator = coordinator._replace(void=void)
    return State(
        tuple(tidied),
        coordinator,
        _messages(rules, state, survivors),
        _possible(state.faults),
    )


def _possible(faults: Faults) -> Faults:
    return Faults(*(min(left, faults.total) for left in faults))


def _gone(peer: Peer, dead: int) -> Peer:
    return Peer(GONE, dead, (0, 0, core.NO_EPOCH, 0), 0, 0, 0, 0, (FAILED,) * len(peer.ops), ())


def _left(rules: Rules, peer: Peer) -> Peer:
    """What it had done before it left may still be heard."""
    ops = tuple(
        Op((op.agree[0], 0, 0, 0), op.attempt, error=op.error if rules.errors_are_told else 0)
        for op in peer.ops
    )
    return Peer(
        LEFT,
        peer.dead,
        (*peer.seal[:2], core.NO_EPOCH, 0),
        0,
        peer.issued,
        0,
        peer.base,
        ops,
        (),
        peer.leaving,
    )


def _tidy(config: Configuration, rules: Rules, peers: tuple[Peer, ...], peer: Peer) -> Peer:
    ops = list(peer.ops)
    heeds = progresses(rules, peer)
    for k, op in enumerate(ops):
        phase = op.agree[0]
        if op.error and phase in (core.ABSENT, core.SETTLED):
            ops[k] = Op(NOTHING, 0, error=op.error)
        elif phase == core.SETTLED:
            number = number_of(peer, k)
            kept = op.kept and not _known_everywhere(config, rules, peers, peer, number)
            ops[k] = Op(DONE.agree, op.attempt, kept=int(kept))
        elif not heeds and op.agree[1]:
            ops[k] = op._replace(agree=(phase, 0, 0, 0))  # tokens mean nothing any more
    inbox = []
    for frame in peer.inbox:
        kind, term, view, number, _ = frame
        k = of_number(peer, number)
        if k is not None and (ops[k].error or ops[k].agree[0] == core.SETTLED):
            continue
        fence = rules.fence if kind == TOKEN else rules.supply_fence
        if fence(peer.seal, term, view) != core.VOID:
            inbox.append(frame)
    return peer._replace(ops=tuple(ops), inbox=tuple(inbox))


def _known_everywhere(
    config: Configuration, rules: Rules, peers: tuple[Peer, ...], peer: Peer, number: int
) -> bool:
    """Whether all members of its view have a watermark that lets it release a result."""
    return all(
        peers[q].life != GONE and watermark_of(config, rules, peers[q]) >= number
        for q in members_of(peer.members)
    )


def _done(config: Configuration, peers: list[Peer], coordinator: Coordinator) -> dict[int, Op]:
    """Operations that have ended for all, and equally: how does not matter."""
    staying = members_of(coordinator.members & ~coordinator.gone)
    if any(peers[p].life != ALIVE for p in staying):
        return {}
    done = {}
    for k in range(len(coordinator.void)):
        parties = [peers[p] for p in staying if config.ops[k].takes_part(p)]
        if all(peer.ops[k].error for peer in parties):
            done[k] = FAILED
        elif all(peer.ops[k].agree[0] == core.SETTLED for peer in parties):
            done[k] = DONE
    return done


def _messages(rules: Rules, state: State, survivors: list[int]) -> Messages:
    seals, reports, verdicts = state.messages
    coordinator = state.coordinator
    current = epoch_of(coordinator)
    found = [(p, state.peers[p].seal) for p in survivors]
    staying = coordinator.members & ~coordinator.gone
    return Messages(
        tuple(
            epoch
            for epoch in seals
            if any(
                seal[1] < epoch[2] or rules.close(seal, epoch) not in (None, seal)
                for _, seal in found
            )
        ),
        tuple(
            report
            for report in reports
            if staying >> report[1] & 1 and rules.counts(report[0], current)
        ),
        tuple(
            verdict
            for verdict in verdicts
            if any(
                verdict.members >> p & 1 and rules.may_take(seal, verdict.epoch)
                for p, seal in found
            )
        ),
    )
