"""A peer's machine: one event at a time, no socket and no clock."""

from __future__ import annotations

import dataclasses
import uuid

from collectives import errors
from collectives.membership import messages, plane
from collectives.membership.peer import (
    Call,
    CallLeave,
    CallSync,
    CallTuned,
    CommitPlane,
    DiscardPlane,
    EndPlane,
    JudgePlane,
    OpenPlane,
    PeerConfig,
    PeerState,
    Phase,
    PreparePlane,
    Received,
    ReceivedOtherVersion,
    Reject,
    RelayPlane,
    Resolve,
    SealPlane,
    Send,
    Start,
    Tick,
    step,
    waits_for,
)
from collectives.membership.view import Choice, Peer, View

RUN = uuid.UUID(int=77)
ME, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
EPOCH = b"e" * 32


class Machine:
    def __init__(self, **config) -> None:
        self.state = PeerState(PeerConfig(ME, "g", "me", coordinator="c:7077", **config))
        self.now = 0.0

    def do(self, event) -> list:
        frozen = repr(self.state)
        result = step(self.state, event, self.now)
        assert step(self.state, event, self.now).actions == result.actions or any(
            isinstance(action, Reject) for action in result.actions
        ), "errors are new objects, all else is equal"
        assert repr(self.state) == frozen
        self.state = result.state
        return list(result.actions)

    def hear(self, message) -> list:
        return self.do(Received(message))

    def view(self, number: int = 1, term: int = 1) -> View:
        peers = (Peer(ME, "me", ("h:1",)), Peer(OTHER, "other", ("h:2",)))
        return View("g", 3, term, number, peers, b"k" * 32)

    def admitted(self) -> Machine:
        self.do(Start())
        self.hear(messages.Welcome(RUN, 1, 3, "me", 1))
        return self

    def member(self) -> Machine:
        self.admitted()
        self.hear(messages.Prepare(self.view()))
        self.do(plane.ViewReady(1))
        self.hear(messages.Commit(3, 1, 1, 1))
        assert self.state.phase is Phase.MEMBER
        return self

    def verdict(self, number: int = 1, *, me: bool = True, **fields) -> messages.Verdict:
        """That of a round about view ``number``, which issues the next one, without OTHER."""
        view = self.view(number + 1)
        view = dataclasses.replace(view, peers=view.peers[:1] if me else view.peers[1:])
        return messages.Verdict(3, 1, number, view, b"verdict", "it died", **fields)

    def wait(self, seconds: float) -> list:
        done = []
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            done += self.do(Tick())
        return done


def sent(actions, kind):
    return [a.message for a in actions if isinstance(a, Send) and isinstance(a.message, kind)]


def test_an_unanswered_hello_is_repeated_and_an_answered_one_is_not():
    machine = Machine()
    assert len(sent(machine.do(Start()), messages.Hello)) == 1
    assert len(sent(machine.wait(2.0), messages.Hello)) == 4
    machine.hear(messages.Welcome(RUN, 1, 3, "me", 1))
    actions = machine.wait(3.0)
    assert not sent(actions, messages.Hello)
    assert len(sent(actions, messages.Alive)) == 3


def test_a_view_is_opened_prepared_and_committed_in_this_order():
    machine = Machine().admitted()
    view = machine.view()
    assert machine.hear(messages.Prepare(view)) == [OpenPlane(3, "g"), PreparePlane(view, 0)]
    assert machine.hear(messages.Commit(3, 1, 1, 1)) == [], "not ready: it cannot be meant"
    assert sent(machine.do(plane.ViewReady(1)), messages.Prepared)
    committed, resolved = machine.hear(messages.Commit(3, 1, 1, 9))
    assert committed == CommitPlane(dataclasses.replace(view, first_operation=9))
    assert (resolved.call, resolved.result.first_operation) == (Call.JOIN, 9)
    assert machine.hear(messages.Commit(3, 1, 1, 9)) == [], "said twice, done once"


def test_a_table_that_the_members_agreed_on_stays_in_the_views_of_verdicts():
    table = (Choice("all_reduce", 4096, "ring"),)
    machine = Machine().member()
    assert machine.do(CallTuned(table)) == []
    assert machine.state.view.table == table
    machine.hear(machine.verdict())
    assert machine.state.view.number == 2
    assert machine.state.view.table == table, "the coordinator, who issued it, knows of none"
    late = Machine().member()
    late.hear(late.verdict())
    late.do(CallTuned(table))
    assert [view.table for view in late.state.views] == [table, table]


def test_what_is_old_or_somebody_elses_is_not_prepared():
    machine = Machine().member()
    stranger = View("g", 3, 1, 2, (Peer(OTHER, "other", ()),), b"k" * 32)
    for view in (machine.view(1), machine.view(5, term=9), stranger):
        assert not [a for a in machine.hear(messages.Prepare(view)) if not isinstance(a, Send)]
    machine.hear(messages.Abandon(3, 1, 4))
    assert machine.hear(messages.Prepare(machine.view(4))) == [], "given up before it arrived"
    assert machine.hear(messages.Prepare(machine.view(5)))
    assert DiscardPlane() in machine.hear(messages.Abandon(3, 1, 5))


def test_a_newer_preparation_replaces_an_older_one():
    machine = Machine().member()
    machine.hear(messages.Prepare(machine.view(2)))
    machine.do(plane.ViewReady(2))
    machine.hear(messages.Prepare(machine.view(3)))
    assert machine.hear(messages.Commit(3, 1, 2, 1)) == []
    assert machine.do(plane.ViewReady(2)) == []
    assert sent(machine.do(plane.ViewReady(3)), messages.Prepared)[0].number == 3


def test_missing_links_are_reported_while_they_last_and_named_in_timeouts():
    machine = Machine().admitted()
    machine.hear(messages.Prepare(machine.view()))
    missing = plane.Unreachable(1, OTHER, "h:2: refused")
    assert sent(machine.do(missing), messages.Unreachable)[0].pairs == ((OTHER, "h:2: refused"),)
    assert waits_for(machine.state) == "a connection to other (h:2: refused)"
    machine.now += 0.5
    assert not sent(machine.do(missing), messages.Unreachable), "once a second is enough"
    assert sent(machine.wait(1.0), messages.Unreachable)[0].pairs
    machine.wait(3.0)  # the data plane says no more of it
    assert waits_for(machine.state) == "the connections of view 1"


def test_evidence_is_repeated_until_the_coordinator_has_decided():
    machine = Machine().member()
    evidence = plane.PeerSuspected(1, OTHER, "reset")
    assert len(sent(machine.do(evidence), messages.Suspect)) == 1
    assert not machine.do(evidence)
    assert len(sent(machine.wait(2.0), messages.Suspect)) == 4
    verdict = machine.verdict()
    judged, alive = machine.hear(verdict)
    assert judged == JudgePlane(b"verdict")
    assert machine.hear(verdict) == [alive], "said twice, done once, and said that it is"
    assert alive.message.number == 2
    assert not sent(machine.wait(2.0), messages.Suspect)


def test_better_evidence_is_told_at_once_and_worse_is_no_news():
    machine = Machine().member()
    machine.do(plane.PeerSuspected(1, OTHER, "silent", 0))
    (better,) = sent(machine.do(plane.PeerSuspected(1, OTHER, "killed", 2)), messages.Suspect)
    assert (better.text, better.certain) == ("killed", 2)
    assert not machine.do(plane.PeerSuspected(1, OTHER, "refused", 1))
    again = sent(machine.wait(2.0), messages.Suspect)
    assert again and {evidence.certain for evidence in again} == {2}


def test_rounds_and_evidence_of_another_view_change_nothing():
    machine = Machine().member()
    assert machine.hear(messages.Seal(3, 1, 9, EPOCH)) == []
    assert machine.hear(messages.Seal(7, 1, 1, EPOCH)) == [], "of another group"
    assert machine.hear(machine.verdict(9)) == []
    assert machine.hear(machine.verdict(me=False)) == [], "not for us; Evicted follows"
    assert machine.do(plane.PeerSuspected(9, OTHER, "reset")) == []
    assert machine.do(plane.Vetoed(9, "timed out")) == []
    assert machine.do(plane.PeerSuspected(1, ME, "myself?"))[0].message.peer == ME


def test_a_sync_is_answered_once_however_often_the_answer_comes():
    machine = Machine().member()
    assert sent(machine.do(CallSync(4)), messages.SyncReached)[0].sync == 1
    assert sent(machine.wait(1.0), messages.SyncReached)[0].sync == 1
    done = messages.SyncDone(3, 1, 1, 1)
    assert [type(a) for a in machine.hear(done)] == [Resolve]
    assert sent(machine.do(CallSync(5)), messages.SyncReached)[0].sync == 2
    assert machine.hear(done) == [], "the late copy of the first answer ends no second sync"


def test_a_veto_is_repeated_until_a_round_begins_and_no_longer():
    machine = Machine().member()
    veto = plane.Vetoed(1, "timed out")
    assert sent(machine.do(veto), messages.Veto) == [messages.Veto(3, 1, 1, "timed out")]
    assert not machine.do(veto), "the data plane repeats itself, too"
    assert len(sent(machine.wait(2.0), messages.Veto)) == 4
    assert machine.hear(messages.Seal(3, 1, 1, EPOCH)) == [SealPlane(EPOCH)]
    assert not machine.do(veto), "the report will say it"
    actions = machine.wait(2.0)
    assert not sent(actions, messages.Veto)
    assert {alive.sealed for alive in sent(actions, messages.Alive)} == {True}


def test_a_round_seals_once_and_reports_whenever_it_is_asked_to():
    machine = Machine().member()
    assert machine.hear(messages.Seal(3, 1, 1, EPOCH)) == [SealPlane(EPOCH)]
    assert machine.do(plane.Reported(b"r"))[0].message == messages.Report(3, b"r")
    assert machine.hear(messages.Seal(3, 1, 1, EPOCH)) == [], "others were asked"
    assert machine.hear(messages.Seal(3, 1, 1, EPOCH, (ME,))) == [SealPlane(EPOCH)]
    others = messages.Seal(3, 1, 1, EPOCH, (OTHER,))
    assert machine.hear(others) == [RelayPlane(OTHER, EPOCH, False)]
    assert machine.hear(messages.Seal(3, 1, 1, b"f" * 32)) == [SealPlane(b"f" * 32)]


def test_a_verdict_is_a_view_and_the_sync_under_way_is_told_to_it():
    machine = Machine().member()
    machine.do(CallSync(4))
    machine.hear(messages.Seal(3, 1, 1, EPOCH))
    actions = machine.hear(machine.verdict(relay=(ME, OTHER)))
    assert actions[:2] == [RelayPlane(OTHER, b"verdict", True), JudgePlane(b"verdict")]
    (again,) = sent(actions, messages.SyncReached)
    assert (again.number, again.sync, again.last_operation) == (2, 1, 4)
    assert not machine.state.sealed
    (resolved,) = machine.hear(messages.SyncDone(3, 1, 2, 1))
    assert resolved.result.left == ("other",), "whom the verdict has left out is news to the caller"
    taken = plane.VerdictTaken(EPOCH, OTHER)
    assert machine.do(taken)[0].message == messages.Taken(3, EPOCH, OTHER)


def test_a_sync_that_was_done_before_a_verdict_hands_out_the_view_of_then():
    machine = Machine().member()
    machine.do(CallSync(4))
    machine.hear(machine.verdict())
    (resolved,) = machine.hear(messages.SyncDone(3, 1, 1, 1))
    assert (resolved.result.view.number, resolved.result.left) == (1, ())
    assert sent(machine.do(CallSync(5)), messages.SyncReached)[0].sync == 2
    (resolved,) = machine.hear(messages.SyncDone(3, 1, 2, 2))
    assert (resolved.result.view.number, resolved.result.left) == (2, ("other",))


def test_a_verdict_ends_a_preparation():
    machine = Machine().member()
    machine.hear(messages.Prepare(machine.view(2)))
    machine.hear(dataclasses.replace(machine.verdict(), view=machine.view(3)))
    assert machine.do(plane.ViewReady(2)) == []
    assert machine.hear(messages.Prepare(machine.view(2))) == [], "an older view than ours"


def test_a_data_plane_that_gave_up_is_the_end_and_the_others_are_told():
    machine = Machine().member()
    assert machine.do(plane.GivenUp(9, "of another view")) == []
    leave, reject = machine.do(plane.GivenUp(1, "no verdict came"))
    assert (leave.message.aborted, leave.message.text) == (True, "no verdict came")
    assert isinstance(reject.error, errors.CoordinatorUnreachable)
    assert machine.state.phase is Phase.OUT


def test_a_member_asked_who_it_is_says_where_it_stands():
    machine = Machine().member()
    machine.now = 60.0
    hello = sent(machine.hear(messages.Identify()), messages.Hello)[0]
    assert (hello.run, hello.term, hello.number) == (RUN, 1, 1)
    assert not machine.hear(messages.Identify()), "one Hello answers many questions"
    assert len(sent(machine.wait(1.0), messages.Hello)) == 2, "until there is a Welcome"


def test_eviction_breaks_the_data_plane_and_ends_all_calls():
    machine = Machine().member()
    actions = machine.hear(messages.Evicted("silent for 9 s"))
    assert actions[0] == EndPlane("silent for 9 s; call rejoin()")
    assert isinstance(actions[1].error, errors.Evicted)
    assert str(actions[1].error) == "silent for 9 s; call rejoin()"
    assert machine.do(CallSync(1)) == machine.wait(2.0) == []


def test_a_leaver_that_is_told_it_was_evicted_has_left():
    machine = Machine().member()
    machine.do(CallLeave())
    assert Resolve(Call.LEAVE, None) in machine.hear(messages.Evicted("too late"))


def test_a_leaver_takes_part_in_the_round_that_is_open():
    machine = Machine().member()
    machine.do(CallLeave())
    view = machine.state.view
    assert SealPlane(b"epoch") in machine.hear(
        messages.Seal(view.group_id, view.term, view.number, b"epoch")
    )


def test_a_version_that_changes_under_a_running_peer_does_not_end_it():
    machine = Machine()
    machine.do(Start())
    assert isinstance(machine.do(ReceivedOtherVersion(7, 8))[0].error, errors.VersionSkew)
    machine = Machine().member()
    assert machine.do(ReceivedOtherVersion(7, 8)) == []


def test_a_coordinator_restarted_while_a_peer_waits_is_joined_afresh():
    machine = Machine().admitted()
    machine.hear(messages.Prepare(machine.view()))
    other = uuid.UUID(int=78)
    assert DiscardPlane() in machine.hear(messages.Welcome(other, 1, 3, "me", 1))
    assert machine.state.run == other
    assert PreparePlane(machine.view(), 0) in machine.hear(messages.Prepare(machine.view()))


def test_a_view_that_it_is_ready_for_is_forgotten_with_its_run():
    machine = Machine().admitted()
    machine.hear(messages.Prepare(machine.view()))
    machine.do(plane.ViewReady(1))
    other = uuid.UUID(int=78)
    assert machine.hear(messages.Welcome(other, 1, 3, "me", 1)) == [DiscardPlane()]
    assert machine.state.coming is None
