"""Who may speak with the coordinator: versions, the run token, Hello.

Functions on a ``Turn``. A connection introduces itself with Hello, and proves the token where there
is one; from then on it speaks for that peer, whom it makes known to the group if it is new.
"""

from __future__ import annotations

import hmac

from collectives.membership import formation, preparation, recall, restart
from collectives.membership.departures import depart
from collectives.membership.hearing import catch_up
from collectives.membership.ledger import (
    MAX_CHALLENGES,
    MAX_GROUPS,
    Challenged,
    Departure,
    Group,
    Registered,
    prove,
)
from collectives.membership.messages import (
    Alive,
    Challenge,
    Denied,
    Evicted,
    Hello,
    Identify,
    Proof,
    Skew,
    StatusQuery,
    StatusReply,
    Welcome,
)
from collectives.membership.status import snapshot_json
from collectives.membership.turn import Turn, farewell, with_item, without
from collectives.membership.view import Peer
from collectives.membership.wire import FEATURES, MAX_NAME, MAX_PEERS, NO_RUN, VERSIONS


def request(turn: Turn, route: bytes, message: Hello | StatusQuery) -> None:
    """Somebody wants in, or to know how the run is."""
    if message.high < VERSIONS[0] or message.low > VERSIONS[1]:
        skewed(turn, route, message.low, message.high)
    elif not turn.state.token or _known(turn, route, message):
        _admit(turn, route, message)
    else:
        _challenge(turn, route, message)


def _known(turn: Turn, route: bytes, message: Hello | StatusQuery) -> bool:
    """Whether this connection has proved the token for this very peer already."""
    return isinstance(message, Hello) and turn.state.routes.get(route) == (
        message.group,
        message.peer,
    )


def skewed(turn: Turn, route: bytes, low: int, high: int) -> None:
    """A connection that speaks other versions of the protocol only."""
    turn.refuse("other protocol version")
    turn.because(f"refused a connection that speaks protocol versions {low} to {high}")
    turn.send(route, Skew(*VERSIONS))


def _challenge(turn: Turn, route: bytes, message: Hello | StatusQuery) -> None:
    pending = turn.state.challenges.get(route)
    if pending is not None and pending.request == message:
        nonce = pending.nonce  # asked again: the same challenge, or a late proof would fail
    else:
        nonce = turn.secret("challenge")
    challenges = with_item(
        without(turn.state.challenges, route), route, Challenged(message, nonce, turn.now)
    )
    while len(challenges) > MAX_CHALLENGES:
        del challenges[next(iter(challenges))]
    turn.set(challenges=challenges)
    turn.send(route, Challenge(nonce))


def check_proof(turn: Turn, route: bytes, message: Proof) -> None:
    """The answer to a challenge."""
    pending = turn.state.challenges.get(route)
    if pending is None:
        if route not in turn.state.routes:
            turn.send(route, Identify())
        return
    if message.nonce not in (b"", pending.nonce):
        return  # the answer to another challenge; that to ours is on its way
    turn.set(challenges=without(turn.state.challenges, route))
    request = pending.request
    who = request.peer if isinstance(request, Hello) else request.client
    if hmac.compare_digest(prove(turn.state.token, pending.nonce, who), message.mac):
        _admit(turn, route, request)
        return
    turn.refuse("wrong token")
    name = repr(request.name) if isinstance(request, Hello) else "a status query"
    turn.because(f"refused {name}: its run token is wrong or missing")
    turn.send(route, Denied("the run token is wrong or missing"))


def _admit(turn: Turn, route: bytes, message: Hello | StatusQuery) -> None:
    if isinstance(message, StatusQuery):
        turn.send(route, StatusReply(snapshot_json(turn.state, turn.now)))
    else:
        _hello(turn, route, message)


def _hello(turn: Turn, route: bytes, hello: Hello) -> None:
    key = (hello.group, hello.peer)
    departure = turn.state.departed.get(key)
    if departure is not None:
        turn.send(route, farewell(departure))
        return
    group = turn.state.groups.get(hello.group)
    new = group is None or hello.peer not in group.peers
    if group is None or hello.peer not in group.peers:
        if recall.must_recall(turn, hello):
            _ensure_group(turn, hello.group)
            recall.recall(turn, route, hello)
            return
        refusal = _refusal(turn, group, hello)
        if refusal:
            turn.refuse("peer not let in")
            turn.because(f"refused {hello.name!r}: {refusal}")
            foreign = hello.number > 0 and hello.run != turn.state.run
            other = turn.state.run if foreign else NO_RUN
            turn.send(route, Evicted(refusal, hello.number > 0, other))
            return
        group = _register(turn, route, hello)
    registered = group.peers[hello.peer]
    if registered.route != route:
        turn.set(routes=without(turn.state.routes, registered.route))
    turn.set(routes=with_item(turn.state.routes, route, key))
    # What was told over the old connection may not have arrived.
    registered = turn.set_peer(
        hello.group, hello.peer, route=route, heard=turn.now, told=None, min_size=hello.min_size
    )
    turn.send(
        route,
        Welcome(
            turn.state.run,
            turn.state.term,
            group.id,
            registered.peer.name,
            min(hello.high, VERSIONS[1]),
            hello.features & FEATURES,
        ),
    )
    if new:
        formation.settle(turn, hello.group)
    if not new or not preparation.is_preparing(turn.group(hello.group), hello.peer):
        catch_up(turn, hello.group, hello.peer, Alive(group.id, hello.term, hello.number))
    _forgotten(turn, hello)
    restart.check(turn, hello.group)


def _forgotten(turn: Turn, hello: Hello) -> None:
    """Let go of a member that is in a newer view than the coordinator remembers.

    Where the run was restored from others' words or from an old copy of the journal, it cannot
    go back, and the others cannot follow it.
    """
    group = turn.group(hello.group)
    view = group.view
    if view is None or view.rank_of(hello.peer) is None:
        return
    if (hello.term, hello.number) > (view.term, view.number):
        peer = group.peers[hello.peer].peer
        text = f"{peer.name!r} is in view {hello.number}, which the coordinator does not remember"
        turn.because(text, hello.group)
        depart(turn, hello.group, Departure(peer, left=False, text=text))
        formation.settle(turn, hello.group)


def _refusal(turn: Turn, group: Group | None, hello: Hello) -> str:
    """Why a peer that is not registered cannot be; "" if it can."""
    if hello.number > 0 and hello.run not in (NO_RUN, turn.state.run):
        return "this coordinator does not know your run, and has another one"
    if hello.number > 0:
        return "you are no member of the run any more"
    if group is None and len(turn.state.groups) >= MAX_GROUPS:
        return f"the run has {MAX_GROUPS} groups, more are not supported"
    if group is not None and len(group.peers) >= MAX_PEERS:
        return f"the group has {MAX_PEERS} peers, more are not supported"
    return ""


def _register(turn: Turn, route: bytes, hello: Hello) -> Group:
    number = turn.state.counter + 1
    turn.set(counter=number)
    group = _ensure_group(turn, hello.group)
    if group.number == 0 and hello.run not in (NO_RUN, turn.state.run):
        # It waited in a run that this coordinator does not know; its members cannot be far.
        held = turn.now + turn.state.timing.reunion
        group = turn.set_group(hello.group, held=held)
    name = _unique_name(group, hello.name)
    peer = Peer(
        hello.peer,
        name,
        hello.addresses,
        hello.unit,
        hello.process,
        hello.site,
        hello.tunes,
    )
    registered = Registered(
        peer,
        hello.min_size,
        route,
        number,
        turn.now,
        visits=hello.visits,
        among=hello.among,
    )
    group = turn.set_group(hello.group, peers=with_item(group.peers, hello.peer, registered))
    turn.because(f"{name!r} asks to be admitted", hello.group)
    return group


def _ensure_group(turn: Turn, name: str) -> Group:
    if name not in turn.state.groups:
        number = turn.state.counter + 1
        turn.set(counter=number)
        used = {group.id for group in turn.state.groups.values()}
        # Frames carry the id; one that was given up is not used again while anybody may use it.
        group_id = next(i for i in range(number, number + MAX_GROUPS + 1) if i not in used)
        turn.set(groups=with_item(turn.state.groups, name, Group(group_id, name)))
    return turn.group(name)


def _unique_name(group: Group, wanted: str) -> str:
    taken = {registered.peer.name for registered in group.peers.values()}
    if group.view is not None:
        taken |= {peer.name for peer in group.view.peers}
    name, count = wanted, 1
    while name in taken:
        count += 1
        suffix = f"-{count}"
        room = MAX_NAME - len(suffix)
        name = wanted.encode()[:room].decode("utf-8", "ignore") + suffix
    return name
