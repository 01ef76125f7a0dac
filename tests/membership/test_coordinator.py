"""The coordinator as a function: one event at a time, no socket and no clock."""

from __future__ import annotations

import dataclasses
import json
import uuid

import hypothesis.stateful as stateful
from fakes import TIMEOUT, failed
from hypothesis import settings
from hypothesis import strategies as st
from verdicts import decode_verdict

from collectives.membership import ledger, wire
from collectives.membership.coordinator import decide
from collectives.membership.ledger import CoordinatorState, Received, Tick, prove
from collectives.membership.messages import (
    Abandon,
    Alive,
    Challenge,
    Check,
    Commit,
    Denied,
    Evicted,
    Hello,
    Identify,
    Leave,
    LeaveDone,
    Prepare,
    Prepared,
    Proof,
    Report,
    Seal,
    Skew,
    StatusQuery,
    StatusReply,
    Suspect,
    SyncDone,
    SyncReached,
    SyncWaiting,
    Taken,
    Unreachable,
    Verdict,
    Veto,
    Waiting,
    Welcome,
)
from collectives.membership.report import (
    Entry,
    Epoch,
    Error,
    Standing,
    decode_epoch,
    encode_epoch,
    encode_report,
)
from collectives.membership.report import Report as Found
from collectives.membership.status import snapshot, snapshot_json
from collectives.membership.view import Peer, View


def peer_id(i: int) -> uuid.UUID:
    return uuid.UUID(int=i + 1)


class Desk:
    """A coordinator to talk to; peer i speaks over route ``b"i"``."""

    def __init__(self, token: bytes = b"") -> None:
        self.state = CoordinatorState(run=uuid.UUID(int=99), seed=b"s" * 32, token=token)
        self.now = 0.0
        self.reason = ""

    def event(self, event: ledger.Event) -> list[tuple[bytes, wire.Message]]:
        before = self.state
        frozen = repr(before)
        decision = decide(before, event, self.now)
        assert repr(before) == frozen, "decide changed the state that it was given"
        assert decide(before, event, self.now) == decision, "decide is not a function"
        self.state, self.reason = decision.state, decision.reason
        return [(send.route, send.message) for send in decision.actions]

    def say(self, i: int, message: wire.Message) -> list[tuple[bytes, wire.Message]]:
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
                    sent += self.say(i, Alive(group.id, 1, number, coming))
            sent += self.event(Tick())
        return sent

    @property
    def group(self) -> ledger.Group:
        return self.state.groups["g"]

    def prepared(self, i: int):
        view = self.group.preparing.view
        return self.say(i, Prepared(self.group.id, view.term, view.number))

    def reached(self, i: int, last: int = 0):
        group = self.group
        about = (group.id, group.view.term, group.view.number, group.sync)
        return self.say(i, SyncReached(*about, last))

    def suspect(self, i: int, other: int, text: str = "killed", certain: int = 2):
        view = self.group.view
        about = (self.group.id, view.term, view.number)
        return self.say(i, Suspect(*about, peer_id(other), text, certain))

    def veto(self, i: int, text: str = "gave up"):
        view = self.group.view
        return self.say(i, Veto(self.group.id, view.term, view.number, text))

    def reported(self, i: int, found: Found | None = None):
        """Peer i reports in the open round."""
        data = encode_report(self.group.round.epoch, peer_id(i), found or Found())
        return self.say(i, Report(self.group.id, data))

    def decided(self, fails: bool = False):
        """All members report in the open round; with ``fails``, a call that gave up."""
        sent = []
        for peer in self.group.members:
            sent += self.reported(peer.id.int - 1, failed(1) if fails else None)
        assert self.group.round is None
        return sent

    def breaks(self) -> Desk:
        """An operation fails, and all have taken the verdict."""
        self.veto(0)
        self.decided(fails=True)
        for peer in self.group.members:
            view = self.group.view
            self.say(peer.id.int - 1, Alive(self.group.id, view.term, view.number))
        return self

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
        keys.add(desk.breaks().group.view.key)
        desk.reached(0)
        desk.reached(1)
        desk.prepared(0)
        desk.prepared(1)
        keys.add(desk.group.view.key)
    assert len(keys) == 11


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
    again = desk.say(0, SyncReached(group.id, 1, 1, 1, 5))
    assert of(SyncDone, again)[0].sync == 1
    assert not of(SyncDone, desk.reached(0, 9))


def test_a_sync_that_was_done_is_over_also_for_who_hears_of_it_after_a_verdict():
    desk = Desk().form(3)
    done = of(SyncDone, [*desk.reached(0), *desk.reached(1), *desk.reached(2)])
    # 0 did not get the answer; 1 did, and left.
    desk.say(1, Leave(desk.group.id))
    desk.decided()
    assert desk.group.view.number == 2
    late = desk.say(0, SyncReached(desk.group.id, 1, 2, 1, 0))
    assert of(SyncDone, late) == [done[0]]
    assert not desk.group.reached, "the next sync is another"


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
    desk = Desk().form(2).breaks()
    assert desk.group.view.number == 2
    desk.reached(0)
    view = of(Prepare, desk.reached(1))[0].view
    assert (view.number, view.size) == (3, 2)
    assert "an operation had failed" in desk.reason


def test_a_departure_is_a_new_view_without_a_sync():
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
    verdicts = of(Verdict, desk.decided())
    assert {v.text for v in verdicts} == {"'p1' left"}
    (view,) = {v.view for v in verdicts}
    assert ([p.name for p in view.peers], view.number) == (["p0", "p2"], 3)
    assert desk.group.view == view
    desk.reached(0)
    assert of(SyncDone, desk.reached(2)), "nothing is left for the sync to do"


def test_a_break_in_the_midst_of_a_sync_still_counts():
    desk = Desk().form(2)
    desk.reached(0)
    desk.veto(1)
    desk.reached(1)
    assert not desk.group.preparing, "first the round"
    desk.decided(fails=True)
    assert not desk.group.reached, "whoever is in sync() says so again, in the new view"
    desk.reached(0)
    assert of(Prepare, desk.reached(1))


def test_a_death_opens_a_round_and_the_dead_is_told_when_it_speaks():
    desk = Desk().form(3)
    sent = desk.suspect(0, 2)
    assert [(int(r), decode_epoch(m.epoch), m.relay) for r, m in sent if isinstance(m, Seal)] == [
        (0, desk.group.round.epoch, ()),
        (1, desk.group.round.epoch, ()),
    ]
    assert "'p2' is dead, its process ended (seen by 'p0')" in desk.reason
    assert of(Evicted, desk.say(2, Alive(desk.group.id, 1, 1)))
    sent = desk.decided()
    assert [int(r) for r, m in sent if isinstance(m, Verdict)] == [0, 1]
    judged = decode_verdict(of(Verdict, sent)[0].data)
    view = desk.group.view
    assert (judged.term, judged.number, judged.key) == (view.term, view.number, view.key)
    assert judged.members == (peer_id(0), peer_id(1))
    assert of(Evicted, desk.hello(2)), "its UUID is used up"
    # The sync does not wait for it, and there are too few without it.
    desk.reached(0)
    desk.reached(1)
    waiting = of(SyncWaiting, desk.event(Tick()))[-1]
    assert (waiting.absent, waiting.missing) == ((), 1)
    sent = desk.hello(3)
    assert [p.name for p in of(Prepare, sent)[0].view.peers] == ["p0", "p1", "p3"]


def test_whoever_missed_a_round_or_its_verdict_hears_of_it_later():
    desk = Desk().form(4)
    for i in (3, 2):
        desk.suspect(0, i)
    (seal,) = of(Seal, desk.say(1, Alive(desk.group.id, 1, 1)))
    assert (decode_epoch(seal.epoch), seal.relay) == (desk.group.round.epoch, (peer_id(1),))
    desk.decided()
    (verdict,) = of(Verdict, desk.say(1, Alive(desk.group.id, 1, 1, 0, True)))
    assert verdict.view == desk.group.view
    assert len(verdict.view.peers) == 2, "both deaths are in one round"
    assert not of(Verdict, desk.say(1, Alive(desk.group.id, 1, verdict.view.number)))


def test_suspicion_is_asked_about_and_silence_is_death():
    desk = Desk().form(3)
    assert of(Check, desk.suspect(0, 2, "connection refused", 1), 2)
    desk.pass_time(0.5, speaking=(0, 1))
    assert "'p2' is dead by the word of 'p0': connection refused" in desk.reason
    assert len(desk.group.members) == 2


def test_who_answers_lives_and_a_pair_that_cannot_talk_loses_the_higher_rank():
    desk = Desk().form(3)
    desk.pass_time(0.5)
    sent = []
    while desk.now < 1.5:
        assert len(desk.group.members) == 3
        sent += desk.suspect(0, 1, "silent for 5 s", 0)
        sent += desk.pass_time(0.75, speaking=(0, 1, 2))
    sent += desk.pass_time(1.0, speaking=(0, 1, 2))
    evicted = [(int(r), m.text) for r, m in sent if isinstance(m, Evicted)]
    assert {who for who, _ in evicted} == {1}
    assert "'p0' and 'p1' cannot reach each other, though both reach the coord" in evicted[0][1]
    assert desk.group.round.lost[0].peer.name == "p1"


def test_a_last_word_that_comes_after_the_evidence_of_a_death_is_no_sign_of_life():
    desk = Desk().form(3)
    desk.suspect(1, 0, "refused", 1)
    desk.say(0, Alive(desk.group.id, 1, 1))
    for _ in range(3):
        desk.suspect(1, 0, "refused", 1)
        desk.pass_time(0.5, speaking=(1, 2))
    assert [p.name for p in desk.group.members] == ["p1", "p2"]
    assert "is dead by the word of 'p1'" in desk.group.round.lost[0].text


def test_one_error_is_for_all_and_what_stands_is_spared():
    desk = Desk().form(2)
    desk.veto(1, "gave up after 3 s")
    desk.reported(0)
    sent = desk.reported(1, failed(4, "gave up after 3 s"))
    verdict = decode_verdict(of(Verdict, sent)[0].data).verdict
    assert verdict.error == desk.group.broken == Error(TIMEOUT, None, "gave up after 3 s")


def test_a_report_that_names_a_root_beyond_the_view_is_refused():
    desk = Desk().form(3)
    desk.suspect(0, 1)
    desk.reported(0)
    rooted = Entry(0, 1, Standing.RUNNING, root=3)
    desk.reported(2, Found(entries=(rooted,)))
    assert desk.state.refused["malformed report"] == 1
    assert set(desk.group.round.reports) == {peer_id(0)}
    desk.reported(2)
    assert desk.group.round is None


def test_a_veto_of_another_view_opens_no_round():
    desk = Desk().form(2)
    desk.say(0, Veto(desk.group.id, 1, 7, "stale"))
    assert desk.group.round is None
    desk.veto(0)
    epoch = desk.group.round.epoch
    assert not of(Seal, desk.veto(1)), "one round is enough for both"
    assert desk.group.round.epoch == epoch


def test_who_does_not_report_is_reached_through_the_others_and_then_evicted():
    desk = Desk().form(3)
    desk.veto(0)
    desk.reported(0)
    desk.reported(1)
    sent = desk.pass_time(0.5, speaking=(0, 1, 2))
    assert {int(r) for r, m in sent if isinstance(m, Seal) and m.relay == (peer_id(2),)} >= {0, 1}
    desk.pass_time(5.0, speaking=(0, 1))
    assert desk.group.round is None, "all that are left have reported"
    text = "'p2' is evicted from group 'g': it did not report in round 1 within 5 s"
    assert [d.text for d in desk.state.departed.values()] == [text]
    assert [p.name for p in desk.group.view.peers] == ["p0", "p1"]


def test_who_missed_a_verdict_is_told_it_by_the_others_in_the_next_round():
    desk = Desk().form(3)
    desk.veto(0)
    desk.decided()
    desk.say(0, Alive(desk.group.id, 1, desk.group.view.number))
    desk.veto(0)
    desk.reported(0)
    sent = desk.pass_time(0.5, speaking=(0,))
    missed = [m for m in of(Verdict, sent, 0) if m.relay]
    assert {m.relay for m in missed} == {(peer_id(1), peer_id(2))}
    assert missed[0].view == desk.group.view


def test_who_does_not_take_the_verdict_is_evicted_by_the_next_round():
    desk = Desk().form(3)
    desk.suspect(0, 2)
    desk.decided()
    sent = desk.pass_time(0.5, speaking=(0,))
    assert {int(r) for r, m in sent if isinstance(m, Verdict) and m.relay == (peer_id(1),)} == {
        0,
        1,
    }
    sent = desk.pass_time(5.0, speaking=(0,))
    assert of(Seal, sent, 0)
    assert [d.peer.name for d in desk.group.round.lost] == ["p1"]
    assert "did not take the verdict of round 1 within 5 s" in desk.group.round.lost[0].text


def test_a_verdict_taken_by_the_word_of_a_neighbour_is_taken():
    desk = Desk().form(3)
    desk.suspect(0, 2)
    epoch = encode_epoch(desk.group.round.epoch)
    desk.decided()
    desk.say(0, Taken(desk.group.id, b"e" * 32, peer_id(1)))
    assert desk.group.issued.taken == frozenset(), "of another round"
    desk.say(0, Taken(desk.group.id, epoch, peer_id(1)))
    desk.pass_time(6.0, speaking=(0,))
    assert len(desk.group.members) == 2


def test_reports_of_another_round_or_in_a_strangers_name_do_not_count():
    desk = Desk().form(3)
    desk.veto(0)
    epoch = desk.group.round.epoch
    for wrong, who in ((dataclasses.replace(epoch, round=9), 1), (epoch, 7)):
        desk.say(1, Report(desk.group.id, encode_report(wrong, peer_id(who), Found())))
    assert not desk.group.round.reports
    desk.say(1, Report(desk.group.id, b"rubbish"))
    assert desk.state.refused["malformed report"] == 1
    desk.reported(1)
    desk.reported(1, failed(1))
    assert desk.group.round.reports == {peer_id(1): Found()}, "the first one counts"


def test_a_round_ends_a_preparation_and_the_sync_is_begun_again():
    desk = Desk().form(2)
    desk.hello(2, min_size=2)
    desk.reached(0)
    desk.reached(1)
    desk.prepared(0)
    sent = desk.suspect(0, 1)
    assert of(Abandon, sent, 0) and of(Abandon, sent, 2)
    desk.reported(0)
    assert desk.group.view.size == 1
    sent = desk.reached(0)
    assert [p.name for p in of(Prepare, sent)[0].view.peers] == ["p0", "p2"]


def test_stale_and_false_evidence_is_not_evidence():
    desk = Desk().form(3)
    group = desk.group
    desk.say(0, Suspect(group.id, 1, 7, peer_id(1), "another view", 2))
    desk.suspect(0, 0, "myself")
    desk.suspect(0, 8, "nobody")
    desk.hello(3)
    desk.suspect(3, 1, "no member")
    assert len(desk.group.members) == 3
    assert desk.group.round is None and not desk.group.suspects


def test_a_leaver_is_let_go_and_announced():
    desk = Desk().form(3)
    sent = desk.say(1, Leave(desk.group.id, "done"))
    assert [int(r) for r, m in sent if isinstance(m, LeaveDone)] == [1]
    assert [int(r) for r, m in sent if isinstance(m, Seal)] == [0, 2]
    assert [(d.left, d.text) for d in desk.group.round.lost] == [(True, "'p1' left: done")]
    assert of(LeaveDone, desk.say(1, Leave(desk.group.id))), "asked again, answered again"


def test_who_leaves_during_a_round_reports_first():
    """What it has settled the others, sealed already, may not have heard of."""
    desk = Desk().form(3)
    desk.say(1, Leave(desk.group.id))
    assert not of(LeaveDone, desk.say(0, Leave(desk.group.id)))
    assert not of(LeaveDone, desk.say(0, Leave(desk.group.id))), "said again"
    assert len(desk.group.members) == 2
    desk.reported(2)
    sent = desk.reported(0)
    assert [int(r) for r, m in sent if isinstance(m, Verdict)] == [0, 2]
    assert [int(r) for r, m in sent if isinstance(m, LeaveDone)] == [0]
    assert [d.text for d in desk.group.round.lost] == ["'p0' left"], "by a round of its own"
    assert [peer.id for peer in desk.group.members] == [peer_id(2)]


def test_when_all_leave_nobody_waits_for_a_round():
    desk = Desk().form(3)
    desk.say(1, Leave(desk.group.id))
    desk.say(0, Leave(desk.group.id))
    sent = desk.say(2, Leave(desk.group.id))
    assert sorted(int(r) for r, m in sent if isinstance(m, LeaveDone)) == [0, 2]


def test_an_abort_is_announced_as_a_loss():
    desk = Desk().form(2)
    desk.say(1, Leave(desk.group.id, "ValueError", aborted=True))
    assert [(d.left, d.text) for d in desk.group.round.lost] == [
        (False, "'p1' aborted: ValueError")
    ]


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


def test_two_of_a_unit_that_fell_silent_in_a_preparation_go_once():
    desk = Desk()
    for i in range(3):
        desk.hello(i, min_size=3, unit="replica" if i else "")
    for i in range(3):
        desk.prepared(i)
    desk.hello(3)
    for i in range(3):
        desk.reached(i)
    number = desk.group.preparing.view.number
    pairs = ((peer_id(1), "refused"), (peer_id(2), "refused"))
    for _ in range(8):
        desk.say(0, Unreachable(desk.group.id, 1, number, pairs))
        desk.pass_time(1.0, speaking=(0, 3))
    assert [p.name for p in desk.group.members] == ["p0"]
    assert len(desk.state.departed) == 2


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
    assert (skew.low, skew.high) == wire.VERSIONS
    assert of(Skew, desk.event(ledger.ReceivedOtherVersion(b"5", 7, 9)))
    assert desk.state.refused["other protocol version"] == 2
    assert of(Welcome, desk.hello(0, low=1, high=9))[0].version == 1


def test_a_member_comes_back_over_a_new_connection_and_hears_what_it_missed():
    desk = Desk().form(2).breaks()
    desk.reached(0)
    desk.reached(1)
    desk.prepared(0)
    desk.prepared(1)
    sent = desk.event(Received(b"7", Alive(desk.group.id, 1, 2)))
    assert [m for _, m in sent] == [Identify()]
    hello = Hello(peer_id(0), "g", "p0", (), 2, run=desk.state.run, term=1, number=2)
    sent = desk.event(Received(b"7", hello))
    assert [type(m) for _, m in sent] == [Welcome, Commit]
    assert of(Identify, desk.say(0, Alive(desk.group.id, 1, 3))), "the old connection is nobody's"


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
    sent = desk.suspect(0, 1)
    assert {r for r, m in sent if isinstance(m, Seal)} == {b"0", b"10"}


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


A_VIEW = View("g", 1, 1, 1, (Peer(peer_id(0), "p0", ()),), b"k" * 32)


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
            [
                Alive,
                Prepared,
                Unreachable,
                SyncReached,
                Suspect,
                Veto,
                Report,
                Taken,
                Leave,
                Proof,
                LeaveDone,
                Commit,
                Seal,
                Verdict,
            ]
        ),
    )
    def message(self, route, group, number, other, sync, flag, kind):
        if "g" in self.desk.state.groups and sync:
            group = self.desk.group.id  # mostly the right one, or nothing would ever happen
        made = {
            Alive: lambda: Alive(group, 1, number, sync, flag),
            Prepared: lambda: Prepared(group, 1, number),
            Unreachable: lambda: Unreachable(group, 1, number, ((peer_id(other), "no"),)),
            SyncReached: lambda: SyncReached(group, 1, number, sync, other),
            Suspect: lambda: Suspect(group, 1, number, peer_id(other), "no", 2 * flag),
            Veto: lambda: Veto(group, 1, number, "no"),
            Report: lambda: Report(group, self.report(number, other, flag)),
            Taken: lambda: Taken(group, b"e" * 32, peer_id(other)),
            Seal: lambda: Seal(group, 1, number, b"e" * 32),
            Verdict: lambda: Verdict(group, 1, number, A_VIEW, b""),
            Leave: lambda: Leave(group, "", flag),
            Proof: lambda: Proof(b"m" * 32),
            LeaveDone: LeaveDone,
            Commit: lambda: Commit(group, 1, number, 1),
        }
        self.desk.say(route, made[kind]())

    def report(self, number: int, who: int, fails: bool) -> bytes:
        group = self.desk.state.groups.get("g")
        epoch = group.round.epoch if group and group.round else Epoch(1, 1, number, 1)
        return encode_report(epoch, peer_id(who), failed(number) if fails else Found())

    @stateful.rule(fails=st.booleans())
    def all_reported(self, fails):
        group = self.desk.state.groups.get("g")
        if group is not None and group.round is not None:
            for peer in group.members:
                data = self.report(0, peer.id.int - 1, fails)
                route = group.peers[peer.id].route
                self.desk.event(Received(route, Report(group.id, data)))

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
                self.desk.event(Received(route, SyncReached(*about, 3)))

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
                lost = [] if group.round is None else [d.peer.id for d in group.round.lost]
                assert len(set(lost)) == len(lost)
                assert {p.id for p in group.view.peers} == {p.id for p in group.members} | set(lost)
            if group.round is not None:
                assert group.preparing is None, "a round and a preparation at once"
                living = {peer.id for peer in group.members}
                assert living > set(group.round.reports), "a round that could be decided"
                assert (group.round.epoch.view_term, group.round.epoch.view) == (
                    group.view.term,
                    group.view.number,
                )
            if group.preparing is not None:
                coming = group.preparing.view
                assert coming.number == group.number
                assert all(peer.id in group.peers for peer in coming.peers)
                assert [p.id for p in coming.peers][: len(group.members)] == [
                    p.id for p in group.members
                ]
                assert group.preparing.ready.keys() <= {peer.id for peer in coming.peers}


TestAnyMessages = AnyMessages.TestCase
TestAnyMessages.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
