"""Views that nobody decides about: whatever goes wrong breaks them, for all members alike."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import fixed
import raw_peer
from collectives import errors
from collectives._native import lib
from crew import DEADLINE, Member
from fabric import Fabric
from fixed import Ended, Ranks, ask, results, start

SMALL, LARGE = 100, 1 << 20  # float64 elements
# From the cause until all have heard of it. `make test` runs other files beside this one.
WITHIN = 2.0 if os.environ.get("COLLECTIVES_TEST_FULL") else 6.0
ADVICE = "destroy the process group and make a new one"


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks() as made:
        yield made


def agree(ended: Sequence[Ended], status: int, culprit: str, since: float) -> str:
    """All have ended so, in time; the text of the first."""
    for one in ended:
        assert one.cause == (status, culprit), ended
        assert ADVICE in one.text and "sync()" not in one.text, one.text
        assert culprit in one.text, one.text
    late = max(one.at for one in ended) - since
    assert late < WITHIN, f"{late:.3f} s: {ended}"
    return ended[0].text


def check_broken(members: Sequence[Member], status: int, culprit: str) -> None:
    """Later calls and the event say the same."""
    assert {one.cause for one in ask(members, fixed.broken)} == {(status, culprit)}


def go_on(ranks: Ranks, members: Sequence[Member]) -> None:
    """A new group on the same engines works, and then one with new engines."""
    ranks.enter(members)
    total = sum(range(1, len(members) + 1))
    assert [one.value for one in ask(members, fixed.call, (), "all_reduce", 10)] == (
        [total] * len(members)
    )
    assert all(done for done, _ in ask(members, fixed.flush))
    ranks.end(members)


# ---- deaths --------------------------------------------------------------------------------------


def kill(member: Member) -> float:
    member.kill()
    return time.time()


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize(
    ("size", "kind", "count", "victim"),
    [
        (2, "all_reduce", SMALL, 1),
        (2, "barrier", 0, 0),
        (3, "all_reduce", LARGE, 1),
        (3, "broadcast", LARGE, 0),
        (3, "barrier", 0, 2),
        (4, "all_to_all", SMALL, 1),
        (4, "all_to_all", LARGE // 8, 3),
        (4, "reduce_scatter", LARGE // 4, 2),
    ],
)
def test_a_death_breaks_the_view_for_all(
    ranks: Ranks, transport: str, size: int, kind: str, count: int, victim: int
):
    members = ranks.open(size, transport=transport)
    dying = members.pop(victim)
    start(members, fixed.call, kind, count)
    since = kill(dying)
    text = agree(results(members), lib.COLL_PEER_LOST, f"rank {victim}", since)
    assert f"rank {victim} is lost: " in text
    check_broken(members, lib.COLL_PEER_LOST, f"rank {victim}")
    dying.end()
    go_on(ranks, members)


@pytest.mark.parametrize("phase", ["reduce_scatter", "between", "all_gather", "complete", "tokens"])
def test_a_death_in_the_middle_of_an_operation_breaks_it_or_comes_after_it(
    ranks: Ranks, phase: str
):
    members = ranks.open(3, transport="shm" if phase in ("between", "tokens") else "tcp")
    dying = members[1]
    ask([dying], fixed.die_at, (), phase)
    start(members, fixed.call, "all_reduce", LARGE)
    assert dying.result().error == "Died"
    since = time.time()
    left = [members[0], members[2]]
    dying.end()
    for one in results(left):
        assert one.cause in ((lib.COLL_OK, ""), (lib.COLL_PEER_LOST, "rank 1")), one
        assert one.at - since < WITHIN
    check_broken(left, lib.COLL_PEER_LOST, "rank 1")
    ranks.end(left)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_death_while_all_are_idle_is_told_by_an_event(ranks: Ranks, transport: str):
    members = ranks.open(3, transport=transport)
    dying = members.pop(0)
    since = kill(dying)
    agree(ask(members, fixed.broken), lib.COLL_PEER_LOST, "rank 0", since)
    dying.end()
    ranks.end(members)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_a_death_ends_sends_and_receives_of_all_others(ranks: Ranks, transport: str, count: int):
    members = ranks.open(4, transport=transport)
    ask(members[:1], fixed.issue, (), "send", count, 1)  # with the one who dies
    ask(members[2:3], fixed.issue, (), "recv", count, lib.COLL_ANY)
    ask(members[3:], fixed.issue, (), "recv", count, 0, 5)  # with others
    dying = members.pop(1)
    since = kill(dying)
    agree(ask(members, fixed.wait), lib.COLL_PEER_LOST, "rank 1", since)
    dying.end()
    ranks.end(members)


def stop(member: Member) -> None:
    """Have it stand still, with all of its threads."""
    member.signal(signal.SIGSTOP)
    deadline = time.monotonic() + DEADLINE
    threads = list(Path(f"/proc/{member.pid}/task").iterdir())
    while not all((at / "stat").read_text().rpartition(")")[2].split()[0] == "T" for at in threads):
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.001)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_who_is_silent_is_lost_and_hears_of_it_when_it_wakes_up(ranks: Ranks, transport: str):
    members = ranks.open(3, transport=transport, detection=0.6, heartbeat=0.1)
    start(members[:2], fixed.call, "all_reduce", SMALL)
    since = time.time()
    stop(members[2])
    try:
        text = agree(results(members[:2]), lib.COLL_PEER_LOST, "rank 2", since)
    finally:
        members[2].signal(signal.SIGCONT)
    assert "nothing was heard of it" in text
    check_broken(members, lib.COLL_PEER_LOST, "rank 2")
    ranks.end(members)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_program_that_ends_without_a_goodbye_is_lost(ranks: Ranks, transport: str):
    members = ranks.open(3, transport=transport)
    start(members[:2], fixed.call, "barrier", 0)
    since = time.time()
    members[2].end()
    agree(results(members[:2]), lib.COLL_PEER_LOST, "rank 2", since)
    ranks.end(members[:2])


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_who_closes_the_group_without_a_goodbye_has_the_others_told(ranks: Ranks, transport: str):
    members = ranks.open(3, transport=transport)
    ask(members, fixed.issue, [("barrier", 0)] * 2 + [("recv", SMALL, 0)])
    since = time.time()
    ask(members[2:], fixed.close)
    text = agree(ask(members[:2], fixed.wait), lib.COLL_PEER_LOST, "rank 2", since)
    assert "rank 2 has closed the group" in text
    ranks.end(members)


def test_a_death_before_the_commit_is_told_or_breaks_the_view_after_it(ranks: Ranks):
    members = ranks.open(3, transport="tcp")
    ranks.prepare(members)
    ask(members, fixed.ready)
    ask(members[:1], fixed.commit)
    dying = members.pop()
    since = kill(dying)
    agree(ask(members[:1], fixed.broken), lib.COLL_PEER_LOST, "rank 2", since)
    event = ask(members[1:], await_lost)[0]
    assert event == "rank 2"
    ask(members[1:], fixed.commit)
    agree(ask(members[1:], fixed.broken), lib.COLL_PEER_LOST, "rank 2", since)
    dying.end()
    ranks.end(members)


def await_lost(_: Any) -> str:
    place = fixed.newest()
    event = place.await_event(lib.COLL_EVENT_PEER_LOST)
    return place.names[place._ids.index(event.peer)]


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_who_commits_after_the_view_was_broken_hears_why(ranks: Ranks, transport: str):
    members = ranks.open(3, transport=transport)
    ranks.prepare(members)
    ask(members, fixed.ready)
    ask(members[:2], fixed.commit)
    ask(members[:1], fixed.give_up, (), lib.COLL_CANCELLED, "rank 0 was told to stop")
    since = time.time()
    agree(ask(members[1:2], fixed.broken), lib.COLL_CANCELLED, "rank 0", since)
    ask(members[2:], fixed.commit)
    text = agree(ask(members[2:], fixed.broken), lib.COLL_CANCELLED, "rank 0", since)
    assert "was told to stop" in text
    ranks.end(members)


# ---- vetoes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_a_mismatch_breaks_the_view_and_names_who_called_what(ranks: Ranks, size: int, count: int):
    members = ranks.open(size)
    since = time.time()
    calls = [("all_reduce", count)] * (size - 1) + [("all_reduce", count + 1)]
    text = agree(ask(members, fixed.call, calls), lib.COLL_MISMATCH, "", since)
    assert f"rank {size - 1} called" in text and str(count + 1) in text
    check_broken(members, lib.COLL_MISMATCH, "")
    go_on(ranks, members)


@pytest.mark.parametrize("kind", ["all_reduce", "recv"])
def test_a_timeout_names_who_has_not_called(ranks: Ranks, kind: str):
    members = ranks.open(3)
    since = time.time()
    waiting = members[:2] if kind == "all_reduce" else members[:1]
    arguments = (kind, SMALL, 0 if kind == "all_reduce" else 2, 0, 0.4)
    ended = ask(waiting, fixed.call, (), *arguments)
    text = agree(ended, lib.COLL_TIMEOUT, "rank 2", since)
    assert "gave up on" in text and "has not called it" in text
    check_broken(members, lib.COLL_TIMEOUT, "rank 2")
    ranks.end(members)


def refuse(_: Any) -> Ended:
    place = fixed.newest()
    out = fixed.ffi.new("struct coll_operation **")
    why = b"the array lies on a device that is not supported"
    assert lib.coll_refuse(place.group.handle, 0, lib.COLL_UNSUPPORTED, why, out) == lib.COLL_OK
    lib.coll_operation_release(out[0])
    return fixed.broken(None)


def veto(_: Any) -> Ended:
    place = fixed.newest()
    work = fixed.Operation(place, "all_reduce", SMALL, 0, 0, 0)
    place.works.append(work)
    lib.coll_operation_veto(work.handle, lib.COLL_CANCELLED, b"it was interrupted")
    return work.wait()


def release(_: Any) -> Ended:
    place = fixed.newest()
    work = fixed.Operation(place, "all_reduce", SMALL, 0, 0, 0)
    work.release()
    return fixed.broken(None)


def abort(_: Any) -> Ended:
    fixed.give_up(None, lib.COLL_CANCELLED, "rank 1 was aborted")
    return fixed.broken(None)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize(
    ("how", "status", "says"),
    [
        (refuse, "UNSUPPORTED", "rank 1, in operation 1 (tag 0): the array lies on"),
        (veto, "CANCELLED", "rank 1, in operation 1 (tag 0): it was interrupted"),
        (release, "CANCELLED", "rank 1, in operation 1 (tag 0): the operation was released"),
        (abort, "CANCELLED", "rank 1 was aborted"),
    ],
)
def test_whoever_gives_up_breaks_the_view(
    ranks: Ranks, transport: str, how: Any, status: str, says: str
):
    members = ranks.open(3, transport=transport)
    since = time.time()
    for member, function in zip(members, (waits, how, idles), strict=True):
        member.start(function)
    ended = results(members)
    text = agree(ended, getattr(lib, f"COLL_{status}"), "rank 1", since)
    assert text.startswith(says), text
    ranks.end(members)


def waits(_: Any) -> Ended:
    return fixed.call(None, "all_reduce", SMALL)


def idles(_: Any) -> Ended:
    return fixed.broken(None)


def test_a_view_that_is_not_fixed_is_broken_by_nobody():
    engine = fixed.Engine(fixed.Options(), uuid.uuid4())
    group = fixed.EngineGroup(engine, 1, "g")
    with pytest.raises(errors.CollectiveError, match="no committed view"):
        group.break_(lib.COLL_CANCELLED, "why")
    me = (fixed.EnginePeer(engine.peer_id, "me", engine.addresses),)
    group.prepare(term=1, number=1, first_operation=1, rank=0, peers=me, key=bytes(32))
    group.commit(1, 1, 1)
    with pytest.raises(errors.CollectiveError, match="not fixed"):
        group.break_(lib.COLL_CANCELLED, "why")
    with pytest.raises(errors.CollectiveError, match="no error"):
        group.break_(lib.COLL_OK, "why")
    group.close()
    engine.close()


class Known:
    """A group as ``Fabric.know`` wants it."""

    def __init__(self, peers: Sequence[fixed.EnginePeer]) -> None:
        self.view, self.peers = self, peers

    def rank_of(self, peer: uuid.UUID) -> int:
        return [one.id for one in self.peers].index(peer)


def test_those_whom_the_first_cannot_reach_hear_of_it_from_others(ranks: Ranks):
    with Fabric(3) as fabric:
        members = ranks.open(3, each=fabric.options(detection=30.0))
        fabric.know(Known(ranks.peers))
        fabric.cut(0, 2)
        since = time.time()
        ask(members[:1], fixed.give_up, (), lib.COLL_CANCELLED, "rank 0 was aborted")
        agree(ask(members, fixed.broken), lib.COLL_CANCELLED, "rank 0", since)
        fabric.mend()
        ranks.end(members)


WRONG: dict[str, dict[str, Any]] = {
    "no status": {"message": lib.COLL_OK},
    "no error": {"message": lib.COLL_IN_PROGRESS},
    "an unknown status": {"message": 99},
    "nobody's rank": {"root": 2},
    "a long text": {"payload": b"x" * 1024},
}


@pytest.mark.parametrize("what", [*WRONG, "a view that is not fixed"])
def test_a_break_that_makes_no_sense_is_refused(what: str):
    good = {"type": raw_peer.BREAK, "message": lib.COLL_CANCELLED, "root": 1, "payload": b"why"}
    with raw_peer.Pair(fixed=what in WRONG, transport="tcp") as pair:
        connection = pair.member()
        with pair.counts("corrupt_frames", 1):
            connection.sendall(raw_peer.Frame(**{**good, **WRONG.get(what, {})}).encode())
            assert raw_peer.is_closed(connection)
        assert pair.raw_group.state()[0] == lib.COLL_OK
        if what not in WRONG:
            return
        with pair.counts("corrupt_frames", 0), pair.member() as connection:
            connection.sendall(raw_peer.Frame(**{**good, "sequence": 2}).encode())
            raw_peer.until(lambda: pair.raw_group.state()[0], "it was not taken")
            answer = raw_peer.read_frame(connection)
        assert pair.raw_group.state() == (lib.COLL_CANCELLED, pair.raw.bytes)
        assert answer is not None and answer.type == raw_peer.BREAK, "it is passed on"
        assert (answer.message, answer.root, answer.payload) == (lib.COLL_CANCELLED, 1, b"why")


# ---- leaving -------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_members_leave_one_after_the_other_and_nobody_minds(
    ranks: Ranks, transport: str, order: tuple[int, ...]
):
    members = ranks.open(3, transport=transport)
    ask(members, fixed.call, (), "all_reduce", LARGE)
    for rank in order:
        done, took = ask(members[rank : rank + 1], fixed.flush)[0]
        assert done and took < WITHIN
        ask(members[rank : rank + 1], fixed.close)
    ranks.end(members)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_what_was_called_before_a_goodbye_completes_for_all(
    ranks: Ranks, transport: str, count: int
):
    members = ranks.open(4, transport=transport)
    for _ in range(3):
        ask(members[:3], fixed.issue, (), "all_reduce", count)
    ask(members[:1], fixed.issue, (), "send", count, 1)
    ask(members[:1], fixed.issue, (), "broadcast", count, 0, 7)
    start(members[:1], fixed.flush)  # it waits for the others
    for _ in range(3):
        ask(members[3:], fixed.issue, (), "all_reduce", count)
    ask(members[1:], fixed.issue, (), "broadcast", count, 0, 7)
    assert ask(members[1:2], fixed.call, (), "recv", count, 0)[0].value == 1.0
    assert results(members[:1])[0][0]
    ask(members[:1], fixed.shut)
    for index in (0, 1, 2):
        assert [one.value for one in ask(members[1:], fixed.wait, (), index)] == [10.0] * 3
    assert [one.value for one in ask(members[1:], fixed.wait, (), 3)] == [1.0] * 3
    assert all(done for done, _ in ask(members[1:], fixed.flush))
    ranks.end(members[1:])
    ranks.idle.append(members[0])


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_those_who_stay_send_to_each_other_after_another_has_gone_and_died(
    ranks: Ranks, transport: str
):
    members = ranks.open(3, transport=transport)
    ask(members, fixed.call, (), "barrier", 0)
    assert ask(members[:1], fixed.flush)[0][0]
    members[0].kill()
    for _ in range(3):  # longer than a death takes to be noticed
        ask(members[1:], fixed.pause, (), 0.05)
        ask(members[1:2], fixed.issue, (), "send", LARGE, 2)
        assert ask(members[2:], fixed.call, (), "recv", LARGE, 1)[0].value == 2.0
        assert ask(members[1:2], fixed.wait)[0].status == lib.COLL_OK
    members[0].end()
    assert all(done for done, _ in ask(members[1:], fixed.flush))
    ranks.end(members[1:])


CALLS = {
    "all_reduce": ("all_reduce", SMALL),
    "barrier": ("barrier", 0),
    "send": ("send", SMALL, 2),
    "recv": ("recv", SMALL, 2),
}


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("first", [False, True], ids=["goodbye first", "call first"])
@pytest.mark.parametrize("kind", CALLS)
def test_an_operation_that_a_member_left_without_breaks_the_view_at_once(
    ranks: Ranks, transport: str, first: bool, kind: str
):
    members = ranks.open(3, transport=transport)
    ask(members, fixed.call, (), "all_reduce", SMALL)
    if first:
        ask(members[:1], fixed.issue, (), *CALLS[kind])
    assert ask(members[2:], fixed.flush)[0][0]
    since = time.time()
    if not first:
        ask(members[:1], fixed.issue, (), *CALLS[kind])
    text = agree(ask(members[:1], fixed.wait), lib.COLL_PEER_LOST, "rank 2", since)
    assert "rank 2 has left the group" in text and f"{kind}(" in text and "rank 0" in text
    agree(ask(members[1:2], fixed.broken), lib.COLL_PEER_LOST, "rank 2", since)
    ranks.end(members)


def test_a_receive_from_any_ends_when_nobody_is_left(ranks: Ranks):
    members = ranks.open(3)
    ask(members[:1], fixed.issue, (), "recv", SMALL, lib.COLL_ANY)
    assert ask(members[2:], fixed.flush)[0][0]
    ask(members[1:2], fixed.call, (), "send", SMALL, 0)
    assert ask(members[:1], fixed.wait)[0].value == 2.0
    ask(members[:1], fixed.issue, (), "recv", SMALL, lib.COLL_ANY)
    assert ask(members[1:2], fixed.flush)[0][0]
    since = time.time()
    ended = ask(members[:1], fixed.wait)[0]
    assert ended.status == lib.COLL_PEER_LOST and ended.at - since < WITHIN
    ranks.end(members)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_all_leave_at_the_same_time_with_operations_under_way(ranks: Ranks, transport: str):
    members = ranks.open(4, transport=transport)
    for _ in range(5):
        ask(members, leave_at_once)
        ranks.enter(members)
    ranks.end(members)


def leave_at_once(_: Any) -> None:
    place = fixed.newest()
    for count in (SMALL, LARGE // 8, SMALL):
        fixed.issue(None, "all_reduce", count)
    done, took = fixed.flush(None)
    assert done, took
    assert [work.wait(0).value for work in place.works] == [10.0] * 3
    fixed.close(None)


def test_a_goodbye_is_bounded_by_its_timeout(ranks: Ranks):
    members = ranks.open(3, transport="tcp")
    ask(members[:1], fixed.issue, (), "recv", SMALL, 1)
    done, took = ask(members[:1], fixed.flush, (), 0.3)[0]
    assert not done and 0.25 < took < 0.3 + WITHIN
    stop(members[2])
    try:
        done, took = ask(members[1:2], fixed.flush, (), 0.3)[0]
        assert not done and took < 0.3 + WITHIN
    finally:
        members[2].signal(signal.SIGCONT)
    assert ask(members[1:2], fixed.flush)[0][0]
    ranks.end(members)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_goodbye_to_the_dead_does_not_wait(ranks: Ranks, transport: str):
    members = ranks.open(3, transport=transport)
    ask(members, fixed.call, (), "all_reduce", SMALL)
    dying = members.pop()
    dying.kill()
    for done, took in ask(members, fixed.flush):
        assert done and took < WITHIN
    dying.end()
    ranks.end(members)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_goodbye_to_one_group_does_not_wait_for_another(ranks: Ranks, transport: str):
    members = ranks.open(3, transport=transport)
    ask(members[:2], fixed.issue, (), "all_reduce", LARGE)
    ranks.enter(members[:2])
    ask(members[:2], fixed.call, (), "all_reduce", LARGE)
    for done, took in ask(members[:2], fixed.flush):
        assert done and took < WITHIN
    ask(members[:2], fixed.close)
    ask(members[2:], fixed.issue, (), "all_reduce", LARGE)
    assert [one.value for one in ask(members, fixed.wait)] == [6.0] * 3
    ranks.end(members)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_members_that_close_a_group_at_different_times_meet_again(ranks: Ranks, transport: str):
    members = ranks.open(3, transport=transport)
    for turn in range(6):
        ask(members, fixed.issue, (), "all_reduce", LARGE // 4, 0, 1)
        total = [one.value for one in ask(members, fixed.call, (), "all_reduce", SMALL)]
        assert total == [6.0] * 3, turn
        ask(members, fixed.wait, (), 0)
        gone = members[turn % 3 : turn % 3 + 1]
        if turn % 2:
            assert ask(gone, fixed.flush)[0][0]
        ask(gone, fixed.close)
        ranks.enter(members)
    ranks.end(members)


def test_nothing_can_be_called_after_a_goodbye(ranks: Ranks):
    members = ranks.open(2)
    ask(members, fixed.flush)
    ended = ask(members[:1], fixed.call, (), "barrier", 0)[0]
    assert ended.status == lib.COLL_CLOSED and "has left the group" in ended.text
    ranks.end(members)


# ---- threads and forks ---------------------------------------------------------------------------


def close_under_waiting_threads(_: Any, destroy: bool) -> list[int]:
    place = fixed.newest()
    works = [fixed.Operation(place, "all_reduce", SMALL, 0, tag, 0) for tag in range(4)]
    found: list[Ended] = []
    threads = [threading.Thread(target=lambda w=w: found.append(w.wait())) for w in works]
    threads.append(threading.Thread(target=lambda: place.group.flush(DEADLINE)))
    for thread in threads:
        thread.start()
    fixed.close(None)
    if destroy:
        fixed.shut(None)
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    for work in works:
        work.release()
    return [one.status for one in found]


@pytest.mark.parametrize("destroy", [False, True])
def test_a_group_is_closed_while_threads_wait_in_it(ranks: Ranks, destroy: bool):
    members = ranks.open(2)
    for _ in range(3):
        since = time.time()
        assert ask(members[:1], close_under_waiting_threads, (), destroy)[0] == (
            [lib.COLL_CLOSED] * 4
        )
        agree(ask(members[1:], fixed.broken), lib.COLL_PEER_LOST, "rank 0", since)
        ranks.enter(members)
    ranks.end(members)


def in_a_fork(_: Any) -> tuple[int, ...]:
    place = fixed.newest()
    pid = os.fork()
    if pid == 0:
        status = lib.coll_group_break(place.group.handle, lib.COLL_CANCELLED, b"")
        status += lib.coll_group_flush(place.group.handle, 10**9)
        place.group.close()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_breaks_nothing(ranks: Ranks):
    members = ranks.open(2)
    assert ask(members[:1], in_a_fork)[0] == 2 * lib.COLL_FORKED
    assert [one.value for one in ask(members, fixed.call, (), "all_reduce", SMALL)] == [3.0] * 2
    ranks.end(members)
