"""A coordinator that starts again, as a function: with its memory, and without it."""

from __future__ import annotations

import dataclasses
import uuid

import pytest
from test_coordinator import Desk, of, peer_id

from collectives.membership import messages, plane
from collectives.membership.durable import durable, restore
from collectives.membership.ledger import CoordinatorState, Received, Tick, prove
from collectives.membership.messages import (
    Alive,
    Challenge,
    Commit,
    Evicted,
    Identify,
    Leave,
    Prepare,
    Prepared,
    Recall,
    Recollect,
    Seal,
    Suspect,
    SyncDone,
    SyncReached,
    Verdict,
    Waiting,
    Welcome,
)
from collectives.membership.peer import Dial, PeerConfig, PeerState, Phase, Start, step
from collectives.membership.peer import Received as Heard
from collectives.membership.peer import Tick as PeerTick
from collectives.membership.report import encode_epoch
from collectives.membership.restart import resume
from collectives.membership.status import snapshot


def restarted(desk: Desk) -> Desk:
    """The coordinator that starts from what this one wrote down."""
    again = Desk()
    blank = dataclasses.replace(again.state, run=uuid.UUID(int=1), seed=b"")
    again.now = 1000.0
    again.state = resume(restore(durable(desk.state), blank), again.now)
    return again


def back(desk: Desk, i: int, before: Desk, number: int | None = None, **fields):
    view = before.group.view
    about = {"run": before.state.run, "term": view.term, "number": number or view.number}
    return desk.hello(i, **{**about, **fields})


def word(before: Desk, i: int, **fields) -> Recollect:
    view = before.group.view
    about = Recollect(peer_id(i), before.state.run, before.state.term, view, before.group.sync)
    return dataclasses.replace(about, **fields)


# ---- with memory ----------------------------------------------------------------------------


def test_the_view_the_run_and_the_secrets_stay_and_the_term_rises():
    old = Desk().form(3)
    new = restarted(old)
    assert new.group.view == old.group.view
    assert (new.state.run, new.state.term) == (old.state.run, 2)
    welcome = of(Welcome, back(new, 0, old))[0]
    assert (welcome.run, welcome.term, welcome.group_id) == (old.state.run, 2, old.group.id)


def test_whoever_the_coordinator_does_not_know_is_asked_who_it_is():
    old = Desk().form(2)
    new = restarted(old)
    assert of(Identify, new.say(0, Alive(old.group.id, 1, 1)))


def test_a_commit_that_did_not_arrive_is_sent_again_by_the_next_coordinator():
    old = Desk().form(2).breaks()
    old.reached(0)
    old.reached(1)
    old.prepared(0)
    old.prepared(1)
    assert old.group.view.number == 3
    new = restarted(old)
    sent = back(new, 0, old, number=2)
    assert [(c.term, c.number) for c in of(Commit, sent)] == [(1, 3)]


def test_a_verdict_that_did_not_arrive_is_sent_again_by_the_next_coordinator():
    old = Desk().form(3)
    old.suspect(0, 2)
    verdict = of(Verdict, old.decided(fails=True))[0]
    new = restarted(old)
    assert of(Verdict, back(new, 0, old, number=1)) == [verdict]
    assert not of(Verdict, back(new, 1, old)), "it has taken it"
    assert new.group.broken == old.group.broken
    new.reached(0)
    assert of(Prepare, new.reached(1)), "and they are still broken"


def test_a_round_that_was_not_decided_is_begun_again():
    old = Desk().form(3)
    old.suspect(0, 2)
    old.reported(0)
    new = restarted(old)
    assert new.group.round is None
    back(new, 0, old)
    sent = back(new, 1, old)
    assert {m.epoch for m in of(Seal, sent)} == {encode_epoch(new.group.round.epoch)}
    assert new.group.round.epoch.term == 2
    new.decided()
    assert [p.name for p in new.group.view.peers] == ["p0", "p1"]


def test_a_member_sealed_in_a_round_that_nobody_remembers_opens_the_next():
    old = Desk().form(2)
    old.veto(0)
    new = restarted(old)
    for i in (0, 1):
        back(new, i, old)
    assert new.group.round is None
    assert of(Seal, new.say(1, Alive(old.group.id, 1, 1, 0, True)))
    assert "sealed in a round that was never decided" in new.reason


def test_a_view_in_preparation_is_given_up():
    old = Desk().form(2).breaks()
    old.reached(0)
    old.reached(1)
    new = restarted(old)
    assert new.group.preparing is None
    back(new, 0, old)
    told = of(messages.Abandon, new.say(0, Prepared(old.group.id, 1, 3)))
    assert [(a.term, a.number) for a in told] == [(1, 3)]
    assert new.group.number == 3, "its number is not used again"


def test_nobody_is_judged_before_all_are_back_or_ten_seconds_are_over():
    old = Desk().form(3)
    new = restarted(old)
    back(new, 0, old)
    new.pass_time(9.5, speaking=(0,))
    assert len(new.group.members) == 3
    assert "not back yet" in {
        p["doing"] for p in snapshot(new.state, new.now)["groups"][0]["peers"]
    }
    back(new, 1, old)
    assert of(Seal, new.pass_time(1.0, speaking=(0, 1)), 0)
    assert [d.peer.id for d in new.group.round.lost] == [peer_id(2)]
    assert "did not come back within 10 s" in new.group.round.lost[0].text
    assert of(Evicted, back(new, 2, old))


def test_evidence_of_a_death_waits_for_the_others_and_no_longer():
    old = Desk().form(3)
    new = restarted(old)
    back(new, 0, old)
    suspect = Suspect(old.group.id, 1, 1, peer_id(2), "connection refused")
    assert not of(Seal, new.say(0, suspect)), "1 might tell another story"
    assert of(Seal, back(new, 1, old))
    assert [d.peer.id for d in new.group.round.lost] == [peer_id(2)]
    assert "connection refused" in new.group.round.lost[0].text


def test_a_coordinator_that_stands_still_gives_the_time_again():
    old = Desk().form(2)
    new = restarted(old)
    back(new, 0, old)
    new.event(Tick())
    new.now += 60.0
    new.event(Tick())
    new.pass_time(9.0, speaking=(0,))
    assert len(new.group.members) == 2


def test_an_answer_to_the_old_coordinators_challenge_is_not_a_wrong_one():
    old = Desk(token=b"secret")
    stale = of(Challenge, old.hello(0))[0].nonce
    new = restarted(old)
    new.state = dataclasses.replace(new.state, token=b"secret")
    nonce = of(Challenge, new.hello(0))[0].nonce
    assert nonce != stale
    for n, answers in ((stale, []), (nonce, [Welcome])):
        sent = new.say(0, messages.Proof(prove(b"secret", n, peer_id(0)), n))
        assert [type(m) for _, m in sent if not isinstance(m, Waiting)] == answers


def test_a_sync_goes_on_after_the_restart():
    old = Desk().form(2)
    old.reached(0)
    old.reached(1)
    assert old.group.sync == 2
    new = restarted(old)
    for i in (0, 1):
        back(new, i, old)
    # The answer to the first sync did not reach 1.
    assert of(SyncDone, new.say(1, SyncReached(old.group.id, 1, 1, 1, 0)))[0].sync == 1
    new.reached(0)
    done = of(SyncDone, new.reached(1))
    assert {d.sync for d in done} == {2}


def test_who_left_stays_out_and_its_departure_opens_a_round_once_more():
    old = Desk().form(3)
    old.say(2, Leave(old.group.id))
    new = restarted(old)
    assert of(messages.LeaveDone, back(new, 2, old))
    back(new, 0, old)
    assert of(Seal, back(new, 1, old), 0)
    assert [d.peer.id for d in new.group.round.lost] == [peer_id(2)]
    assert new.group.returning is None, "the departed is not waited for"


def test_a_member_of_a_newer_view_than_the_journal_knows_is_let_go():
    """The journal was an old copy: the others cannot follow, and it cannot go back."""
    old = Desk().form(2)
    new = restarted(old)
    back(new, 0, old)
    assert of(Evicted, back(new, 1, old, number=2))


# ---- without memory -------------------------------------------------------------------------


def fresh(**fields) -> Desk:
    desk = Desk()
    desk.state = dataclasses.replace(desk.state, run=uuid.UUID(int=1234), **fields)
    return desk


def test_a_majority_of_the_newest_view_restores_the_run():
    old = Desk().form(3)
    new = fresh()
    recall = of(Recall, back(new, 0, old))[0]
    assert recall.run == new.state.run
    new.say(0, word(old, 0))
    text = of(Recall, back(new, 0, old))[0].text
    assert "1 of 3 members are back, a majority of 2 is needed" in text
    assert new.group.view is None
    back(new, 1, old)
    assert len(of(Identify, new.say(1, word(old, 1)))) == 2
    assert new.group.view == old.group.view
    assert (new.state.run, new.state.term) == (old.state.run, 2)
    for i in (0, 1):
        assert of(Welcome, back(new, i, old))[0].group_id == old.group.id
    assert new.group.returning is not None
    back(new, 2, old)
    assert new.group.returning is None


def incredible(old: Desk) -> dict[str, Recollect]:
    view, most = old.group.view, 2**64 - 1
    return {
        "term": word(old, 0, term=most),
        "prepared": word(old, 0, prepared_term=most, prepared=most),
        "view's term": word(old, 0, view=dataclasses.replace(view, term=most)),
        "view's number": word(old, 0, view=dataclasses.replace(view, number=most)),
        "sync": word(old, 0, sync=most),
        "member twice": word(old, 0, view=dataclasses.replace(view, peers=view.peers * 2)),
    }


@pytest.mark.parametrize("what", incredible(Desk().form(1)))
def test_a_word_that_leaves_no_room_for_what_follows_is_refused(what):
    """Anybody may say it where no token is set, and nobody could be let in after it."""
    old = Desk().form(1)
    new = fresh()
    back(new, 0, old)
    new.say(0, incredible(old)[what])
    assert new.state.refused["message out of place"] == 1
    assert (new.state.term, new.group.view) == (1, None)
    new.say(0, word(old, 0))
    assert new.group.view == old.group.view, "the honest word counts all the same"


def test_a_minority_is_enough_only_by_force():
    old = Desk().form(3)
    for force in (False, True):
        new = fresh(force=force)
        back(new, 0, old)
        new.say(0, word(old, 0))
        assert (new.group.view is not None) == force
    assert "--force" in new.reason


def test_those_who_went_away_again_do_not_count():
    old = Desk().form(3)
    new = fresh()
    back(new, 0, old)
    new.say(0, word(old, 0))
    new.now += 3.0
    back(new, 1, old)
    new.say(1, word(old, 1))
    assert new.group.view is None
    new.say(0, word(old, 0))
    assert new.group.view is not None


def test_the_newest_view_counts_and_those_who_missed_its_commit():
    old = Desk().form(3).breaks()
    first = old.group.view
    for i in range(3):
        old.reached(i)
    for i in range(3):
        old.prepared(i)
    newest = old.group.view
    new = fresh()
    back(new, 1, old, number=2)
    new.say(1, word(old, 1, view=first))
    back(new, 0, old)
    new.say(0, word(old, 0))
    assert new.group.view is None, "1 knows only the older view"
    new.say(1, word(old, 1, view=first, prepared_term=1, prepared=3))
    assert new.group.view == newest
    assert [c.number for c in of(Commit, back(new, 1, old, number=2))] == [3]


def test_the_term_and_the_number_are_above_all_that_anybody_heard_of():
    old = Desk().form(3)
    new = fresh()
    for i, fields in enumerate(({"term": 7}, {"prepared_term": 1, "prepared": 5})):
        back(new, i, old)
        new.say(i, word(old, i, **fields))
    assert (new.state.term, new.group.number) == (8, 5)


def test_whom_the_newest_view_has_left_out_stays_gone():
    old = Desk().form(3)
    old.suspect(0, 2)
    before = old.group.view
    old.decided()
    new = fresh()
    for i in (0, 1):
        back(new, i, old)
        new.say(i, word(old, i))
    assert [p.name for p in new.group.view.peers] == ["p0", "p1"]
    assert of(Evicted, back(new, 2, old, number=before.number))


def test_a_second_group_of_the_run_is_restored_too():
    old, other = Desk().form(3), Desk().form(3)
    new = fresh()
    for i in (0, 1):
        back(new, i, old)
        new.say(i, word(old, i))
    view = dataclasses.replace(other.group.view, group="h", group_id=9, key=b"h" * 32)
    for i in (5, 6):
        peers = tuple(dataclasses.replace(p, id=peer_id(k + 5)) for k, p in enumerate(view.peers))
        there = dataclasses.replace(view, peers=peers)
        back(new, i, old, group="h")
        new.say(i, dataclasses.replace(word(old, i), view=there))
    assert new.state.groups["h"].view.peers == peers
    assert new.state.groups["g"].view == old.group.view
    assert (new.state.run, new.state.groups["h"].id) == (old.state.run, 9)


def test_a_newcomer_waits_while_members_may_come_back():
    old = Desk().form(3)
    new = fresh()
    back(new, 0, old)
    new.say(0, word(old, 0))
    sent = new.hello(7, min_size=1)
    assert not of(Prepare, sent)
    assert "may come back" in of(Waiting, new.event(Tick()) + sent)[0].text
    # They went for good.
    assert of(Prepare, new.pass_time(11.0, speaking=(7,)))


def test_a_newcomer_that_waited_in_an_earlier_run_gives_its_members_time():
    new = fresh()
    assert not of(Prepare, new.hello(7, min_size=1, run=uuid.UUID(int=5)))
    assert of(Prepare, new.pass_time(4.0, speaking=(7,)))


def test_words_without_an_introduction_are_not_heard():
    old = Desk().form(3)
    new = fresh()
    assert of(Identify, new.event(Received(b"9", word(old, 0))))
    back(new, 0, old)
    new.say(0, word(old, 1))  # in another's name
    assert not new.group.recollections


# ---- the peer's side --------------------------------------------------------------------------


def member(*coordinators: str) -> PeerState:
    old = Desk().form(2)
    config = PeerConfig(peer_id(0), "g", "p0", coordinator="a:1", coordinators=coordinators)
    state = PeerState(config)
    for event in (
        Start(),
        Heard(Welcome(old.state.run, 1, old.group.id, "p0", 1)),
        Heard(Prepare(old.group.view)),
        plane.ViewReady(1),
        Heard(Commit(old.group.id, 1, 1, 1)),
    ):
        state = step(state, event, 0.0).state
    assert state.phase is Phase.MEMBER
    return state


def tick_until_dial(state: PeerState, now: float, limit: float) -> tuple[PeerState, float, Dial]:
    until = now + limit
    while now < until:
        now += 0.25
        result = step(state, PeerTick(), now)
        state = result.state
        for action in result.actions:
            if isinstance(action, Dial):
                return state, now, action
    raise AssertionError("stayed where it was")


def test_a_silent_coordinator_is_looked_for_at_its_other_addresses_in_turn():
    state, now = member("a:1", "b:2", "c:3"), 0.0
    for address in ("b:2", "c:3", "a:1"):
        state, now, dial = tick_until_dial(state, now, 4.0)
        assert dial.address == address == state.config.coordinator
    assert now > 9.0


def test_a_coordinator_of_another_run_is_left_at_once_and_not_tried_again():
    state, now, _ = tick_until_dial(member("a:1", "b:2"), 0.0, 4.0)
    refusal = Heard(Evicted("another run", True, uuid.UUID(int=5)))
    state, now, dial = tick_until_dial(step(state, refusal, now).state, now, 0.5)
    assert dial.address == "a:1"
    assert "another run" in dial.why
    for _ in range(40):
        now += 0.25
        state = step(state, PeerTick(), now).state
    assert (state.phase, state.at) == (Phase.MEMBER, 0)
    assert step(state, refusal, now).state.phase is Phase.OUT, "no other is left"


def test_a_coordinator_without_memory_gets_its_time_before_others_are_tried():
    state = member("a:1", "b:2")
    result = step(state, Heard(Recall(uuid.UUID(int=5), "1 of 2 are back")), 0.0)
    said = [a.message for a in result.actions if hasattr(a, "message")]
    assert [type(m) for m in said] == [Recollect]
    assert said[0].view == state.view
    _, now, dial = tick_until_dial(result.state, 0.0, 12.0)
    assert now > 9.0
    assert "1 of 2 are back" in dial.why


def test_a_peer_that_stood_still_stays_where_it_is():
    state = step(member("a:1", "b:2"), PeerTick(), 0.25).state
    result = step(state, PeerTick(), 60.0)
    assert not [a for a in result.actions if isinstance(a, Dial)]


def test_the_word_of_an_older_term_is_not_heard():
    state = member()
    newer = step(state, Heard(Welcome(state.run, 5, state.group_id, "p0", 1)), 0.0).state
    assert newer.term == 5
    assert step(newer, Heard(Welcome(state.run, 4, state.group_id, "p0", 1)), 0.0).state.term == 5


def test_a_state_without_a_view_restores_nothing():
    blank = CoordinatorState(run=uuid.UUID(int=1), seed=b"")
    assert not resume(blank, 0.0).groups
