"""Visits: who fetches before its admission has links to the members, and holds up nobody."""

from __future__ import annotations

import dataclasses
import uuid

from collectives.membership import codec, ledger, messages, peer, wire
from collectives.membership.coordinator import decide
from collectives.membership.durable import durable, restore
from collectives.membership.messages import (
    Alive,
    Hello,
    Prepare,
    Prepared,
    SyncReached,
    Visit,
)
from collectives.membership.restart import resume
from collectives.membership.view import Peer, View

BLANK = ledger.CoordinatorState(run=uuid.UUID(int=9), seed=bytes(range(32)))


def of(number: int) -> uuid.UUID:
    return uuid.UUID(int=number + 1)


class Desk:
    """A coordinator with two members in view 1; peers speak over routes of their numbers."""

    def __init__(self) -> None:
        self.state = BLANK
        self.now = 0.0
        for i in (0, 1):
            self.hello(i, min_size=2)
        for i in (0, 1):
            self.say(i, Prepared(self.group.id, 1, 1))
        assert self.group.view is not None

    @property
    def group(self) -> ledger.Group:
        return self.state.groups["g"]

    def event(self, event: ledger.Event) -> dict[int, list[wire.Message]]:
        decision = decide(self.state, event, self.now)
        self.state = decision.state
        sent: dict[int, list[wire.Message]] = {}
        for action in decision.actions:
            # Through the wire form: a visit that is over has no peers.
            message = codec.decode(codec.encode(action.message))
            sent.setdefault(int(action.route), []).append(message)
        return sent

    def hello(self, i: int, **fields: object) -> dict[int, list[wire.Message]]:
        fields = {"min_size": 1, **fields}
        hello = Hello(of(i), "g", f"p{i}", (f"h:{i + 1}",), **fields)  # type: ignore[arg-type]
        return self.event(ledger.Received(b"%d" % i, hello))

    def say(self, i: int, message: wire.Message) -> dict[int, list[wire.Message]]:
        return self.event(ledger.Received(b"%d" % i, message))

    def alive(self, i: int, visit: int = 0, filled: bool = False) -> list[wire.Message]:
        view = self.group.view
        member = view is not None and view.rank_of(of(i)) is not None
        number = view.number if view is not None and member else 0
        message = Alive(self.group.id, 1, number, visit=visit, filled=filled)
        return self.say(i, message).get(i, [])

    def tick(self) -> dict[int, View]:
        """What visits everybody is told of."""
        self.now += 0.25
        sent = self.event(ledger.Tick())
        return {i: m.view for i, told in sent.items() for m in told if isinstance(m, Visit)}

    def sync(self, *members: int) -> list[tuple[int, wire.Message]]:
        sent = []
        for i in members:
            reached = SyncReached(self.group.id, 1, 1, self.group.sync, 5)
            found = self.say(i, reached)
            sent += [(to, m) for to, told in found.items() for m in told]
        return sent


def names(view: View) -> list[str]:
    return [peer.name for peer in view.peers]


def test_a_guest_is_told_of_the_members_and_they_of_it():
    desk = Desk()
    assert desk.tick() == {}
    desk.hello(2, visits=True)
    told = desk.tick()
    assert {i: names(view) for i, view in told.items()} == {
        0: ["p0", "p2"],
        1: ["p1", "p2"],
        2: ["p2", "p0", "p1"],
    }
    assert len({(view.number, view.key) for view in told.values()}) == 1
    assert desk.group.view is not None and told[0].key != desk.group.view.key
    assert desk.tick() == {}, "once"


def test_members_sync_without_those_who_are_still_filling():
    desk = Desk()
    desk.hello(2, visits=True)
    desk.tick()
    assert {type(m).__name__ for _, m in desk.sync(0, 1)} == {"SyncDone"}
    desk.hello(3)
    assert desk.group.preparing is None
    prepared = [(i, m.view) for i, m in desk.sync(0, 1) if isinstance(m, Prepare)]
    assert [names(view) for _, view in prepared] == [["p0", "p1", "p3"]] * 3


def test_who_is_filled_is_admitted_by_the_next_sync_also_if_all_wait_in_it_already():
    for waiting in (False, True):
        desk = Desk()
        desk.hello(2, visits=True)
        desk.tick()
        if waiting:  # as they are if they are too few
            desk.state = dataclasses.replace(
                desk.state,
                groups={
                    "g": dataclasses.replace(
                        desk.group,
                        peers={
                            p: dataclasses.replace(r, min_size=3 if p != of(2) else 1)
                            for p, r in desk.group.peers.items()
                        },
                    )
                },
            )
            desk.sync(0, 1)
        desk.alive(2, visit=1, filled=True)
        if not waiting:
            assert desk.group.preparing is None
            desk.sync(0, 1)
        assert desk.group.preparing is not None
        assert names(desk.group.preparing.view) == ["p0", "p1", "p2"]


def test_a_unit_waits_until_all_of_it_are_filled():
    desk = Desk()
    desk.hello(2, visits=True, unit="u")
    desk.hello(3, unit="u")
    desk.sync(0, 1)
    assert desk.group.preparing is None
    desk.alive(2, filled=True)
    desk.sync(0, 1)
    assert desk.group.preparing is not None


def test_what_was_lost_is_said_again_and_what_is_over_too():
    desk = Desk()
    desk.hello(2, visits=True)
    desk.tick()
    (again,) = [m for m in desk.alive(0) if isinstance(m, Visit)]
    assert names(again.view) == ["p0", "p2"]
    assert not [m for m in desk.alive(0, visit=again.view.number) if isinstance(m, Visit)]
    desk.hello(3, visits=True)
    told = desk.tick()
    assert names(told[0]) == ["p0", "p2", "p3"] and told[0].number > again.view.number
    desk.say(2, messages.Leave(desk.group.id))
    desk.say(3, messages.Leave(desk.group.id))
    over = desk.tick()
    assert over[0].peers == () and over[0].number > told[0].number
    (again,) = [m for m in desk.alive(1, visit=told[1].number) if isinstance(m, Visit)]
    assert again.view == over[1]
    assert not [m for m in desk.alive(1) if isinstance(m, Visit)]


def test_who_is_admitted_is_a_host_and_the_last_one_ends_the_visit():
    desk = Desk()
    desk.hello(2, visits=True)
    desk.tick()
    desk.hello(3, visits=True)
    desk.tick()
    desk.alive(2, visit=2, filled=True)
    desk.sync(0, 1)
    for i in (0, 1, 2):
        desk.say(i, Prepared(desk.group.id, 1, 2))
    told = desk.tick()
    assert names(told[3]) == ["p3", "p0", "p1", "p2"] and names(told[2]) == ["p2", "p3"]


def test_without_members_nobody_visits_and_nobody_waits():
    desk = Desk()
    desk.hello(2, visits=True, min_size=1)
    desk.tick()
    for i in (0, 1):
        desk.say(i, messages.Leave(desk.group.id))
    assert desk.group.preparing is not None and names(desk.group.preparing.view) == ["p2"]
    assert desk.tick()[2].peers == ()


def test_visits_are_not_in_the_journal():
    desk = Desk()
    before = durable(desk.state)
    desk.hello(2, visits=True)
    desk.tick()
    assert durable(desk.state) == before
    again = resume(restore(before, BLANK), 1.0)
    assert again.groups["g"].visits is None


# ---- the peer's side ---------------------------------------------------------------------------


def visit(number: int, *others: int, term: int = 1) -> Visit:
    peers = tuple(Peer(of(i), f"p{i}", (f"h:{i + 1}",)) for i in others)
    return Visit(View("g", 3, term, number, peers, bytes(32)))


class Machine:
    """A peer that waits for its admission."""

    def __init__(self) -> None:
        config = peer.PeerConfig(of(0), "g", "p0", visits=True)
        self.state = peer.PeerState(config)
        (hello,) = self.step(peer.Start())
        assert isinstance(hello, peer.Send) and isinstance(hello.message, Hello)
        assert hello.message.visits
        self.welcome()

    def welcome(self, term: int = 1) -> tuple[peer.Action, ...]:
        run = uuid.UUID(int=9)
        return self.hear(messages.Welcome(run, term, 3, "p0", 1))

    def step(self, event: peer.Event) -> tuple[peer.Action, ...]:
        result = peer.step(self.state, event, 0.0)
        self.state = result.state
        return result.actions

    def hear(self, message: wire.Message) -> tuple[peer.Action, ...]:
        return self.step(peer.Received(message))


def test_the_newest_visit_counts_whatever_arrives_late():
    machine = Machine()
    second = visit(2, 0, 1, 2)
    assert machine.hear(second) == (peer.VisitPlane(second.view),)
    assert machine.hear(second) == machine.hear(visit(1, 0, 1)) == ()
    assert machine.hear(visit(3)) == (peer.VisitPlane(None),)
    assert machine.hear(second) == ()
    assert machine.state.visit == 0


def test_a_restarted_coordinator_has_visits_of_its_own():
    machine = Machine()
    machine.hear(visit(2, 0, 1))
    assert machine.welcome() == (), "it was only the connection"
    assert peer.VisitPlane(None) in machine.welcome(term=2)
    assert machine.hear(visit(3, 0, 1)) == (), "of the coordinator before"
    first = visit(1, 0, 1, term=2)
    assert machine.hear(first) == (peer.VisitPlane(first.view),)


def test_that_it_is_filled_is_said_at_once_and_again():
    machine = Machine()
    (said,) = machine.step(peer.CallFilled())
    assert isinstance(said, peer.Send) and isinstance(said.message, Alive)
    assert said.message.filled
    (again,) = peer.step(machine.state, peer.Tick(), 1.5).actions
    assert isinstance(again, peer.Send) and again.message == said.message
