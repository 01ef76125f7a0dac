"""The coordinator as a function: one event at a time, no socket and no clock."""

from __future__ import annotations

import dataclasses
import json
import uuid

import hypothesis.stateful as stateful
from hypothesis import settings
from hypothesis import strategies as st

from collectives.membership import ledger, messages
from collectives.membership.coordinator import decide
from collectives.membership.ledger import CoordinatorState, Received, Tick, prove
from collectives.membership.messages import (
    Abandon,
    Alive,
    Challenge,
    Commit,
    Denied,
    Evicted,
    Gone,
    Hello,
    Identify,
    Leave,
    LeaveDone,
    Prepare,
    Prepared,
    Proof,
    Skew,
    StatusQuery,
    StatusReply,
    Suspect,
    SyncDone,
    SyncReached,
    SyncWaiting,
    Unreachable,
    Waiting,
    Welcome,
)
from collectives.membership.status import snapshot, snapshot_json


def peer_id(i: int) -> uuid.UUID:
    return uuid.UUID(int=i + 1)


class Desk:
    """A coordinator to talk to; peer i speaks over route ``b"i"``."""

    def __init__(self, token: bytes = b"") -> None:
        self.state = CoordinatorState(run=uuid.UUID(int=99), seed=b"s" * 32, token=token)
        self.now = 0.0
        self.reason = ""

    def event(self, event: ledger.Event) -> list[tuple[bytes, messages.Message]]:
        before = self.state
        frozen = repr(before)
        decision = decide(before, event, self.now)
        assert repr(before) == frozen, "decide changed the state that it was given"
        assert decide(before, event, self.now) == decision, "decide is not a function"
        self.state, self.reason = decision.state, decision.reason
        return [(send.route, send.message) for send in decision.actions]

    def say(self, i: int, message: messages.Message) -> list[tuple[bytes, messages.Message]]:
        return self.event(Received(b"%d" % i, message))

    def hello(self, i: int, min_size: int = 2, **fields):
        hello = Hello(peer_id(i), "g", fields.pop("name", f"p{i}"), (f"h:{i + 1}",), min_size)
        return self.say(i, dataclasses.replace(hello, **fields))

    def pass_time(self, seconds: float, speaking: tuple[int, ...] = ()):
        """Let time pass in ticks; ``speaking`` peers say Alive all the while."""
        sent = []
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            for i in speaking:
                route = self.state.routes.get(b"%d" % i)
                if route is not None:
                    group = self.state.groups["g"]
                    number = group.view.number if group.view else 0
                    coming = group.preparing.view.number if group.preparing else 0
                    stand = Alive(group.id, 1, number, coming, len(group.gone))
                    sent += self.say(i, stand)
            sent += self.event(Tick())
        return sent

    @property
    def group(self) -> ledger.Group:
        return self.state.groups["g"]

    def prepared(self, i: int):
        view = self.group.preparing.view
        return self.say(i, Prepared(self.group.id, view.term, view.number))

    def reached(self, i: int, last: int = 0, broken: bool = False):
        group = self.group
        about = (group.id, group.view.term, group.view.number, group.sync)
        return self.say(i, SyncReached(*about, last, broken))

    def form(self, count: int) -> Desk:
        """Bring a first view of ``count`` peers about."""
        for i in range(count):
            self.hello(i, min_size=count)
        for i in range(count):
            self.prepared(i)
        assert self.group.view is not None
        return self


def of(kind, sent, route: int | None = None):
    return [m for r, m in sent if isinstance(m, kind) and (route is None or int(r) == route)]


def test_the_first_view_forms_when_min_size_peers_are_there():
    desk = Desk()
    sent = desk.hello(0, min_size=3)
    assert of(Welcome, sent)[0].name == "p0"
    assert of(Waiting, sent)[0].missing == 2
    sent = desk.hello(1, min_size=2)
    sent += desk.event(Tick())
    assert {m.missing for m in of(Waiting, sent)} == {1}, "the largest min_size counts"
    assert of(Waiting, sent, 0)[0].present == of(Waiting, sent, 1)[0].present == ("p0", "p1")
    assert not of(Waiting, desk.event(Tick())), "said once"
    sent = desk.hello(2)
    views = [m.view for m in of(Prepare, sent)]
    assert len(views) == 3
    assert [p.name for p in views[0].peers] == ["p0", "p1", "p2"], "by arrival"
    assert len(views[0].key) == 32
    desk.prepared(0)
    assert not of(Commit, desk.prepared(1))
    commits = of(Commit, desk.prepared(2))
    assert [(c.number, c.first_operation) for c in commits] == [(1, 1)] * 3
    assert "view 1 is committed" in desk.reason


def test_two_views_never_have_the_same_key():
    desk = Desk().form(2)
    keys = {desk.group.view.key}
    for _ in range(5):
        desk.reached(0, broken=True)
        desk.reached(1)
        desk.prepared(0)
        desk.prepared(1)
        keys.add(desk.group.view.key)
    assert len(keys) == 6


def test_names_are_made_unique():
    desk = Desk()
    desk.hello(0, name="lab", min_size=3)
    assert of(Welcome, desk.hello(1, name="lab"))[0].name == "lab-2"
    assert of(Welcome, desk.hello(2, name="lab"))[0].name == "lab-3"
    long = "ü" * 31
    assert of(Welcome, desk.hello(3, name=long))[0].name == long
    assert of(Welcome, desk.hello(4, name=long))[0].name == "ü" * 30 + "-2"


def test_a_sync_without_news_keeps_the_view():
    desk = Desk().form(2)
    desk.reached(0, 5)
    assert of(SyncWaiting, desk.event(Tick()), 0)[0].absent == ("p1",)
    sent = desk.reached(1, 7)
    assert [(m.number, m.sync) for m in of(SyncDone, sent)] == [(1, 1)] * 2
    # A repeated request of the finished sync gets its answer again; the next sync is another.
    group = desk.group
    again = desk.say(0, SyncReached(group.id, 1, 1, 1, 5, False))
    assert of(SyncDone, again)[0].sync == 1
    assert not of(SyncDone, desk.reached(0, 9))


def test_newcomers_come_in_at_a_sync_behind_the_members():
    desk = Desk().form(2)
    assert "must call sync()" in of(Waiting, desk.hello(2))[0].text
    desk.reached(1, 40)
    sent = desk.reached(0, 7)
    view = of(Prepare, sent)[0].view
    assert [p.name for p in view.peers] == ["p0", "p1", "p2"]
    assert view.first_operation == 41
    for i in range(3):
        sent = desk.prepared(i)
    assert [c.first_operation for c in of(Commit, sent)] == [41] * 3


def test_a_newcomer_that_wants_a_larger_group_waits_and_holds_nobody_up():
    desk = Desk().form(2)
    assert of(Waiting, desk.hello(2, min_size=5))[0].missing == 2
    desk.reached(0)
    assert of(SyncDone, desk.reached(1))


def test_peers_of_one_unit_are_refused_together():
    desk = Desk().form(2)
    for i in (2, 3, 4):
        desk.hello(i, unit="replica" if i < 4 else "")
    desk.reached(0)
    desk.reached(1)
    number = desk.group.preparing.view.number
    for i in (1, 3, 4):
        desk.prepared(i)
    pair = ((peer_id(2), "refused"),)
    sent = []
    for _ in range(8):
        desk.say(0, Unreachable(desk.group.id, 1, number, pair))
        sent += desk.pass_time(1.0, speaking=(0, 1, 2, 3, 4))
    texts = {int(r): m.text for r, m in sent if isinstance(m, Evicted)}
    assert set(texts) == {2, 3}
    assert "'p0' and 'p2' cannot reach each other ('p0' tried: refused)" in texts[2]
    assert "'p2' and" not in texts[3]
    assert "unit 'replica'" in texts[3]
    assert [p.name for p in desk.group.preparing.view.peers] == ["p0", "p1", "p4"]


def test_a_broken_group_gets_a_new_view_of_the_same_peers():
    desk = Desk().form(2)
    desk.reached(0, broken=True)
    view = of(Prepare, desk.reached(1))[0].view
    assert (view.number, view.size) == (2, 2)
    assert "an operation failed at p0" in desk.reason


def test_a_departure_is_enough_for_a_new_view():
    desk = Desk()
    for i in range(3):
        desk.hello(i, min_size=2 if i < 2 else 1)
    for i in range(2):
        desk.prepared(i)
    desk.reached(0)
    desk.reached(1)
    for i in range(3):
        desk.prepared(i)
    assert desk.group.view.size == 3
    desk.say(1, Leave(desk.group.id))
    desk.reached(0)
    view = of(Prepare, desk.reached(2))[0].view
    assert ([p.name for p in view.peers], view.number) == (["p0", "p2"], 3)


def test_a_break_reported_late_in_a_sync_still_counts():
    desk = Desk().form(2)
    desk.reached(0)
    desk.reached(0, broken=True)
    assert of(Prepare, desk.reached(1))


def test_a_death_is_announced_at_once_and_the_dead_is_told_when_it_speaks():
    desk = Desk().form(3)
    sent = desk.say(0, Suspect(desk.group.id, 1, 1, peer_id(2), "connection reset"))
    assert [(int(r), m.peer, m.left) for r, m in sent if isinstance(m, Gone)] == [
        (0, peer_id(2), False),
        (1, peer_id(2), False),
    ]
    assert "'p2' is dead by the word of 'p0': connection reset" in desk.reason
    assert of(Evicted, desk.say(2, Alive(desk.group.id, 1, 1)))
    assert of(Evicted, desk.hello(2)), "its UUID is used up"
    # The sync does not wait for it, and there are too few without it.
    desk.reached(0)
    desk.reached(1)
    waiting = of(SyncWaiting, desk.event(Tick()))[-1]
    assert (waiting.absent, waiting.missing) == ((), 1)
    sent = desk.hello(3)
    assert [p.name for p in of(Prepare, sent)[0].view.peers] == ["p0", "p1", "p3"]


def test_whoever_missed_a_departure_hears_of_it_later():
    desk = Desk().form(4)
    for i in (3, 2):
        desk.say(0, Suspect(desk.group.id, 1, 1, peer_id(i), "reset"))
    told = of(Gone, desk.say(1, Alive(desk.group.id, 1, 1, 0, 1)))
    assert [(m.index, m.peer) for m in told] == [(1, peer_id(2))]


def test_stale_and_false_evidence_is_not_evidence():
    desk = Desk().form(3)
    group = desk.group
    assert not of(Gone, desk.say(0, Suspect(group.id, 1, 7, peer_id(1), "another view")))
    assert not of(Gone, desk.say(0, Suspect(group.id, 1, 1, peer_id(0), "myself")))
    assert not of(Gone, desk.say(0, Suspect(group.id, 1, 1, peer_id(8), "nobody")))
    desk.hello(3)
    assert not of(Gone, desk.say(3, Suspect(group.id, 1, 1, peer_id(1), "no member")))
    assert len(desk.group.members) == 3


def test_a_leaver_is_let_go_and_announced():
    desk = Desk().form(3)
    sent = desk.say(1, Leave(desk.group.id, "done"))
    assert [int(r) for r, m in sent if isinstance(m, LeaveDone)] == [1]
    assert [(m.left, m.text) for m in of(Gone, sent)] == [(True, "'p1' left: done")] * 2
    assert of(LeaveDone, desk.say(1, Leave(desk.group.id))), "asked again, answered again"


def test_an_abort_is_announced_as_a_loss():
    desk = Desk().form(2)
    sent = desk.say(1, Leave(desk.group.id, "ValueError", aborted=True))
    assert [(m.left, m.text) for m in of(Gone, sent)] == [(False, "'p1' aborted: ValueError")]


def test_silence_drops_those_who_wait_and_never_a_member():
    desk = Desk().form(2)
    desk.hello(2)
    desk.pass_time(5.5, speaking=(0,))
    assert peer_id(2) not in desk.group.peers
    desk.pass_time(120.0, speaking=(0,))
    assert len(desk.group.members) == 2
    assert of(Identify, desk.say(2, Alive(desk.group.id, 1, 0))), "it may introduce itself again"
    assert of(Welcome, desk.hello(2))


def test_a_view_whose_members_all_died_makes_room_for_those_who_wait():
    desk = Desk().form(2)
    for i in (2, 3):
        desk.hello(i)
    assert desk.group.preparing is None
    desk.pass_time(31.0, speaking=(2, 3))
    assert [p.name for p in desk.group.preparing.view.peers] == ["p2", "p3"]


def test_a_coordinator_that_stood_still_accuses_nobody():
    desk = Desk()
    desk.hello(0, min_size=2)
    desk.event(Tick())
    desk.now += 60.0
    desk.event(Tick())
    assert "stood still for 60.0 s" in desk.reason
    desk.pass_time(4.0)
    assert peer_id(0) in desk.group.peers
    desk.pass_time(2.0)
    assert "g" not in desk.state.groups, "a group that never had a view goes with its last peer"


def test_who_cannot_connect_is_dropped_and_the_others_go_on():
    desk = Desk()
    for i in range(3):
        desk.hello(i, min_size=3)
    desk.hello(3)
    number = desk.group.preparing.view.number
    desk.prepared(1)
    sent = []
    for _ in range(6):
        for here, there in ((0, 2), (2, 0)):
            pairs = ((peer_id(there), "timed out"),)
            desk.say(here, Unreachable(desk.group.id, 1, number, pairs))
        sent += desk.pass_time(1.0, speaking=(0, 1, 2, 3))
    assert {int(r) for r, m in sent if isinstance(m, Evicted)} == {2}, "ties: lowest ranks stay"
    assert not of(Evicted, sent)[0].admitted
    assert of(Abandon, sent)
    view = desk.group.preparing.view
    assert [p.name for p in view.peers] == ["p0", "p1", "p3"], "who came meanwhile fills the gap"
    assert view.number == number + 1


def test_a_token_is_proved_before_anything_is_said():
    desk = Desk(token=b"secret")
    nonce = of(Challenge, desk.hello(0))[0].nonce
    assert not desk.state.groups
    assert of(Identify, desk.say(1, Proof(b"x" * 32))), "a proof of nothing"
    sent = desk.say(0, Proof(prove(b"secret", nonce, peer_id(0))))
    assert of(Welcome, sent)
    # The proof is good for one connection: another one has to prove itself.
    taken_over = desk.event(Received(b"9", Hello(peer_id(0), "g", "p0", (), 1)))
    assert of(Challenge, taken_over)
    assert desk.group.peers[peer_id(0)].route == b"0"


def test_a_wrong_proof_is_denied_and_counted_and_a_nonce_is_used_once():
    desk = Desk(token=b"secret")
    nonce = of(Challenge, desk.hello(0))[0].nonce
    assert of(Denied, desk.say(0, Proof(prove(b"guess", nonce, peer_id(0)))))
    assert desk.state.refused["wrong token"] == 1
    right = Proof(prove(b"secret", nonce, peer_id(0)))
    assert not of(Welcome, desk.say(0, right)), "the challenge is spent"
    assert of(Challenge, desk.hello(0))[0].nonce != nonce
    # Another peer's proof does not fit, even for the same nonce.
    nonce = of(Challenge, desk.hello(0))[0].nonce
    assert of(Denied, desk.say(0, Proof(prove(b"secret", nonce, peer_id(1)))))


def test_a_challenge_that_nobody_answers_is_forgotten_and_counted():
    desk = Desk(token=b"secret")
    desk.hello(0)
    desk.pass_time(11.0)
    assert not desk.state.challenges
    assert desk.state.refused["challenge not answered"] == 1


def test_other_versions_are_refused_with_our_range():
    desk = Desk()
    skew = of(Skew, desk.hello(0, low=2, high=3))[0]
    assert (skew.low, skew.high) == messages.VERSIONS
    assert of(Skew, desk.event(ledger.ReceivedOtherVersion(b"5", 7, 9)))
    assert desk.state.refused["other protocol version"] == 2
    assert of(Welcome, desk.hello(0, low=1, high=9))[0].version == 1


def test_a_member_comes_back_over_a_new_connection_and_hears_what_it_missed():
    desk = Desk().form(2)
    desk.reached(0, broken=True)
    desk.reached(1)
    desk.prepared(0)
    desk.prepared(1)
    sent = desk.event(Received(b"7", Alive(desk.group.id, 1, 1)))
    assert [m for _, m in sent] == [Identify()]
    hello = Hello(peer_id(0), "g", "p0", (), 2, run=desk.state.run, term=1, number=1)
    sent = desk.event(Received(b"7", hello))
    assert [type(m) for _, m in sent] == [Welcome, Commit]
    assert of(Identify, desk.say(0, Alive(desk.group.id, 1, 2))), "the old connection is nobody's"


def test_a_member_of_a_forgotten_run_is_told_so():
    desk = Desk().form(2)
    for group in ("g", "another"):
        hello = desk.hello(5, group=group, run=uuid.UUID(int=5), term=1, number=3)
        assert "does not know your run" in of(Evicted, hello)[0].text
        assert of(Evicted, hello)[0].run == desk.state.run, "so that it may look elsewhere"
    assert list(desk.state.groups) == ["g"]


def test_several_groups_go_their_own_ways():
    desk = Desk().form(2)
    desk.hello(5, group="other", min_size=1)
    other = desk.state.groups["other"]
    assert other.id != desk.group.id
    assert other.preparing.view.number == 1
    assert desk.group.preparing is None
    # A message about another group than the connection's is out of place.
    desk.say(5, Leave(desk.group.id))
    assert desk.state.refused["message out of place"] == 1


def test_a_death_is_one_in_all_groups():
    desk = Desk().form(2)
    for i in (0, 1):
        desk.event(Received(b"1%d" % i, Hello(peer_id(i), "other", f"p{i}", (), 2)))
    for i in (0, 1):
        other = desk.state.groups["other"]
        number = other.preparing.view.number
        desk.event(Received(b"1%d" % i, Prepared(other.id, 1, number)))
    sent = desk.say(0, Suspect(desk.group.id, 1, 1, peer_id(1), "reset"))
    assert {r for r, m in sent if isinstance(m, Gone)} == {b"0", b"10"}


def test_the_status_tells_who_waits_for_whom_and_no_secret():
    desk = Desk().form(2)
    desk.hello(2)
    desk.reached(0)
    reply = of(StatusReply, desk.event(Received(b"s", StatusQuery(uuid.UUID(int=7)))))[0]
    picture = json.loads(reply.json)
    group = picture["groups"][0]
    assert group["situation"] == "view 1, 1 of 2 in sync()"
    assert group["waits_for"] == [
        "p0 in sync() wait for p1",
        "p2 wait for the members' next sync()",
    ]
    assert [(p["name"], p["rank"], p["doing"]) for p in group["peers"]] == [
        ("p0", 0, "in sync()"),
        ("p1", 1, "running"),
        ("p2", None, "waiting"),
    ]
    assert group["reasons"][0]["text"] == "'p0' asks to be admitted"
    text = reply.json.decode() + repr(desk.state)
    assert desk.group.view.key.hex() not in text
    assert repr(desk.group.view.key) not in text
    assert repr(desk.state.seed) not in text


class AnyMessages(stateful.RuleBasedStateMachine):
    """Whatever is said in whatever order: the coordinator never raises and stays consistent."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()

    peers = st.integers(0, 4)
    small = st.integers(0, 4)

    units = st.text("u", max_size=2)

    @stateful.rule(i=peers, route=peers, min_size=st.integers(1, 3), number=small, unit=units)
    def hello(self, i, route, min_size, number, unit):
        hello = Hello(peer_id(i), "g", "p", (), min_size, unit, number=number)
        self.desk.say(route, hello)

    @stateful.rule(
        route=peers,
        group=st.integers(1, 6),
        number=small,
        other=peers,
        sync=small,
        flag=st.booleans(),
        kind=st.sampled_from(
            [Alive, Prepared, Unreachable, SyncReached, Suspect, Leave, Proof, LeaveDone, Commit]
        ),
    )
    def message(self, route, group, number, other, sync, flag, kind):
        if "g" in self.desk.state.groups and sync:
            group = self.desk.group.id  # mostly the right one, or nothing would ever happen
        made = {
            Alive: lambda: Alive(group, 1, number, sync, other),
            Prepared: lambda: Prepared(group, 1, number),
            Unreachable: lambda: Unreachable(group, 1, number, ((peer_id(other), "no"),)),
            SyncReached: lambda: SyncReached(group, 1, number, sync, other, flag),
            Suspect: lambda: Suspect(group, 1, number, peer_id(other), "no"),
            Leave: lambda: Leave(group, "", flag),
            Proof: lambda: Proof(b"m" * 32),
            LeaveDone: LeaveDone,
            Commit: lambda: Commit(group, 1, number, 1),
        }
        self.desk.say(route, made[kind]())

    @stateful.rule()
    def all_prepared(self):
        group = self.desk.state.groups.get("g")
        if group is not None and group.preparing is not None:
            for peer in group.preparing.view.peers:
                route = self.desk.group.peers[peer.id].route
                self.desk.event(Received(route, Prepared(group.id, 1, group.preparing.view.number)))

    @stateful.rule()
    def all_in_sync(self):
        group = self.desk.state.groups.get("g")
        if group is not None and group.view is not None and group.preparing is None:
            for peer in group.members:
                about = (group.id, 1, group.view.number, group.sync)
                route = self.desk.group.peers[peer.id].route
                self.desk.event(Received(route, SyncReached(*about, 3, False)))

    @stateful.rule(seconds=st.sampled_from([0.25, 1.0, 6.0, 16.0]))
    def time(self, seconds):
        self.desk.pass_time(seconds)

    @stateful.invariant()
    def consistent(self):
        state = self.desk.state
        json.dumps(snapshot(state, self.desk.now))
        snapshot_json(state, self.desk.now)
        for group in state.groups.values():
            if group.view is not None:
                assert group.members, "a view without a living member"
                assert group.number >= group.view.number
                assert set(group.reached) <= {peer.id for peer in group.members}
                gone = [departure.peer.id for departure in group.gone]
                assert len(set(gone)) == len(gone)
                assert {p.id for p in group.view.peers} == {p.id for p in group.members} | set(gone)
            if group.preparing is not None:
                coming = group.preparing.view
                assert coming.number == group.number
                assert all(peer.id in group.peers for peer in coming.peers)
                assert [p.id for p in coming.peers][: len(group.members)] == [
                    p.id for p in group.members
                ]
                assert group.preparing.ready <= {peer.id for peer in coming.peers}


TestAnyMessages = AnyMessages.TestCase
TestAnyMessages.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
