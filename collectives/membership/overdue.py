"""Who keeps the others waiting for too long, and therefore goes.

Functions on a ``Turn``, called at every tick: a view that does not come, a round that does not end,
a group whose members have all gone silent, a newcomer that has.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping

from collectives.membership import formation, rounds
from collectives.membership.admission import who_to_drop, with_unit
from collectives.membership.departures import depart
from collectives.membership.ledger import Departure, Failure
from collectives.membership.turn import Turn
from collectives.membership.view import Peer


def check_preparation(turn: Turn, name: str) -> None:
    """Drop whoever keeps a view from coming for too long."""
    group = turn.group(name)
    coming = group.preparing
    if coming is None:
        return
    timing = turn.state.timing
    age = turn.now - coming.since
    if age < timing.prepare_patience:
        return
    heard = {peer.id: turn.now - group.peers[peer.id].heard for peer in coming.view.peers}
    failing = {
        pair: failure
        for pair, failure in coming.failed.items()
        if turn.now - failure.since >= timing.pair_patience
        and turn.now - failure.last <= timing.hesitation
    }
    tried = {peer for peer, at in coming.knows.items() if turn.now - at >= timing.pair_patience}
    failed = {pair: failure for pair, failure in failing.items() if tried.issuperset(pair)}
    doubtful = any(heard[peer] > timing.hesitation for pair in failed for peer in pair)
    late = [peer for peer in coming.view.peers if peer.id not in coming.ready]
    if _expel_unheard(turn, name, failing, heard):
        pass
    elif failed and not doubtful:
        members = {peer.id for peer in group.members}
        order = [peer.id for peer in coming.view.peers]
        dropped = who_to_drop(
            [peer for peer in order if peer in members],
            [peer for peer in order if peer not in members],
            failed.keys(),
        )
        _drop(turn, name, dropped, failed)
    elif late and age >= timing.prepare_silence:
        silent = [peer for peer in late if heard[peer.id] > timing.waiting_silence]
        text = f"it did not say within {timing.prepare_silence:g} s that it can connect"
        for peer in silent or late:
            _expel(turn, name, peer, text)
    else:
        return
    formation.settle(turn, name)


def _expel_unheard(
    turn: Turn,
    name: str,
    failed: Mapping[tuple[uuid.UUID, uuid.UUID], Failure],
    heard: Mapping[uuid.UUID, float],
) -> bool:
    """Drop those whom others cannot reach and who have fallen silent here too.

    Neither alone says who of a pair is at fault; together they do, also against a member. (A
    member that dies while it is the last one has no other member to report it.)
    """
    group = turn.group(name)
    assert group.preparing is not None
    limit = turn.state.timing.waiting_silence
    unheard = []
    for peer in group.preparing.view.peers:
        accusers = [here for here, there in failed if there == peer.id and heard[here] <= limit]
        if accusers and heard[peer.id] > limit:
            unheard.append((peer, group.peers[accusers[0]].peer.name))
    for peer, accuser in unheard:
        silent = f"it has said nothing for {heard[peer.id]:.1f} s"
        _expel(turn, name, peer, f"{accuser!r} cannot reach it and {silent}")
    return bool(unheard)


def _drop(
    turn: Turn,
    name: str,
    dropped: Collection[uuid.UUID],
    failed: Mapping[tuple[uuid.UUID, uuid.UUID], Failure],
) -> None:
    group = turn.group(name)
    assert group.preparing is not None
    peers = {peer.id: peer for peer in group.preparing.view.peers}
    members = {peer.id for peer in group.members}
    newcomers = [peer for peer in peers.values() if peer.id not in members]
    for peer_id in with_unit(newcomers, dropped):
        peer = peers[peer_id]
        text = f"peer {peer.name!r} of its unit {peer.unit!r} was not admitted"
        mine = [pair for pair in failed if peer_id in pair and peer_id in dropped]
        if mine:
            # The pair that made it go is one whose other half stays, if there is such a pair.
            here, there = min(mine, key=lambda pair: set(pair) <= set(dropped))
            text = (
                f"{peers[here].name!r} and {peers[there].name!r} cannot reach each other"
                f" ({peers[here].name!r} tried: {failed[here, there].text})"
            )
        _expel(turn, name, peer, text)


def _expel(turn: Turn, name: str, peer: Peer, why: str) -> None:
    if peer.id not in turn.group(name).peers:
        return  # with its unit, a moment ago
    admitted = any(member.id == peer.id for member in turn.group(name).members)
    what = "evicted from" if admitted else "not admitted to"
    text = f"{peer.name!r} is {what} group {name!r}: {why}"
    turn.because(text, name)
    depart(turn, name, Departure(peer, left=False, text=text, admitted=admitted))


def check_abandoned(turn: Turn, name: str) -> None:
    """Give up a view whose members all died without a witness."""
    group = turn.group(name)
    limit = turn.state.timing.abandoned
    members = group.members
    if not members or not group.newcomers or group.preparing is not None:
        return
    if all(turn.now - group.peers[peer.id].heard > limit for peer in members):
        for peer in members:
            _expel(turn, name, peer, f"no member has said anything for {limit:g} s")
        formation.settle(turn, name)


def check_round(turn: Turn, name: str) -> None:
    """Reach those who do not answer through others, and evict who stays silent."""
    group = turn.group(name)
    timing = turn.state.timing
    round_, issued = group.round, group.issued
    if round_ is not None:
        missing = [peer for peer in group.members if peer.id not in round_.reports]
        since = turn.now if group.returning is not None else round_.first
        if since is not None and turn.now - since > timing.report_patience:
            text = f"it did not report in round {round_.epoch.round} within"
            _evict(turn, name, missing, f"{text} {timing.report_patience:g} s")
        elif turn.now - round_.asked >= timing.relay_after:
            rounds.relay_seal(turn, name, [peer.id for peer in missing])
        return
    if issued is None or not group.members or group.returning is not None:
        return
    late = [peer for peer in group.members if peer.id not in issued.taken]
    if not late or len(late) == len(group.members):
        return  # nobody has shown yet that it can be reached
    if turn.now - issued.since > timing.report_patience:
        text = f"it did not take the verdict of round {issued.epoch.round} within"
        _evict(turn, name, late, f"{text} {timing.report_patience:g} s")
    elif turn.now - issued.asked >= timing.relay_after:
        rounds.relay_verdict(turn, name, [peer.id for peer in late])


def _evict(turn: Turn, name: str, peers: Collection[Peer], why: str) -> None:
    departures = []
    for peer in peers:
        text = f"{peer.name!r} is evicted from group {name!r}: {why}"
        turn.because(text, name)
        departures.append(Departure(peer, left=False, text=text))
    depart(turn, name, *departures)
    formation.settle(turn, name)


def check_waiting(turn: Turn, name: str) -> None:
    """Forget who waits for admission and has gone silent.

    Members are never judged by silence on the control plane.
    """
    group = turn.group(name)
    limit = turn.state.timing.waiting_silence
    silent = [p for p in group.newcomers if turn.now - group.peers[p.id].heard > limit]
    for peer in silent:
        turn.because(f"{peer.name!r} waited for admission and fell silent; dropped", name)
        turn.remove(name, peer.id, None)
    if silent:
        formation.settle(turn, name)
